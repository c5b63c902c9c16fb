"""Logistic regression on a thumbnail, as a network: the simple baseline is a model package like any other.

    net = MODELS["thumbnail-linear"](channels=1, size=28, outputs=1, side=16)
    out = net(x)             # x: (B, C, H, W) or (B, C, D, H, W) float32, normalised -> Features without maps

`training.baseline` fits the weights; every linear model on small pictures (logistic, ridge, cumulative) fits in.
"""

import numpy as np
import torch
from torch import Tensor, nn

from medserve.models.nets import MODELS, Features

SIDE = 16
GRID = 8  # the embedding is the thumbnail at 8 x 8


class ThumbnailLinear(nn.Module):
    """Averages areas down to `side` pixels a side, then one linear `head` over all of them.

    The averaging is one small matrix an axis, exact for any size, and exports as plain matrix products.
    """

    def __init__(self, channels: int, sides: tuple[int, ...], outputs: int, side: int) -> None:
        super().__init__()
        self.axes = len(sides)
        small = [min(side, length) for length in sides]
        for axis, (length, to) in enumerate(zip(sides, small, strict=True)):
            self.register_buffer(f"pool{axis}", torch.from_numpy(area_matrix(length, to)))
            self.register_buffer(f"grid{axis}", torch.from_numpy(area_matrix(to, min(GRID, to))))
        self.head = nn.Linear(channels * int(np.prod(small)), outputs)

    def thumbnail(self, x: Tensor) -> Tensor:
        """(B, C, *sides) -> (B, C, *small)."""
        return self._pool(x, "pool")

    def forward(self, x: Tensor) -> Features:
        small = self.thumbnail(x)
        return Features(self.head(small.flatten(1)), self._pool(small, "grid").flatten(1), None)

    def _pool(self, x: Tensor, name: str) -> Tensor:
        for axis in range(self.axes):  # each turn pools the last axis and brings the next one there
            matrix = getattr(self, f"{name}{self.axes - 1 - axis}")
            x = torch.matmul(x, matrix.T).movedim(-1, 2)
        return x


def area_matrix(length: int, to: int) -> np.ndarray:
    """(to, length) float32: row i averages the i-th of `to` equal stretches; rows sum to 1.

    3 to 2: each stretch is 1.5 long, so [[2/3, 1/3, 0], [0, 1/3, 2/3]].
    """
    edges = np.arange(to + 1) * (length / to)
    cells = np.arange(length)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return (np.clip(overlap, 0, None) * (to / length)).astype(np.float32)


@MODELS.register("thumbnail-linear")
def thumbnail_linear(
    channels: int, size: int | tuple[int, ...], outputs: int, *, side: int = SIDE, axes: int = 2
) -> nn.Module:
    """Build it with fresh weights.

    Args:
        size: pixels a side, or (H, W) or (D, H, W).
        side: of the thumbnail, at most.
        axes: 2 for images, 3 for volumes; says what one number for `size` means.
    """
    sides = (size,) * axes if isinstance(size, int) else tuple(size)
    return ThumbnailLinear(channels, sides, outputs, side)
