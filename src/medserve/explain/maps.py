"""Arithmetic on heat maps, in numpy alone, so that it runs where no training framework is installed.

    fine   = resize(coarse, (28, 28))       # linear, pixel centres aligned
    smooth = blur(fine, sigma=1.0)

Every operation is a small matrix along one axis, so the same code serves images (H, W) and volumes (D, H, W).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from medserve.types import Array


def resize(values: Array, shape: Sequence[int]) -> Array:
    """Linear interpolation of the last `len(shape)` axes, pixel centres aligned (as in most viewers).

    Returns: (..., *shape) float32.
    """
    out = np.asarray(values, np.float32)
    for axis, size in zip(range(-len(shape), 0), shape, strict=True):
        if out.shape[axis] != size:
            out = _along(out, _resize_matrix(out.shape[axis], int(size)), axis)
    return out


def blur(values: Array, sigma: float, *, axes: int = 2) -> Array:
    """Gaussian blur of the last `axes` axes; the kernel is cut and renormalised at the border.

    Args:
        sigma: standard deviation in pixels.

    Returns: the same shape, float32.
    """
    out = np.asarray(values, np.float32)
    for axis in range(-axes, 0):
        out = _along(out, _blur_matrix(out.shape[axis], float(sigma)), axis)
    return out


def blurred(images: Array) -> Array:
    """What a picture looks like with its evidence removed: a blur of an eighth of the shorter side.

    Args:
        images: (B, C, H, W) or (B, C, D, H, W) uint8.

    Returns: the same shape, uint8.
    """
    axes = images.ndim - 2
    return np.rint(blur(images, min(images.shape[-2:]) / 8, axes=axes)).astype(np.uint8)


def peak(heat: Array) -> tuple[int, ...]:
    """The position of the map's largest value."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(heat)), heat.shape))


def _along(values: Array, matrix: Array, axis: int) -> Array:
    return np.moveaxis(np.moveaxis(values, axis, -1) @ matrix.T, -1, axis)


@lru_cache(maxsize=64)
def _resize_matrix(size_in: int, size_out: int) -> Array:
    centre = np.clip((np.arange(size_out) + 0.5) * size_in / size_out - 0.5, 0, size_in - 1)
    low = np.minimum(centre.astype(int), max(size_in - 2, 0))
    high = np.minimum(low + 1, size_in - 1)
    weight = centre - low
    matrix = np.zeros((size_out, size_in), np.float32)
    np.add.at(matrix, (np.arange(size_out), low), 1 - weight)
    np.add.at(matrix, (np.arange(size_out), high), weight)
    return matrix


@lru_cache(maxsize=64)
def _blur_matrix(size: int, sigma: float) -> Array:
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    kernel = np.exp(-0.5 * (distance / max(sigma, 1e-6)) ** 2)
    return (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
