"""Insertion minus deletion: do the pixels that a map ranks first move the answer most?

    score = curves(model, images, columns, maps, output)      # (B,), about 0 for a random map, at most 1
    control = curves(model, images, columns, edges(images), output)

Pixels enter a blurred picture, or leave the picture for its blur, in the map's order; the score is the area under the
label's probability for insertion minus that for deletion. An edge detector scores high without knowing the model, so it
is the control.
Source: Petsiuk et al., RISE: randomized input sampling for explanation of black-box models, BMVC 2018.
"""

import numpy as np

from medserve.explain.explainers import Explainable
from medserve.explain.maps import blur, blurred
from medserve.explain.occlusion import SMOOTH
from medserve.models.spec import OutputSpec
from medserve.types import Array

STEPS = 16  # shares of the pixels: 1/16, 2/16, ...


def curves(model: Explainable, images: Array, columns: Array, maps: Array, output: OutputSpec) -> Array:
    """Args: images: (B, C, *S) uint8. columns: (B,) the logit that was explained. maps: (B, *S).

    Returns: (B,) area under insertion - area under deletion, in probability (a number: in parts of its own change).
    """
    base = blurred(images)
    out = np.empty(len(images))
    for row, (image, cover, heat) in enumerate(zip(images, base, maps, strict=True)):
        order = np.argsort(np.argsort(-heat, axis=None, kind="stable"), kind="stable").reshape(heat.shape)
        inside = order[None] < (np.arange(STEPS + 1) * heat.size / STEPS).reshape(-1, *(1 for _ in heat.shape))
        inserted = np.where(inside[:, None], image, cover)
        deleted = np.where(inside[:, None], cover, image)
        logits = model.score(np.concatenate([inserted, deleted])).logits
        p = _probability(logits, int(columns[row]), output, full=STEPS, empty=0)
        out[row] = np.trapezoid(p[: STEPS + 1]) / STEPS - np.trapezoid(p[STEPS + 1 :]) / STEPS
    return out


def edges(images: Array) -> Array:
    """The control: gradient magnitude (Sobel), smoothed like the maps. Returns: (B, *S) float32."""
    from scipy.ndimage import sobel

    grey = images.astype(np.float32).mean(axis=1)
    axes = range(1, grey.ndim)
    strength = np.sqrt(sum(sobel(grey, axis=axis) ** 2 for axis in axes))
    return blur(strength, SMOOTH * min(images.shape[-2:]), axes=grey.ndim - 1)


def _probability(logits: Array, column: int, output: OutputSpec, *, full: int, empty: int) -> Array:
    """The explained label's probability in each row. A number has none: its share of the way from blurred to full."""
    z = np.asarray(logits, np.float64)
    if output.task == "multiclass":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return (e / e.sum(axis=1, keepdims=True))[:, column]
    if output.task == "number":
        way = z[full, column] - z[empty, column]
        return np.clip((z[:, column] - z[empty, column]) / (way if abs(way) > 1e-9 else 1e-9), 0, 1)
    return 1 / (1 + np.exp(-np.clip(z[:, column], -60, 60)))
