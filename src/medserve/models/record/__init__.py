"""Models of records: what every kind of input brings, and what is built out of it.

    ENCODERS["gru"](block, hidden=64)        # a learned view of one block: (B, *shape) -> (B, width)
    FEATURES["timeline"](block)              # fixed, named features of one block: (B, *shape) -> (B, F)

A kind of input registers one fixed description for the simple models (linear, additive, boosted trees) and one or more
encoders for networks. Both are torch modules that take NaN for what is missing and export to ONNX; whatever they know
of the data is a buffer, fitted on the training part and kept in the package's weights.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from medserve.catalog import Catalog
from medserve.data.fields import Block
from medserve.types import Array, Samples


class Encoder(Protocol):
    """A module with `width`; forward: (B, *block.shape) float32 with NaN -> (B, width), finite."""

    width: int

    def fit(self, x: Tensor) -> None:
        """Scaling and the like, from (N, *shape) of the training part (up to `FIT_ROWS` cases), before training."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


FIT_ROWS = 20_000
FIT_VALUES = 2**27  # float32 that a fit holds at once, 512 MiB: long records are fitted on fewer cases
ENCODERS: Catalog[Callable[..., Any]] = Catalog("encoder")
# Modules without trained weights, with `fit(x, targets)` and `names`, one a column ("age", "Glucose, last"); forward:
# (B, *block.shape) with NaN -> (B, len(names)), NaN where unknown.
FEATURES: Catalog[Callable[[Block], Any]] = Catalog("kind of input")
DEFAULT_ENCODER: dict[str, str] = {}  # kind -> name in ENCODERS


def take_block(record: Tensor, block: Block) -> Tensor:
    """(B, F) -> (B, *block.shape)."""
    return record[:, block.start : block.start + block.size].reshape(-1, *block.shape)


def as_blocks(blocks: Sequence[Any]) -> list[Block]:
    """Blocks from the JSON of a package."""
    import msgspec

    return [b if isinstance(b, Block) else msgspec.convert(b, Block) for b in blocks]


def rows_to_fit(count: int, length: int, most: int = FIT_ROWS, seed: int = 0) -> Array:
    """Rows of the training part to fit scaling and the like on: all, or a drawn sample in order.

    Args:
        count: cases. length: numbers in one record.
    """
    most = min(most, max(1000, FIT_VALUES // max(1, length)))
    return np.arange(count) if count <= most else np.sort(np.random.default_rng(seed).permutation(count)[:most])


def fit_rows(train: Samples, most: int = FIT_ROWS, seed: int = 0) -> Tensor:
    """(N, F) float32 records of the training part, as many as `rows_to_fit` says."""
    length = train.take(np.arange(min(1, len(train)))).shape[1]
    return torch.from_numpy(train.take(rows_to_fit(len(train), length, most, seed)))


class Standardise(nn.Module):
    """(x - mean) / std per column with NaN put to 0, and one indicator for each column that training saw missing.

    forward: (B, F) with NaN -> (B, 2F), finite and within +-`clip`.
    """

    def __init__(self, columns: int, clip: float = 8.0) -> None:
        super().__init__()
        self.clip = clip
        self.mean: Tensor
        self.scale: Tensor
        self.gaps: Tensor
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))
        self.register_buffer("gaps", torch.zeros(columns))

    def fit(self, x: Tensor) -> None:
        known = torch.isfinite(x)
        count = known.sum(0).clamp_min(1)
        filled = torch.where(known, x, 0.0).double()
        mean = filled.sum(0) / count
        spread = (torch.where(known, x.double() - mean, 0.0).square().sum(0) / count).sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(spread > 1e-9, 1 / spread.clamp_min(1e-9), 1.0))
        self.gaps.copy_((~known).any(0))

    def forward(self, x: Tensor) -> Tensor:
        missing = torch.isnan(x)
        z = torch.where(missing, 0.0, (x - self.mean) * self.scale).clamp(-self.clip, self.clip)
        return torch.cat([z, missing.to(z.dtype) * self.gaps], 1)
