"""A record as a table row: the fixed, named columns that the simple models see.

    features = RecordFeatures(blocks)
    features.fit(train, targets)                          # the training part, nothing else
    matrix = features.matrix(test)                        # (N, C) float32, NaN where nothing is known
    matrix = features.cross_fitted(train, targets, seed)  # to *train* on: no case has seen its own target
    features.names[3], features.groups[3]                 # "sex = F", "sex"

A column that was fitted on the targets (a long list of codes, described by the risk of each code) flatters the cases
that it was fitted on; a model trained on it trusts it too much. `cross_fitted` gives each case the column as the other
folds see it, whole patients together.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.data.pseudonym import numbered
from medserve.models.nets import Features
from medserve.models.record import FEATURES, Standardise, rows_to_fit, take_block
from medserve.models.record import columns as _columns  # noqa: F401 - registers numbers and categories
from medserve.types import Array, Samples

FOLDS = 5
WIDE = 256  # standardised columns beyond which the embedding is a fixed random projection
PROJECTED = 128
COMPUTED = ("timeline", "waveform", "image")  # kinds whose features are sums and means, not the values themselves
DIGITS, SMALLEST = 1e-5, 1e-6  # of a column's largest value, and at least
CHUNK = 4096  # cases at a time outside an exported graph

Source = Array | Tensor | Samples  # (N, F) records, or a part that gives them


class RecordFeatures(nn.Module):
    """Every block's FEATURES, side by side. forward: (B, F) -> (B, C), NaN where unknown.

    What is computed from a timeline or a waveform is rounded to five digits of the column's size (`quantum`): engines
    differ in the last bits, and a tree's threshold would turn such a bit into another answer.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = list(blocks)
        self.maps = nn.ModuleList([FEATURES[block.kind](block) for block in self.blocks])
        self.quantum: Tensor
        computed = sum(len(made.names) for block, made in self._pairs() if block.kind in COMPUTED)
        self.register_buffer("quantum", torch.full((computed,), SMALLEST))

    @property
    def names(self) -> list[str]:
        """What each column is, for a person."""
        return [str(name) for _, made in self._pairs() for name in made.names]

    @property
    def groups(self) -> list[str]:
        """The input that each column came from."""
        return [block.name for block, made in self._pairs() for _ in made.names]

    def fit(self, records: Source, targets: Array | None = None) -> None:
        """
        Args:
            records: of the training part.
            targets: (N,) one number a case, higher is worse (or more); NaN where unknown.
        """
        rows = rows_to_fit(len(records), sum(block.size for block in self.blocks))
        wanted = None if targets is None else torch.from_numpy(np.asarray(targets, np.float32))
        plain = [(block, made) for block, made in self._pairs() if not _supervised(made)]
        if plain:
            sample = take(records, rows)
            few = None if wanted is None else wanted[torch.from_numpy(rows)]
            for block, made in plain:
                made.fit(take_block(sample, block), few)
        for block, made in self._pairs():
            if _supervised(made):
                made.fit(self._whole(records, block), wanted)

        self._size(records, rows)

    @torch.no_grad()
    def _size(self, records: Source, rows: Array) -> None:
        """Set `quantum` from the largest value of each computed column."""
        sizes = [
            torch.nan_to_num(made(take_block(take(records, rows), block)).abs(), 0.0, 0.0, 0.0).amax(0)
            for block, made in self._pairs()
            if block.kind in COMPUTED
        ]
        if sizes:
            self.quantum.copy_((torch.cat(sizes) * DIGITS).clamp_min(SMALLEST))

    def forward(self, record: Tensor) -> Tensor:
        parts, at = [], 0
        for block, made in self._pairs():
            x = made(take_block(record, block))
            if block.kind in COMPUTED:
                quantum = self.quantum[at : at + x.shape[1]]
                x, at = torch.round(x / quantum) * quantum, at + x.shape[1]
            parts.append(x)
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    @torch.no_grad()
    def matrix(self, records: Source) -> Array:
        """(N, C) float32; in chunks."""
        parts = [self(piece).numpy() for piece in pieces(records)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.names)), np.float32)

    @torch.no_grad()
    def cross_fitted(self, records: Source, targets: Array, seed: int, patients: Array | None = None) -> Array:
        """After `fit`: the training matrix with every supervised column as the other folds see it.

        Args:
            patients: (N,) who each case belongs to; all cases of one patient stand in one fold.

        Returns: (N, C) float32.
        """
        made_all = self.matrix(records)
        fold = folds(len(records), seed, patients)
        wanted, start = torch.from_numpy(np.asarray(targets, np.float32)), 0
        for block, made in self._pairs():
            stop = start + len(made.names)
            if _supervised(made):
                x = self._whole(records, block)
                for k in range(int(fold.max(initial=-1)) + 1):
                    inside = torch.from_numpy(fold == k)
                    other = copy.deepcopy(made)
                    other.fit(x[~inside], wanted[~inside])
                    made_all[inside.numpy(), start:stop] = other(x[inside]).numpy()
            start = stop
        return made_all

    def _pairs(self) -> Iterator[tuple[Block, Any]]:
        yield from zip(self.blocks, self.maps, strict=True)

    @staticmethod
    def _whole(records: Source, block: Block) -> Tensor:
        parts = [take_block(piece, block).clone() for piece in pieces(records)]
        return torch.cat(parts) if parts else torch.zeros(0, *block.shape)


class RecordNet(nn.Module):
    """What the simple models share: columns, their standardised form, and an embedding to measure distance in.

    A subclass gives `logits(columns, standardised)`.

    crossed: where it was fitted on training and validation part together, the logits of their cases, in that order, by
    models that had not seen them; (N, outputs) float32.
    """

    crossed: Array | None = None

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.features = RecordFeatures(blocks)
        self.columns = len(self.features.names)
        self.scale = Standardise(self.columns)
        self.projection: Tensor
        width = 2 * self.columns
        drawn = torch.zeros(0, 0)
        if width > WIDE:
            random = torch.Generator().manual_seed(0)
            drawn = torch.randn(width, PROJECTED, generator=random) / width**0.5
        self.register_buffer("projection", drawn)

    def logits(self, columns: Tensor, standardised: Tensor) -> Tensor:
        """(B, C) with NaN and (B, 2C) without -> (B, outputs)."""
        raise NotImplementedError

    def forward(self, record: Tensor) -> Features:
        """record: (B, F) float32 with NaN."""
        columns = self.features(record)
        standardised = self.scale(columns)
        embedding = standardised @ self.projection if self.projection.numel() else standardised
        return Features(self.logits(columns, standardised), embedding, None)


def folds(count: int, seed: int, patients: Array | None = None, most: int = FOLDS) -> Array:
    """(N,) the fold of each case, 0 to K - 1; whole patients, about as many in each fold.

    It depends on the seed and on the order of the rows, not on what the patients are called.
    """
    if patients is None:
        groups, who = count, np.arange(count)
    else:
        who = numbered(patients)
        groups = int(who.max(initial=-1)) + 1
    k = min(most, groups)
    drawn = np.random.default_rng(seed).permutation(groups) % max(1, k)
    return drawn[who] if count else np.zeros(0, np.int64)


def take(records: Source, rows: Array) -> Tensor:
    """(len(rows), F) float32."""
    if isinstance(records, Tensor):
        return records[torch.from_numpy(rows)].float()
    found = records[rows] if isinstance(records, np.ndarray) else records.take(rows)
    return torch.from_numpy(np.ascontiguousarray(found, np.float32))


def pieces(records: Source, size: int = CHUNK) -> Iterator[Tensor]:
    """(at most `size`, F) at a time, in order."""
    for start in range(0, len(records), size):
        yield take(records, np.arange(start, min(start + size, len(records))))


def _supervised(made: Any) -> bool:
    return bool(getattr(made, "supervised", False))
