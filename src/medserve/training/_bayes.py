"""Linear regression with a prior for each weight that the data choose (automatic relevance determination).

    weights, covariance = regress(z, y, weight)       # (C + 1,), (C + 1, C + 1), the constant first

What does not matter is drawn to 0, and with it its share of the uncertainty, so that the band is narrow where it may
be. The band does not know that weights were chosen; how often it holds the truth is measured, not assumed
(`benchmarks/treatment.py`).
Source: MacKay, Neural Comput 4:415 (1992); Tipping, JMLR 1:211 (2001).
"""

import numpy as np

from medserve.types import Array

STEPS = 300
_LOOSE, _TIGHT = 1e-6, 1e8


def regress(z: Array, y: Array, weight: Array | None = None, *, shrink: bool = True) -> tuple[Array, Array]:
    """
    Args:
        z: (N, C) without NaN. weight: (N,) of the cases; inverse variances, up to a factor.
        shrink: False: one prior for all weights (ridge), for a regression that only predicts.

    Returns: weights and their posterior covariance, the constant first; a column that never changes gets 0.
    """
    x, t = np.asarray(z, np.float64), np.asarray(y, np.float64)
    root = np.ones(len(x)) if weight is None else np.sqrt(np.asarray(weight, np.float64) / np.mean(weight))
    moving = np.flatnonzero(x.std(axis=0) > 1e-9)
    design = np.concatenate([np.ones((len(x), 1)), x[:, moving]], axis=1) * root[:, None]
    t = t * root
    n, size = design.shape
    gram, moment, square = design.T @ design, design.T @ t, float(t @ t)
    prior = np.full(size, 1.0)
    prior[0] = _LOOSE
    spread = float(np.var(t)) or 1.0
    precision = 1 / spread
    prior[1:] /= spread
    for _ in range(STEPS):
        covariance = np.linalg.inv(precision * gram + np.diag(prior))
        mean = precision * covariance @ moment
        known = 1 - prior[1:] * np.diag(covariance)[1:]  # how far the data decide each weight
        if shrink:
            new = np.maximum(known, 1e-9) / np.maximum(mean[1:] ** 2, 1e-12)
        else:
            new = np.full(size - 1, max(known.sum(), 1e-9) / max(float(mean[1:] @ mean[1:]), 1e-12))
        new = np.clip(new, _LOOSE, _TIGHT)
        rest = max(square - 2 * mean @ moment + mean @ gram @ mean, 1e-12)
        precision = min(max(n - known.sum() - 1, 1.0) / rest, 1e12)
        moved = np.abs(np.log(new / prior[1:])).max(initial=0.0)
        prior[1:] = new
        if moved < 1e-3:
            break
    covariance = np.linalg.inv(precision * gram + np.diag(prior))
    mean = precision * covariance @ moment
    where = np.concatenate([[0], 1 + moving])
    weights, full = np.zeros(x.shape[1] + 1), np.zeros((x.shape[1] + 1, x.shape[1] + 1))
    weights[where], full[np.ix_(where, where)] = mean, covariance
    return weights, full


def factor(covariance: Array) -> Array:
    """(P, P) whose product with its transpose is the covariance, as no Cholesky factor is where a row is 0."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    found: Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return found
