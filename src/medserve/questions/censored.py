"""Statistics of weighted cases whose end is not always seen, for many weightings at once: `weighted` with censoring.

    concordance(times, events, score, weights)      # weights (D, N) -> (D,)
    brier(times, events, risk, horizon, weights)

Rows of `weights` are draws, columns are cases. A case whose observation ended early stands for nobody by itself: those
who were observed longer are weighted up by the inverse chance of having been (IPCW), estimated anew in each draw.
Sources: Harrell 1982; Uno 2011; Graf 1999; Hung & Chiang 2010; Crowson, Atkinson & Therneau 2016 for calibration.
"""

import numpy as np

from medserve.questions.weighted import rank_auroc, ratio
from medserve.types import Array

_ROWS = 1024  # pairs are compared a stripe at a time: 1024 x N float32


def kaplan_meier(times: Array, events: Array, weights: Array, first: Array | None = None) -> tuple[Array, Array]:
    """Share still free of the event after each distinct time.

    Args:
        events: (N,) bool. first: (N,) bool, cases that leave before the events of the same time (for the censoring
            distribution: those whose own event comes first).

    Returns: (U,) ascending distinct times and (D, U + 1) shares; column k holds before the k-th time, the last one
        after all.
    """
    order = np.argsort(times, kind="stable")
    at, starts = np.unique(np.asarray(times)[order], return_index=True)
    w = weights[:, order]
    total = np.add.reduceat(w, starts, axis=1)
    risk = np.cumsum(total[:, ::-1], axis=1)[:, ::-1]
    if first is not None:
        risk = risk - np.add.reduceat(w * first[order], starts, axis=1)
    gone = np.add.reduceat(w * events[order], starts, axis=1)
    step = np.where(risk > 1e-9, 1 - gone / np.where(risk > 1e-9, risk, 1.0), 1.0)
    share = np.cumprod(np.maximum(step, 0.0), axis=1)
    return at, np.concatenate([np.ones((len(w), 1)), share], axis=1)


def share_at(found: tuple[Array, Array], time: float) -> Array:
    """(D,) the Kaplan-Meier share right after `time`."""
    at, share = found
    return share[:, np.searchsorted(at, time, side="right")]


def censoring(times: Array, events: Array, weights: Array) -> tuple[Array, tuple[Array, Array]]:
    """How likely a case was to be observed so long.

    Returns: (D, N) chance of being under observation just before each case's own time, and the whole estimate for
        `share_at`. Of an event and an end of observation at the same time the event came first.
    """
    found = kaplan_meier(times, ~events, weights, first=events)
    return found[1][:, np.searchsorted(found[0], times)], found


def concordance(
    times: Array, events: Array, score: Array, weights: Array, *, factor: Array | None = None,
    within: Array | None = None,
) -> Array:  # fmt: skip
    """P(the case that had its event first scores higher), over pairs of which the order is known. (D,)

    Equal scores count half. A pair counts if the earlier end is an event; at equal times, if just one is. Harrell's C
    without `factor`.

    Args:
        factor: (D, N) weight of the pairs in which a case is the earlier one. within: (N,) pairs of one group only.
    """
    t, e, s = np.asarray(times), np.asarray(events, bool), np.asarray(score)
    w = np.ascontiguousarray(weights, np.float32)
    top, below = np.zeros(len(w)), np.zeros(len(w))
    rows = np.flatnonzero(e)
    for start in range(0, len(rows), _ROWS):
        r = rows[start : start + _ROWS]
        later = (t[None] > t[r, None]) | ((t[None] == t[r, None]) & ~e[None])
        if within is not None:
            later &= within[None] == within[r, None]
        lower = later & (s[None] < s[r, None])
        equal = later & (s[None] == s[r, None])
        heft = weights[:, r] if factor is None else weights[:, r] * factor[:, r]
        right = lower.astype(np.float32) + 0.5 * equal.astype(np.float32)
        top += (heft * (w @ right.T)).sum(axis=1, dtype=np.float64)
        below += (heft * (w @ later.astype(np.float32).T)).sum(axis=1, dtype=np.float64)
    return ratio(top, below)


def uno(times: Array, events: Array, score: Array, weights: Array, tau: float) -> Array:
    """Uno's C: concordance over events before `tau`, each weighted by 1 / G^2, so that it does not depend on when
    observation happened to end. (D,)"""
    before, _ = censoring(times, events, weights)
    factor = np.where((before > 0) & (times < tau), 1 / np.where(before > 0, before, 1.0) ** 2, 0.0)
    return concordance(times, events, score, weights, factor=factor)


def auroc_at(times: Array, events: Array, score: Array, horizon: float, weights: Array) -> Array:
    """Cumulative/dynamic AUROC: those with the event by the horizon against those free of it then. (D,)"""
    before, _ = censoring(times, events, weights)
    case, free = events & (times <= horizon), times > horizon
    known = case | free
    heft = np.where(case, weights / np.where(before > 0, before, 1.0), weights)
    return rank_auroc(case[known], score[known], heft[:, known])


def brier(times: Array, events: Array, risk: Array, horizons: Array, weights: Array) -> Array:
    """Squared error of the risk by each horizon, IPCW. risk: (N, H). Returns: (D, H)."""
    before, found = censoring(times, events, weights)
    horizons = np.asarray(horizons, np.float64)
    case = events[:, None] & (times[:, None] <= horizons)
    free = times[:, None] > horizons
    heft = weights * events / np.where(before > 0, before, 1.0)
    at = found[1][:, np.searchsorted(found[0], horizons, side="right")]
    missed = heft @ (case * (1 - risk) ** 2)
    alarmed = weights @ (free * risk**2)
    # nobody left under observation in a draw: the figure is undefined in it, unless nobody is known to be free
    alarmed = np.where((at > 0) | (alarmed == 0), alarmed / np.where(at > 0, at, 1.0), np.nan)
    return (missed + alarmed) / weights.sum(axis=1, keepdims=True)


def expected_observed(spent: Array, event: Array, weights: Array) -> Array:
    """Events that the model expects over the cases' own times of observation, per event seen; 1 is right. (D,)

    Args:
        spent: (N,) cumulative hazard of each case up to its own time.
    """
    return ratio(weights @ spent, weights @ np.asarray(event, np.float64))


def hazard_line(spent: Array, eta: Array, event: Array, weights: Array, *, steps: int = 40) -> tuple[Array, Array]:
    """Slope and level of the hazard: the Poisson regression of events on `eta` with the expected number as offset.

    log E(event) = log(spent at eta = 0) + a + b eta, by Newton; b = 1 is perfect, below 1 the model spreads too wide.

    Args:
        spent: (N,) cumulative baseline hazard (at eta = 0) up to each case's own time.

    Returns: (a, b), (D,) each; NaN where there is no finite solution.
    """
    x = np.asarray(eta, np.float64)
    centre = float(x.mean())
    x = x - centre
    y = np.asarray(event, np.float64)
    with np.errstate(divide="ignore"):
        base = np.where(spent > 0, np.log(np.where(spent > 0, spent, 1.0)), -np.inf) + centre
    seen = weights @ y
    a = np.log(np.maximum(ratio(seen, weights @ np.exp(np.minimum(base + x, 60.0))), 1e-12))
    b = np.ones(len(weights))
    move = np.full(len(weights), np.inf)
    for _ in range(steps):
        mu = weights * np.exp(np.clip(base + a[:, None] + b[:, None] * x, -700, 60))
        gap = weights * y - mu
        ga, gb = gap.sum(axis=1), gap @ x
        haa, hab, hbb = mu.sum(axis=1), mu @ x, mu @ x**2
        det = haa * hbb - hab**2
        ok = det > 1e-12 * np.maximum(haa, 1e-12) ** 2
        safe = np.where(ok, det, 1.0)
        da, db = np.where(ok, (hbb * ga - hab * gb) / safe, np.nan), np.where(ok, (haa * gb - hab * ga) / safe, np.nan)
        move = np.maximum(np.abs(da), np.abs(db))
        brake = np.maximum(move, 1.0)  # at most 1 a step: no overshoot
        a, b = a + da / brake, b + db / brake
        if not (move > 1e-8).any():
            break
    good = move <= 1e-6
    return np.where(good, a + (1 - b) * centre, np.nan), np.where(good, b, np.nan)
