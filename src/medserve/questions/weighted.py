"""Statistics of weighted cases, for many weightings at once: the arithmetic under `metrics`.

    rank_auroc(is_positive, score, weights)      # weights (D, N) -> (D,)

Rows of `weights` are draws, columns are cases. NaN where a draw leaves the figure undefined (no positive case, ...).
"""

import numpy as np

from medserve.types import Array

Z95 = 1.959964  # half-width of a normal 95 % interval, in standard errors
_LOGIT_LIMIT = 36.0  # 1 / (1 + e^36) is the smallest step from 0 that 1 - p still shows in double precision


def ratio(top: Array, below: Array) -> Array:
    """top / below, NaN where below is 0."""
    top, below = np.asarray(top, np.float64), np.asarray(below, np.float64)
    safe = np.where(below == 0, 1.0, below)
    return np.where(below == 0, np.nan, top / safe)


def _tied(score: Array) -> tuple[Array, Array]:
    """Ascending order and the start of each group of equal scores."""
    order = np.argsort(score, kind="stable")
    ordered = np.asarray(score)[order]
    return order, np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


def rank_auroc(positive: Array, score: Array, weights: Array) -> Array:
    """P(score of a positive > score of a negative), ties count half. (D,)"""
    if len(score) == 0:
        return np.full(len(weights), np.nan)
    order, starts = _tied(score)
    w, y = weights[:, order], np.asarray(positive, bool)[order]
    pos = np.add.reduceat(np.where(y, w, 0.0), starts, axis=1)
    neg = np.add.reduceat(np.where(y, 0.0, w), starts, axis=1)
    below = np.cumsum(neg, axis=1) - 0.5 * neg
    return ratio((pos * below).sum(axis=1), pos.sum(axis=1) * neg.sum(axis=1))


def concordance_pairs(truth: Array, score: Array, weights: Array) -> Array:
    """P(score of the larger > score of the smaller), over pairs of different truths; equal scores count half. (D,)

    Cases are told apart bit by bit of the rank of their truth: a pair is counted at the highest bit in which its ranks
    differ, by one running sum a bit, so that it takes D x N log N steps and no table of pairs.
    Source: the concordance index of Gonen and Heller, Biometrika 92:965 (2005), as in DeepDTA (Ozturk 2018).
    """
    rank = np.unique(np.asarray(truth), return_inverse=True)[1]
    level = np.unique(np.asarray(score), return_inverse=True)[1]
    right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for bit in range(int(rank.max(initial=0)).bit_length()):
        group, upper = rank >> (bit + 1), (rank >> bit & 1).astype(bool)
        order = np.lexsort((level, group))
        w, up = weights[:, order], upper[order]
        low, high = np.where(up, 0.0, w), np.where(up, w, 0.0)
        same = np.concatenate([[True], (np.diff(group[order]) != 0) | (np.diff(level[order]) != 0)])
        starts = np.flatnonzero(same)  # of cases of one group and one score
        low, high = np.add.reduceat(low, starts, axis=1), np.add.reduceat(high, starts, axis=1)
        of = group[order][starts]
        first = np.flatnonzero(np.concatenate([[True], np.diff(of) != 0]))
        below = np.cumsum(low, axis=1)
        before = np.repeat(below[:, first] - low[:, first], np.diff([*first, len(of)]), axis=1)
        right += (high * (below - before - 0.5 * low)).sum(axis=1)
        pairs += (np.add.reduceat(low, first, axis=1) * np.add.reduceat(high, first, axis=1)).sum(axis=1)
    return ratio(right, pairs)


def average_precision(positive: Array, score: Array, weights: Array) -> Array:
    """Sum over thresholds of (recall step) x precision. (D,)"""
    if len(score) == 0:
        return np.full(len(weights), np.nan)
    order, starts = _tied(-np.asarray(score, np.float64))
    w, y = weights[:, order], np.asarray(positive, bool)[order]
    pos = np.add.reduceat(np.where(y, w, 0.0), starts, axis=1)
    said = np.cumsum(np.add.reduceat(w, starts, axis=1), axis=1)
    precision = np.cumsum(pos, axis=1) / np.where(said > 0, said, 1.0)
    return ratio((pos * precision).sum(axis=1), pos.sum(axis=1))


def bin_of(stated: Array, bins: int) -> Array:
    """Index of the equal-width bin of each probability; 1.0 falls in the last one."""
    return np.minimum((np.asarray(stated) * bins).astype(np.int64), bins - 1)


def expected_calibration_error(stated: Array, event: Array, weights: Array, *, bins: int) -> Array:
    """Sum over bins of (share of cases) x |mean stated - share of events|. (D,)"""
    member = np.eye(bins)[bin_of(stated, bins)]
    gap = weights @ (member * (np.asarray(stated) - np.asarray(event, np.float64))[:, None])
    return ratio(np.abs(gap).sum(axis=1), weights.sum(axis=1))


def logit(p: Array) -> Array:
    p = np.asarray(p, np.float64)
    tiny = 1.0 / (1.0 + np.exp(_LOGIT_LIMIT))
    return np.log(np.clip(p, tiny, 1.0)) - np.log(np.clip(1 - p, tiny, 1.0))


def calibration_line(event: Array, stated: Array, weights: Array, *, steps: int = 30) -> tuple[Array, Array]:
    """Logistic recalibration logit P(event) = a + b logit(stated), by Newton; 1 is the perfect slope b.

    Many draws start from the solution of their mean, from which a few steps are enough.

    Returns: (a, b), (D,) each; NaN where one side is missing or the data are separable (no finite solution).
    """
    x, y = logit(stated), np.asarray(event, np.float64)
    x2 = x**2
    a, b = np.zeros(len(weights)), np.ones(len(weights))
    if len(weights) > 1:
        start = calibration_line(event, stated, weights.mean(axis=0, keepdims=True))
        if np.isfinite(start[1][0]):
            a, b = a + start[0][0], b * start[1][0]
    move = np.full(len(weights), np.inf)
    limit = 1e-12 * np.maximum(weights.sum(axis=1), 1) ** 2
    active = np.arange(len(weights))
    w = weights
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(a[active, None] + b[active, None] * x, -60, 60)))
        slack, v = w * (y - p), w * p * (1 - p)
        ga, gb = slack.sum(axis=1), slack @ x
        haa, hab, hbb = v.sum(axis=1), v @ x, v @ x2
        det = haa * hbb - hab**2
        ok = det > limit[active]
        safe = np.where(ok, det, 1.0)
        da = np.where(ok, (hbb * ga - hab * gb) / safe, np.nan)
        db = np.where(ok, (haa * gb - hab * ga) / safe, np.nan)
        size = np.maximum(np.abs(da), np.abs(db))
        brake = np.maximum(size / 2.0, 1.0)  # at most 2 a step: no overshoot
        a[active] += da / brake
        b[active] += db / brake
        move[active] = size
        on = size > 1e-8  # NaN: no solution, leaves as well
        if not on.any():
            break
        active, w = active[on], w[on]
    good = move <= 1e-8
    return np.where(good, a, np.nan), np.where(good, b, np.nan)


def calibration_in_the_large(event: Array, stated: Array, weights: Array, *, steps: int = 40) -> Array:
    """The shift a in logit P(event) = a + logit(stated); 0 is perfect, above 0 the model states too little. (D,)"""
    x, y = logit(stated), np.asarray(event, np.float64)
    a, move = np.zeros(len(weights)), np.full(len(weights), np.inf)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(a[:, None] + x, -60, 60)))
        move = np.clip(ratio((weights * (y - p)).sum(axis=1), (weights * p * (1 - p)).sum(axis=1)), -1, 1)
        a = a + move
        if not (np.abs(move) > 1e-9).any():
            break
    return np.where(np.abs(move) < 1e-6, a, np.nan)


def ranks(values: Array, weights: Array) -> Array:
    """Mid-ranks of weighted cases, (D, N)."""
    order, starts = _tied(values)
    group = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(group, axis=1) - 0.5 * group
    size = np.diff(np.append(starts, len(order)))
    out = np.empty_like(weights, dtype=np.float64)
    out[:, order] = np.repeat(middle, size, axis=1)
    return out


def pearson(a: Array, b: Array, weights: Array) -> Array:
    """Weighted correlation of the rows of two (D, N) tables. (D,)"""
    n = weights.sum(axis=1, keepdims=True)
    a = a - (weights * a).sum(axis=1, keepdims=True) / n
    b = b - (weights * b).sum(axis=1, keepdims=True) / n
    spread = np.sqrt((weights * a**2).sum(axis=1) * (weights * b**2).sum(axis=1))
    return ratio((weights * a * b).sum(axis=1), spread)
