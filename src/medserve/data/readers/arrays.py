"""Pictures from arrays in memory: a row of an `.npz`, a generated phantom.

picture = picture_from_array(images[7])        # (28, 28) uint8
"""

import numpy as np

from medserve.errors import Refusal
from medserve.types import Array, Picture


def picture_from_array(values: Array, *, volume: bool = False, name: str = "") -> Picture:
    """
    Args:
        values: (H, W), (H, W, 1) or (H, W, 3); with `volume`, (D, H, W) or (D, H, W, 1). Numbers of any real type.
        volume: read three axes as a volume.

    Raises: Refusal `image-shape`, `image-not-finite`, `image-type`.
    """
    values = np.asarray(values)
    at = f"{name}: " if name else ""
    if values.dtype.kind not in "buif":
        raise Refusal("image-type", f"{at}Pixels must be real numbers, not {values.dtype}.")
    if values.shape[-1:] == (1,) and values.ndim == (4 if volume else 3):
        values = values[..., 0]
    good = values.ndim == 3 if volume else values.ndim == 2 or (values.ndim == 3 and values.shape[-1] == 3)
    if not good or 0 in values.shape:
        expected = "(D, H, W)" if volume else "(H, W) or (H, W, 3)"
        raise Refusal("image-shape", f"{at}Expected an array {expected}, found {values.shape}.")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    check_finite(values, at)
    header = {"format": "array", "size": size_of(values)} | ({"layout": "volume"} if volume else {})
    if values.dtype == np.uint8:
        return Picture(values, (0.0, 255.0), header=header)
    return Picture(values, stretch(values), header=header)


def check_finite(values: Array, at: str = "") -> None:
    """Raises: Refusal `image-not-finite` when a pixel is NaN or infinite."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Refusal(
            "image-not-finite", f"{at}Some pixels are NaN or infinite.", hint="Export the image again, or leave it out."
        )


def stretch(values: Array, low: float = 0.5, high: float = 99.5) -> tuple[float, float]:
    """What to draw black and white when the format says nothing: two percentiles, of at most about 65,000 values."""
    step = max(1, int(np.sqrt(values.size / 65536)))
    colour = values.ndim == 3 and values.shape[-1] == 3
    some = values if step == 1 else values[::step, ::step] if colour else values[..., ::step, ::step]
    a, b = np.percentile(some, (low, high))
    if a == b:
        a, b = values.min(), values.max()
    return float(a), float(b)


def size_of(values: Array) -> str:
    """ "512x512", as written in `Picture.header`; a colour axis does not count."""
    axes = values.shape[:-1] if values.ndim == 3 and values.shape[-1] == 3 else values.shape
    return "x".join(map(str, axes))
