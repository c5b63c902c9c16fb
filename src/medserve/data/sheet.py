"""The page of `medserve inspect`: counts, class balance, problems, and a sheet of pictures, in one HTML file.

    write_sheet(Path("sheet.html"), cohort, inspect(cohort))

It needs no network, no script and no second file. It shows pictures of the data set, so it belongs where the data set
belongs.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medserve.data.clean import FEW, called
from medserve.data.cohort import Case, Cohort
from medserve.data.molecules.draw import structure
from medserve.store.files import write_bytes

PER_CLASS = 16
SIDE = 220  # pixels of a structure
MOST_CLASSES = 24
MOST_PAIRS = 24
MOST_ROWS = 200
_MOLECULES = {"bytes": "same molecule", "pixels": "same InChIKey"}
_COLOURS = ("#2f6f8f", "#d08c3c", "#6a8f4f", "#a3506b", "#6b63a8", "#8a7a5c", "#3f9c94", "#b5653a")
_KINDS = {
    "patient": "same patient",
    "bytes": "same bytes",
    "pixels": "same pixels",
    "near-duplicate": "near-duplicate",
}
_ADVICE = {
    "unreadable": "Mend or remove these files; they are left out.",
    "missing-label": "Give each a label; they are left out.",
    "label-conflict": "Decide which label is right; both cases are used as they are.",
    "exact-duplicate": "Harmless for training if rare; figures of a judging part count them twice.",
    "near-duplicate": "Look at the pairs below: copies, or neighbouring slices of one patient?",
    "blank": "Remove them; a served model refuses such pictures.",
    "colour-mix": "Check that all pictures come from the same kind of source.",
    "modality-mix": "Train one model for each modality, unless the mix is the question.",
    "unit-mix": "Check that all files carry the same rescale information.",
    "one-class": "Add cases of another class; training will refuse this.",
    "empty-class": "Add cases, or leave the class out of the declaration.",
    "class-imbalance": "Training weighs the classes; read balanced figures, not accuracy alone.",
    "tiny-part": "Add cases, or expect wide intervals and no claims.",
    "note": "",
}
_GRAVE = {"unreadable", "label-conflict", "one-class", "missing-label"}


@dataclass(frozen=True, slots=True)
class Shown:
    """One thumbnail on the page: a data URI, a caption, and the label's name."""

    src: str
    name: str
    label: str


def write_sheet(path: Path, cohort: Cohort, result: Mapping[str, Any]) -> None:
    """Render and write the page, whole or not at all.

    Args:
        result: of `inspect(cohort)`.

    Raises: Fault "disk-full" or "file-unwritable".
    """
    write_bytes(path, render_sheet(cohort, result).encode())


def render_sheet(cohort: Cohort, result: Mapping[str, Any]) -> str:
    """Returns: the HTML text; every name in it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    jinja = Environment(
        loader=PackageLoader("medserve.data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    where = {case.id: row for row, case in enumerate(cohort.cases)}
    repeats = result["repeats"]
    apart = [(p, p["part"] or "") for p in repeats if not p["same_label"]]
    groups = [
        ("Leaks between parts", "leaks", [(p, f"{p['part_a']} → {p['part_b']}") for p in result["leaks"]]),
        (f"Same {cohort.called[0]}, different labels", "conflicts", apart),
        ("Repeats inside a part", "repeats", [(p, p["part"] or "") for p in repeats if p["same_label"]]),
    ]
    return jinja.get_template("inspect.html.j2").render(
        r=result,
        labels=list(enumerate(cohort.labels)),
        colours=[_COLOURS[i % len(_COLOURS)] for i in range(max(1, len(cohort.labels)))],
        balance=_balance(result["parts"]),
        problems=[p | {"advice": _ADVICE.get(p["code"], ""), "grave": p["code"] in _GRAVE} for p in result["problems"]],
        groups=[(title, anchor, len(pairs), _pairs(cohort, pairs, where)) for title, anchor, pairs in groups],
        classes=_classes(cohort),
        refused=result["refused"][:MOST_ROWS],
        called=cohort.called[1],
        white=cohort.thumbs is None and any(f.kind == "molecule" for f in cohort.fields),
        rows=len(cohort) + len(result["refused"]) if cohort.is_records else None,
        facts=_facts(result),
        few=FEW,
    )


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    source = result["source"]
    facts = [(word.capitalize(), str(source[word])) for word in ("source", "licence", "citation") if source.get(word)]
    for name, count in result["kinds"].items():
        if count:
            said = ", ".join(f"{value} ({n:,})" for value, n in list(count.items())[:6])
            facts.append((name.capitalize(), said + (" …" if len(count) > 6 else "")))
    facts.append(("Split", f"{result['rule'].get('rule', '')}, seed {result['rule'].get('seed', '')}"))
    planned = ", ".join(f"{name} {n:,}" for name, n in result["planned"].items())
    return [*facts, ("Training would use", planned), ("Digest", str(result["digest"])[:16])]


def _balance(parts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One bar a part: label, count, left edge and width in per cent of the bar."""
    bars = []
    for name, part in parts.items():
        counts = part.get("classes") or {}
        total, left, pieces = sum(counts.values()), 0.0, []
        for i, (label, n) in enumerate(counts.items()):
            width = 100 * n / total if total else 0.0
            share = f"{width:.0f} %" if width >= 1 or n == 0 else "< 1 %"
            pieces.append({"label": label, "n": n, "left": left, "width": width, "share": share, "class": i})
            left += width
        bars.append({"part": name, "cases": part["cases"], "patients": part["patients"], "pieces": pieces})
    return bars


def _pairs(
    cohort: Cohort, pairs: Sequence[tuple[Mapping[str, Any], str]], where: Mapping[str, int]
) -> list[dict[str, Any]]:
    out = []
    for pair, parts in pairs[:MOST_PAIRS]:
        a, b = _shown(cohort, [where[pair["a"]], where[pair["b"]]])
        kind = (_MOLECULES if cohort.molecule else {}).get(pair["kind"], _KINDS[pair["kind"]])
        how = f"{kind}, {pair['similarity']:.3f}" if pair["kind"] == "near-duplicate" else kind
        out.append({"a": a, "b": b, "parts": parts, "how": how})
    return out


def _classes(cohort: Cohort) -> list[tuple[str, int, list[Shown]]]:
    """(label, count, thumbnails spread over the data set), in the order of the labels; one group for numbers."""
    members: dict[str, list[int]] = {}
    for row, case in enumerate(cohort.cases):
        for name in _names(cohort, case):
            members.setdefault(name, []).append(row)
    order = {label: i for i, label in enumerate(cohort.labels)}
    out = []
    for name in sorted(members, key=lambda n: (order.get(n, len(order)), n))[:MOST_CLASSES]:
        rows = members[name]
        chosen = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, PER_CLASS).astype(int))]
        out.append((name, len(rows), _shown(cohort, chosen)))
    return out


def _names(cohort: Cohort, case: Case) -> list[str]:
    if case.label is None:
        return ["no label"]
    if cohort.task in ("number", "survival", "generate"):
        return ["all"]
    if cohort.task == "multilabel":
        values = np.asarray(case.label, np.float64)
        return [label for label, v in zip(cohort.labels, values, strict=True) if v == 1] or ["none of the labels"]
    if cohort.task == "effect":
        return [cohort.labels[int(case.label[2])]]  # type: ignore[index]
    if cohort.task == "tags":
        inside = {int(tag - 1) // 2 for tag in case.label if tag > 0}  # type: ignore[union-attr]
        return [cohort.labels[name] for name in sorted(inside)] or ["no entity"]
    return [cohort.labels[int(case.label)]]  # type: ignore[arg-type]


def _shown(cohort: Cohort, rows: Sequence[int]) -> list[Shown]:
    cases = [cohort.cases[row] for row in rows]
    if cohort.thumbs is None:
        shown = [_drawn(cohort, cohort.values.get(case.index)) for case in cases]
    else:
        shown = [_png(thumb) for thumb in cohort.thumbs.take([case.index for case in cases])[:, 0]]
    return [Shown(src, called(case), _value(cohort, case)) for src, case in zip(shown, cases, strict=True)]


def _drawn(cohort: Cohort, values: Mapping[str, Any]) -> str:
    """The structure of a case with a molecule; of every other record its gaps."""
    smiles = next((values.get(f.name) for f in cohort.fields if f.kind == "molecule"), None)
    if smiles is None:
        return _png(sketch(values, [f.name for f in cohort.fields]))
    return _uri(structure(smiles, SIDE, SIDE), "svg+xml")


def sketch(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    """(64, 64) uint8: one column an input, from the left in their order; black where it is missing, light where known,
    so that gaps show at a glance."""
    known = np.array([values.get(name) is not None for name in names], bool)
    columns = np.linspace(0, len(known), 64, endpoint=False).astype(int)
    out = np.full((64, 64), 24, np.uint8)
    out[8:56] = np.where(known[columns], 190, 24)[None].astype(np.uint8)
    return out


def _value(cohort: Cohort, case: Case) -> str:
    if cohort.task == "generate":
        return ""
    if cohort.task == "number" and case.label is not None:
        return f"{float(case.label):g}"  # type: ignore[arg-type]
    if cohort.task == "survival" and isinstance(case.label, tuple):
        return f"{case.label[0]:g}, {'event' if case.label[1] else 'censored'}"
    return ", ".join(_names(cohort, case))


def _png(thumb: Any) -> str:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(thumb).save(data, "PNG", optimize=True)
    return _uri(data.getvalue(), "png")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
