"""One self-contained HTML page from the numbers of an evaluation: no script, nothing loaded from elsewhere.

    write_report(path, evaluation=result, model=card, training=training, leaks=leaks, audit=audit, ...)

Everything shown comes from the arguments. Pictures of cases appear only when the data set says that it is public;
otherwise the page says where the gallery lies.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from markupsafe import Markup

from medserve.evaluation import effect_figures, figures
from medserve.evaluation.wording import MEANINGS, NOT_REPORTED, NOT_VALIDATED, number, percent, summary, title
from medserve.models.spec import Method
from medserve.store.files import write_bytes
from medserve.types import PARTS

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = "medserve.evaluation", "templates"
_ALTS = {
    "roc": "ROC curve: sensitivity against false positive rate",
    "pr": "Precision against recall",
    "histogram": "Histogram of stated probabilities by true label",
    "confusion": "Confusion matrix: decisions against truth",
    "reliability": "Reliability diagram: stated probability against true share, with the band that chance allows",
    "risk_coverage": "Error rate against the share of cases answered",
    "decision": "Decision curve: net benefit against threshold",
    "agreement": "Mean estimate against mean truth",
    "kaplan_meier": "Share free of the event over time by risk group: observed and stated",
    "risk": "Stated risk by the middle horizon against the observed risk",
}
TESTS = {
    "R1": "weights made random", "R2": "labels shuffled", "L1": "points at planted evidence",
    "F1": "insertion minus deletion, against edges", "S1": "same map under slight noise", "A1": "adds up to the output",
    "deletion": "hiding what it names first, against hiding as much else",
    "randomised": "alike with the weights shuffled", "additivity": "additivity: largest gap of weights and score",
    "comprehensiveness": "comprehensiveness: hiding the important words costs more than hiding others",
    "sufficiency": "sufficiency: the important words alone keep more than others alone",
    "negation": "denial: 'no evidence of' before the word lowers the answer",
}  # fmt: skip
KINDS = {"right": "Right", "wrong": "Wrong", "abstained": "Abstained"}


def write_report(
    path: Path,
    *,
    evaluation: Mapping[str, Any],
    model: Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
    leaks: Mapping[str, Any] | None = None,
    audit: Sequence[Mapping[str, Any] | Method] | None = None,
    shortcuts: Sequence[Mapping[str, Any]] | None = None,
    gallery: Mapping[str, Any] | None = None,
) -> None:
    """Write the page.

    Args:
        evaluation: from `evaluate`.
        model: the card, from `card.make_card`.
        training: {"history": {"epochs": [{"epoch", "loss", "val_loss", ...}], "best", ...}, "decision": {...}, ...}.
        leaks: {"policy", "found": [{"kind", "part_a", "part_b", ...}], "removed": {part: count} or count}.
        audit: explanation methods, [{"name", "verdict": PASS | CAUTION | FAIL, "role", "figures"}] or `Method`s; a
            figure that is a record with a "level" is shown as a test. Left out: the verdicts on the card.
        shortcuts: [{"name", "level": green | amber | red, "figure", "message"}].
        gallery: {"public": bool, "where": text, "cases": [{"kind": right | wrong | abstained, "truth", "answer",
            "probability", "set", "png": bytes, "heat_png": bytes | None, "method"}]}; of texts, public ones only,
            {"public", "texts": [[(text, "" | "found" | "missed" | "extra"), ...], ...]}.

    Raises: Fault "disk-full": nothing half-written is left.
    """
    page = render(evaluation, model, training=training, leaks=leaks, audit=audit, shortcuts=shortcuts, gallery=gallery)
    write_bytes(path, page.encode())


def render(
    evaluation: Mapping[str, Any],
    model: Mapping[str, Any],
    *,
    training: Mapping[str, Any] | None = None,
    leaks: Mapping[str, Any] | None = None,
    audit: Sequence[Mapping[str, Any] | Method] | None = None,
    shortcuts: Sequence[Mapping[str, Any]] | None = None,
    gallery: Mapping[str, Any] | None = None,
) -> str:
    """The page as text; arguments as for `write_report`."""
    past = (training or {}).get("history") or {}
    drawn = {name: image(getattr(figures, name)(evaluation)) for name in _ALTS}
    return (
        environment()
        .get_template("report.html")
        .render(
            r=evaluation,
            card=model,
            rule=_rule(evaluation, model),
            not_validated=NOT_VALIDATED,
            not_reported=NOT_REPORTED,
            summary=summary(evaluation),
            headline=_headline(evaluation),
            meanings=MEANINGS,
            figures=drawn,
            alts=_ALTS,
            effect_figures={name: image(draw(evaluation)) for name, draw in effect_figures.DRAWN.items()},
            effect_alts=effect_figures.ALTS,
            limits=_unsaid(model.get("limits") or [], evaluation["claims"]),
            forest=image(figures.forest(evaluation, forest_of(evaluation))),
            history=image(figures.history(past.get("epochs") or [], past.get("best"))),
            past=past,
            importance=image(figures.importance(_importance(model.get("explanations") if audit is None else audit))),
            effects=image(figures.effects(evaluation.get("glass_box"))),
            training=training,
            leaks=None if leaks is None else _leak_rows(leaks),
            audit=[_method(method) for method in (model.get("explanations") or [] if audit is None else audit)],
            shortcuts=shortcuts,
            gallery=None if gallery is None else _gallery(gallery),
            kinds=KINDS,
            provenance=list(flat(model.get("provenance") or {})),
        )
    )


def _rule(evaluation: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """The name of the split that made the evaluated part; "" for other data."""
    rule = ((model.get("provenance") or {}).get("split") or {}).get("rule") or ""
    return str(rule) if evaluation["part"] in PARTS else ""


def environment() -> "Environment":
    """What turns the templates into pages: everything escaped, nothing undefined."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader(*_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"span": _span, "percent": _percent, "title": title, "show": show, "plain": plain}
    return found


def _whole(text: str) -> Markup:
    """A value and its interval, each kept on one line, the interval smaller."""
    value, _, rest = text.partition(" (")
    small = Markup(' <small class="iv">({}</small>').format(rest) if rest else ""
    return Markup('<span class="v">{}</span>{}').format(value, small)


def _span(span: Any, digits: int = 3, *, signed: bool = False) -> Markup:
    return _whole(number(span, digits, signed=signed))


def _percent(span: Any, digits: int = 1) -> Markup:
    return _whole(percent(span, digits))


def _unsaid(limits: Sequence[Mapping[str, str]], claims: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Limits that neither the header nor the claims above them say already."""
    said = {claim["code"] for claim in claims} | {"not-validated"}
    return [limit for limit in limits if limit["code"] not in said]


def image(content: bytes | None, media_type: str = "image/svg+xml") -> str | None:
    """A data address for an <img>."""
    return None if content is None else f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def forest_of(evaluation: Mapping[str, Any]) -> str:
    wanted = {"binary": "fnr", "number": "mae", "survival": "c_index", "tags": "entity_recall",
              "effect": "average_effect"}  # fmt: skip
    return wanted.get(evaluation["task"], "error")


def _headline(r: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The figures on top: (name, value, interval)."""
    wanted = {
        "binary": ("auroc", "accuracy", "sensitivity", "specificity"),
        "number": ("mae", "rmse", "r2", "spearman"),
        "survival": ("c_index", "auroc_at_horizon", "integrated_brier", "expected_observed"),
        "multilabel": ("auroc", "auprc", "accuracy", "ece"),
        "ordinal": ("quadratic_kappa", "accuracy", "auroc", "ece"),
        "tags": ("entity_f1", "entity_precision", "entity_recall", "word_accuracy"),
        "generate": ("log_likelihood", "perplexity"),
        "effect": ("gain_advice", "recommended", "recommended_against", "abstention"),
        "medicines": ("jaccard", "set_f1", "prauc", "interaction_rate"),
    }.get("medicines" if r.get("medicines") else r["task"], ("accuracy", "balanced_accuracy", "auroc", "ece"))
    out = []
    for name in wanted:
        span = r["metrics"][name]
        value, _, interval = number(span).partition(" ")
        out.append((title(name), value, interval.strip("()")))
    return out


def _leak_rows(leaks: Mapping[str, Any]) -> dict[str, Any]:
    """Leaks counted by kind and pair of parts, never by case."""
    found = leaks.get("found") or []
    if isinstance(found, Mapping):
        rows = [(str(kind), "", int(count)) for kind, count in found.items()]
    else:
        counts = Counter((str(f["kind"]), " and ".join(sorted({str(f["part_a"]), str(f["part_b"])}))) for f in found)
        rows = [(kind, parts, count) for (kind, parts), count in sorted(counts.items())]
    removed = leaks.get("removed") or 0
    return {"policy": leaks.get("policy"), "rows": rows, "removed": removed, "total": sum(row[2] for row in rows)}


def _importance(audit: Sequence[Mapping[str, Any] | Method] | None) -> Mapping[str, float]:
    """Input -> mean size of its Shapley value, from the audit of records; empty without one."""
    for method in audit or []:
        row = msgspec.to_builtins(method) if isinstance(method, Method) else method
        if (row.get("figures") or {}).get("importance"):
            found: Mapping[str, float] = row["figures"]["importance"]
            return found
    return {}


def _method(method: Mapping[str, Any] | Method) -> dict[str, Any]:
    """One audited method with its tests apart from its loose facts."""
    row = dict(msgspec.to_builtins(method)) if isinstance(method, Method) else dict(method)
    record = row.get("figures") or {}
    tests = [
        {
            "name": TESTS.get(key, plain(key)),
            "level": value["level"],
            "shown": show({k: v for k, v in value.items() if k != "level"}),
        }
        for key, value in record.items()
        if isinstance(value, Mapping) and "level" in value
    ]
    loose = {k: v for k, v in record.items() if k != "importance" and not (isinstance(v, Mapping) and "level" in v)}
    return {
        "name": row["name"],
        "verdict": row["verdict"],
        "role": row.get("role") or "",
        "tests": tests,
        "loose": loose,
    }


def _gallery(gallery: Mapping[str, Any]) -> dict[str, Any]:
    if "texts" in gallery:
        return {"public": True, "groups": {}, "where": None, "texts": gallery["texts"]}
    if not gallery.get("public"):
        return {"public": False, "where": gallery.get("where"), "count": len(gallery.get("cases") or [])}
    groups: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for case in gallery.get("cases") or []:
        pictures = {k: image(case.get(k), "image/png") for k in ("png", "heat_png")}
        groups[case["kind"]].append({**case, **pictures})
    evidence = any(case.get("record") for case in gallery.get("cases") or [])
    kept = {k: v for k, v in groups.items() if v}
    return {"public": True, "groups": kept, "where": gallery.get("where"), "evidence": evidence}


def show(value: Any) -> str:
    """Any figure as short text: intervals, shares, nested records, lists."""
    if value is None:
        return NOT_REPORTED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        if value.keys() == {"value", "low", "high"}:
            return number(value)
        return "; ".join(f"{plain(k)}: {show(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(show(v) for v in value) or "none"
    return str(value)


def plain(name: Any) -> str:
    """A key as words."""
    return str(name).replace("_", " ")


def flat(record: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """A nested record as rows (path, text), one level deep in each row's name."""
    rows: list[tuple[str, str]] = []
    for key, value in record.items():
        name = f"{before}{plain(key)}"
        if isinstance(value, Mapping) and not {"value", "low", "high"} <= value.keys():
            rows.extend(flat(value, f"{name}: "))
        else:
            rows.append((name, show(value)))
    return rows
