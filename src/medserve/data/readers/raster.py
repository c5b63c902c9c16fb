"""PNG, JPEG and TIFF, through Pillow: 1 to 16 bit and float, palettes, several pages, orientation as the file says.

A colour file whose three channels are equal is a grey picture (scans are often saved so), and read as one. Alpha is
laid over black. Pillow gives 8 bits for 16-bit *colour*. Source: the readers of Pillow, named one by one in `_OPENERS`.
"""

import io
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from medserve.data.readers.arrays import check_finite, size_of, stretch
from medserve.data.readers.formats import READERS, Limits, too_many
from medserve.errors import Refusal
from medserve.types import Array, Picture

_ORIENTATION = 0x0112
MOST_CHUNKS = 20_000  # of a PNG; encoders write one for 8 KiB or more
MOST_PAGES = 4096  # of a TIFF


@READERS.register("image/png")
def read_png(data: bytes, limits: Limits, volume: bool) -> Iterator[Picture]:
    if b"IEND" not in data[-64:]:
        raise _truncated()
    _check_chunks(data)
    return _read(data, limits, volume, "PNG")


@READERS.register("image/jpeg")
def read_jpeg(data: bytes, limits: Limits, volume: bool) -> Iterator[Picture]:
    limits.check_jpeg(data)
    return _read(data, limits, volume, "JPEG")


@READERS.register("image/tiff")
def read_tiff(data: bytes, limits: Limits, volume: bool) -> Iterator[Picture]:
    _check_pages(data)
    return _read(data, limits, volume, "TIFF")


def _check_chunks(data: bytes) -> None:
    """Raises: Refusal. Source: PNG (third edition) 5.3."""
    at = 8
    for _ in range(MOST_CHUNKS):
        if at + 12 > len(data):
            return
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise too_many("chunks", MOST_CHUNKS)


def _check_pages(data: bytes) -> None:
    """Raises: Refusal. Source: TIFF 6.0, section 2; the BigTIFF file format."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    count, entry, link = (8, 20, 8) if data[2:4] in (b"+\0", b"\0+") else (2, 12, 4)
    at, seen = int.from_bytes(data[link : 2 * link], order), set[int]()
    while 0 < at < len(data) and at not in seen:
        seen.add(at)
        if len(seen) > MOST_PAGES:
            raise too_many("pages", MOST_PAGES)
        at += count + entry * int.from_bytes(data[at : at + count], order)
        at = int.from_bytes(data[at : at + link], order)


def _truncated() -> Refusal:
    return Refusal("file-truncated", "The file ends before the image does.", hint="Copy or export it again.")


def _read(data: bytes, limits: Limits, volume: bool, kind: str) -> Iterator[Picture]:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError as error:
        raise limits.refusal("The file declares far too many pixels") from error
    except (UnidentifiedImageError, SyntaxError, EOFError) as error:
        raise _truncated() from error
    with image:
        pages = int(getattr(image, "n_frames", 1)) if kind == "TIFF" else 1
        limits.check(image.width * image.height, pages)
        for page in range(pages):
            if page:
                image.seek(page)
                limits.check(image.width * image.height, pages)
            try:
                image.load()
            except (OSError, EOFError, SyntaxError) as error:
                if "truncated" in str(error).lower() or isinstance(error, EOFError) or not str(error):
                    raise _truncated() from error
                raise
            yield _picture(image, kind, page, pages)


def _picture(image: Any, kind: str, page: int, pages: int) -> Picture:
    from PIL import ImageOps

    mode = image.mode
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    values = _values(image)
    check_finite(values)
    header = {"format": kind, "size": size_of(values), "mode": mode}
    if values.dtype == np.uint8:
        shown = (0.0, 255.0)
    else:
        shown = stretch(values)
    return Picture(
        values,
        shown,
        frame=page if pages > 1 else None,
        frames=pages,
        header=header,
        spacing_mm=None,
    )


def _values(image: Any) -> Array:
    """(H, W) or (H, W, 3), as decoded."""
    from PIL import Image

    mode = image.mode
    if mode.startswith("I;16") or mode in ("I", "F"):
        values = np.asarray(image)
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    if mode in ("1", "L"):
        return np.asarray(image.convert("L") if mode == "1" else image)
    if mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return grey_if_equal(np.asarray(image if image.mode == "RGB" else image.convert("RGB")))


def grey_if_equal(values: Array) -> Array:
    """(H, W, 3) -> (H, W) when the three channels are equal everywhere."""
    red = values[..., 0]
    same = np.array_equal(red, values[..., 1]) and np.array_equal(red, values[..., 2])
    return np.ascontiguousarray(red) if same else values
