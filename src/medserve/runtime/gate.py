"""May a faster engine stand in for the reference? Same cases, both scores, and limits that were set beforehand.

    judged = gate(spec, reference, candidate, targets, patients, groups)     # of the calibration part
    judged.passed, judged.codes, judged.figures["auroc_drop"]

Three things must hold, for all cases together and in each declared subgroup of at least 50: the AUROC (C index of a
survival model, R2 of a number) falls by no more than 0.005, to the upper end of the 95 % interval of the paired
bootstrap; the expected calibration error grows by no more than 0.01; at most 0.5 % of the cases get another answer:
another label, an abstention or a refusal that was none, a value that moved by more than a hundredth of its spread.
Under 100 cases nothing can be shown, so nothing passes.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from medserve.errors import Refusal
from medserve.evaluation.calibrate import ENOUGH
from medserve.evaluation.intervals import Interval, bootstrap, strata_of
from medserve.evaluation.subgroups import FEWEST, groups_with_pairs
from medserve.models.spec import ModelSpec
from medserve.questions.answers import answer_one, decide, limits, probabilities
from medserve.questions.metrics import METRICS, Judged, judge, measure
from medserve.types import UNSCORED, Array, Scores

AUROC_DROP, ECE_RISE, FLIPPED = 0.005, 0.01, 0.005
VALUE_MOVED = 0.01  # of the standard deviation of a number
_EDGE = 1e-6


class Gate(msgspec.Struct, forbid_unknown_fields=True):
    """codes: why not, each with its subgroup behind a colon. figures: of all cases, and as "column=value/figure"."""

    passed: bool
    n: int
    codes: list[str]
    figures: dict[str, dict[str, float | None]]
    unjudged: list[str] = []  # subgroups that are too small


def gate(
    spec: ModelSpec,
    reference: Scores,
    candidate: Scores,
    targets: Array,
    patients: Array | None = None,
    groups: Mapping[str, Array] | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Gate:
    """Hold `candidate` against `reference` on the same cases.

    Args:
        targets: as in `Samples`; every case is labelled.
        patients: (N,) keys; None where every case is a patient of its own.
        groups: subgroup column -> (N,) values.
    """
    n = len(targets)
    if spec.output.task in UNSCORED:
        return Gate(False, n, ["gate-no-rule"], {})
    if n < ENOUGH:
        return Gate(False, n, ["gate-few-cases"], {})
    flipped = flips(spec, reference, candidate)
    before, after = judge(spec, reference.logits, targets), judge(spec, candidate.logits, targets)
    inside, small = {"": np.ones(n, bool)}, []
    for column, value, members in groups_with_pairs(groups or {}):
        if " x " in column:
            continue
        name = f"{column}={value}"
        if members.sum() >= FEWEST:
            inside[f"{name}/"] = members
        else:
            small.append(name)

    def figures(w: Array) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for name, members in inside.items():
            for figure, values in _change(before.keep(members), after.keep(members), w[:, members]).items():
                found[name + figure] = values
        return found

    keys = np.arange(n) if patients is None else np.asarray(patients)
    spans: dict[str, Interval] = bootstrap(figures, keys, strata_of(spec.output.task, targets), draws=draws, seed=seed)
    codes, rank = [], rank_of(spec.output.task)
    for name, members in inside.items():
        share = float(flipped[members].mean())
        spans[f"{name}flipped"] = {"value": share, "low": None, "high": None}
        codes += [f"{code}{':' if name else ''}{name.rstrip('/')}" for code in _failed(spans, name, rank, share)]
    return Gate(not codes, n, codes, {key: dict(span) for key, span in spans.items()}, small)


def rank_of(task: str) -> str:
    """The AUROC, or what stands for it where there is none."""
    return {"survival": "c_index", "number": "r2"}.get(task, "auroc")


def flips(spec: ModelSpec, reference: Scores, candidate: Scores) -> Array:
    """(N,) bool: this case would be answered otherwise."""
    before, after = _served(spec, reference), _served(spec, candidate)
    decision = np.array([a[0] != b[0] for a, b in zip(before, after, strict=True)], bool)
    status = np.array([a[1] != b[1] for a, b in zip(before, after, strict=True)], bool)
    other = decision | (status & ~_on_a_limit(spec, reference))
    if spec.output.task == "number":
        was, is_now = (spec.output.standard(probabilities(spec, one.logits)) for one in (reference, candidate))
        other |= np.abs(was - is_now)[:, 0] > VALUE_MOVED
    return other


def _served(spec: ModelSpec, scores: Scores) -> list[tuple[Any, str]]:
    """What a person is told of each case: the decision, and whether it was answered, abstained or refused."""
    decides = spec.output.task not in ("number", "survival") or bool(spec.operating_points)
    out: list[tuple[Any, str]] = []
    for row, probs in enumerate(probabilities(spec, scores.logits)):
        distance = None if scores.distance is None else float(scores.distance[row])
        try:
            status = answer_one(spec, probs, distance).status
        except Refusal as error:
            status = error.code
        out.append((decide(spec, probs) if decides else None, status))
    return out


def _on_a_limit(spec: ModelSpec, scores: Scores) -> Array:
    """(N,) bool: the case from which a limit was taken. It stands on that limit to the last bit, so that any engine
    moves it to one side or the other; that says nothing of other cases."""
    found = np.zeros(len(scores), bool)
    if spec.ood is not None and scores.distance is not None:
        limit = spec.ood.threshold
        found |= np.abs(scores.distance - limit) <= _EDGE * max(1.0, abs(limit))
    conformal = spec.calibration.conformal
    if conformal is not None and spec.output.task not in ("number", "multilabel", "survival"):
        quantiles = np.asarray(limits(conformal, spec.output.labels))
        found |= (np.abs(1 - probabilities(spec, scores.logits) - quantiles) <= _EDGE).any(axis=1)
    return found


def _change(before: Judged, after: Judged, w: Array) -> dict[str, Array]:
    """What was lost, (D,) each: more than 0 is worse."""
    rank = rank_of(before.task)
    wanted = [rank, "ece"] if "ece" in METRICS[before.task] else [rank]
    one, two = measure(before, w, wanted), measure(after, w, wanted)
    lost = {f"{rank}_drop": one[rank] - two[rank]}
    return lost | ({"ece_rise": two["ece"] - one["ece"]} if "ece" in wanted else {})


def _failed(spans: Mapping[str, Interval], name: str, rank: str, flipped: float) -> list[str]:
    """Codes of one group. Where a subgroup holds one label only it has no AUROC, and the other two decide."""
    codes = []
    high = spans[f"{name}{rank}_drop"]["high"]
    if high is None and not name:
        codes.append("gate-undefined")
    elif high is not None and not high <= AUROC_DROP:
        codes.append("gate-auroc")
    rise = spans.get(f"{name}ece_rise")
    if rise is not None and not (rise["value"] is not None and rise["value"] <= ECE_RISE):
        codes.append("gate-ece")
    if not flipped <= FLIPPED:
        codes.append("gate-flips")
    return codes
