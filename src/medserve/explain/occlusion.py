"""Occlusion: blur one patch at a time and see how far the logit falls. It needs nothing but scores.

    heat = occlusion(lambda batch: model.score(batch).logits, images, columns)

Two patch sizes: small ones find a small lesion, larger ones the extended finding that no small patch can hide. The
patch is replaced by a strong blur of the same place and not by a constant, which would be an object of its own.
About 220 passes for a picture, whatever its size.
Source: Zeiler and Fergus, Visualizing and understanding convolutional networks, ECCV 2014.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from medserve.explain.maps import blur, blurred
from medserve.types import Array

Score = Callable[[Array], Array]  # (B, C, H, W) uint8 -> (B, K) logits
SCALES: tuple[tuple[float, float], ...] = ((1 / 7, 1 / 14), (1 / 4, 1 / 8))  # (patch, stride) as parts of the side
SMOOTH = 1 / 32  # of the side: 2 px at 64


def occlusion(
    score: Score,
    images: Array,
    columns: Array,
    *,
    scales: Sequence[tuple[float, float]] = SCALES,
    baseline: Array | None = None,
    batch: int = 128,
) -> Array:
    """The fall of one logit when the place is hidden.

    Args:
        score: the model.
        images: (B, C, H, W) or (B, C, D, H, W) uint8.
        columns: (B,) the logit to explain in each row.
        scales: (patch, stride) as fractions of each side.
        baseline: what stands in for hidden pixels, like `images`; None blurs the picture itself.
        batch: pictures scored at once.

    Returns: (B, H, W) or (B, D, H, W) float32, in logits; positive: the place raised the logit.
    """
    hidden = blurred(images) if baseline is None else baseline
    return np.stack(
        [
            _one(score, image, cover, int(column), scales, batch)
            for image, cover, column in zip(images, hidden, columns, strict=True)
        ]
    )


def _one(
    score: Score, image: Array, cover: Array, column: int, scales: Sequence[tuple[float, float]], batch: int
) -> Array:
    shape = image.shape[1:]
    windows = [list(_windows(shape, *scale)) for scale in scales]
    every = [(..., *window) for scale in windows for window in scale]
    logits = [np.asarray(score(image[None]), np.float32)[:, column]]
    for start in range(0, len(every), batch):
        some = every[start : start + batch]
        stack = np.repeat(image[None], len(some), axis=0)
        for row, window in enumerate(some):
            stack[row][window] = cover[window]
        logits.append(np.asarray(score(stack), np.float32)[:, column])
    flat = np.concatenate(logits)
    falls = iter(flat[0] - flat[1:])
    heat = np.zeros(shape, np.float32)
    for scale in windows:
        total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for window in scale:
            total[window] += next(falls)
            count[window] += 1
        heat += total / count
    return blur(heat / len(windows), SMOOTH * min(shape[-2:]), axes=len(shape))


def _windows(shape: Sequence[int], patch: float, stride: float) -> itertools.product:
    """Slices that together cover every pixel, the last ones flush with the border."""
    axes = []
    for size in shape:
        width = min(size, max(1, round(size * patch)))
        step = max(1, round(size * stride))
        starts = [*range(0, size - width, step), size - width]
        axes.append([slice(start, start + width) for start in starts])
    return itertools.product(*axes)
