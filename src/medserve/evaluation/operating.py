"""The threshold that turns a probability into a decision, chosen on validation and never on the test part.

    points = choose_points(spec, logits, targets, patients)      # of the validation part
    rows   = threshold_rules(spec, val, part, patients)          # what other rules would have done

The rule is "0.5 unless better": training balances the labels, so 0.5 of the balanced model is the neutral choice, and
another threshold must earn its place. It does if, chosen inside each bootstrap draw of patients, it has the better
balanced accuracy on the patients left out of that draw, with the 95 % interval above 0. The reason for the reluctance:
a threshold tuned for accuracy also learns how common the disease is in the validation part, and that travels badly.
"""

from typing import Any

import numpy as np

from medserve.evaluation.intervals import bootstrap, draw_weights, strata_of
from medserve.models.spec import ModelSpec, OperatingPoint
from medserve.questions.answers import probabilities
from medserve.questions.medicines import threshold_of
from medserve.questions.metrics import Judged, measure
from medserve.questions.weighted import ratio
from medserve.types import Array

RULE = "0.5-unless-better"
SET_RULE = "best-jaccard-within-interactions"  # one threshold for all medicines, see `medicines.threshold_of`
REPEAT = "repeat-last"  # the architecture whose decision at one half is to repeat the last visit, and stays so
NEUTRAL = 0.5
FEWEST = 20  # positives, and negatives, under which 0.5 is kept
_CANDIDATES = 200


def choose_points(
    spec: ModelSpec, logits: Array, targets: Array, patients: Array | None = None, *, draws: int = 400, seed: int = 0
) -> list[OperatingPoint]:
    """The operating point of each alarm: one for binary, one a label for multilabel, none otherwise.

    Args:
        logits, targets, patients: of the validation part; thresholds are on the probability after `spec.calibration`.
    """
    if spec.output.task not in ("binary", "multilabel"):
        return []
    probs, targets = probabilities(spec, logits), np.asarray(targets)
    if (told := spec.output.medicines) is not None:
        repeats = spec.architecture.name == REPEAT
        at = NEUTRAL if repeats else threshold_of(probs, targets == 1, told.pairs, told.rate)[0]
        return [OperatingPoint(label=label, threshold=at, rule=SET_RULE) for label in spec.output.labels]
    who = np.arange(len(targets)) if patients is None else np.asarray(patients)
    points = []
    for k, label in enumerate(spec.output.labels):
        if spec.output.task == "binary":
            if k == 0:
                continue
            y, p, w = targets == 1, probs[:, 1], who
        else:
            known = ~np.isnan(targets[:, k])
            y, p, w = targets[known, k] == 1, probs[known, k], who[known]
        points.append(OperatingPoint(label=label, threshold=_choose(y, p, w, draws, seed), rule=RULE))
    return points


def candidates(p: Array) -> Array:
    """Thresholds worth trying: halfway between neighbouring probabilities, at most 200 of them, and 0.5."""
    levels = np.unique(p)
    if len(levels) > _CANDIDATES:
        levels = np.unique(np.quantile(levels, np.linspace(0, 1, _CANDIDATES)))
    return np.unique(np.append((levels[1:] + levels[:-1]) / 2, NEUTRAL))


def _choose(y: Array, p: Array, patients: Array, draws: int, seed: int) -> float:
    if min(y.sum(), (~y).sum()) < FEWEST:
        return NEUTRAL
    tries = candidates(p)
    neutral = int(np.flatnonzero(tries == NEUTRAL)[0])
    gains, picks = [], []
    for w in draw_weights(patients, y.astype(np.int64), draws=draws, seed=seed):
        pick = _nearest_best(_balanced(y, p, tries, w), tries)
        out = _balanced(y, p, tries, (w == 0).astype(np.float64))
        gains.append(out[np.arange(len(w)), pick] - out[:, neutral])
        picks.append(tries[pick])
    gain = np.concatenate(gains)
    gain = gain[np.isfinite(gain)]
    if len(gain) < 0.9 * draws or np.quantile(gain, 0.025) <= 0:
        return NEUTRAL
    return round(float(np.median(np.concatenate(picks))), 6)


def _balanced(y: Array, p: Array, tries: Array, w: Array) -> Array:
    """(d, T) balanced accuracy of every threshold in every draw."""
    above = (p[:, None] >= tries[None]).astype(np.float64)
    pos, neg = w * y, w * ~y
    sensitivity = ratio(pos @ above, pos.sum(axis=1, keepdims=True))
    return (sensitivity + 1 - ratio(neg @ above, neg.sum(axis=1, keepdims=True))) / 2


def _sure_and_whole(y: Array, p: Array) -> float:
    """Where as many cases are flagged as are positive: sensitivity and positive predictive value are equal there, and
    their smaller one (event 1 of the PhysioNet Challenge 2012) cannot be raised by moving either way. A search for its
    largest value follows the luck of a few cases instead."""
    ordered = np.sort(p)[::-1]
    flagged = min(max(1, int(y.sum())), len(p) - 1)
    return float(ordered[flagged - 1] + ordered[flagged]) / 2


def _nearest_best(table: Array, tries: Array) -> Array:
    """(d,) position of the best value of each row; among equals the threshold nearest to 0.5."""
    best = np.nanmax(table, axis=1, keepdims=True)
    away = np.where(table >= best - 1e-12, np.abs(tries - NEUTRAL)[None], np.inf)
    return away.argmin(axis=1)


def threshold_rules(
    spec: ModelSpec,
    val: Judged,
    part: Judged,
    patients: Array,
    *,
    calibration: Judged | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any] | None:
    """What each way of choosing the threshold on validation gives on the evaluated part; binary only.

    Args:
        val, part: judged with the same calibration.
        calibration: the calibration part, judged alike. The rule that flags as many cases as are positive rests on a
            handful of them, and reads both held-out parts where it can.
        patients: (N,) of `part`.

    Returns: {"prevalence_val", "prevalence_part", "why", "rows": [{"rule", "threshold", "served", "val_accuracy",
        "accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv": intervals, "accuracy_gain": paired
        interval against the served threshold}]}.
    """
    if part.task != "binary":
        return None
    y, p = val.targets == 1, val.probs[:, 1]
    tries = candidates(p)
    ones = np.ones((1, len(y)))
    accuracy = np.array([((p >= t) == y).mean() for t in tries])[None]
    both = [val] if calibration is None else [val, calibration]
    held = np.concatenate([one.targets == 1 for one in both]), np.concatenate([one.probs[:, 1] for one in both])
    where = "validation" if calibration is None else "validation and calibration"
    positive = spec.output.labels[1]
    served = next((o.threshold for o in spec.operating_points if o.label == positive), NEUTRAL)
    neutral = [] if served == NEUTRAL else [("fixed-0.5", NEUTRAL, "0.5 of the balanced model")]
    rules = [
        ("served", served, "the threshold that this package serves"),
        *neutral,
        ("best-accuracy-on-val", float(tries[_nearest_best(accuracy, tries)[0]]), "most accurate on validation"),
        (
            "best-balanced-accuracy-on-val",
            float(tries[_nearest_best(_balanced(y, p, tries, ones), tries)[0]]),
            "best balanced accuracy (Youden) on validation",
        ),
        (
            f"sensitivity-equals-ppv-on-val{'' if calibration is None else '-and-calibration'}",
            _sure_and_whole(*held),
            f"sensitivity equal to positive predictive value on {where}",
        ),
    ]
    served_hit = (part.probs[:, 1] >= served) == (part.targets == 1)
    rows: list[dict[str, Any]] = []
    for name, threshold, meaning in rules:
        alert = part.probs[:, 1] >= threshold
        judged = Judged(part.task, part.labels, part.targets, part.probs, alert.astype(np.int64))
        hit = alert == (part.targets == 1)

        def figures(w: Array, judged: Judged = judged, hit: Array = hit) -> dict[str, Array]:
            wanted = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv")
            every = measure(judged, w, only=wanted)
            return {**every, "accuracy_gain": ratio(w @ (hit.astype(float) - served_hit), w.sum(axis=1))}

        found = bootstrap(figures, patients, strata_of("binary", part.targets), draws=draws, seed=seed)
        rows.append(
            {
                "rule": name,
                "meaning": meaning,
                "threshold": threshold,
                "served": name == "served",
                "val_accuracy": float(((p >= threshold) == y).mean()),
                **found,
            }
        )
    before, now = float(y.mean()), float((part.targets == 1).mean())
    tuned = next(row for row in rows if row["rule"] == "best-accuracy-on-val")
    return {
        "prevalence_val": before,
        "prevalence_part": now,
        "rows": rows,
        "why": _why(before, now, tuned["accuracy_gain"], positive),
    }


def _why(before: float, now: float, gain: dict[str, Any], label: str) -> str:
    shift = f"{label!r} makes up {before:.1%} of the validation part and {now:.1%} of the evaluated one."
    if gain["value"] is None or gain["value"] == 0:
        return f"{shift} The threshold tuned for accuracy on validation decides the evaluated part equally well."
    turn = "costs" if gain["value"] < 0 else "gains"
    points = f"{abs(gain['value']) * 100:.1f} points"
    span = "" if gain["low"] is None else f" (95% interval {gain['low'] * 100:+.1f} to {gain['high'] * 100:+.1f})"
    reason = (
        " It leans on how common the label is among the validation cases, which does not carry over."
        if gain["value"] < 0 and abs(before - now) > 0.02
        else ""
    )
    return (
        f"{shift} Tuning the threshold for accuracy on validation {turn} {points} of accuracy here{span} against the"
        f" served threshold.{reason}"
    )
