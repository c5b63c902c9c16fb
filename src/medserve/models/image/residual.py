"""A compact residual network for images, with one size dial.

    net = MODELS["residual"](channels=1, size=28, outputs=1, dial="small")
    out = net(x)             # x: (B, C, H, W) float32, normalised -> Features

The default of diagnosis: small images are learnt best by a small network from scratch, and a global average pool with
one linear layer gives a class activation map for free. Inputs above 40 pixels pass through strided stems, so that the
residual stages always work on roughly 20 to 40 pixels a side and cost what a laptop can pay.

Source: He et al., "Deep residual learning for image recognition", arXiv 1512.03385 (basic block, post-activation).
"""

import math

import torch
from torch import Tensor, nn

from medserve.errors import NotFound, Usage
from medserve.models.nets import MODELS, Features

# dial -> (channels of each stage, blocks in each stage)
DIALS: dict[str, tuple[tuple[int, ...], int]] = {
    "tiny": ((16, 32, 64), 1),
    "small": ((32, 64, 128), 2),
    "base": ((64, 128, 256), 2),
}
SIDE = 40  # the residual stages start at no more than this many pixels a side


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; halves the side where `stride` is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Residual(nn.Module):
    """3x3 stem, residual stages, global average pool, dropout, linear `head`.

    The embedding is the spatial mean and standard deviation of every stage: early stages see texture, contrast and
    polarity (noise, inversion, blank), late ones see content (rotation, another body part).
    """

    def __init__(
        self, channels: int, outputs: int, widths: tuple[int, ...], blocks: int, strides: int, dropout: float
    ) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        for left in range(max(1, strides) - 1, -1, -1):  # few channels while the picture is large
            wider = max(8, widths[0] >> left)
            stem += [
                nn.Conv2d(channels, wider, 3, 2 if strides else 1, 1, bias=False),
                nn.BatchNorm2d(wider),
                nn.ReLU(inplace=False),
            ]
            channels = wider
        self.stem = nn.Sequential(*stem)
        self.stages = nn.ModuleList()
        width = channels
        for index, wider in enumerate(widths):
            rows = [Block(width if row == 0 else wider, wider, 2 if row == 0 and index else 1) for row in range(blocks)]
            self.stages.append(nn.Sequential(*rows))
            width = wider
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)
        _start(self)

    def forward(self, x: Tensor) -> Features:
        x = self.stem(x)
        summary: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            if not self.training:  # the embedding serves no loss
                summary += [x.mean((2, 3)), x.var((2, 3), correction=0).add(1e-6).sqrt()]
        pooled = x.mean((2, 3))
        embedding = pooled.detach() if self.training else torch.cat(summary, 1)
        return Features(self.head(self.dropout(pooled)), embedding, x)


@MODELS.register("residual")
def residual(
    channels: int, size: int | tuple[int, ...], outputs: int, *, dial: str = "small", dropout: float = 0.2
) -> nn.Module:
    """Build a residual network.

    Args:
        size: pixels a side, or (H, W); decides how many strided stems come first.
        dial: "tiny" (0.07 M parameters), "small" (0.70 M) or "base" (2.8 M).

    Raises: NotFound: no such dial. Usage "architecture-shape": a volume, which this family does not take.
    """
    if dial not in DIALS:
        raise NotFound("size dial", dial, DIALS)
    sides = (size,) if isinstance(size, int) else tuple(size)
    if len(sides) > 2:
        raise Usage(
            "architecture-shape", "The residual family takes images, not volumes.", hint="Use --recipe resnet3d."
        )
    strides = max(0, math.ceil(math.log2(max(sides) / SIDE)))
    widths, blocks = DIALS[dial]
    return Residual(channels, outputs, widths, blocks, strides, dropout)


def _start(net: nn.Module) -> None:
    """He initialisation; the last normalisation of a block starts at zero, so each block starts as its shortcut."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Block):
            nn.init.zeros_(module.norm2.weight)
