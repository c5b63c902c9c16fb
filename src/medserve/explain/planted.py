"""Pictures whose evidence we planted ourselves, so that "where did it look?" has a right answer.

    set_ = planted(600, side=28, seed=0)                      # half of them with one lesion at a known place
    marked = planted(600, side=28, seed=0, marker=(0.1, 0.9)) # and a corner marker that betrays the label

A textured body on a dark ground; positives hold one Gaussian lesion of 1.2 % of the picture's area. They are for
auditing methods and are never presented as medical images.
Source of the design: localisation and shortcut tests with planted evidence, Arun et al., Radiology: AI 2021.
"""

from dataclasses import dataclass

import numpy as np

from medserve.explain.maps import blur
from medserve.types import Array, ArraySamples

LESION_AREA = 0.012  # of the picture
LESION_EXTENT = 1.5  # the lesion ends here, in standard deviations of its Gaussian
CONTRAST = (60.0, 110.0)  # grey levels at the lesion's centre; the body's texture has a standard deviation of 18
MARKER = 1 / 10  # side of the marker, of the picture's side
TOLERANCE_PX = 2.0  # of a picture of 64 pixels a side


@dataclass(frozen=True, slots=True)
class Planted:
    """images: (N, C, side, side) uint8. targets: (N,) 0 or 1. centres: (N, 2) row, column of the lesion, NaN without.
    marked: (N,) whether the corner marker is drawn. radius_px: of the lesion."""

    images: Array
    targets: Array
    centres: Array
    marked: Array
    radius_px: float

    @property
    def samples(self) -> ArraySamples:
        return ArraySamples(self.images, self.targets)

    @property
    def reach_px(self) -> float:
        """A map points at the lesion when its peak is this near to the centre: 2 px tolerance at 64, at least 1."""
        return self.radius_px + max(1.0, TOLERANCE_PX * self.images.shape[-1] / 64)

    @property
    def chance(self) -> float:
        """How often a random pixel counts as a hit."""
        return float(np.pi * self.reach_px**2 / self.images.shape[-1] ** 2)


def planted(n: int, *, side: int, channels: int = 1, seed: int, marker: tuple[float, float] = (0.0, 0.0)) -> Planted:
    """Make a set; the same arguments always give the same pixels.

    Args:
        n: pictures; every second one is positive.
        marker: how often negatives and positives carry the corner marker.
    """
    rng = np.random.default_rng([seed, n, side])
    targets = np.arange(n) % 2
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    body = _bodies(rng, n, side, rows, columns)
    inside = _inside(body, rows, columns)
    texture = blur(rng.standard_normal((n, side, side)), side / 40) + 2 * blur(
        rng.standard_normal((n, side, side)), side / 12
    )
    texture *= 18 / texture.std(axis=(1, 2), keepdims=True)
    values = 12 + inside * (90 + texture)
    radius = side * np.sqrt(LESION_AREA / np.pi)
    centres = _places(rng, body, radius)
    contrast = rng.uniform(*CONTRAST, n) * targets
    distance2 = (rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2
    values += contrast[:, None, None] * np.exp(-0.5 * distance2 * (LESION_EXTENT / radius) ** 2)
    values += 4 * rng.standard_normal(values.shape)
    marked = rng.random(n) < np.where(targets == 1, marker[1], marker[0])
    values = np.where(marked[:, None, None] & corner(side), 235, values)
    images = np.clip(np.rint(values), 0, 255).astype(np.uint8)[:, None].repeat(channels, axis=1)
    return Planted(images, targets, np.where(targets[:, None] == 1, centres, np.nan), marked, float(radius))


def corner(side: int) -> Array:
    """Where the marker stands: (side, side) bool, near the upper left corner."""
    at, width = max(1, round(side / 28)), max(2, round(side * MARKER))
    mask = np.zeros((side, side), bool)
    mask[at : at + width, at : at + width] = True
    return mask


def _bodies(rng: np.random.Generator, n: int, side: int, rows: Array, columns: Array) -> Array:
    """(N, 4): centre row, centre column, half height, half width of an upright ellipse."""
    middle = (side - 1) / 2 + side * rng.uniform(-0.05, 0.05, (n, 2))
    return np.concatenate([middle, side * rng.uniform(0.34, 0.42, (n, 2))], axis=1).astype(np.float32)


def _inside(body: Array, rows: Array, columns: Array) -> Array:
    """(N, side, side), 1 in the body, 0 outside, soft at the rim."""
    y, x, high, wide = (body[:, k, None, None] for k in range(4))
    depth = 1 - np.sqrt(((rows - y) / high) ** 2 + ((columns - x) / wide) ** 2)
    return np.clip(depth * np.minimum(high, wide) + 0.5, 0, 1)


def _places(rng: np.random.Generator, body: Array, radius: float) -> Array:
    """(N, 2) lesion centres, uniform over the part of the body that holds the whole lesion."""
    angle, far = rng.uniform(0, 2 * np.pi, len(body)), np.sqrt(rng.random(len(body)))
    reach = body[:, 2:] - 1.3 * radius
    return (body[:, :2] + reach * (far[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1))).astype(np.float32)
