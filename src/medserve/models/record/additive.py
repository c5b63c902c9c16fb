"""An additive model as lookup tables: the logit is a sum of one curve a column, and of a few tables of two columns.

    net = MODELS["record-additive"](channels=F, size=(), outputs=1, blocks=[...], terms=30, cuts=255)
    net.fill(terms, pairs, intercept)                # training; a package loads the buffers instead
    net.curve(0)                                     # Curve("age (a)", edges, scores, missing): the whole truth on it

The curves are fitted by cyclic boosting (explainable boosting machine) and then stand as they are: bin edges and one
score a bin. What a person reads off them is what the model computes.
Source: Lou et al., Intelligible models for classification and regression, KDD 2012; Nori et al., InterpretML, 2019.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.models.nets import MODELS
from medserve.models.record import as_blocks
from medserve.models.record.features import RecordNet
from medserve.types import Array


@dataclass(frozen=True, slots=True)
class Term:
    """columns: one, or two of a pair. cuts: for each, ascending; a value at a cut belongs to the bin above it.

    scores: (1 + bins, [1 + bins,] outputs), bins = len(cuts) + 1; index 0 is for a missing value.
    """

    columns: tuple[int, ...]
    cuts: tuple[Array, ...]
    scores: Array


class Curve(NamedTuple):
    """scores: (len(edges) + 1,) of one output, below the first edge to above the last; missing: where not known."""

    name: str
    edges: Array
    scores: Array
    missing: float


class Buckets(nn.Module):
    """(B, C) with NaN -> (B, N) int64: 0 for missing, else 1 + the number of cuts at or below the value.

    A binary search in all N lists at once: the exported graph is log2(cuts) small steps.
    """

    def __init__(self, lists: int, cuts: int) -> None:
        super().__init__()
        self.steps = int(cuts).bit_length()
        self.length = 1 << self.steps  # with room for the search, the rest is +inf
        self.column: Tensor
        self.cuts: Tensor
        self.starts: Tensor
        self.register_buffer("column", torch.zeros(lists, dtype=torch.int64))
        self.register_buffer("cuts", torch.full((lists * self.length,), torch.inf))
        self.register_buffer("starts", torch.arange(lists) * self.length, persistent=False)

    def fill(self, at: int, column: int, cuts: Array) -> None:
        self.column[at] = column
        start = at * self.length
        self.cuts[start : start + len(cuts)] = torch.from_numpy(_up(cuts))

    def forward(self, x: Tensor) -> Tensor:
        value = x[:, self.column]
        missing = torch.isnan(value)
        found = torch.zeros_like(value, dtype=torch.int64)
        for k in reversed(range(self.steps)):
            probe = self.cuts[self.starts + found + ((1 << k) - 1)]
            found = found + (value >= probe).to(torch.int64) * (1 << k)
        return torch.where(missing, 0, found + 1)


class RecordAdditive(RecordNet):
    """mains: one bucket list a term. pairs: two a pair."""

    def __init__(
        self, blocks: Sequence[Block], outputs: int, terms: int, cuts: int, pairs: int, pair_cuts: int
    ) -> None:
        super().__init__(blocks)
        self.outputs, self.terms, self.pairs = outputs, terms, pairs
        self.mains = Buckets(terms, cuts)
        self.twos = Buckets(2 * pairs, pair_cuts)
        # as many as a search can end in, and the one for missing
        self.bins, self.pair_bins = self.mains.length + 1, self.twos.length + 1
        self.intercept: Tensor
        self.scores: Tensor
        self.pair_scores: Tensor
        self.register_buffer("intercept", torch.zeros(outputs))
        self.register_buffer("scores", torch.zeros(terms * self.bins, outputs))
        self.register_buffer("pair_scores", torch.zeros(pairs * self.pair_bins**2, outputs))
        self.register_buffer("term_starts", torch.arange(terms) * self.bins, persistent=False)
        self.register_buffer("pair_starts", torch.arange(pairs) * self.pair_bins**2, persistent=False)
        self.term_starts: Tensor
        self.pair_starts: Tensor

    def fill(self, terms: Sequence[Term], intercept: Array) -> None:
        """Terms of one column first or last, as they come."""
        mains = [t for t in terms if len(t.columns) == 1]
        pairs = [t for t in terms if len(t.columns) == 2]
        for i, term in enumerate(mains):
            self.mains.fill(i, term.columns[0], term.cuts[0])
            start = i * self.bins
            self.scores[start : start + len(term.scores)] = torch.from_numpy(np.asarray(term.scores)).float()
        table = self.pair_scores.view(self.pairs, self.pair_bins, self.pair_bins, self.outputs)
        for i, term in enumerate(pairs):
            for side in (0, 1):
                self.twos.fill(2 * i + side, term.columns[side], term.cuts[side])
            high, wide = term.scores.shape[:2]
            table[i, :high, :wide] = torch.from_numpy(np.asarray(term.scores)).float()
        self.intercept.copy_(torch.from_numpy(np.asarray(intercept)))

    def logits(self, columns: Tensor, standardised: Tensor) -> Tensor:
        sums = self.intercept + self.scores[self.mains(columns) + self.term_starts].sum(1)
        if self.pairs:
            at = self.twos(columns)
            sums = sums + self.pair_scores[at[:, 0::2] * self.pair_bins + at[:, 1::2] + self.pair_starts].sum(1)
        return sums

    def curve(self, term: int, output: int = 0) -> Curve:
        """What one column adds to one logit."""
        length, start = self.mains.length, term * self.bins
        edges = self.mains.cuts[term * length : (term + 1) * length]
        edges = edges[torch.isfinite(edges)]
        scores = self.scores[start : start + len(edges) + 2, output]
        name = self.features.names[int(self.mains.column[term])]
        return Curve(name, edges.numpy(), scores[1:].numpy(), float(scores[0]))

    def curves(self, output: int = 0) -> list[Curve]:
        """Every curve of one logit, the one with the widest swing first."""
        found = [self.curve(i, output) for i in range(self.terms)]
        return sorted(found, key=lambda curve: -float(np.ptp(curve.scores)))


def shape_of(terms: Sequence[Term]) -> dict[str, int]:
    """The parameters of the smallest module that holds them."""
    mains = [t for t in terms if len(t.columns) == 1]
    pairs = [t for t in terms if len(t.columns) == 2]
    return {
        "terms": len(mains),
        "cuts": max([0, *(len(t.cuts[0]) for t in mains)]),
        "pairs": len(pairs),
        "pair_cuts": max([0, *(len(c) for t in pairs for c in t.cuts)]),
    }


def _up(cuts: Array) -> Array:
    """The smallest float32 not below each cut: `x >= cut` stays the same question for every float32 x."""
    exact = np.asarray(cuts, np.float64)
    near = exact.astype(np.float32)
    return np.where(near < exact, np.nextafter(near, np.float32(np.inf)), near).astype(np.float32)


@MODELS.register("record-additive")
def record_additive(
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    blocks: Sequence[Any] = (),
    terms: int = 0,
    cuts: int = 0,
    pairs: int = 0,
    pair_cuts: int = 0,
) -> nn.Module:
    """
    Args:
        channels: length of the record.
        terms: columns with a curve, of at most `cuts` edges. pairs: tables of two columns, of at most `pair_cuts`
            edges a side.
    """
    return RecordAdditive(as_blocks(blocks), outputs, terms, cuts, pairs, pair_cuts)
