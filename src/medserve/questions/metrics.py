"""What an answer is measured by, per task; each metric takes a whole bundle of bootstrap draws at once.

    judged = judge(spec, scores.logits, targets)           # calibrated probabilities, served decisions, the truth
    METRICS["binary"]["auroc"](judged, weights)            # weights: (D, N) case counts of D draws -> (D,)
    point(judged)                                          # {"auroc": 0.98, "accuracy": 0.94, ...}

A bootstrap draw is nothing but how often each case was drawn, so every metric is written for weighted cases: a
thousand draws are a few matrix products, and the value itself is the draw in which each case counts once.
Sources: the scikit-learn definitions (tests compare); Cox 1958 for calibration slope; Guo 2017 for ECE.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from medserve.models.spec import ModelSpec, Survival
from medserve.questions import censored, medicines
from medserve.questions.answers import decide, log_hazard, probabilities
from medserve.questions.survival import baseline_of, cumulative_hazard, horizon_labels, main_horizon, risks
from medserve.questions.weighted import (
    average_precision,
    calibration_in_the_large,
    calibration_line,
    concordance_pairs,
    expected_calibration_error,
    pearson,
    rank_auroc,
    ranks,
    ratio,
)
from medserve.types import Array, Task

ECE_BINS = 15
BRIER_GRID = 32
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Judged:
    """Answers of one part beside the truth.

    targets: (N,) int64, (N, K) float with NaN where unknown (multilabel), (N,) float (number), or (N, 2) float time
        and event (survival).
    probs: (N, K) calibrated probabilities; (N, 1) values for a number; (N, H) risks by each horizon for survival.
    chosen: (N,) index of the served decision; (N, K) bool for multilabel; unused for a number and for survival.
    eta, baseline: of survival: (N,) calibrated log hazard ratios, and what they multiply.
    pairs: of medicines, numbers of two labels that interact.
    """

    task: Task
    labels: tuple[str, ...]
    targets: Array
    probs: Array
    chosen: Array
    eta: Array | None = None
    baseline: Survival | None = None
    pairs: medicines.Pairs | None = None

    @property
    def kind(self) -> str:
        """The task, or "medicines"."""
        return self.task if self.pairs is None else "medicines"

    def __len__(self) -> int:
        return len(self.probs)

    def keep(self, rows: Array) -> "Judged":
        """The same for some rows (a mask or positions)."""
        eta = None if self.eta is None else self.eta[rows]
        return replace(self, targets=self.targets[rows], probs=self.probs[rows], chosen=self.chosen[rows], eta=eta)


Metric = Callable[[Judged, Array], Array]


def judge(spec: ModelSpec, logits: Array, targets: Array, *, temperature: float | None = None) -> Judged:
    """Turn raw scores into what would be served, beside the truth.

    Args:
        logits: (N, width) as the graph gives them.
        temperature: overrides the fitted one (1.0 shows the raw model).
    """
    probs = probabilities(spec, logits, temperature=temperature)
    if spec.output.task == "survival":
        return Judged(
            "survival",
            horizon_labels(spec.output),
            np.asarray(targets, np.float64),
            probs,
            decisions(spec, probs),
            log_hazard(spec, logits, temperature=temperature),
            baseline_of(spec.output),
        )
    told = spec.output.medicines
    return Judged(
        spec.output.task, tuple(spec.output.labels), np.asarray(targets), probs, decisions(spec, np.asarray(probs)),
        pairs=None if told is None else tuple(told.pairs),
    )  # fmt: skip


def decisions(spec: ModelSpec, probs: Array) -> Array:
    """Served decisions as indices: (N,) int64, or (N, K) bool for multilabel; zeros for a number or survival."""
    labels, task = spec.output.labels, spec.output.task
    if task in ("number", "survival"):
        return np.zeros(len(probs), np.int64)
    if task == "multilabel":
        chosen = [set(decide(spec, row)["labels"]) for row in probs]
        return np.array([[label in row for label in labels] for row in chosen], bool).reshape(len(probs), len(labels))
    index = {label: i for i, label in enumerate(labels)}
    return np.array([index[decide(spec, row)["label"]] for row in probs], np.int64)


# -- one class against another ---------------------------------------------------------------------------------------


def _rate(event: Callable[[Judged], Array], given: Callable[[Judged], Array]) -> Metric:
    def metric(j: Judged, w: Array) -> Array:
        inside = given(j)
        return ratio(w @ (event(j) & inside), w @ inside)

    return metric


def _true(j: Judged) -> Array:
    return np.asarray(j.targets == 1)


def _alert(j: Judged) -> Array:
    return np.asarray(j.chosen == 1)


def _hit(j: Judged) -> Array:
    return np.asarray(j.chosen == j.targets)


def _all(j: Judged) -> Array:
    return np.ones(len(j), bool)


def log_loss(j: Judged, w: Array) -> Array:
    """Mean negative log probability of the true label; multilabel: mean over known labels."""
    if j.task == "multilabel":
        known = ~np.isnan(j.targets)
        p = np.clip(j.probs, _EPS, 1 - _EPS)
        loss = -np.where(known, np.where(j.targets == 1, np.log(p), np.log(1 - p)), 0.0)
        return ratio(w @ loss.sum(axis=1), w @ known.sum(axis=1))
    p_true = np.take_along_axis(j.probs, j.targets.astype(np.int64)[:, None], axis=1)[:, 0]
    return ratio(w @ -np.log(np.clip(p_true, _EPS, 1.0)), w.sum(axis=1))


def brier(j: Judged, w: Array) -> Array:
    """Mean squared error of the probability: of the positive label (binary), summed over labels (multiclass)."""
    if j.task == "binary":
        error = (j.probs[:, 1] - j.targets) ** 2
    elif j.task == "multilabel":
        known = ~np.isnan(j.targets)
        error = np.where(known, (j.probs - np.nan_to_num(j.targets)) ** 2, 0.0)
        return ratio(w @ error.sum(axis=1), w @ known.sum(axis=1))
    else:
        error = ((j.probs - np.eye(len(j.labels))[j.targets.astype(np.int64)]) ** 2).sum(axis=1)
    return ratio(w @ error, w.sum(axis=1))


def stated_and_true(j: Judged) -> tuple[Array, Array]:
    """What calibration is judged on: (stated probability, event happened), (N,) each.

    Binary: the positive label's. Several classes: the likeliest label's and whether it was right. Multilabel: all known
    labels one after the other.
    """
    if j.task == "binary":
        return j.probs[:, 1], j.targets == 1
    if j.task == "multilabel":
        known = ~np.isnan(j.targets)
        return j.probs[known], j.targets[known] == 1
    top = j.probs.argmax(axis=1)
    return j.probs.max(axis=1), top == j.targets


def ece(j: Judged, w: Array) -> Array:
    """Expected calibration error, 15 equal bins of `stated_and_true`; multilabel: mean over labels."""
    if j.task == "multilabel":
        return _macro(j, w, lambda y, p, v: expected_calibration_error(p, y, v, bins=ECE_BINS))
    stated, event = stated_and_true(j)
    return expected_calibration_error(stated, event, w, bins=ECE_BINS)


def auroc(j: Judged, w: Array) -> Array:
    """Area under the ROC curve; macro one-vs-rest for several labels."""
    if j.task == "binary":
        return rank_auroc(_true(j), j.probs[:, 1], w)
    return _macro(j, w, rank_auroc)


def auprc(j: Judged, w: Array) -> Array:
    """Average precision; macro for several labels. Read it beside `prevalence`, the value of a coin."""
    if j.task == "binary":
        return average_precision(_true(j), j.probs[:, 1], w)
    return _macro(j, w, average_precision)


def _macro(j: Judged, w: Array, of: Callable[[Array, Array, Array], Array]) -> Array:
    """Mean over labels that have both sides among the cases; NaN draws of one label are left out of its mean."""
    columns = [of(y, p, w[:, rows]) for y, p, rows in one_vs_rest(j) if 0 < y.sum() < len(y)]
    if not columns:
        return np.full(len(w), np.nan)
    table = np.stack(columns)
    finite = np.isfinite(table)
    return ratio(np.where(finite, table, 0.0).sum(axis=0), finite.sum(axis=0))


def one_vs_rest(j: Judged) -> list[tuple[Array, Array, Array]]:
    """Per label: (is it, its probability, rows where that is known)."""
    out = []
    for k in range(len(j.labels)):
        if j.task == "multilabel":
            rows = np.flatnonzero(~np.isnan(j.targets[:, k]))
            out.append((j.targets[rows, k] == 1, j.probs[rows, k], rows))
        else:
            out.append((j.targets == k, j.probs[:, k], np.arange(len(j))))
    return out


def _f1(j: Judged, w: Array) -> Array:
    hit = w @ (_alert(j) & _true(j))
    return ratio(2 * hit, w @ _alert(j) + w @ _true(j))


def _mcc(j: Judged, w: Array) -> Array:
    """Matthews correlation of decision and truth; 0 where one side is constant (the field's convention)."""
    table = confusion(j, w)
    n, right = table.sum(axis=(1, 2)), np.trace(table, axis1=1, axis2=2)
    true, said = table.sum(axis=2), table.sum(axis=1)
    top = right * n - (true * said).sum(axis=1)
    below = np.sqrt(np.maximum((n**2 - (true**2).sum(axis=1)) * (n**2 - (said**2).sum(axis=1)), 0))
    return np.where(below > 0, top / np.where(below > 0, below, 1), 0.0)


def confusion(j: Judged, w: Array) -> Array:
    """Returns: (D, K, K) weighted counts, true label down, decision across."""
    k = len(j.labels)
    cell = j.targets.astype(np.int64) * k + j.chosen
    return (w @ np.eye(k * k)[cell]).reshape(len(w), k, k)


def _accuracy(j: Judged, w: Array) -> Array:
    if j.task == "multilabel":  # mean over known labels; never alone
        known = ~np.isnan(j.targets)
        right = known & (j.chosen == (j.targets == 1))
        return ratio(w @ right.sum(axis=1), w @ known.sum(axis=1))
    return ratio(w @ _hit(j), w.sum(axis=1))


def balanced_accuracy(j: Judged, w: Array) -> Array:
    """Mean over true labels of the share found (labels absent from a draw are left out)."""
    table = confusion(j, w)
    found, there = np.diagonal(table, axis1=1, axis2=2), table.sum(axis=2)
    return ratio(np.where(there > 0, found / np.where(there > 0, there, 1), 0).sum(axis=1), (there > 0).sum(axis=1))


def _kappa(j: Judged, w: Array) -> Array:
    """Quadratic-weighted Cohen's kappa."""
    table, k = confusion(j, w), len(j.labels)
    cost = (np.arange(k)[:, None] - np.arange(k)[None]) ** 2
    n = table.sum(axis=(1, 2))
    by_chance = table.sum(axis=2)[:, :, None] * table.sum(axis=1)[:, None, :] / np.maximum(n, 1)[:, None, None]
    return 1 - ratio((table * cost).sum(axis=(1, 2)), (by_chance * cost).sum(axis=(1, 2)))


def _subset(j: Judged, w: Array) -> Array:
    known = ~np.isnan(j.targets)
    return ratio(w @ ((j.chosen == (j.targets == 1)) | ~known).all(axis=1), w.sum(axis=1))


# -- a number --------------------------------------------------------------------------------------------------------


def _error(j: Judged) -> Array:
    return np.asarray(j.probs[:, 0] - j.targets, np.float64)


def _mae(j: Judged, w: Array) -> Array:
    return ratio(w @ np.abs(_error(j)), w.sum(axis=1))


def _rmse(j: Judged, w: Array) -> Array:
    return np.sqrt(ratio(w @ _error(j) ** 2, w.sum(axis=1)))


def _mse(j: Judged, w: Array) -> Array:
    return ratio(w @ _error(j) ** 2, w.sum(axis=1))


def within_20(j: Judged, w: Array) -> Array:
    """Share of estimates within 20 % of a positive truth, as dosing studies count."""
    if not (j.targets > 0).all():
        return np.full(len(w), np.nan)
    return ratio(w @ (np.abs(_error(j)) <= 0.2 * j.targets), w.sum(axis=1))


def _concordance(j: Judged, w: Array) -> Array:
    return concordance_pairs(j.targets, j.probs[:, 0], w)


def _rm2(j: Judged, w: Array) -> Array:
    """r^2 (1 - sqrt(r^2 - r0^2)), r0^2 of the line through the origin: high only where the values agree, not just rise
    together. The origin is 0 of the target, so that it depends on the unit.

    Source: Roy and Roy 2008; Pratim Roy et al., Molecules 14:1660 (2009), as in DeepDTA.
    """
    y, p = np.asarray(j.targets, np.float64), np.asarray(j.probs[:, 0], np.float64)
    n = w.sum(axis=1)
    r2 = pearson(y, p, w) ** 2
    slope = ratio(w @ (y * p), w @ p**2)
    left = w @ y**2 - 2 * slope * (w @ (y * p)) + slope**2 * (w @ p**2)
    centred = y - y.mean()
    spread = w @ centred**2 - (w @ centred) ** 2 / n
    r02 = 1 - ratio(left, np.where(spread > 1e-12 * n, spread, 0))
    return r2 * (1 - np.sqrt(np.abs(r2**2 - r02**2)))


def _r2(j: Judged, w: Array) -> Array:
    n, y = w.sum(axis=1), np.asarray(j.targets, np.float64)
    y = y - y.mean()  # the spread does not depend on the origin; keeps the difference of squares exact
    spread = w @ y**2 - (w @ y) ** 2 / n
    return 1 - ratio(w @ _error(j) ** 2, np.where(spread > 1e-12 * n, spread, 0))


def _spearman(j: Judged, w: Array) -> Array:
    return pearson(ranks(j.probs[:, 0], w), ranks(j.targets, w), w)


# -- a time that is not always seen ----------------------------------------------------------------------------------


def seen(j: Judged) -> tuple[Array, Array, Array, Survival]:
    """Times, events (bool), log hazard ratios and baseline of a survival part."""
    assert j.eta is not None and j.baseline is not None
    return j.targets[:, 0], j.targets[:, 1] == 1, j.eta, j.baseline


def _c_index(j: Judged, w: Array) -> Array:
    times, events, eta, _ = seen(j)
    return censored.concordance(times, events, eta, w)


def _c_uno(j: Judged, w: Array) -> Array:
    times, events, eta, baseline = seen(j)
    return censored.uno(times, events, eta, w, baseline.horizons[-1])


def _auroc_at(j: Judged, w: Array) -> Array:
    times, events, eta, baseline = seen(j)
    return censored.auroc_at(times, events, eta, main_horizon(baseline), w)


def _brier_at(j: Judged, w: Array) -> Array:
    times, events, eta, baseline = seen(j)
    at = np.array([main_horizon(baseline)])
    return censored.brier(times, events, risks(baseline, eta, at), at, w)[:, 0]


def _integrated_brier(j: Judged, w: Array) -> Array:
    """Mean Brier score from 0 to the last horizon."""
    times, events, eta, baseline = seen(j)
    grid = np.linspace(0, baseline.horizons[-1], BRIER_GRID + 1)[1:]
    each = censored.brier(times, events, risks(baseline, eta, grid), grid, w)
    each = np.concatenate([np.zeros((len(w), 1)), each], axis=1)  # at time 0 nobody has had it, and nobody is said to
    return np.asarray((each[:, 1:] + each[:, :-1]).mean(axis=1) / 2)


def spent(j: Judged) -> tuple[Array, Array, Array]:
    """(N,) each: baseline hazard up to the case's own time, log hazard ratio, event seen; ended where the grid ends."""
    times, events, eta, baseline = seen(j)
    end = baseline.times[-1]
    return cumulative_hazard(baseline, np.minimum(times, end)), eta, events & (times <= end)


def _hazard_slope(j: Judged, w: Array) -> Array:
    base, eta, event = spent(j)
    return censored.hazard_line(base, eta, event, w)[1]


def _expected_observed(j: Judged, w: Array) -> Array:
    base, eta, event = spent(j)
    return censored.expected_observed(base * np.exp(np.minimum(eta, 50.0)), event, w)


def _set(of: Callable[[Array, Array], Array]) -> Metric:
    """Mean over visits of what compares the set given with the one prescribed."""
    return lambda j, w: medicines.weighted_mean(of(j.chosen, j.targets == 1), w)


_PROBABILISTIC: dict[str, Metric] = {"log_loss": log_loss, "brier": brier, "ece": ece}
METRICS: dict[Task, dict[str, Metric]] = {
    "binary": {
        "auroc": auroc,
        "auprc": auprc,
        "prevalence": _rate(_true, _all),
        "accuracy": _accuracy,
        "balanced_accuracy": balanced_accuracy,
        "sensitivity": _rate(_alert, _true),
        "specificity": _rate(lambda j: ~_alert(j), lambda j: ~_true(j)),
        "ppv": _rate(_true, _alert),
        "npv": _rate(lambda j: ~_true(j), lambda j: ~_alert(j)),
        "f1": _f1,
        "mcc": _mcc,
        **_PROBABILISTIC,
        "calibration_slope": lambda j, w: calibration_line(_true(j), j.probs[:, 1], w)[1],
        "calibration_intercept": lambda j, w: calibration_in_the_large(_true(j), j.probs[:, 1], w),
    },
    "multiclass": {
        "auroc": auroc,
        "accuracy": _accuracy,
        "balanced_accuracy": balanced_accuracy,
        "mcc": _mcc,
        **_PROBABILISTIC,
    },
    "ordinal": {
        "auroc": auroc,
        "accuracy": _accuracy,
        "balanced_accuracy": balanced_accuracy,
        "quadratic_kappa": _kappa,
        **_PROBABILISTIC,
    },
    "multilabel": {
        "auroc": auroc,
        "auprc": auprc,
        "accuracy": _accuracy,
        "subset_accuracy": _subset,
        **_PROBABILISTIC,
    },
    "number": {
        "mae": _mae,
        "within_20": within_20,
        "rmse": _rmse,
        "mse": _mse,
        "r2": _r2,
        "spearman": _spearman,
        "concordance": _concordance,
        "rm2": _rm2,
    },
    "survival": {
        "c_index": _c_index,
        "c_uno": _c_uno,
        "auroc_at_horizon": _auroc_at,
        "brier_at_horizon": _brier_at,
        "integrated_brier": _integrated_brier,
        "calibration_slope": _hazard_slope,
        "expected_observed": _expected_observed,
    },
}
SETS: dict[str, Metric] = {  # of medicines
    "jaccard": _set(medicines.jaccards),
    "set_f1": _set(medicines.f1s),
    "prauc": lambda j, w: medicines.weighted_mean(medicines.praucs(j.probs, j.targets == 1), w),
    "medicines": _set(lambda given, truth: given.sum(axis=1)),
    "medicines_prescribed": _set(lambda given, truth: truth.sum(axis=1)),
    "interaction_rate": lambda j, w: medicines.weighted_rate(j.chosen, j.pairs or (), w),
    "interaction_rate_prescribed": lambda j, w: medicines.weighted_rate(j.targets == 1, j.pairs or (), w),
    **_PROBABILISTIC,
}
LOWER_IS_BETTER = frozenset({"log_loss", "brier", "ece", "mae", "rmse", "mse", "brier_at_horizon", "integrated_brier",
                             "interaction_rate"})  # fmt: skip


def metrics_of(judged: Judged) -> dict[str, Metric]:
    """What is told of its answers."""
    return SETS if judged.kind == "medicines" else METRICS[judged.task]


def point(judged: Judged) -> dict[str, float]:
    """Every metric of the task, each case counted once; NaN where undefined."""
    return {name: float(v[0]) for name, v in measure(judged, np.ones((1, len(judged)))).items()}


def measure(judged: Judged, weights: Array, only: Collection[str] | None = None) -> dict[str, Array]:
    """Every metric of its kind (or those named in `only`, also of the task) for (D, N) draws; each (D,)."""
    every = metrics_of(judged) if only is None else METRICS[judged.task] | metrics_of(judged)
    return {n: of(judged, weights) for n, of in every.items() if only is None or n in only}


def behind(judged: Judged) -> dict[str, Array]:
    """(N,) bool, the cases behind each share.

    Where a share is exactly 0 or 1 a bootstrap has no spread, and their number gives an exact bound instead.
    """
    everyone = _all(judged)
    if judged.task != "binary":
        return {"accuracy": everyone} if judged.task in ("multiclass", "ordinal") else {}
    true, alert = _true(judged), _alert(judged)
    return {"accuracy": everyone, "sensitivity": true, "specificity": ~true, "ppv": alert, "npv": ~alert}
