"""Where a molecule stands among millions, in memory that does not grow with them.

    places = Places()
    for keys, active in parts: places.add(keys, active)
    places.shares(keys)                  # (n,) in (0, 1): the share of the library that stands before

Scores are counted by the upper bits of their float32 form, which sorts like the numbers do: 2**20 counters, so that two
scores share a place when they agree to about 11 bits. The best rows are kept whole, and they alone are sorted.
"""

import heapq
from typing import Any

import numpy as np

from medserve.evaluation.enrichment import RankCounts
from medserve.types import Array

BITS = 20


def place_of(keys: Array) -> Array:
    """(n,) int64 in [0, 2**BITS): larger keys, larger places. keys: finite."""
    bits = np.ascontiguousarray(keys, np.float32).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> np.uint32(32 - BITS)).astype(np.int64)


class Places:
    """How many scored molecules stand at each place, and how many of them are active or inactive."""

    def __init__(self, labelled: bool = False) -> None:
        self._all = np.zeros(1 << BITS, np.int64)
        self._sides = (np.zeros(1 << BITS, np.int64), np.zeros(1 << BITS, np.int64)) if labelled else None
        self._shares: Array | None = None

    def add(self, keys: Array, active: Array | None = None) -> None:
        """active: (n,) 1, 0, or -1 where it is not known."""
        places = place_of(keys)
        np.add.at(self._all, places, 1)
        if self._sides is not None and active is not None:
            for side, value in zip(self._sides, (1, 0), strict=True):
                np.add.at(side, places[active == value], 1)

    @property
    def total(self) -> int:
        return int(self._all.sum())

    def shares(self, keys: Array) -> Array:
        """(n,) float64, smaller is better."""
        if self._shares is None:
            before = np.cumsum(self._all[::-1])[::-1] - self._all
            self._shares = (before + (self._all + 1) / 2) / max(1, self.total)
        return np.asarray(self._shares[place_of(keys)])

    def counts(self) -> RankCounts:
        """Of those whose label is known, the best place first."""
        assert self._sides is not None
        return RankCounts(*(side[::-1] for side in self._sides))


class Best:
    """The `most` best rows, one for each molecule: of several that are the same, the first of the library."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[tuple[float, ...], str]] = []  # the worst on top
        self._rows: dict[str, dict[str, Any]] = {}

    @property
    def limit(self) -> float:
        """A row whose first number is above stands no chance."""
        return -self._heap[0][0][0] if len(self._heap) >= self._most else np.inf

    def offer(self, order: tuple[float, ...], smiles: str, row: dict[str, Any]) -> None:
        """order: smaller is better; of equal molecules all but the row's number are equal, and rows come in order."""
        if smiles in self._rows or not self._most:
            return
        entry = (tuple(-part for part in order), smiles)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            _, gone = heapq.heapreplace(self._heap, entry)
            del self._rows[gone]
        else:
            return
        self._rows[smiles] = row

    def sorted(self) -> list[dict[str, Any]]:
        return [
            self._rows[smiles] for _, smiles in sorted(self._heap, key=lambda entry: (entry[0], entry[1]), reverse=True)
        ]
