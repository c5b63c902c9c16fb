"""Lay one thumbnail over another: the small shift and scale between two pictures, and how well they then agree.

    likeness, own = agreement(a, b, shared)     # (P,) each; 1.0 for the same picture, whatever its size or brightness

A copy that was cropped by a few per cent shows the same structures a pixel or two away, which is enough to hide it from
any pixel-by-pixel comparison. So shift and scale along both axes and the contrast are estimated first (Gauss-Newton on
the squared difference), batches of pairs at a time, then the correlation is taken where both pictures have pixels.
Both are band-passed before: slow changes of brightness and single-pixel noise say nothing about being the same.

Films of one body part agree closely whoever was imaged. So a second correlation is taken on what is left of both
pictures without the patterns that the whole data set shares: copies still agree there, different patients do not.
"""

from typing import NamedTuple

import numpy as np

from medserve.types import Array

SIDE = 32  # pictures are compared at 32 x 32
MAX_SCALE = 0.10  # a copy cropped by up to 7 per cent (one pixel a side of a 28 x 28 image) is still one
MAX_SHIFT = 1.75  # pixels of 32
MAX_PATTERNS = 8
HOPELESS = 0.80  # after two steps; unrelated chest films reach 0.9, copies stand above 0.93
_FINE, _COARSE = 0.7, 4.0  # standard deviations of the band-pass, pixels of 32
_BATCH = 512
_STEP = np.array([1.0, 0.04, 1.0, 0.04, np.inf])


class Placement(NamedTuple):
    """Where picture b lies over a: b is read at `centre + scale * (x - centre) + shift`; each (P,)."""

    scale_y: Array
    shift_y: Array
    scale_x: Array
    shift_x: Array

    def at(self, rows: Array) -> "Placement":
        return Placement(*(value[rows] for value in self))


def band_pass(thumbs: Array) -> Array:
    """(N, 64, 64) uint8 -> (N, 32, 32) float32, the structures between a hair's and a fist's width."""
    n = len(thumbs)
    small = thumbs.reshape(n, SIDE, 2, SIDE, 2).mean((2, 4), dtype=np.float32)
    return _FINE_ROWS @ small @ _FINE_ROWS.T - _COARSE_ROWS @ small @ _COARSE_ROWS.T


def shared_patterns(pictures: Array) -> Array | None:
    """What a data set's pictures have in common: their mean and main directions of change.

    Args:
        pictures: (N, 32, 32) float32 from `band_pass`, a sample of at most some hundreds.

    Returns: (1024, K) float32 with orthonormal columns, K at most 9; None for fewer than 32 pictures.
    """
    count = min(MAX_PATTERNS, len(pictures) // 16)
    if count < 2:
        return None
    flat = pictures.reshape(len(pictures), -1)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    mean = flat.mean(0)
    apart = flat - mean
    weights = np.linalg.eigh(apart @ apart.T)[1][:, ::-1][:, :count]  # (N, N) is the small side
    main = apart.T @ weights
    main /= np.maximum(np.linalg.norm(main, axis=0), 1e-9)
    return np.linalg.qr(np.column_stack([mean, main]))[0].astype(np.float32)


def agreement(a: Array, b: Array, shared: Array | None = None) -> tuple[Array, Array]:
    """How well two band-passed pictures agree once b is laid over a.

    Args:
        a, b: (P, 32, 32) float32 from `band_pass`.
        shared: from `shared_patterns`.

    Returns: two (P,) float32 correlations in [-1, 1], of the pictures and of what is their own beyond the shared
        patterns (the same twice without any); 0 where shift or scale are larger than a copy's.
    """
    whole, own = np.zeros(len(a), np.float32), np.zeros(len(a), np.float32)
    for at in range(0, len(a), _BATCH):
        rows = slice(at, at + _BATCH)
        whole[rows], own[rows] = _agreement(a[rows], b[rows], shared)
    return whole, own


def _agreement(a: Array, b: Array, shared: Array | None) -> tuple[Array, Array]:
    out = np.zeros((2, len(a)), np.float32)
    ones, zeros = np.ones(len(a)), np.zeros(len(a))
    placed = _refine(a, b, Placement(ones, zeros, ones, zeros), steps=2)
    going = np.flatnonzero(_correlation(a, *_warp(b, placed)) > HOPELESS)
    if len(going):
        a, b = a[going], b[going]
        placed = _refine(a, b, placed.at(going), steps=4)
        near = (np.abs(placed.scale_y - 1) <= MAX_SCALE) & (np.abs(placed.scale_x - 1) <= MAX_SCALE)
        near &= (np.abs(placed.shift_y) <= MAX_SHIFT) & (np.abs(placed.shift_x) <= MAX_SHIFT)
        warped, mask = _warp(b, placed)
        whole = _correlation(a, warped, mask)
        own = whole if shared is None else _correlation(*_without(a, warped, mask, shared), mask)
        out[:, going] = np.where(near, np.stack([whole, own]), 0.0)
    return out[0], out[1]


def _without(a: Array, warped: Array, mask: Array, shared: Array) -> tuple[Array, Array]:
    """Both pictures less the shared patterns; where b has no pixels it is taken to be a."""
    filled = np.where(mask > 0, warped * _gain(a * mask, warped)[:, None, None], a)
    both = np.stack([a, filled]).reshape(2 * len(a), -1)
    rest = (both - (both @ shared) @ shared.T).reshape(2, *a.shape)
    return rest[0], rest[1]


def _refine(a: Array, b: Array, placed: Placement, steps: int) -> Placement:
    """Gauss-Newton steps on shift, scale and contrast, damped, each step at most a pixel."""
    offset = _OFFSET.astype(np.float32)
    for _ in range(steps):
        warped, mask = _warp(b, placed)
        dy, dx = np.zeros_like(warped), np.zeros_like(warped)
        dy[:, 1:-1] = (warped[:, 2:] - warped[:, :-2]) / 2
        dx[:, :, 1:-1] = (warped[:, :, 2:] - warped[:, :, :-2]) / 2
        warped *= mask
        dy *= mask
        dx *= mask
        rest = (a * mask) / np.maximum(_gain(a, warped), 0.05)[:, None, None] - warped
        slopes = np.stack([dy, dy * offset[:, None], dx, dx * offset, warped], axis=1).reshape(len(a), 5, -1)
        normal = (slopes @ slopes.transpose(0, 2, 1)).astype(np.float64)
        damping = 1e-3 * np.einsum("pii->pi", normal) + 1e-3
        normal += damping[:, :, None] * np.eye(5)
        side = (slopes @ rest.reshape(len(a), -1, 1)).astype(np.float64)
        step = np.clip(np.linalg.solve(normal, side)[:, :, 0], -_STEP, _STEP)
        limit = 1.5 * MAX_SHIFT
        placed = Placement(
            np.clip(placed.scale_y + step[:, 1], 0.88, 1.13),
            np.clip(placed.shift_y + step[:, 0], -limit, limit),
            np.clip(placed.scale_x + step[:, 3], 0.88, 1.13),
            np.clip(placed.shift_x + step[:, 2], -limit, limit),
        )
    return placed


def _gain(a: Array, b: Array) -> Array:
    """The contrast g for which g * b is nearest to a."""
    return np.einsum("pij,pij->p", a, b) / np.maximum(np.einsum("pij,pij->p", b, b), 1e-6)


def _correlation(a: Array, b: Array, mask: Array) -> Array:
    count = np.maximum(mask.sum((1, 2), keepdims=True), 1)
    a = (a - (a * mask).sum((1, 2), keepdims=True) / count) * mask
    b = (b - (b * mask).sum((1, 2), keepdims=True) / count) * mask
    power = np.einsum("pij,pij->p", a, a) * np.einsum("pij,pij->p", b, b)
    return np.einsum("pij,pij->p", a, b) / np.sqrt(np.maximum(power, 1e-6))


def _warp(b: Array, placed: Placement) -> tuple[Array, Array]:
    """b read at its placement by linear interpolation, and a mask (P, 32, 32) of where it has pixels."""
    rows, seen_y = _reading(placed.scale_y, placed.shift_y)
    columns, seen_x = _reading(placed.scale_x, placed.shift_x)
    return rows @ b @ columns.transpose(0, 2, 1), seen_y[:, :, None] * seen_x[:, None, :]


def _reading(scale: Array, shift: Array) -> tuple[Array, Array]:
    centre = (SIDE - 1) / 2
    at = (centre + scale[:, None] * _OFFSET + shift[:, None]).astype(np.float32)
    weights = np.maximum(0, 1 - np.abs(at[:, :, None] - np.arange(SIDE, dtype=np.float32)))
    return weights, ((at >= 0) & (at <= SIDE - 1)).astype(np.float32)


def _gaussian(sigma: float) -> Array:
    """Rows of a Gaussian blur whose window is cut and renormalised at the border: (32, 32) float32."""
    distance = np.arange(SIDE)[:, None] - np.arange(SIDE)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


_OFFSET = np.arange(SIDE) - (SIDE - 1) / 2
_FINE_ROWS, _COARSE_ROWS = _gaussian(_FINE), _gaussian(_COARSE)
