"""The model card: generated from what the run knows, never typed; what nobody declared prints as "not reported".

    shown = {part.name: describe_part(part) for part in parts}
    card = make_card(spec=spec, evaluation=result, source=cohort.source, parts=shown, ...)

Its reporting items follow TRIPOD+AI (Collins et al. 2024). Limits are derived by rule from the figures.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medserve.evaluation.wording import NOT_REPORTED, NOT_VALIDATED, number
from medserve.models.spec import Medicines, ModelSpec
from medserve.questions.medicines import CALLED, NOTE

if TYPE_CHECKING:
    from medserve.data.split import PartView

FORMAT = "medserve-card/1"
FEWEST_SHOWN = 10  # a subgroup smaller than this is printed as "fewer than 10"
_QUESTIONS = {"discovery": "drug discovery"}
_SOURCE = ("name", "source", "licence", "citation", "public", "synthetic", "digest")


def make_card(
    *,
    spec: ModelSpec,
    evaluation: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
    parts: Mapping[str, Mapping[str, Any]] | None = None,
    training: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    leaks: Mapping[str, Any] | None = None,
    shortcuts: Sequence[Mapping[str, Any]] | None = None,
    independent: bool | None = None,
    digest: str | None = None,
) -> dict[str, Any]:
    """The card of one model, plain JSON.

    Args:
        evaluation: from `evaluate` on the sealed part.
        source: what the data set says of itself (`Cohort.source`), with "name" and "digest" where known; further keys
            answer reporting items: setting, dates, eligibility, outcome, ethics, funding.
        parts: part name -> `describe_part`.
        training: facts to print: recipe, seed, epochs, seconds, device, ...
        provenance: lineage: data and code versions, digests, options.
        leaks: {"policy", "found", "removed"} as for the report.
        independent: whether the data set declared that each image is its own patient.
    """
    declared = dict(source or {})
    card: dict[str, Any] = {
        "format": FORMAT,
        "name": spec.name,
        "version": spec.version,
        "digest": digest,
        "question": spec.question,
        "task": spec.output.task,
        "labels": list(spec.output.labels),
        "intended_use": f"Research and evaluation. {NOT_VALIDATED}",
        "not_for": [
            "deciding on the care of a patient without a qualified reader",
            f"{'cases of another kind' if spec.is_record else 'pictures of another kind, view, modality'} or population"
            " than the training data",
        ],
        "inputs": [
            {
                "name": i.name,
                "kind": i.kind,
                "shape": list(i.shape),
                "colour": i.colour,
                "modalities": i.modalities,
                "unit": i.unit,
            }
            for i in spec.inputs
        ],  # fmt: skip
        "architecture": {"name": spec.architecture.name, "params": dict(spec.architecture.params)},
        "medicines": None if spec.output.medicines is None else _medicines(spec.output.medicines),
        "data": {key: declared.get(key) for key in _SOURCE},
        "trial": declared.get("trial"),
        "population": {"parts": {k: dict(v) for k, v in (parts or {}).items()}, "patients_independent": independent},
        "evaluated_on": None,
        "metrics": None,
        "calibration": {
            "method": spec.calibration.method,
            "temperature": spec.calibration.temperature,
            "n": spec.calibration.n,
            "coverage": None if spec.calibration.conformal is None else 1 - spec.calibration.conformal.alpha,
        },
        "operating_points": [
            {"label": p.label, "threshold": p.threshold, "rule": p.rule, "chosen_on": p.chosen_on}
            for p in spec.operating_points
        ],
        "explanations": [{"name": m.name, "verdict": m.verdict, "role": m.role} for m in spec.explanations],
        "claims": [],
        "training": dict(training or {}),
        "provenance": dict(provenance or {}),
    }
    if evaluation is not None:
        card["evaluated_on"] = {
            key: evaluation[key] for key in ("part", "n", "n_patients", "patients_declared", "counts", "openings")
        }
        card["metrics"] = dict(evaluation["metrics"])
        card["claims"] = list(evaluation["claims"])
    card["limits"] = limits(spec, declared, evaluation, leaks, shortcuts, independent)
    card["reporting"] = reporting(card, declared, leaks, evaluation)
    return card


def describe_part(part: "PartView") -> dict[str, Any]:
    """{"n", "patients", "labels": {label: n}, "groups": {column: {value: n}}} of one part; small groups are hidden."""
    cohort = part.cohort
    labels: Counter[str] = Counter()
    if cohort.task in ("binary", "multiclass", "ordinal"):
        labels.update(cohort.labels[int(t)] for t in part.targets if t >= 0)
    elif cohort.task == "multilabel":
        for k, label in enumerate(cohort.labels):
            labels[label] = int((np.asarray(part.targets)[:, k] == 1).sum())
    elif cohort.task == "tags":
        begun = np.asarray(part.targets)[np.asarray(part.targets) % 2 == 1]  # the first word of each entity
        labels.update({label: int((begun == 1 + 2 * k).sum()) for k, label in enumerate(cohort.labels)})
    elif cohort.task == "effect":
        labels.update(cohort.labels[int(arm)] for arm in np.asarray(part.targets)[:, 2])
    elif cohort.task == "survival":
        happened = int((np.asarray(part.targets)[:, 1] == 1).sum())
        labels.update({"events": happened, "censored": len(part) - happened})
    groups: dict[str, Counter[str]] = {}
    for case in part.cases:
        for column, value in case.groups.items():
            groups.setdefault(column, Counter())[str(value)] += 1
    return {
        "n": len(part),
        "patients": None if cohort.independent else len({case.patient for case in part.cases}),
        "labels": {label: labels[label] for label in (*cohort.labels, "events", "censored") if label in labels},
        "groups": {
            column: {
                value: n if n >= FEWEST_SHOWN else f"fewer than {FEWEST_SHOWN}" for value, n in sorted(counts.items())
            }
            for column, counts in groups.items()
        },
    }


def limits(
    spec: ModelSpec,
    source: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    leaks: Mapping[str, Any] | None,
    shortcuts: Sequence[Mapping[str, Any]] | None,
    independent: bool | None,
) -> list[dict[str, str]]:
    """What a reader must know before any figure: [{"code", "message"}]."""
    out: list[tuple[str, str]] = [("not-validated", NOT_VALIDATED)]
    if source.get("synthetic"):
        out.append(("synthetic", "Trained on generated data; the figures say nothing about medicine."))
    if note := source.get("note") or source.get("caveat"):
        out.append(("data-note", str(note)))
    of_patients = not spec.inputs or any(want.kind not in ("molecule", "protein") for want in spec.inputs)
    if independent and of_patients:
        out.append(
            ("patients-not-known", "No patient key: a patient may stand in several parts without being noticed.")
        )
    if evaluation is None:
        out.append(("not-evaluated", "Never measured on a sealed part."))
    elif evaluation["part"] == "test":
        out.append(
            ("one-source", "Measured on a part of the same data set; other places, devices and times may differ.")
        )
    if spec.output.task == "effect":
        out.append(("confounding", "Right only if nothing unmeasured drives both the treatment and the outcome."))
        out.append(("no-order", "It advises and never orders; a qualified person decides."))
    elif spec.calibration.method == "none" and spec.output.task not in ("number", "generate"):
        out.append(("not-calibrated", "Its probabilities are not calibrated."))
    if spec.output.task == "generate":
        out.append(("invented", "What it writes was never made nor measured: a chemist judges each molecule."))
    elif spec.output.medicines is not None:
        out.append((NOTE["code"], f"Every figure and answer is {CALLED}; none says that a medicine helps."))
        out.append(("no-order", "It lists candidates and never orders; rules of safety and a qualified person decide."))
        if unknown := spec.output.medicines.unknown:
            out.append(
                ("interactions-unknown", f"Of {len(unknown)} of its medicines no table of safety knows anything.")
            )
    elif spec.calibration.conformal is None and spec.output.task != "effect":
        out.append(("no-sets", "It gives no prediction set and so does not abstain when unsure."))
    if spec.ood is None:
        out.append(("no-distance-check", "It has no check for cases unlike its training data."))
    else:
        out.append(
            (
                "distance-check",
                f"Cases unlike its training data are refused by a distance with {spec.ood.false_alarm:.1%} false"
                " alarms on the calibration part; not everything unlike is caught.",
            )
        )
    for step in spec.transforms:
        if step.name == "protein" and step.params.get("cut"):
            said = (
                f"Of {step.params['name']} the first {step.params['window']} residues are read, whatever lies beyond."
            )
            out.append(("protein-cut", said))
    if leaks and leaks.get("found") and leaks.get("policy") == "keep":
        out.append(("leaks-kept", "Leaks between parts were found and kept on request: figures are too good."))
    for check in shortcuts or []:
        if check["level"] != "green":
            out.append(("shortcut", str(check["message"])))
    for method in spec.explanations:
        if method.verdict == "FAIL":
            out.append(("explanation", f"The explanation method {method.name} failed its audit and is not offered."))
    for claim in (evaluation or {}).get("claims", []):
        if claim["level"] == "red":
            out.append((claim["code"], claim["message"]))
    return [{"code": code, "message": message} for code, message in dict.fromkeys(out)]


def _rule(card: Mapping[str, Any]) -> str:
    """By what the parts were made."""
    rule = (card["provenance"].get("split") or {}).get("rule") or "patient"
    return f"parts by {rule}"


def reporting(
    card: Mapping[str, Any],
    source: Mapping[str, Any],
    leaks: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any] | None,
) -> list[dict[str, str]]:
    """Reporting items after TRIPOD+AI; each answer comes from the run, or from the data set's own declaration."""

    def told(key: str) -> str:
        value = source.get(key)
        return NOT_REPORTED if value in (None, "") else str(value)

    parts = card["population"]["parts"]
    sizes = ", ".join(f"{name} {part.get('n')}" for name, part in parts.items()) or NOT_REPORTED
    inputs = "; ".join(f"{i['kind']} {'x'.join(map(str, i['shape']))}" for i in card["inputs"])
    fairness = balance = performance = flow = NOT_REPORTED
    if evaluation is not None:
        if evaluation["subgroups"]:
            judged = [row for row in evaluation["subgroups"] if row["judged"]]
            red = sum(row["level"] == "red" for row in judged)
            fairness = f"{len(judged)} subgroups measured, {red} with a red gap"
        performance = "; ".join(f"{name} {number(span)}" for name, span in list(card["metrics"].items())[:4])
        answers = evaluation["answers"]
        flow = (
            f"{evaluation['n']} evaluated, {evaluation['unlabelled']} without a label,"
            f" {sum(answers['refused_before_scoring'].values())} refused before scoring"
        )
    labels = (parts.get("train") or {}).get("labels")
    if labels:
        balance = "training part: " + ", ".join(f"{label} {n}" for label, n in labels.items())
    leak_text = NOT_REPORTED if leaks is None else f"leak policy: {leaks.get('policy') or NOT_REPORTED}"
    rows = [
        ("1", "Title", f"{card['name']}: {_QUESTIONS.get(card['question'], card['question'])} model, {card['task']}"),
        ("3a", "Healthcare context", told("context")),
        ("3b", "Target population and intended users", told("population")),
        ("3c", "Known health inequalities", told("inequalities")),
        ("5a", "Source of data", told("source")),
        ("5b", "Dates of collection", told("dates")),
        ("6a", "Setting", told("setting")),
        ("6b", "Eligibility", told("eligibility")),
        ("7", "Data preparation", f"one set of transforms for training and serving; {leak_text}"),
        ("8a", "Outcome and how it was assessed", told("outcome")),
        ("8c", "Blinding of assessors", told("blinding")),
        ("9", "Predictors", inputs),
        ("10", "Sample size", sizes),
        ("11", "Missing data", told("missing")),
        ("12a", "Analysis", f"{_rule(card)} before any fit; the sealed part opened to report only"),
        ("12c", "Model building", card["architecture"]["name"]),
        ("12e", "Performance measures", "see metrics: each with a 95 % interval"),
        ("13", "Class imbalance", balance),
        ("14", "Fairness", fairness),
        ("15", "Model output", _output(card)),
        ("17", "Ethical approval", told("ethics")),
        ("18a", "Funding", told("funding")),
        ("18e", "Data sharing", told("licence")),
        ("19", "Patient and public involvement", told("involvement")),
        ("20", "Participants", flow),
        ("22", "Model specification", "in the package: plain tensors, graph and JSON"),
        ("23", "Performance", performance),
        ("25", "Interpretation", told("interpretation")),
        ("26", "Limitations", f"{len(card['limits'])} derived by rule; see limits"),
        ("27", "Use in practice", "inputs out of scope are refused with a code; unsure cases abstain"),
    ]  # fmt: skip
    return [{"item": item, "topic": topic, "answer": answer} for item, topic, answer in rows]


def _medicines(told: Medicines) -> dict[str, Any]:
    """What the figures and the answers are called, and by which rules two medicines interact."""
    return {
        "called": CALLED,
        "pairs": len(told.pairs),
        "severities": list(told.severities),
        "rules": [{"id": one.id, "version": one.version, "digest": one.digest} for one in told.rules],
        "interaction_rate_trained": told.rate,
        "unknown": list(told.unknown),
        "rare": {"codes": told.rare, "share": told.rare_share},
    }


def _output(card: Mapping[str, Any]) -> str:
    if card["task"] == "number":
        return f"an estimate of {card['labels'][0]}"
    if card["medicines"] is not None:
        return f"medicines of one visit in the order of their probability: {CALLED}, never benefit"
    if card["task"] == "survival":
        return f"the risk of {card['labels'][0]} by each horizon, and a survival curve"
    if card["task"] == "effect":
        return (
            f"the effect of {', '.join(card['labels'][1:])} against {card['labels'][0]} with its interval, and advice"
        )
    if card["task"] == "generate":
        return "how likely a molecule is among those it learned from, and new molecules of their kind"
    if card["task"] == "tags":
        return f"entities ({', '.join(card['labels'])}) with their places in the text; probabilities not calibrated"
    return f"calibrated probabilities of {', '.join(card['labels'])}"
