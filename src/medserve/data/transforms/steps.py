"""The steps from a picture to a tensor: `to-grey`, `to-colour`, `show`, `resize`; and the thumbnail.

    small = Resize(224, 224)(Show()(picture))

Grey levels are made before resizing, as a viewer does: window, 256 levels, then interpolation. So a window clips what
the model must not see, and resizing costs little. All resizing is antialiased, never pixel picking: a reduction by 2 or
more averages whole blocks first, and a triangle filter as wide as the remaining reduction does the rest (Pillow).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medserve.data.readers.arrays import stretch
from medserve.errors import Usage
from medserve.types import Array, Picture

THUMB = 64
MOST_VOXELS = 2**28


def _image(values: Array) -> Any:
    from PIL import Image

    return Image.fromarray(values)


@dataclass(frozen=True, slots=True)
class ToGrey:
    """Colour to grey by luma (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B); grey stays as it is."""

    def __call__(self, picture: Picture) -> Picture:
        if not picture.colour:
            return picture
        values = picture.values
        if values.dtype == np.uint8:
            grey = np.asarray(_image(np.ascontiguousarray(values)).convert("L"))
        else:
            grey = values.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        return replace(picture, values=grey)


@dataclass(frozen=True, slots=True)
class ToColour:
    """Grey to three equal channels; colour stays as it is."""

    def __call__(self, picture: Picture) -> Picture:
        if picture.colour:
            return picture
        if picture.volume:
            raise Usage("transform-colour", "A grey volume has no colour form.", hint="Train it with one channel.")
        return replace(picture, values=np.repeat(picture.values[..., None], 3, axis=-1))


@dataclass(frozen=True, slots=True)
class Show:
    """Physical values to 256 grey levels, as a viewer draws them.

    low, high: values drawn black and white, in the unit of the picture (HU for CT); both or none. Without them: what
        the file says (`Picture.shown`); 8 bits without a window stay as they are; where a file of more than 8 bits
        has no say, the percentiles `dark` and `bright` of the picture itself.
    """

    low: float | None = None
    high: float | None = None
    dark: float = 0.5
    bright: float = 99.5

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None) or (
            self.low is not None and self.high is not None and self.low >= self.high
        ):
            raise Usage("transform-parameters", "show: give both low and high, low below high, or none.")
        if not 0 <= self.dark < self.bright <= 100:
            raise Usage("transform-parameters", "show: 0 <= dark < bright <= 100 was expected.")

    def __call__(self, picture: Picture) -> Picture:
        values = picture.values
        low, high = self._range(picture)
        if values.dtype == np.uint8 and (low, high) == (0, 255):
            return picture
        if high <= low:  # one single value: mid-grey says "blank" without a false edge
            levels = np.where(values > high, 255, np.where(values < low, 0, 128)).astype(np.uint8)
        else:
            wide: Any = values.astype(np.float64 if values.dtype.itemsize > 4 else np.float32)
            wide -= low
            wide *= 255 / (high - low)
            wide += 0.5
            levels = np.clip(wide, 0, 255, out=wide).astype(np.uint8)
        return replace(picture, values=levels, shown=(0.0, 255.0))

    def _range(self, picture: Picture) -> tuple[float, float]:
        if self.low is not None and self.high is not None:
            return self.low, self.high
        if picture.values.dtype == np.uint8 or picture.colour or picture.header.get("window") != "none":
            return picture.shown
        return stretch(picture.values, self.dark, self.bright)


@dataclass(frozen=True, slots=True)
class Resize:
    """To `height` x `width` pixels, and `depth` slices for a volume.

    mode: "stretch" fills the frame; "pad" keeps the proportions and centres on black.
    """

    height: int
    width: int
    depth: int | None = None
    mode: str = "stretch"

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.depth or 1) < 1 or max(self.height, self.width, self.depth or 1) > 4096:
            raise Usage("transform-parameters", "resize: sizes from 1 to 4096 were expected.")
        if self.height * self.width * (self.depth or 1) > MOST_VOXELS:
            raise Usage("transform-parameters", f"resize: at most {MOST_VOXELS} voxels were expected.")
        if self.mode not in ("stretch", "pad"):
            raise Usage("transform-parameters", f"resize: mode {self.mode!r}; known: pad, stretch.")

    def __call__(self, picture: Picture) -> Picture:
        if picture.volume != (self.depth is not None):
            expected = "a volume" if self.depth else "a flat image"
            raise Usage("transform-shape", f"resize: {expected} was expected.")
        values = picture.values
        if picture.volume:
            slices = np.stack([self._plane(plane) for plane in values])
            values = _resize_depth(slices, self.depth or 1)
        else:
            values = self._plane(values)
        return picture if values is picture.values else replace(picture, values=values)

    def _plane(self, values: Array) -> Array:
        height, width = values.shape[:2]
        if (height, width) == (self.height, self.width):
            return values
        if self.mode == "stretch":
            return _resample(values, self.height, self.width)
        scale = min(self.height / height, self.width / width)
        inner = max(1, min(self.height, round(height * scale))), max(1, min(self.width, round(width * scale)))
        out = np.zeros((self.height, self.width, *values.shape[2:]), values.dtype)
        top, left = (self.height - inner[0]) // 2, (self.width - inner[1]) // 2
        out[top : top + inner[0], left : left + inner[1]] = _resample(values, *inner)
        return out


def _resample(values: Array, height: int, width: int) -> Array:
    from PIL import Image

    assert values.dtype == np.uint8
    image = _image(np.ascontiguousarray(values))
    # reducing_gap 1.0: reductions of 2 and more average whole blocks first, then interpolate the rest
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=1.0))


def _resize_depth(slices: Array, depth: int) -> Array:
    """(D, H, W) -> (depth, H, W), linear between slice centres; a larger stack is averaged, not skipped."""
    count = len(slices)
    if count == depth:
        return slices
    # a triangle filter as wide as the step between new slices, at least one old slice
    centres = (np.arange(depth) + 0.5) * count / depth - 0.5
    support = max(count / depth, 1.0)
    weights = np.maximum(0, 1 - np.abs(np.arange(count)[None] - centres[:, None]) / support)
    weights /= weights.sum(axis=1, keepdims=True)
    mixed = np.tensordot(weights.astype(np.float32), slices.astype(np.float32), axes=1)
    return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def thumbnail(picture: Picture) -> Array:
    """(64, 64) uint8 grey, stretched; of a volume the middle slice. For picture sheets and near-duplicate hashes."""
    if picture.volume:
        header = {k: v for k, v in picture.header.items() if k != "layout"}
        picture = replace(picture, values=picture.values[len(picture.values) // 2], header=header)
    return _resample_if(Show()(ToGrey()(picture)).values)


def _resample_if(levels: Array) -> Array:
    return levels if levels.shape == (THUMB, THUMB) else _resample(levels, THUMB, THUMB)
