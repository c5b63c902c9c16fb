"""Whether the actives of a library stand early in a ranking: enrichment factor, BEDROC, AUROC, each with its interval.

    counts = RankCounts(actives, inactives)          # per place of the ranking, best first
    enrichment(counts)                               # {"ef_1": {"value", "low", "high"}, ...}

Molecules with one score share a place, and what depends on their order is averaged over all orders, so that a figure
does not depend on how the file was sorted. Counts per place are all that is needed: a ranking of millions fits in a
few megabytes. Intervals are percentiles of a bootstrap that draws actives and inactives apart.
Sources: Truchon and Bayly, J Chem Inf Model 47:488 (2007); RDKit's ML.Scoring gives the same values without ties.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medserve.evaluation.intervals import Interval, interval
from medserve.types import Array

SHARE, ALPHA = 0.01, 20.0
DRAWS = 1000
_CELLS = 2_000_000


@dataclass(frozen=True, slots=True)
class RankCounts:
    """actives, inactives: (P,) int64, how many stand at each place; the best place first."""

    actives: Array
    inactives: Array

    @classmethod
    def of(cls, scores: Array, active: Array) -> "RankCounts":
        """From scores, larger is better. active: (N,) bool."""
        places = np.unique(-np.asarray(scores, np.float64), return_inverse=True)[1].ravel()
        most = int(places.max(initial=-1)) + 1
        yes = np.bincount(places[active], minlength=most)
        return cls(yes, np.bincount(places, minlength=most) - yes)

    @property
    def used(self) -> "RankCounts":
        """Without empty places."""
        there = (self.actives + self.inactives) > 0
        return RankCounts(self.actives[there], self.inactives[there])


def enrichment(counts: RankCounts, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Interval]:
    """ "ef_1" (enrichment factor at 1 %), "bedroc_20", "auroc"; None where one side is empty."""
    counts = counts.used
    n, m = int(counts.actives.sum()), int(counts.inactives.sum())
    if not n or not m:
        return {name: {"value": None, "low": None, "high": None} for name in ("ef_1", "bedroc_20", "auroc")}
    values = figures(counts.actives[None], counts.inactives[None])
    random, kept = np.random.default_rng(seed), []
    bundle = max(1, _CELLS // len(counts.actives))
    for start in range(0, draws, bundle):
        rows = min(bundle, draws - start)
        yes = random.multinomial(n, counts.actives / n, size=rows)
        kept.append(figures(yes, random.multinomial(m, counts.inactives / m, size=rows)))
    return {
        name: interval(float(value[0]), np.concatenate([one[name] for one in kept])) for name, value in values.items()
    }


def figures(actives: Array, inactives: Array) -> Mapping[str, Array]:
    """(d, P) counts of d rankings, best place first, each with both sides -> (d,) of each figure."""
    yes, every = actives.astype(np.float64), (actives + inactives).astype(np.float64)
    total, n = every.sum(1), yes.sum(1)
    ends = np.cumsum(every, 1)
    starts = ends - every
    # The first SHARE of the ranking, rounded up to whole molecules as RDKit does; of a place that it cuts, a part.
    first = np.ceil(SHARE * total)
    inside = np.clip((first[:, None] - starts) / np.maximum(every, 1), 0, 1)
    factor = (yes * inside).sum(1) / first / (n / total)
    # BEDROC: mean of exp(-alpha r / N) over the ranks r that the molecules of a place share, a geometric sum.
    step = ALPHA / total[:, None]
    with np.errstate(over="ignore"):
        weight = np.exp(-step * (starts + 1)) * np.expm1(-step * every) / np.expm1(-step) / np.maximum(every, 1)
    share = n / total
    rie = (yes * weight).sum(1) / n / ((1 - np.exp(-ALPHA)) / np.expm1(ALPHA / total) / total)
    scale = share * np.sinh(ALPHA / 2) / (np.cosh(ALPHA / 2) - np.cosh(ALPHA / 2 - ALPHA * share))
    bedroc = rie * scale + 1 / (1 - np.exp(ALPHA * (1 - share)))
    below = inactives[:, ::-1].cumsum(1)[:, ::-1] - inactives  # inactives that stand behind each place
    auroc = (actives * (below + inactives / 2)).sum(1) / (n * inactives.sum(1))
    return {"ef_1": factor, "bedroc_20": bedroc, "auroc": auroc}
