"""95 % intervals: a stratified bootstrap that draws whole patients, and DeLong's formula as a cross-check.

    bootstrap(lambda w: measure(judged, w), patients, strata, draws=1000, seed=0)
    # {"auroc": {"value": 0.98, "low": 0.97, "high": 0.99}, ...}

A difference between two models is a figure like any other: let `measure` return it, and both sides see the same
draws (a paired bootstrap). Sources: Efron & Tibshirani 1993, percentile method; Clopper & Pearson 1934 at 0 and 1;
DeLong 1988 in the rank form of Sun & Xu 2014.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from medserve.data.pseudonym import numbered
from medserve.questions.weighted import Z95
from medserve.types import Array

DRAWS = 1000
LEVEL = 0.95
Interval = dict[str, float | None]
_CELLS = 2_000_000  # weights held at once: 16 MB


def draw_weights(patients: Array, strata: Array, *, draws: int = DRAWS, seed: int = 0) -> Iterator[Array]:
    """Bundles of bootstrap draws: (d, N) float64, how often each case is drawn; `draws` rows in all.

    Patients are drawn with replacement within each stratum, and a patient comes with all of her cases.

    Args:
        patients: (N,) keys.
        strata: (N,) integers; a patient belongs to the highest of her cases' strata.
    """
    who = numbered(patients)
    stratum = np.full(who.max() + 1 if len(who) else 0, -1, np.int64)
    np.maximum.at(stratum, who, np.asarray(strata, np.int64))
    groups = [np.flatnonzero(stratum == s) for s in np.unique(stratum)]
    rng = np.random.default_rng(seed)
    bundle = max(1, _CELLS // max(1, len(who)))
    for start in range(0, draws, bundle):
        rows = min(bundle, draws - start)
        counts = np.zeros((rows, len(stratum)))
        for members in groups:
            n = len(members)
            picked = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
            counts[:, members] = np.bincount(picked.ravel(), minlength=rows * n).reshape(rows, n)
        yield counts[:, who]


def bootstrap(
    measure: Callable[[Array], Mapping[str, Array]],
    patients: Array,
    strata: Array,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    trials: Mapping[str, int] | None = None,
    inflated: Collection[str] = ("ece",),
) -> dict[str, Interval]:
    """Every figure of `measure` with its 95 % percentile interval.

    Args:
        measure: (d, N) weights -> {name: (d,)}.
        trials: for shares, the number of independent cases behind each; used where the share is exactly 0 or 1,
            where resampling shows no spread at all.
        inflated: figures (by the last word of their name) that grow by resampling itself, as a sum of absolute gaps
            does; they get the basic interval, mirrored about the value and at least 0.
    """
    values = {name: float(v[0]) for name, v in measure(np.ones((1, len(patients)))).items()}
    kept: dict[str, list[Array]] = {name: [] for name in values}
    for weights in draw_weights(patients, strata, draws=draws, seed=seed):
        for name, column in measure(weights).items():
            kept[name].append(column)
    out = {name: interval(values[name], np.concatenate(kept[name])) for name in values}
    for name, span in out.items():
        if name.split("/")[-1] in inflated and span["low"] is not None:
            v, low, high = span["value"], span["low"], span["high"]
            assert v is not None and high is not None
            out[name] = {"value": v, "low": max(0.0, min(v, 2 * v - high)), "high": max(v, 2 * v - low)}
    for name, n in (trials or {}).items():
        if name in out and n > 0 and values[name] in (0.0, 1.0):
            out[name] = exact_edge(values[name], n)
    return out


def interval(value: float, samples: Array, level: float = LEVEL) -> Interval:
    """{"value", "low", "high"}; None where undefined, or where more than a tenth of the draws are."""
    finite = samples[np.isfinite(samples)]
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    if len(samples) == 0 or len(finite) < 0.9 * len(samples):
        return {"value": float(value), "low": None, "high": None}
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return {"value": float(value), "low": float(low), "high": float(high)}


def exact_edge(value: float, n: int, level: float = LEVEL) -> Interval:
    """Clopper-Pearson for 0 or n events in n cases. 100 of 100: low = .025 ** (1/100) = .964."""
    bound = ((1 - level) / 2) ** (1 / n)
    return {"value": value, "low": bound if value else 0.0, "high": 1.0 if value else 1 - bound}


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n cases; 0 to 1 where there is none. 0 of 10: 0 to .278.

    Source: Wilson, JASA 22, 1927.
    """
    if n == 0:
        return 0.0, 1.0
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def strata_of(task: str, targets: Array) -> Array:
    """(N,) integer strata: the label; multilabel: any positive; a number, survival, tags or generate: one stratum, as
    how many events are seen is itself chance."""
    targets = np.asarray(targets)
    if task in ("number", "survival", "tags", "generate", "effect"):
        return np.zeros(len(targets), np.int64)
    if task == "multilabel":
        return (targets == 1).any(axis=1).astype(np.int64)
    return targets.astype(np.int64)


def _placements(positive: Array, score: Array) -> tuple[float, Array, Array]:
    """AUROC and, per positive and per negative, the share of the other side it beats."""
    from scipy.stats import rankdata

    y = np.asarray(positive, bool)
    s = np.asarray(score, np.float64)
    m, n = int(y.sum()), int((~y).sum())
    overall = rankdata(s)
    v10 = (overall[y] - rankdata(s[y])) / n
    v01 = 1 - (overall[~y] - rankdata(s[~y])) / m
    return float(v10.mean()), v10, v01


def delong(positive: Array, score: Array, other: Array | None = None) -> dict[str, Any] | None:
    """DeLong's AUROC with its normal 95 % interval; with `other`, the difference score - other.

    Cases count as independent, so it is a cross-check and not the headline. None with fewer than 2 on one side.
    """
    y = np.asarray(positive, bool)
    if y.sum() < 2 or (~y).sum() < 2:
        return None
    value, v10, v01 = _placements(y, score)
    if other is not None:
        second, w10, w01 = _placements(y, other)
        value, v10, v01 = value - second, v10 - w10, v01 - w01
    se = float(np.sqrt(v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01)))
    low, high = value - Z95 * se, value + Z95 * se
    if other is None:
        low, high = max(low, 0.0), min(high, 1.0)
    return {"value": value, "low": low, "high": high, "se": se, "method": "DeLong"}
