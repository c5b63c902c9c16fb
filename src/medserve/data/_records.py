"""The work on one file: read once, digest, transform, thumbnail, hash. The same in the process and in its workers.

    for record in file_records(path, job): ...       # raises Refusal; the whole file is refused then

A `Record` is what leaves: light facts and the two prepared arrays, as bytes.
"""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from medserve.data.pseudonym import pseudonym
from medserve.errors import Refusal
from medserve.types import Array, Named, Picture


class Job(msgspec.Struct, array_like=True, dict=True):
    """What is the same for all files of one pass."""

    transforms: list[Named]
    shape: tuple[int, ...]
    volume: bool
    max_pixels: int
    key: bytes

    @cached_property
    def pipeline(self):  # type: ignore[no-untyped-def]
        from medserve.data.transforms import build

        return build(self.transforms)


class Record(msgspec.Struct, array_like=True):
    """One prepared picture. `frame` is None when the file holds one."""

    frame: int | None
    sha256: bytes
    pixels: bytes
    hash: int
    modality: str | None
    unit: str | None
    colour: bool
    blank: bool
    shape: tuple[int, ...]
    header: dict[str, str]
    patient: str | None
    tensor: bytes
    thumb: bytes


class Failure(msgspec.Struct, array_like=True):
    """A file that is refused, with the reader's code."""

    code: str
    message: str


def file_records(path: Path, job: Job) -> Iterator[Record]:
    """All pictures of one file, one in memory at a time.

    Raises: Refusal: the file, or one picture in it, cannot be used.
    """
    from medserve.data.readers import MAX_FILE_BYTES, iter_pictures

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Refusal("file-too-large", f"{path.name}: larger than {MAX_FILE_BYTES} bytes.")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise Refusal("file-missing", f"{path.name}: there is no such file.") from error
    except OSError as error:
        raise Refusal("file-unreadable", f"{path.name}: {error.strerror}.") from error
    digest = hashlib.sha256(data).digest()
    for picture in iter_pictures(data, name=path.name, max_pixels=job.max_pixels, volume=job.volume):
        yield record(picture, digest, job)


def array_record(values: Array, job: Job, *, name: str) -> Record:
    """One row of an array file; its source digest is that of the row's bytes."""
    from medserve.data.readers import picture_from_array

    if job.volume and values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    picture = picture_from_array(values, volume=job.volume, name=name)
    return record(picture, hashlib.sha256(values.tobytes()).digest(), job)


def record(picture: Picture, digest: bytes, job: Job) -> Record:
    """Raises: Refusal "image-shape": the transforms do not give the shape of the cohort (a bad pair of settings)."""
    from medserve.data.duplicates import perceptual_hash
    from medserve.data.transforms import prepare_one

    tensor, thumb = prepare_one(picture, job.pipeline)
    if tensor.shape != job.shape:
        raise Refusal("image-shape", f"The transforms give {tensor.shape}; the cohort holds {job.shape}.")
    low, high = picture.values.min(), picture.values.max()
    return Record(
        frame=picture.frame if picture.frames > 1 else None,
        sha256=digest,
        pixels=pixel_digest(picture.values, float(low), float(high)),
        hash=perceptual_hash(thumb),
        modality=picture.modality,
        unit=picture.unit,
        colour=picture.colour,
        blank=bool(low == high),
        shape=picture.values.shape,
        header=dict(picture.header),
        patient=pseudonym(job.key, picture.patient) if picture.patient and picture.patient.strip() else None,
        tensor=np.ascontiguousarray(tensor).tobytes(),
        thumb=np.ascontiguousarray(thumb).tobytes(),
    )


def pixel_digest(values: Array, low: float, high: float) -> bytes:
    """Digest of the decoded values: equal for equal images, whatever file, byte order or integer width held them.

    Whole numbers are digested in the narrowest of uint8, int16, uint16 and int32 that holds them.
    """
    if values.dtype.kind in "bui":
        fits = (
            t for t in (np.uint8, np.int16, np.uint16, np.int32) if np.iinfo(t).min <= low and high <= np.iinfo(t).max
        )
        dtype: type[np.generic] = next(fits, np.int64)
    else:
        dtype = np.float32
    plain = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
    head = f"{np.dtype(dtype).name} {plain.shape}".encode()
    return hashlib.sha256(head + b"\0" + plain.tobytes()).digest()[:16]
