"""Anatomy-safe augmentation of whole batches, on tensors.

    x = augment(images, plan.augment, generator)      # (B, C, H, W) in [0, 1] -> the same shape, in [0, 1]

One affine warp and a few point operations a batch, so that it costs a few per cent of a training step. On
PneumoniaMNIST it carries most of the result. Volumes are only shifted by whole voxels and changed in intensity.
"""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from medserve.training.plan import Augment

OUTSIDE = "border"  # what a warp brings in from outside: the edge pixels again
RESAMPLE = "bicubic"  # bilinear blurs: trained on it, a small picture as acquired looks foreign


def augment(images: Tensor, how: Augment, generator: Generator) -> Tensor:
    """Args: images: (B, C, H, W) or (B, C, D, H, W) float32 in [0, 1]. Returns: the same shape, in [0, 1]."""
    x = _warp(images, how, generator) if images.ndim == 4 else _shift(images, how, generator)
    x = _intensity(x, how, generator)
    return _erase(x, how, generator) if images.ndim == 4 and how.erase else x


def _warp(x: Tensor, how: Augment, generator: Generator) -> Tensor:
    """Shift, scale, rotate and (only when asked) mirror, in one bicubic resampling."""
    count, height, width = len(x), x.shape[2], x.shape[3]
    angle = _draw(count, math.radians(how.rotate_deg), generator)
    scale = 1 + _draw(count, how.scale, generator)
    across, down = 2 * _draw(count, how.shift, generator), 2 * _draw(count, how.shift, generator)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    ratio = height / width  # rotation in pixels, not in the grid's [-1, 1] units
    theta = torch.stack(
        [torch.stack([cos, -sin * ratio, across], 1), torch.stack([sin / ratio, cos, down], 1)], 1
    )  # (B, 2, 3)
    for on, row in ((how.mirror_left_right, 0), (how.mirror_up_down, 1)):
        if on:
            theta[:, row] *= torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)[:, None]
    grid = functional.affine_grid(theta.to(x.device), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode=RESAMPLE, padding_mode=OUTSIDE, align_corners=False)


def _shift(x: Tensor, how: Augment, generator: Generator) -> Tensor:
    """Each volume by whole voxels along its three axes; what enters is black."""
    moved = torch.zeros_like(x)
    sides = torch.tensor(x.shape[2:])
    steps = (torch.rand(len(x), 3, generator=generator) * 2 - 1) * how.shift * sides
    for row, offsets in enumerate(steps.round().int().tolist()):
        into: tuple[slice, ...] = tuple(
            slice(max(0, k), side + min(0, k)) for k, side in zip(offsets, x.shape[2:], strict=True)
        )
        out_of: tuple[slice, ...] = tuple(
            slice(max(0, -k), side + min(0, -k)) for k, side in zip(offsets, x.shape[2:], strict=True)
        )
        moved[row][(slice(None), *into)] = x[row][(slice(None), *out_of)]
    return moved


def _intensity(x: Tensor, how: Augment, generator: Generator) -> Tensor:
    """Contrast around the picture's own mean, then brightness, then gamma."""
    count, axes = len(x), tuple(range(1, x.ndim))

    def column(values: Tensor) -> Tensor:
        return values.to(x.device).reshape(-1, *(1 for _ in axes))

    middle = x.mean(axes, keepdim=True)
    contrast = column(1 + _draw(count, how.contrast, generator))
    brightness = column(_draw(count, how.brightness, generator))
    gamma = column(torch.exp(_draw(count, how.gamma, generator)))
    x = torch.addcmul(middle + brightness, x - middle, contrast).clamp_(0, 1)
    return x.pow(gamma) if how.gamma else x


def _erase(x: Tensor, how: Augment, generator: Generator) -> Tensor:
    """With probability `erase`, one rectangle of 2 to 20 % of the area becomes one random grey.

    Source: Zhong et al., "Random erasing data augmentation", arXiv 1708.04896.
    """
    count, height, width = len(x), x.shape[2], x.shape[3]
    draw = torch.rand(count, 6, generator=generator)
    area, aspect = 0.02 + 0.18 * draw[:, 1], torch.exp((2 * draw[:, 2] - 1) * math.log(3))
    tall, wide = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)  # fractions of the side
    top, left = draw[:, 3] * (1 - tall), draw[:, 4] * (1 - wide)
    rows, columns = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    inside_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])  # (B, H)
    inside_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    chosen = (draw[:, 0] < how.erase)[:, None, None]
    inside = (inside_rows[:, :, None] & inside_columns[:, None, :] & chosen)[:, None].to(x.device)
    return torch.where(inside, draw[:, 5].reshape(-1, 1, 1, 1).to(x.device), x)


def _draw(count: int, reach: float, generator: Generator) -> Tensor:
    """(count,) uniform in [-reach, reach]."""
    return (torch.rand(count, generator=generator) * 2 - 1) * reach
