"""The sections of an evaluation: each takes what `evaluate` has measured and gives one JSON-ready record."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from medserve.errors import BadData
from medserve.evaluation import survival
from medserve.evaluation.conformal import coverage_band
from medserve.evaluation.curves import ece_null
from medserve.evaluation.intervals import Interval, bootstrap, delong
from medserve.evaluation.operating import threshold_rules
from medserve.evaluation.shift import two_sample
from medserve.models.spec import Conformal, ModelSpec, OutputSpec
from medserve.questions.metrics import Judged, judge, one_vs_rest
from medserve.questions.weighted import average_precision, rank_auroc, ratio
from medserve.types import Array, Scores

V = TypeVar("V")
CALLED = {
    "record-trees": "boosting (gradient-boosted trees)",
    "record-forest": "random forest",
    "record-linear": "linear model (one weight a column)",
    "record-additive": "glass box (explainable boosting machine)",
    "thumbnail-linear": "linear model of thumbnails",
    "case-net": "network",
    "medicine-net": "recurrent network over visits",
    "repeat-last": "repeat of the last visit",
    "record-average": "mean of several models",
}  # architectures in words
PREVALENCES = (0.01, 0.05, 0.1, 0.2, 0.5)
BEFORE_AFTER_CLASSES = ("log_loss", "brier", "ece", "calibration_slope", "calibration_intercept")
BEFORE_AFTER = (*BEFORE_AFTER_CLASSES, *survival.CALIBRATION)


def prefixed(word: str, table: Mapping[str, V]) -> dict[str, V]:
    return {f"{word}/{name}": value for name, value in table.items()}


def patients_behind(masks: Mapping[str, Array], who: Array) -> dict[str, int]:
    """How many patients stand behind each share: the independent trials of an exact bound."""
    return {name: len(np.unique(who[mask])) for name, mask in masks.items()}


def under(found: Mapping[str, Interval], word: str) -> dict[str, Interval]:
    return {name.split("/", 1)[1]: span for name, span in found.items() if name.startswith(f"{word}/")}


def labelled(task: str, scores: Scores, targets: Array) -> Array:
    """Positions of labelled cases."""
    targets = np.asarray(targets)
    if len(scores) != len(targets):
        raise BadData(
            "evaluation-rows", f"{len(scores)} scores for {len(targets)} targets.", hint="Score the same cases again."
        )
    if task == "multilabel":
        known = ~np.isnan(targets).all(axis=1)
    elif task == "survival":
        survival.check_targets(targets)
        known = np.isfinite(targets).all(axis=1) & (targets[:, 0] >= 0)
    elif task in ("number", "generate"):
        known = np.isfinite(targets.astype(np.float64))
    elif task == "effect":
        known = np.isfinite(targets[:, :3]).all(axis=1)
    elif task == "tags":
        known = np.isfinite(targets).any(axis=1)
    else:
        values = targets.astype(np.float64)
        known = np.isfinite(values) & (values >= 0)
    rows = np.flatnonzero(known)
    if not len(rows):
        raise BadData(
            "nothing-labelled",
            "None of the evaluated cases carries a label.",
            hint="Evaluate data that has labels; use `medserve predict` for data that has none.",
        )
    return rows


def typed(task: str, targets: Array) -> Array:
    return targets.astype(np.float64) if task in ("multilabel", "number", "survival") else targets.astype(np.int64)


def counts(judged: Judged) -> dict[str, int]:
    if judged.task == "number":
        return {judged.labels[0]: len(judged)}
    if judged.task == "survival":
        happened = int((judged.targets[:, 1] == 1).sum())
        return {"events": happened, "censored": len(judged) - happened}
    if judged.task == "multilabel":
        return {label: int((judged.targets[:, k] == 1).sum()) for k, label in enumerate(judged.labels)}
    return {label: int((judged.targets == k).sum()) for k, label in enumerate(judged.labels)}


def cross_check(judged: Judged) -> dict[str, Any] | None:
    if judged.task != "binary":
        return None
    return {"auroc": delong(judged.targets == 1, judged.probs[:, 1])}


def majority(judged: Judged) -> dict[str, Any] | None:
    """What always saying the most common label (or the mean, or one curve) would give: the floor under every figure."""
    if judged.task == "survival":
        return survival.floor(judged)
    if judged.task == "number":
        return {"label": "mean", "mae": float(np.abs(judged.targets - judged.targets.mean()).mean())}
    if judged.task == "multilabel":
        known = ~np.isnan(judged.targets)
        share = np.nanmean(np.where(known, judged.targets, np.nan), axis=0) if known.any(axis=0).all() else None
        return (
            None if share is None else {"label": "each label's", "accuracy": float(np.maximum(share, 1 - share).mean())}
        )
    counts = np.bincount(judged.targets, minlength=len(judged.labels))
    return {"label": judged.labels[int(counts.argmax())], "accuracy": float(counts.max() / counts.sum())}


def per_label(judged: Judged, who: Array, strata: Array, draws: int, seed: int) -> list[dict[str, Any]]:
    """One label against the rest, for tasks with several."""
    if judged.task in ("binary", "number", "survival"):
        return []
    sides = one_vs_rest(judged)

    def figures(w: Array) -> dict[str, Array]:
        out = {}
        for k, (y, p, rows) in enumerate(sides):
            said = judged.chosen[rows, k] if judged.task == "multilabel" else judged.chosen == k
            v = w[:, rows]
            out[f"{k}/auroc"], out[f"{k}/auprc"] = rank_auroc(y, p, v), average_precision(y, p, v)
            out[f"{k}/sensitivity"] = ratio(v @ (y & said), v @ y)
            out[f"{k}/specificity"] = ratio(v @ (~y & ~said), v @ ~y)
            out[f"{k}/ppv"] = ratio(v @ (y & said), v @ said)
        return out

    trials: dict[str, int] = {}
    for k, (y, _, rows) in enumerate(sides):
        said = judged.chosen[rows, k] if judged.task == "multilabel" else judged.chosen == k
        masks = {"sensitivity": y, "specificity": ~y, "ppv": said}
        trials |= prefixed(str(k), patients_behind(masks, who[rows]))
    found = bootstrap(figures, who, strata, draws=draws, seed=seed, trials=trials)
    return [
        {"label": label, "n": int(y.sum()), "known": len(rows), "metrics": under(found, str(k))}
        for k, (label, (y, _, rows)) in enumerate(zip(judged.labels, sides, strict=True))
    ]


def calibration_of(
    spec: ModelSpec, judged: Judged, found: Mapping[str, Interval], draws: int, seed: int
) -> dict[str, Any] | None:
    if judged.task == "number":
        return None
    if judged.task == "survival":
        return survival.calibration_of(spec, found)
    fitted = spec.calibration
    return {
        "method": fitted.method,
        "temperature": fitted.temperature,
        "n": fitted.n,
        "cross_fitted": fitted.cross_fitted,
        "before": under(found, "raw"),
        "after": {name: found[name] for name in BEFORE_AFTER if name in found},
        "log_loss_change": found["change/log_loss"],
        "ece_null": ece_null(judged, draws=draws, seed=seed),
    }


def prediction_sets(
    spec: ModelSpec,
    judged: Judged,
    scores: Scores,
    found: Mapping[str, Interval],
    hit: Array | None,
    size: Array | None,
    calibration: tuple[Scores, Array] | None,
    whole: Array | None = None,
    members: Sequence[str | None] | None = None,
) -> dict[str, Any] | None:
    """What the prediction sets did here: coverage with its band, sizes, and whether the guarantee may be quoted.

    whole: (N,) False where a case lacks an input; its set is wider on purpose, and the band is not about it.
    members: of each case its group, where intervals are per group.
    """
    fitted = spec.calibration.conformal
    if fitted is None or hit is None or size is None:
        return None
    calibrated, shift = None, None
    if calibration is not None:
        cal_scores, cal_targets = calibration
        rows = labelled(judged.task, cal_scores, cal_targets)
        truth = typed(judged.task, np.asarray(cal_targets)[rows])
        if judged.task != "number":
            calibrated = {label: int((truth == k).sum()) for k, label in enumerate(judged.labels)}
        by_label = (truth, judged.targets) if fitted.by_label is not None else None
        shift = two_sample(cal_scores[rows], scores, by_label)
    full = np.ones(len(hit), bool) if whole is None or not whole.any() else whole
    theirs = None if members is None else np.array([name or "" for name in members], str)
    low, high = coverage_band(
        fitted, counts(judged.keep(full)) if theirs is None else count_of(theirs[full]), calibrated
    )
    value = float(hit[full].mean())
    labels = [] if judged.task == "number" else list(judged.labels)
    return {
        "alpha": fitted.alpha,
        "target": 1 - fitted.alpha,
        "n_calibration": fitted.n,
        "by_label": fitted.by_label is not None,
        "half_width": fitted.quantile if judged.task == "number" and not spec.output.scale else None,
        "groups": [] if theirs is None else group_coverage(fitted, theirs[full], hit[full]),
        "coverage": found["coverage"],
        "band": {"low": low, "high": high},
        "inside_band": low - 1e-9 <= value <= high + 1e-9,
        "label_coverage": {
            label: float(hit[judged.targets == k].mean())
            for k, label in enumerate(labels)
            if (judged.targets == k).any()
        },
        "sizes": {str(k): int((size == k).sum()) for k in range(int(size.max()) + 1)},
        "single_share": float((size == 1).mean()),
        "empty_share": float((size == 0).mean()),
        "lacking": {"n": int((~full).sum()), "coverage": float(hit[~full].mean()) if (~full).any() else None},
        "shift": shift,
        "suspended": bool(shift and shift["shifted"]),
    }


def bands(output: OutputSpec, targets: Array) -> dict[str, Array]:
    """The subgroups of a number by its true value, between the limits that the data set declares."""
    if not output.bands:
        return {}
    limits, unit = [f"{limit:g}" for limit in output.bands], output.unit or ""
    names = [f"below {limits[0]}", *(f"{a} to {b}" for a, b in pairwise(limits)), f"{limits[-1]} and more"]
    told = np.array([f"{name} {unit}".strip() for name in names], str)
    return {f"true {output.labels[0]}": told[np.digitize(targets, output.bands)]}


def count_of(names: Array) -> dict[str, int]:
    return {str(name): int((names == name).sum()) for name in np.unique(names)}


def group_coverage(fitted: Conformal, names: Array, hit: Array) -> list[dict[str, Any]]:
    """Of each group of cases: how many, how many of them the interval held, and the band of a correct predictor."""
    found = []
    for name, n in count_of(names).items():
        low, high = coverage_band(fitted, {name: n})
        value = float(hit[names == name].mean())
        inside = low - 1e-9 <= value <= high + 1e-9
        own = fitted.by_group is not None and name in fitted.by_group
        found.append({"group": name, "n": n, "own": own, "coverage": value, "low": low, "high": high, "inside": inside})
    return found


def operating_of(spec: ModelSpec, judged: Judged, metrics: Mapping[str, Interval]) -> dict[str, Any] | None:
    """The served thresholds and the work that they make."""
    points = [
        {"label": p.label, "threshold": p.threshold, "rule": p.rule, "chosen_on": p.chosen_on}
        for p in spec.operating_points
    ]
    if judged.task == "binary":
        points = points or [{"label": judged.labels[1], "threshold": 0.5, "rule": "default", "chosen_on": "none"}]
        alerts = float((judged.chosen == 1).mean() * 100)
        return {
            "points": points,
            "alerts_per_100": alerts,
            "ppv": metrics["ppv"],
            "prevalence": metrics["prevalence"],
            "elsewhere": elsewhere(metrics["sensitivity"]["value"], metrics["specificity"]["value"]),
        }
    return {"points": points} if points else None


def elsewhere(sensitivity: float | None, specificity: float | None) -> list[dict[str, float | None]]:
    """Alerts, PPV and NPV at other prevalences, by Bayes' rule from one sensitivity and specificity.

    Sensitivity .9, specificity .8 at 10 %: PPV = .09 / (.09 + .18) = .333.
    """
    if sensitivity is None or specificity is None:
        return []
    out = []
    for p in PREVALENCES:
        found, false = p * sensitivity, (1 - p) * (1 - specificity)
        missed, cleared = p * (1 - sensitivity), (1 - p) * specificity
        out.append(
            {
                "prevalence": p,
                "alerts_per_100": 100 * (found + false),
                "ppv": found / (found + false) if found + false else None,
                "npv": cleared / (cleared + missed) if cleared + missed else None,
            }
        )
    return out


def against(
    judged: Judged, other: Judged, found: Mapping[str, Interval], spec: ModelSpec | None, role: str,
    called: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The other candidate beside this one; differences are this minus the other, on the same draws.

    Args: called: the other's name, such as that of its recipe; None: what its architecture is in words.
    """
    plain = "simple baseline" if role == "recipe" else "recipe's network"
    delta = None
    if judged.task == "binary":
        delta = delong(judged.targets == 1, judged.probs[:, 1], other.probs[:, 1])
    return {
        "role": role,
        "other": called or (plain if spec is None else CALLED.get(spec.architecture.name, plain)),
        "architecture": None if spec is None else spec.architecture.name,
        "metrics": under(found, "baseline"),
        "difference": under(found, "difference"),
        "delong": delta,
    }


def other_rules(
    spec: ModelSpec,
    judged: Judged,
    val: tuple[Scores, Array] | None,
    calibration: tuple[Scores, Array] | None,
    who: Array,
    draws: int,
    seed: int,
) -> dict[str, Any] | None:
    if val is None or judged.task != "binary":
        return None

    def held(scores: Scores, targets: Array) -> Judged:
        rows = labelled(judged.task, scores, targets)
        return judge(spec, scores[rows].logits, typed(judged.task, np.asarray(targets)[rows]))

    more = None if calibration is None else held(*calibration)
    return threshold_rules(spec, held(*val), judged, who, calibration=more, draws=draws, seed=seed)


def leaks_of(leaky: Array, found: Mapping[str, Interval], metrics: Mapping[str, Interval]) -> dict[str, Any]:
    without = under(found, "without")
    return {"involved": int(leaky.sum()), "with": dict(metrics), "without": without or None}
