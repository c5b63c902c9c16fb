"""When will it happen? From one log hazard ratio to a risk by each horizon and a survival curve.

    output = with_baseline(output, logits, targets)     # on the training part, after training
    risks(output.baseline, eta)                         # (B, H), the risk by each horizon
    curve(output.baseline, eta)                         # [(time, share still free of the event), ...]

A hazard model gives one number a case; what turns it into risks is the baseline, Breslow's cumulative hazard of the
training part on a coarse grid: at least 10 events stand behind each step, its times are rounded, and it ends where
fewer than 10 cases were still under observation, so that no patient can be read from it.
Source: Breslow 1972, discussion of Cox; Kalbfleisch & Prentice 2002, section 4.3.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from medserve.errors import BadData, Usage
from medserve.models.spec import OutputSpec, Survival
from medserve.types import Array

GRID = 64
BEHIND = 10  # events behind each step, and cases under observation at the last
_LIMIT = 50.0  # of a log hazard ratio: e^50 is certainty, and still a number
_USUAL = {  # times that clinicians speak of, by UCUM unit
    "h": (1, 2, 4, 6, 12, 24, 48, 72, 96, 168, 336, 720),
    "d": (1, 2, 3, 7, 14, 30, 60, 90, 180, 365, 730, 1095, 1825, 3650),
    "wk": (1, 2, 4, 6, 8, 12, 26, 52, 104, 156, 260, 520),
    "mo": (1, 2, 3, 6, 9, 12, 18, 24, 36, 48, 60, 84, 120, 180, 240),
    "a": (0.25, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30),
}


def default_horizons(times: Array, events: Array, unit: str | None = None) -> list[float]:
    """Quartiles of the event times as a clinician would say them: a usual time of that unit, else two digits.

    Event times with quartiles 14, 25 and 39 mo: 12, 24 and 36.
    """
    happened = np.asarray(times, np.float64)[np.asarray(events) == 1]
    happened = happened[happened > 0]
    if not len(happened):
        return []
    usual = np.asarray(_USUAL.get(unit or "", ()), np.float64)
    out = set()
    for value in np.quantile(happened, [0.25, 0.5, 0.75]):
        near = usual[np.abs(np.log(usual / value)).argmin()] if len(usual) else np.nan
        fits = len(usual) and abs(math.log(near / value)) < math.log(1.45)
        out.add(float(near) if fits else _rounded(float(value), 2))
    return sorted(out)


def fit_baseline_hazard(
    logits: Array, times: Array, events: Array, horizons: Sequence[float] | None = None, *, unit: str | None = None
) -> Survival:
    """Breslow's cumulative hazard at logit 0, on a grid that shows no patient.

    Args:
        logits: (N,) or (N, 1) log hazard ratios of the training part.
        times, events: (N,) times > 0 and 1 where the event happened; cases that are not finite are left out.
        horizons: times by which risks are stated; None: `default_horizons`.

    Raises: BadData "survival-few-events": fewer than 10 events. Usage "survival-horizon": a horizon is not within
        the time that the training part observed.
    """
    z = np.asarray(logits, np.float64).reshape(len(np.asarray(logits)), -1)[:, 0]
    t, e = np.asarray(times, np.float64), np.asarray(events, np.float64)
    known = np.isfinite(t) & np.isfinite(e) & np.isfinite(z)
    z, t, e = z[known], t[known], e[known] == 1
    support = float(np.sort(t)[-BEHIND]) if len(t) >= BEHIND else -math.inf  # the last time with 10 at risk
    happened = np.sort(t[e & (t <= support)])
    if len(happened) < BEHIND:
        raise BadData(
            "survival-few-events",
            f"{int(e.sum())} events in the training part; a baseline hazard needs at least {BEHIND}, seen while"
            f" {BEHIND} cases or more were under observation.",
            hint="Bring more cases or a longer follow-up, or ask for another target.",
        )
    grid = _grid(happened, support)
    at, rise = _breslow(z, t, e & (t <= support))
    total = np.concatenate([[0.0], np.cumsum(rise)])
    hazard = total[np.searchsorted(at, grid, side="right")]
    chosen = default_horizons(t, e, unit) if horizons is None else sorted({float(h) for h in horizons})
    if horizons is None:
        chosen = [h for h in chosen if h <= grid[-1]] or [grid[len(grid) // 2]]
    if not chosen or not 0 < chosen[0] <= chosen[-1] <= grid[-1]:
        raise Usage(
            "survival-horizon",
            f"Horizons {chosen}; the training part supports times above 0 and up to {grid[-1]:g}.",
            hint="Choose horizons within the observed follow-up.",
        )
    return Survival(times=grid, hazard=hazard.tolist(), horizons=chosen, n=len(t), events=int(e.sum()))


def with_baseline(
    output: OutputSpec, logits: Array, targets: Array, horizons: Sequence[float] | None = None
) -> OutputSpec:
    """The output with the baseline fitted on the training part; other tasks come back as they are.

    Args:
        logits: (N, 1) of the training part, as the graph gives them. targets: (N, 2).
    """
    if output.task != "survival":
        return output
    targets = np.asarray(targets)
    found = fit_baseline_hazard(logits, targets[:, 0], targets[:, 1], horizons, unit=output.unit)
    return msgspec.structs.replace(output, baseline=found)


def baseline_of(output: OutputSpec) -> Survival:
    """Raises: Usage "survival-baseline": nothing was fitted yet."""
    if output.baseline is None:
        raise Usage(
            "survival-baseline",
            f"The output {', '.join(output.labels)} has no baseline hazard.",
            hint="Fit it on the training part with questions.survival.with_baseline.",
        )
    return output.baseline


def horizon_labels(output: OutputSpec) -> tuple[str, ...]:
    """("death by 12 mo", "death by 24 mo")"""
    unit = f" {output.unit}" if output.unit else ""
    return tuple(f"{output.labels[0]} by {h:g}{unit}" for h in baseline_of(output).horizons)


def main_horizon(baseline: Survival) -> float:
    """The middle one: by which single figures are stated."""
    return baseline.horizons[len(baseline.horizons) // 2]


def cumulative_hazard(baseline: Survival, times: Array) -> Array:
    """At logit 0; flat beyond the last time of the grid."""
    return np.interp(np.asarray(times, np.float64), [0.0, *baseline.times], [0.0, *baseline.hazard])


def risks(baseline: Survival, eta: Array, times: Array | None = None) -> Array:
    """Risk of the event by each time (default: the horizons). eta: (B,) log hazard ratios. Returns: (B, H)."""
    hazard = cumulative_hazard(baseline, np.asarray(baseline.horizons if times is None else times))
    return -np.expm1(-np.exp(np.clip(np.asarray(eta, np.float64), -_LIMIT, _LIMIT))[:, None] * hazard)


def eta_of(baseline: Survival, row: Array) -> float:
    """The log hazard ratio behind a row of risks; the inverse of `risks`, read where it is best conditioned."""
    hazard = cumulative_hazard(baseline, np.asarray(baseline.horizons))
    row = np.where(hazard > 0, np.asarray(row, np.float64), np.nan)
    k = int(np.nanargmin(np.abs(row - 0.5)))
    p = float(np.clip(row[k], 1e-300, 1 - 1e-16))
    return float(np.clip(math.log(-math.log1p(-p) / hazard[k]), -_LIMIT, _LIMIT))


def curve(baseline: Survival, eta: float) -> list[tuple[float, float]]:
    """[(time, share free of the event)] from (0, 1) along the grid."""
    risk = risks(baseline, np.array([eta]), np.asarray(baseline.times))[0]
    return [(0.0, 1.0), *((float(t), float(1 - p)) for t, p in zip(baseline.times, risk, strict=True))]


def _breslow(z: Array, t: Array, e: Array) -> tuple[Array, Array]:
    """Distinct event times and the hazard's step at each: events / summed hazard ratios at risk."""
    order = np.argsort(t, kind="stable")
    t, e = t[order], e[order]
    ratio = np.exp(np.clip(z[order], -_LIMIT, _LIMIT))
    at_risk = np.cumsum(ratio[::-1])[::-1]
    at, count = np.unique(t[e], return_counts=True)
    return at, count / at_risk[np.searchsorted(t, at, side="left")]


def _grid(happened: Array, support: float) -> list[float]:
    """Rounded times with at least `BEHIND` events in each step. happened: sorted event times."""
    steps = max(1, min(GRID, len(happened) // BEHIND))
    ends = happened[np.ceil(np.arange(1, steps + 1) * len(happened) / steps).astype(int) - 1]
    grid: list[float] = []
    before = 0
    for end in ends:
        time = _rounded(float(end), 3, up=True)
        count = int(np.searchsorted(happened, time, side="right"))
        if count - before >= BEHIND:
            grid.append(time)
            before = count
        elif grid and time > grid[-1]:  # too few on their own: they join the step before
            grid[-1], before = time, count
    if not grid:
        grid = [_rounded(support, 3, up=True)]
    return grid


def _rounded(value: float, digits: int, *, up: bool = False) -> float:
    """To significant digits. 0.01234 to two: 0.012; 1234 up to three: 1240."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    scaled = value / unit
    return float(f"{(math.ceil(scaled - 1e-9) if up else round(scaled)) * unit:.{digits}g}")
