"""A heat map as a person sees it, and as a program reads it.

    png  = render(image, heat)      # the picture, small ones enlarged, with the evidence in colour
    data = pack(heat)               # {"shape", "dtype", "data"} for JSON

Only evidence *for* the label is coloured, scaled to the map's own maximum: colours compare places within one picture,
never two pictures. The colours are perceptually uniform (inferno, by N. Smith and S. van der Walt, CC0).
"""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from medserve.explain.maps import peak
from medserve.types import Array

_INFERNO = (
    "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 "
    "d24644 e45a31 f1731d f98e09 fcac11 f9cb35 f2ea69 fcffa4"
)
LEAST_SIDE_PX = 256  # smaller pictures are enlarged for the eye


def render(image: Array, heat: Array, *, strength: float = 0.6) -> bytes:
    """Draw the evidence over the picture.

    Args:
        image: (C, H, W) uint8, or (C, D, H, W): then the slice that holds the map's peak is drawn.
        heat: (H, W) or (D, H, W), any scale; values at or below zero stay uncoloured.
        strength: opacity at the map's maximum.

    Returns: PNG bytes, RGB.
    """
    if heat.ndim == 3:
        at = peak(heat)[0]
        image, heat = image[:, at], heat[at]
    grey_or_rgb = image if image.shape[0] == 3 else np.repeat(image[:1], 3, axis=0)
    base = Image.fromarray(np.ascontiguousarray(grey_or_rgb.transpose(1, 2, 0)))
    zoom = max(1, -(-LEAST_SIDE_PX // min(base.size)))
    size = (base.width * zoom, base.height * zoom)
    under = np.asarray(base.resize(size, Image.Resampling.BICUBIC), np.float32)
    level = np.asarray(Image.fromarray(relative(heat)).resize(size, Image.Resampling.BILINEAR), np.float32)
    alpha = strength * level[..., None]
    drawn = under * (1 - alpha) + colours(level) * alpha
    return _png(Image.fromarray(np.rint(drawn).astype(np.uint8)))


def pack(heat: Array) -> dict[str, Any]:
    """The raw map for JSON: little-endian float32, base64, row-major."""
    values = np.ascontiguousarray(heat, "<f4")
    return {"shape": list(values.shape), "dtype": "float32", "data": base64.b64encode(values.tobytes()).decode()}


def relative(heat: Array) -> Array:
    """Evidence for the label between 0 and 1 of the map's maximum; all 0 where nothing speaks for it."""
    positive = np.clip(np.nan_to_num(np.asarray(heat, np.float32)), 0, None)
    top = float(positive.max(initial=0.0))
    return positive / top if top > 0 else positive


def colours(level: Array) -> Array:
    """Values in [0, 1] -> (..., 3) float32 RGB in [0, 255]."""
    table = np.array([list(bytes.fromhex(colour)) for colour in _INFERNO.split()], np.float32)
    at = np.linspace(0, 1, len(table))
    return np.stack([np.interp(level, at, table[:, k]) for k in range(3)], axis=-1).astype(np.float32)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()
