"""Readers: the bytes of one file in, pictures in physical units out, or a coded refusal. They know no model.

    for picture in iter_pictures(path): ...         # frame by frame, one in memory
    pictures = read(body, name="chest.dcm")         # all of them
    volume, = read_file("head.nii.gz", volume=True)

Whatever is wrong with a file, the answer is a `Refusal` with a stable code: never a crash, never a silent image.
    the file     file-missing  file-empty  file-too-large  file-truncated  file-unreadable  format-unknown
    the image    image-too-large  image-not-finite  image-shape  image-type  volume-expected  volume-4d  nifti-pair
    DICOM        dicom-no-pixels  dicom-bad-header  dicom-photometric  codec-missing
A new format is one function registered in `READERS` under its media type.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from medserve.data.readers import dicom, nifti, outside, raster  # noqa: F401  (each registers its media types)
from medserve.data.readers.arrays import picture_from_array
from medserve.data.readers.codecs import quiet
from medserve.data.readers.dicom import stored_values
from medserve.data.readers.formats import HEAD_BYTES, READERS, Limits, Reader, sniff
from medserve.errors import MedServeError, Refusal
from medserve.types import Picture

__all__ = [
    "HEAD_BYTES",
    "READERS",
    "Limits",
    "Reader",
    "iter_pictures",
    "picture_from_array",
    "read",
    "read_file",
    "sniff",
    "stored_values",
]

MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 2 * 2**30
_LAZY_TOTAL = 16  # one by one, a file may hold this many times `max_pixels`


def read(data: bytes, *, name: str = "", max_pixels: int = MAX_PIXELS, volume: bool = False) -> list[Picture]:
    """Every picture of one file.

    Args:
        name: what messages call the file.
        max_pixels: most pixels of all pictures together, checked against the header before decoding.
        volume: the slices, frames or pages of the file as one volume (D, H, W).

    Raises: Refusal, with a code of the list above.
    """
    return list(_pictures(data, name, Limits(max_pixels, max_pixels), volume))


def read_file(path: Path | str, *, max_pixels: int = MAX_PIXELS, volume: bool = False) -> list[Picture]:
    """`read` for a file on disk; messages call it by its file name."""
    path = Path(path)
    return read(_bytes_of(path), name=path.name, max_pixels=max_pixels, volume=volume)


def iter_pictures(
    source: Path | str | bytes, *, name: str = "", max_pixels: int = MAX_PIXELS, volume: bool = False
) -> Iterator[Picture]:
    """`read`, one picture in memory at a time; `max_pixels` bounds each, 16 times as many bound them all."""
    if not isinstance(source, bytes):
        name = name or Path(source).name
        source = _bytes_of(Path(source))
    elif (others := outside.crew()) is not None:
        head = source[:HEAD_BYTES]
        if (kind := sniff(head)) and outside.goes_outside(kind, head):
            return others.pictures(source, name=name, max_pixels=max_pixels, volume=volume)
    return _pictures(source, name, Limits(max_pixels, _LAZY_TOTAL * max_pixels), volume)


def _pictures(data: bytes, name: str, limits: Limits, volume: bool) -> Iterator[Picture]:
    """The one door: whatever a library raises on the way becomes a Refusal."""
    if not data:
        raise _named(Refusal("file-empty", "The file holds no bytes.", hint="Copy or export it again."), name)
    kind = sniff(data[:HEAD_BYTES])
    if not kind:
        raise _named(
            Refusal(
                "format-unknown",
                "The bytes are of no image format that is read here (DICOM, PNG, JPEG, TIFF, NIfTI).",
                hint="The extension of a file is not looked at; export it in one of these formats.",
            ),
            name,
        )
    steps: Iterator[Picture] | None = None
    found = 0
    while True:
        try:
            with quiet():
                if steps is None:
                    steps = READERS[kind](data, limits, volume)
                    if volume:
                        steps = iter([_as_volume(steps, limits)])
                picture = next(steps)
        except StopIteration:
            break
        except MedServeError as error:
            if not name:
                raise  # not from itself: it would hold its frames, and the file, until a collection
            raise _named(error, name) from error
        except ImportError as error:
            missing = Refusal(
                "codec-missing",
                f"Reading {kind} needs the Python package {error.name or 'for its codec'}, which is not installed.",
                hint="Install it with: pip install 'medserve[imaging]'",
            )
            raise _named(missing, name) from error
        except (EOFError, MemoryError) as error:
            code = "file-truncated" if isinstance(error, EOFError) else "image-too-large"
            raise _named(Refusal(code, "The file could not be read to its end."), name) from error
        except Exception as error:
            raise _named(
                Refusal(
                    "file-unreadable",
                    f"The file is damaged or not valid {kind} ({type(error).__name__}).",
                    hint="Open it in a viewer, and export it again if that fails too.",
                ),
                name,
            ) from error
        found += 1
        yield picture
    if not found:
        raise _named(Refusal("file-unreadable", "The file holds no picture."), name)


def _as_volume(steps: Iterator[Picture], limits: Limits) -> Picture:
    first = next(steps, None)
    if first is None:
        raise Refusal("file-unreadable", "The file holds no picture.")
    if first.volume:
        return first
    if first.frames < 2 or first.colour:
        raise Refusal(
            "volume-expected",
            "The file holds one flat image, or colour; a grey volume of several slices was expected.",
        )
    limits.check(first.values.size * first.frames)
    frames = [first, *steps]
    if len({(f.values.shape) for f in frames}) > 1:
        raise Refusal("image-shape", "The slices of the file differ in size.")
    shown = min(f.shown[0] for f in frames), max(f.shown[1] for f in frames)
    header = {**first.header, "layout": "volume"}
    return replace(first, values=np.stack([f.values for f in frames]), shown=shown, frame=None, frames=1, header=header)


def _named(error: MedServeError, name: str) -> MedServeError:
    return type(error)(error.code, f"{name}: {error.message}", hint=error.hint) if name else error


def _bytes_of(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise Refusal("file-too-large", f"{path.name}: {size} bytes; at most {MAX_FILE_BYTES} are read.")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Refusal("file-missing", f"{path.name}: there is no such file.") from error
    except OSError as error:
        raise Refusal("file-unreadable", f"{path.name}: {error.strerror}.") from error
