"""What an evaluation says of times that are not always seen: calibrated hazards, risks by horizon, curves by group.

    calibration = fit_hazard(logits, targets, output)      # slope and level, on the calibration part
    by_horizon(judged, patients)                           # stated and observed risk by each horizon
    curves(judged)                                         # Kaplan-Meier by risk group, for the report

Calibration is a Poisson regression with the model's own expected events as offset: its slope and level are to a hazard
what slope and intercept are to a probability (Crowson, Atkinson & Therneau 2016). The slope is kept as a temperature,
with the same weak prior; the level has a prior of one event more on both sides.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from medserve.errors import BadData
from medserve.evaluation.intervals import Interval, bootstrap, strata_of
from medserve.models.spec import Calibration, ModelSpec, OutputSpec
from medserve.questions import censored
from medserve.questions.metrics import Judged, point, seen
from medserve.questions.survival import baseline_of, cumulative_hazard, horizon_labels, main_horizon, risks
from medserve.questions.weighted import Z95
from medserve.types import Array

ENOUGH, FEWEST, FOLDS = 100, 20, 5  # events for a plain fit; under which nothing is fitted; of the cross-fitting
GROUP = 20  # cases of a drawn group at least
POINTS = 50
CALIBRATION = ("calibration_slope", "expected_observed", "brier_at_horizon", "integrated_brier")
_RANGE = (0.05, 20.0)
_CERTAIN = 50.0


def fit_hazard(logits: Array, targets: Array, output: OutputSpec, *, seed: int = 0) -> Calibration:
    """Slope and level of the hazard from the calibration part.

    With fewer than 100 events it is kept only if cross-fitting shows that it helps; with fewer than 20 nothing is
    fitted.

    Args:
        logits: (N, 1). targets: (N, 2) time and event. output: with its baseline.

    Raises: Usage "survival-baseline".
    """
    baseline = baseline_of(output)
    z, times = np.asarray(logits, np.float64)[:, 0], np.asarray(targets[:, 0], np.float64)
    end = baseline.times[-1]
    event = ((np.asarray(targets[:, 1]) == 1) & (times <= end)).astype(np.float64)
    base = cumulative_hazard(baseline, np.minimum(times, end))
    n = len(z)
    if event.sum() < FEWEST or np.ptp(z) == 0:
        return Calibration(method="none", n=n)
    temperature, shift = _fit(z, base, event)
    if event.sum() >= ENOUGH:
        return Calibration(method="hazard", temperature=temperature, shift=shift, n=n)
    fold = np.random.default_rng(seed).permutation(n) % FOLDS
    held = np.empty(n)
    for f in range(FOLDS):
        inside = fold == f
        t, a = _fit(z[~inside], base[~inside], event[~inside])
        held[inside] = _loss(z[inside] / t + a, base[inside], event[inside])
    if held.mean() >= _loss(z, base, event).mean():
        return Calibration(method="none", n=n, cross_fitted=True)
    return Calibration(method="hazard", temperature=temperature, shift=shift, n=n, cross_fitted=True)


def _loss(eta: Array, base: Array, event: Array) -> Array:
    """(N,) minus the log likelihood, without what no model changes."""
    return np.asarray(base * np.exp(np.minimum(eta, _CERTAIN)) - event * eta)


def _fit(z: Array, base: Array, event: Array) -> tuple[float, float]:
    """(temperature, shift) of least loss; the level follows from each slope in closed form."""
    from scipy.optimize import minimize_scalar

    centre = float(z.mean())

    def level(t: float) -> float:
        # around the mean logit, so that another slope alone moves no level
        expected = float((base * np.exp(np.minimum(centre + (z - centre) / t, _CERTAIN))).sum())
        return float(np.log((event.sum() + 1) / (expected + 1))) + centre * (1 - 1 / t)

    def cost(log_t: float) -> float:
        t = float(np.exp(log_t))
        return float(_loss(z / t + level(t), base, event).sum() + log_t**2 / 2)

    found = minimize_scalar(cost, bounds=tuple(np.log(_RANGE)), method="bounded", options={"xatol": 1e-6})
    temperature = float(np.exp(found.x))
    return temperature, level(temperature)


def calibration_of(spec: ModelSpec, found: Mapping[str, Interval]) -> dict[str, Any]:
    """Figures of calibration, as the training part alone left the model and as it is served."""
    fitted = spec.calibration
    return {
        "method": fitted.method,
        "temperature": fitted.temperature,
        "shift": fitted.shift,
        "n": fitted.n,
        "cross_fitted": fitted.cross_fitted,
        "before": {name: found[f"raw/{name}"] for name in CALIBRATION},
        "after": {name: found[name] for name in CALIBRATION},
    }


def by_horizon(spec: ModelSpec, judged: Judged, patients: Array, *, draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    """{"event", "unit", "main", "follow_up", "rows"}: risk stated and observed (Kaplan-Meier), AUROC and Brier score
    by each horizon, each with its interval; `under_observation` counts cases still observed then."""
    times, events, eta, baseline = seen(judged)
    horizons = np.asarray(baseline.horizons)

    def figures(w: Array) -> dict[str, Array]:
        whole = censored.kaplan_meier(times, events, w)
        score = censored.brier(times, events, judged.probs, horizons, w)
        out: dict[str, Array] = {}
        for k, horizon in enumerate(baseline.horizons):
            stated, observed = w @ judged.probs[:, k] / w.sum(axis=1), 1 - censored.share_at(whole, horizon)
            out |= {f"{k}/stated": stated, f"{k}/observed": observed, f"{k}/gap": stated - observed}
            out |= {f"{k}/auroc": censored.auroc_at(times, events, eta, horizon, w), f"{k}/brier": score[:, k]}
        return out

    found = bootstrap(figures, patients, strata_of(judged.task, judged.targets), draws=draws, seed=seed)
    rows = [
        {
            "label": label,
            "horizon": horizon,
            "under_observation": int((times > horizon).sum()),
            **{name: found[f"{k}/{name}"] for name in ("stated", "observed", "gap", "auroc", "brier")},
        }
        for k, (label, horizon) in enumerate(zip(horizon_labels(spec.output), baseline.horizons, strict=True))
    ]
    return {
        "event": spec.output.labels[0],
        "unit": spec.output.unit,
        "main": main_horizon(baseline),
        "main_label": rows[baseline.horizons.index(main_horizon(baseline))]["label"],
        "follow_up": float(np.median(times)),
        "rows": rows,
    }


def floor(judged: Judged) -> dict[str, Any]:
    """One Kaplan-Meier curve of this part for everybody: the Brier scores that a model must get below."""
    times, events, eta, baseline = seen(judged)
    ones = np.ones((1, len(judged)))
    whole = censored.kaplan_meier(times, events, ones)
    grid = np.asarray(baseline.times)
    # at the grid's times the flat model says just what the part shows
    free = np.clip(whole[1][0, np.searchsorted(whole[0], grid, side="right")], 1e-9, 1.0)
    flat = msgspec.structs.replace(baseline, hazard=np.maximum.accumulate(-np.log(free)).tolist())
    zero = np.zeros(len(judged))
    same = Judged(judged.task, judged.labels, judged.targets, risks(flat, zero), judged.chosen, zero, flat)
    got = point(same)
    return {"label": "one curve for all", **{k: got[k] for k in ("brier_at_horizon", "integrated_brier")}}


def curves(judged: Judged) -> dict[str, Any]:
    """Lines of the report's figures: {"kaplan_meier": [a line a risk group], "risk": {"horizon", "bins"}}."""
    return {"kaplan_meier": by_risk_group(judged), "risk": stated_and_observed(judged)}


def by_risk_group(judged: Judged) -> list[dict[str, Any]]:
    """Up to three groups of like score: observed curve on a regular grid, and the mean of what the model states.

    A line ends where fewer than 10 cases are under observation, so that no single end of observation can be read.
    """
    times, events, eta, baseline = seen(judged)
    out = []
    for name, rows in _groups(eta, ("low risk", "middle risk", "high risk")):
        end = min(float(np.sort(times[rows])[-10]), baseline.times[-1])
        grid = np.linspace(0, end, POINTS)
        whole = censored.kaplan_meier(times[rows], events[rows], np.ones((1, len(rows))))
        observed = whole[1][0, np.searchsorted(whole[0], grid, side="right")]
        stated = 1 - risks(baseline, eta[rows], grid).mean(axis=0)
        points = [[round(float(v), 6) for v in row] for row in zip(grid, observed, stated, strict=True)]
        out.append({"label": name, "n": len(rows), "events": int(events[rows].sum()), "points": points})
    return out


def stated_and_observed(judged: Judged, most: int = 10) -> dict[str, Any]:
    """Mean stated risk by the main horizon against the Kaplan-Meier risk, in groups of at least 20 cases."""
    times, events, eta, baseline = seen(judged)
    horizon = main_horizon(baseline)
    risk = risks(baseline, eta, np.array([horizon]))[:, 0]
    bins = []
    for _, rows in _groups(eta, tuple(str(k) for k in range(max(1, min(most, len(judged) // 40))))):
        share, se = _greenwood(times[rows], events[rows], horizon)
        low, high = _log_log(share, se)
        bins.append({"stated": float(risk[rows].mean()), "true": 1 - share, "low": 1 - high, "high": 1 - low,
                     "n": len(rows)})  # fmt: skip
    return {"horizon": horizon, "bins": bins}


def _groups(eta: Array, names: tuple[str, ...]) -> list[tuple[str, Array]]:
    """Rows of like score, lowest first; fewer groups where they would hold fewer than 20 cases."""
    k = max(1, min(len(names), len(eta) // GROUP))
    if len(eta) < 10:
        return []
    kept = names if k == len(names) else ("all",) if k == 1 else (names[0], names[-1])
    return list(zip(kept, np.array_split(np.argsort(eta, kind="stable"), len(kept)), strict=True))


def _greenwood(times: Array, events: Array, at: float) -> tuple[float, float]:
    """Kaplan-Meier share at a time, and the standard error of its log (Greenwood)."""
    moments, count = np.unique(times[events & (times <= at)], return_counts=True)
    risk = len(times) - np.searchsorted(np.sort(times), moments, side="left")
    share = float(np.prod(1 - count / risk))
    left = np.maximum(risk - count, 1e-12)
    return share, float(np.sqrt((count / (risk * left)).sum())) if share > 0 else float("nan")


def _log_log(share: float, se: float) -> tuple[float, float]:
    """95 % interval of a Kaplan-Meier share on the scale log(-log), which stays within 0 and 1."""
    if not 0 < share < 1 or not np.isfinite(se):
        return share, share
    half = Z95 * se / abs(np.log(share))
    return float(share ** np.exp(half)), float(share ** np.exp(-half))


def check_targets(targets: Array) -> None:
    """Raises: BadData "survival-targets": not a time and an event for each case."""
    if targets.ndim != 2 or targets.shape[1] != 2:
        raise BadData(
            "survival-targets",
            f"Targets of shape {targets.shape}; survival takes a time and an event (0 or 1) for each case.",
            hint="Declare `target: {kind: survival, column: TIME, event: COLUMN_OF_0_AND_1}`.",
        )
