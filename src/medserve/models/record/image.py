"""Pictures within a record: a learned view for networks, and fixed named features for the simple models.

    view = ENCODERS["image-cnn"](block, dial="tiny")       # block: kind "image", shape (C, H, W), values in [0, 1]
    view.fit(films)                                        # (N, C, H, W) of the training part: mean and spread
    view(films)                                            # (B, view.width)

The network is the compact residual one that learns from pictures alone, up to its global average pool; the features are
the thumbnail that the simple baseline of pictures sees. A missing picture (NaN) reads as the mean one; whoever joins
the views says that it was missing. While training, films are moved and dimmed a little. Nothing is mirrored: a heart on
the right is a finding.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medserve.data.fields import Block
from medserve.models.image.linear import SIDE, area_matrix
from medserve.models.image.residual import DIALS, residual
from medserve.models.record import DEFAULT_ENCODER, ENCODERS, FEATURES

TURN_DEG, MOVE, ZOOM, CONTRAST, BRIGHTNESS = 7.0, 0.06, 0.08, 0.15, 0.1  # the most that training changes a film
COLOURS = ("red", "green", "blue")


def augment_films(x: Tensor) -> Tensor:
    """Films (B, C, H, W), standardised, as another exposure of the same patient might have shown them.

    Draws from torch's own state, which the training loop seeds.
    """

    def draw(most: float) -> Tensor:
        return (2 * torch.rand(len(x), device=x.device) - 1) * most

    angle, zoom = draw(math.radians(TURN_DEG)), 1 + draw(ZOOM)
    cos, sin, ratio = torch.cos(angle) / zoom, torch.sin(angle) / zoom, x.shape[2] / x.shape[3]
    rows = [[cos, -sin * ratio, 2 * draw(MOVE)], [sin / ratio, cos, 2 * draw(MOVE)]]
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved * (1 + draw(CONTRAST))[:, None, None, None] + draw(BRIGHTNESS)[:, None, None, None]


@ENCODERS.register("image-cnn")
class ImageView(nn.Module):
    """Scaling by the training part, then the residual stages and their global average.

    Args:
        dial: "tiny", "small" or "base", see `models.image.residual`.
        augment: whether films are changed while training.
    """

    def __init__(self, block: Block, dial: str = "tiny", augment: bool = True) -> None:
        super().__init__()
        channels, *sides = block.shape
        self.augment = augment
        self.net = residual(channels, tuple(sides), 1, dial=dial, dropout=0.0)
        self.net.head = nn.Identity()  # what it gives is the pooled maps
        self.width = DIALS[dial][0][-1]
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        for channel in range(x.shape[1]):
            known = x[:, channel][torch.isfinite(x[:, channel])].double()
            if len(known):
                spread = float(known.std(correction=0))
                self.mean[channel] = known.mean()
                self.scale[channel] = 1 / spread if spread > 1e-6 else 1.0

    def forward(self, x: Tensor) -> Tensor:
        z = torch.where(torch.isnan(x), 0.0, (x - self.mean) * self.scale)
        if self.training and self.augment:
            z = augment_films(z)
        view: Tensor = self.net(z).logits
        return view


@FEATURES.register("image")
class ImageFeatures(nn.Module):
    """A thumbnail of at most `SIDE` pixels a side, and the mean and spread of each channel; NaN where it is missing."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        channels, height, width = block.shape
        rows, columns = min(SIDE, height), min(SIDE, width)
        self.down: Tensor
        self.across: Tensor
        self.register_buffer("down", torch.from_numpy(area_matrix(height, rows)))
        self.register_buffer("across", torch.from_numpy(area_matrix(width, columns)))
        called = [f"{name}, " for name in COLOURS] if channels == 3 else [""] * channels
        places = [f"row {r + 1} of {rows}, column {c + 1} of {columns}" for r in range(rows) for c in range(columns)]
        names = [f"{block.name}, {colour}{place}" for colour in called for place in places]
        names += [f"{block.name}, {colour}{what}" for what in ("mean", "spread") for colour in called]
        self.names = tuple(names)

    def fit(self, x: Tensor, targets: Tensor | None) -> None:
        """Nothing is learned."""

    def forward(self, x: Tensor) -> Tensor:
        there = torch.isfinite(x).flatten(1).all(1, keepdim=True)
        z = torch.where(torch.isnan(x), 0.0, x)
        small = torch.matmul(torch.matmul(self.down, z), self.across.T).flatten(1)
        mean = z.mean((2, 3))
        spread = (z - mean[:, :, None, None]).square().mean((2, 3)).add(1e-12).sqrt()
        return torch.where(there, torch.cat([small, mean, spread], 1), torch.nan)


DEFAULT_ENCODER["image"] = "image-cnn"
