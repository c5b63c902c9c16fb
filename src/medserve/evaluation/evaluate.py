"""Step 4: one part's scores against its truth, as one JSON-ready record in which every number carries its interval.

    result = evaluate(spec, scores, targets, part="test", patients=who, groups={"sex": sex}, baseline=other, ...)
    result["metrics"]["auroc"]      # {"value": .98, "low": .97, "high": .99}
    result["claims"]                # [{"level": "amber", "code": "few-cases", "message": ...}, ...]

What is measured is what is served: probabilities, sets and decisions come from `questions.answers`. All figures of one
call share the same bootstrap draws of patients, so every difference is a paired one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from medserve.errors import BadData
from medserve.evaluation.claims import claims
from medserve.evaluation.conformal import coverage_band, covered
from medserve.evaluation.curves import curves, ece_null, wilson
from medserve.evaluation.decision_curve import decision_curve
from medserve.evaluation.intervals import DRAWS, LEVEL, Interval, bootstrap, delong, strata_of
from medserve.evaluation.operating import threshold_rules
from medserve.evaluation.shift import two_sample
from medserve.evaluation.subgroups import subgroups
from medserve.models.spec import ModelSpec
from medserve.questions.metrics import LOWER_IS_BETTER, METRICS, Judged, confusion, judge, measure, one_vs_rest, trials
from medserve.questions.weighted import average_precision, rank_auroc, ratio
from medserve.types import Array, Scores

FORMAT = "medserve-evaluation/1"
COMPARED = {
    "binary": ("auroc", "accuracy", "balanced_accuracy", "log_loss", "brier"),
    "multiclass": ("auroc", "accuracy", "balanced_accuracy", "log_loss", "brier"),
    "ordinal": ("auroc", "accuracy", "quadratic_kappa", "log_loss", "brier"),
    "multilabel": ("auroc", "auprc", "accuracy", "log_loss", "brier"),
    "number": ("mae", "rmse", "r2", "spearman"),
}
_BEFORE_AFTER = ("log_loss", "brier", "ece", "calibration_slope", "calibration_intercept")


def evaluate(
    spec: ModelSpec,
    scores: Scores,
    targets: Array,
    *,
    part: str,
    patients: Array | None = None,
    groups: Mapping[str, Array] | None = None,
    baseline: Scores | None = None,
    baseline_spec: ModelSpec | None = None,
    val: tuple[Scores, Array] | None = None,
    calibration: tuple[Scores, Array] | None = None,
    leaky: Array | None = None,
    openings: int | None = None,
    refused: Mapping[str, int] | None = None,
    decision_range: tuple[float, float, str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure one part.

    Args:
        scores, targets: of the evaluated part, row for row; a target below 0 or NaN means unlabelled.
        part: "train" | "val" | "calibration" | "test" | "all" (foreign data).
        patients: (N,) keys; None: each case counts as its own patient, and a claim says so.
        groups: subgroup column -> (N,) values.
        baseline, baseline_spec: the simple model's scores of the same rows and its own signature.
        val: validation scores and targets, for the table of threshold rules.
        calibration: calibration scores and targets, for the shift check and the coverage band.
        leaky: (N,) True where a case is involved in a leak that was kept; metrics are shown with and without.
        openings: how often this sealed part has been opened.
        refused: code -> how many inputs were refused before any score.
        decision_range: (low, high, why) thresholds of the decision curve, as the user declares them.

    Returns: a dict of plain JSON values (undefined figures are None); keys as in the body below.
    Raises: BadData: no labelled case, or scores and targets differ in number.
    """
    rows = _labelled(spec.output.task, scores, targets)
    kept = scores[rows]
    judged = judge(spec, kept.logits, _clean(spec.output.task, np.asarray(targets)[rows]))
    who = np.asarray(patients)[rows] if patients is not None else np.arange(len(rows))
    strata = strata_of(judged.task, judged.targets)
    raw = judge(spec, kept.logits, judged.targets, temperature=1.0)
    other = None
    if baseline is not None:
        other = judge(baseline_spec or spec, baseline[rows].logits, judged.targets)
    hit, size = (None, None)
    if spec.calibration.conformal is not None:
        hit, size = covered(spec, kept.logits, judged.targets)
    unlike = _out_of_distribution(spec, kept)
    unsure = np.zeros(len(rows), bool) if size is None or judged.task in ("number", "multilabel") else size != 1
    unsure &= ~unlike
    answered = ~unlike & ~unsure
    outside = None if leaky is None else ~np.asarray(leaky, bool)[rows]

    def figures(w: Array) -> dict[str, Array]:
        out = measure(judged, w)
        out |= _prefixed("raw", measure(raw, w, only=_BEFORE_AFTER))
        if judged.task != "number":
            out["change/log_loss"] = out["log_loss"] - out["raw/log_loss"]
        if other is not None:
            simple = measure(other, w, only=COMPARED[judged.task])
            out |= _prefixed("baseline", simple)
            out |= _prefixed("difference", {name: out[name] - v for name, v in simple.items()})
        if outside is not None and outside.any() and not outside.all():
            out |= _prefixed("without", measure(judged.keep(outside), w[:, outside]))
        total = w.sum(axis=1)
        out |= _prefixed("share", {k: ratio(w @ v, total) for k, v in _fates(answered, unsure, unlike).items()})
        if answered.any() and judged.task not in ("number", "multilabel"):
            out["answered/accuracy"] = measure(judged.keep(answered), w[:, answered], only=("accuracy",))["accuracy"]
        if hit is not None:
            out["coverage"] = ratio(w @ hit, total)
        return out

    found = bootstrap(figures, who, strata, draws=draws, seed=seed, trials=trials(judged))
    metrics = {name: found[name] for name in METRICS[judged.task]}
    if judged.task == "binary":  # fixed by the strata of the bootstrap
        share = float((judged.targets == 1).mean())
        low, high = wilson(share, len(np.unique(who)))
        metrics["prevalence"] = {"value": share, "low": low, "high": high}
    confusions = None
    if judged.task in ("binary", "multiclass", "ordinal"):
        table = confusion(judged, np.ones((1, len(judged))))[0].astype(int).tolist()
        confusions = {"labels": list(judged.labels), "counts": table}
    result: dict[str, Any] = {
        "format": FORMAT,
        "model": {"name": spec.name, "version": spec.version},
        "task": judged.task,
        "labels": list(judged.labels),
        "part": part,
        "n": len(judged),
        "n_patients": len(np.unique(who)),
        "patients_declared": patients is not None,
        "unlabelled": len(scores) - len(rows),
        "counts": _counts(judged),
        "openings": openings,
        "intervals": {"level": LEVEL, "method": "stratified bootstrap of patients", "draws": draws, "seed": seed},
        "metrics": metrics,
        "lower_is_better": sorted(LOWER_IS_BETTER & metrics.keys()),
        "cross_check": _cross_check(judged),
        "majority": _majority(judged),
        "per_label": _per_label(judged, who, strata, draws, seed),
        "calibration": _calibration(spec, judged, found, draws, seed),
        "conformal": _conformal(spec, judged, kept, found, hit, size, calibration),
        "operating": _operating(spec, judged, metrics),
        "answers": {
            "answered": int(answered.sum()),
            "abstained": int(unsure.sum()),
            "out_of_distribution": int(unlike.sum()),
            "refused_before_scoring": dict(refused or {}),
            "shares": {k: found[f"share/{k}"] for k in ("answered", "abstained", "out_of_distribution")},
            "accuracy_answered": found.get("answered/accuracy"),
        },
        "confusion": confusions,
        "curves": curves(judged, who, draws=min(draws, 200), seed=seed),
        "decision": decision_curve(judged, who, declared=decision_range, draws=draws, seed=seed),
        "subgroups": subgroups(judged, who, _rows(groups, rows), hit=hit, abstained=~answered, draws=draws, seed=seed),
        "baseline": None if other is None else _against(judged, other, found, baseline_spec),
        "threshold_rules": _threshold_rules(spec, judged, val, who, draws, seed),
        "leaks": None if leaky is None else _leaks(np.asarray(leaky, bool)[rows], found, metrics),
    }
    result["claims"] = claims(result)
    return result


def _prefixed(word: str, table: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{word}/{name}": value for name, value in table.items()}


def _under(found: Mapping[str, Interval], word: str) -> dict[str, Interval]:
    return {name.split("/", 1)[1]: span for name, span in found.items() if name.startswith(f"{word}/")}


def _labelled(task: str, scores: Scores, targets: Array) -> Array:
    """Positions of labelled cases."""
    targets = np.asarray(targets)
    if len(scores) != len(targets):
        raise BadData(
            "evaluation-rows", f"{len(scores)} scores for {len(targets)} targets.", hint="Score the same cases again."
        )
    if task == "multilabel":
        known = ~np.isnan(targets).all(axis=1)
    elif task == "number":
        known = np.isfinite(targets.astype(np.float64))
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


def _clean(task: str, targets: Array) -> Array:
    return targets.astype(np.float64) if task in ("multilabel", "number") else targets.astype(np.int64)


def _rows(groups: Mapping[str, Array] | None, rows: Array) -> dict[str, Array]:
    return {name: np.asarray(values)[rows] for name, values in (groups or {}).items()}


def _out_of_distribution(spec: ModelSpec, scores: Scores) -> Array:
    if spec.ood is None or scores.distance is None:
        return np.zeros(len(scores), bool)
    return ~(np.asarray(scores.distance) <= spec.ood.threshold)


def _fates(answered: Array, unsure: Array, unlike: Array) -> dict[str, Array]:
    return {"answered": answered, "abstained": unsure, "out_of_distribution": unlike}


def _counts(judged: Judged) -> dict[str, int]:
    if judged.task == "number":
        return {judged.labels[0]: len(judged)}
    if judged.task == "multilabel":
        return {label: int((judged.targets[:, k] == 1).sum()) for k, label in enumerate(judged.labels)}
    return {label: int((judged.targets == k).sum()) for k, label in enumerate(judged.labels)}


def _cross_check(judged: Judged) -> dict[str, Any] | None:
    if judged.task != "binary":
        return None
    return {"auroc": delong(judged.targets == 1, judged.probs[:, 1])}


def _majority(judged: Judged) -> dict[str, Any] | None:
    """What always saying the most common label (or the mean) would give: the floor under every accuracy."""
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


def _per_label(judged: Judged, who: Array, strata: Array, draws: int, seed: int) -> list[dict[str, Any]]:
    """One label against the rest, for tasks with several."""
    if judged.task in ("binary", "number"):
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

    found = bootstrap(figures, who, strata, draws=draws, seed=seed)
    return [
        {"label": label, "n": int(y.sum()), "known": len(rows), "metrics": _under(found, str(k))}
        for k, (label, (y, _, rows)) in enumerate(zip(judged.labels, sides, strict=True))
    ]


def _calibration(
    spec: ModelSpec, judged: Judged, found: Mapping[str, Interval], draws: int, seed: int
) -> dict[str, Any] | None:
    if judged.task == "number":
        return None
    fitted = spec.calibration
    return {
        "method": fitted.method,
        "temperature": fitted.temperature,
        "n": fitted.n,
        "cross_fitted": fitted.cross_fitted,
        "before": _under(found, "raw"),
        "after": {name: found[name] for name in _BEFORE_AFTER if name in found},
        "log_loss_change": found["change/log_loss"],
        "ece_null": ece_null(judged, draws=draws, seed=seed),
    }


def _conformal(
    spec: ModelSpec,
    judged: Judged,
    scores: Scores,
    found: Mapping[str, Interval],
    hit: Array | None,
    size: Array | None,
    calibration: tuple[Scores, Array] | None,
) -> dict[str, Any] | None:
    """What the prediction sets did here: coverage with its band, sizes, and whether the guarantee may be quoted."""
    fitted = spec.calibration.conformal
    if fitted is None or hit is None or size is None:
        return None
    calibrated, shift = None, None
    if calibration is not None:
        cal_scores, cal_targets = calibration
        rows = _labelled(judged.task, cal_scores, cal_targets)
        truth = _clean(judged.task, np.asarray(cal_targets)[rows])
        if judged.task != "number":
            calibrated = {label: int((truth == k).sum()) for k, label in enumerate(judged.labels)}
        by_label = (truth, judged.targets) if fitted.by_label is not None else None
        shift = two_sample(cal_scores[rows], scores, by_label)
    low, high = coverage_band(fitted, _counts(judged), calibrated)
    value = float(hit.mean())
    labels = [] if judged.task == "number" else list(judged.labels)
    return {
        "alpha": fitted.alpha,
        "target": 1 - fitted.alpha,
        "n_calibration": fitted.n,
        "by_label": fitted.by_label is not None,
        "half_width": fitted.quantile if judged.task == "number" else None,
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
        "shift": shift,
        "suspended": bool(shift and shift["shifted"]),
    }


def _operating(spec: ModelSpec, judged: Judged, metrics: Mapping[str, Interval]) -> dict[str, Any] | None:
    """The served thresholds and the work that they make."""
    points = [
        {"label": p.label, "threshold": p.threshold, "rule": p.rule, "chosen_on": p.chosen_on}
        for p in spec.operating_points
    ]
    if judged.task == "binary":
        points = points or [{"label": judged.labels[1], "threshold": 0.5, "rule": "default", "chosen_on": "none"}]
        alerts = float((judged.chosen == 1).mean() * 100)
        return {"points": points, "alerts_per_100": alerts, "ppv": metrics["ppv"], "prevalence": metrics["prevalence"]}
    return {"points": points} if points else None


def _against(judged: Judged, other: Judged, found: Mapping[str, Interval], spec: ModelSpec | None) -> dict[str, Any]:
    """The simple model beside this one; differences are this minus simple, on the same draws."""
    delta = None
    if judged.task == "binary":
        delta = delong(judged.targets == 1, judged.probs[:, 1], other.probs[:, 1])
    return {
        "architecture": None if spec is None else spec.architecture.name,
        "metrics": _under(found, "baseline"),
        "difference": _under(found, "difference"),
        "delong": delta,
    }


def _threshold_rules(
    spec: ModelSpec, judged: Judged, val: tuple[Scores, Array] | None, who: Array, draws: int, seed: int
) -> dict[str, Any] | None:
    if val is None or judged.task != "binary":
        return None
    scores, targets = val
    rows = _labelled(judged.task, scores, targets)
    chosen_on = judge(spec, scores[rows].logits, _clean(judged.task, np.asarray(targets)[rows]))
    return threshold_rules(spec, chosen_on, judged, who, draws=draws, seed=seed)


def _leaks(leaky: Array, found: Mapping[str, Interval], metrics: Mapping[str, Interval]) -> dict[str, Any]:
    without = _under(found, "without")
    return {"involved": int(leaky.sum()), "with": dict(metrics), "without": without or None}
