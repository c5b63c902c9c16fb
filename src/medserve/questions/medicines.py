"""Sets of medicines against what was prescribed, and how often two medicines of a set interact.

    jaccards(sets, truth)                                    # (N,) of each visit
    interaction_rate(sets, pairs)                            # share of the pairs prescribed together that interact

Everything here measures agreement with past prescribing; none of it says that a medicine helped anybody.
Source: Shang et al., GAMENet, AAAI 2019, and Yang et al., SafeDrug, IJCAI 2021: per visit, then the mean; the rate of
interactions over all pairs of all visits.
"""

from collections.abc import Sequence

import numpy as np

from medserve.questions.weighted import ratio
from medserve.types import Array

CALLED = "agreement with past prescribing"
NOTE = {
    "code": "past-prescribing",
    "message": "The probabilities tell agreement with past prescribing: what was prescribed to patients like this one,"
    " not what helped them.",
}  # fmt: skip
Pairs = Sequence[tuple[int, int]]


def jaccards(sets: Array, truth: Array) -> Array:
    """(N,) size of what both hold over what either holds; 1 where both are empty. Each (N, K) bool."""
    both, either = (sets & truth).sum(axis=1), (sets | truth).sum(axis=1)
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def f1s(sets: Array, truth: Array) -> Array:
    """(N,) harmonic mean of precision and recall; 1 where both are empty."""
    both, total = (sets & truth).sum(axis=1), sets.sum(axis=1) + truth.sum(axis=1)
    return np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)


def praucs(probs: Array, truth: Array) -> Array:
    """(N,) average precision of each visit's medicines, ranked by probability; NaN where none was prescribed.

    Of equal probabilities all come at once, so that no order among them counts.
    """
    order = np.argsort(-probs, axis=1, kind="stable")
    ranked, hit = (np.take_along_axis(a, order, 1) for a in (probs, truth))
    ends = np.ones(ranked.shape, bool)
    ends[:, :-1] = ranked[:, :-1] != ranked[:, 1:]
    found = np.cumsum(hit, axis=1)
    precision = found / np.arange(1, ranked.shape[1] + 1)
    reached = np.where(ends, found, 0)
    before = np.concatenate([np.zeros((len(hit), 1)), np.maximum.accumulate(reached, axis=1)[:, :-1]], axis=1)
    gained = np.where(ends, found - before, 0)
    total = truth.sum(axis=1)
    return np.where(total > 0, (gained * precision).sum(axis=1) / np.maximum(total, 1), np.nan)


def pair_counts(sets: Array, pairs: Pairs) -> tuple[Array, Array]:
    """(N,) pairs of each set that interact, and all its pairs. sets: (N, K) bool."""
    size = sets.sum(axis=1).astype(np.float64)
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return (sets[:, first] & sets[:, second]).sum(axis=1).astype(np.float64), size * (size - 1) / 2


def interaction_rate(sets: Array, pairs: Pairs) -> float:
    """Over all visits together; NaN where no set has two medicines."""
    met, every = pair_counts(sets, pairs)
    return float(met.sum() / every.sum()) if every.sum() else float("nan")


def weighted_rate(sets: Array, pairs: Pairs, w: Array) -> Array:
    """The same for (D, N) weights of the visits; (D,)."""
    met, every = pair_counts(sets, pairs)
    return ratio(w @ met, w @ every)


def weighted_mean(values: Array, w: Array) -> Array:
    """(D,) over the visits whose value is known."""
    known = np.isfinite(values)
    return ratio(w @ np.where(known, values, 0.0), w @ known)


def threshold_of(
    probs: Array, truth: Array, pairs: Pairs, rate: float, tries: Sequence[float] | None = None
) -> tuple[float, float]:
    """The one threshold for all labels of the best mean Jaccard, among those whose sets interact at most at `rate`.

    Where none keeps to it, the one of the lowest rate. Args: probs: (N, K); truth: (N, K) bool.
    Returns: threshold, mean Jaccard there.
    """
    best, least = (-1.0, 0.5), (np.inf, -1.0, 0.5)
    for at in tries or np.round(np.arange(0.1, 0.91, 0.02), 2).tolist():
        sets = probs >= at
        jaccard = float(jaccards(sets, truth).mean())
        found = interaction_rate(sets, pairs)
        here = 0.0 if np.isnan(found) else found
        if here <= rate and (jaccard, -abs(at - 0.5)) > (best[0], -abs(best[1] - 0.5)):
            best = (jaccard, at)
        least = min(least, (here, -jaccard, at))
    return (best[1], best[0]) if best[0] >= 0 else (least[2], -least[1])
