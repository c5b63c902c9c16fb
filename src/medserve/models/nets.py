"""What every image network returns, and the catalog that lists them.

    net = MODELS["residual"](channels=1, size=28, width=1, dial="small")
    out = net(x)             # x: (B, C, H, W) float32, normalised

An architecture is a function `(channels, size, outputs, **params) -> torch.nn.Module`; its module's `forward`
returns `Features`. Where `maps` is given, `logits == head(mean(maps))` for the linear `module.head`, so that a class
activation map is one 1x1 convolution of `maps` in the same pass.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from medserve.catalog import Catalog


class Features(NamedTuple):
    """logits: (B, K). embedding: (B, F), what the out-of-distribution distance is measured in.
    maps: (B, M, h, w) last convolutional maps before global average pooling, or None."""

    logits: Tensor
    embedding: Tensor
    maps: Tensor | None


Architecture = Callable[..., nn.Module]
MODELS: Catalog[Architecture] = Catalog("model")
