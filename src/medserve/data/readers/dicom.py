"""DICOM images: the data set, its frames one by one, and the picture of each.

    for picture in read_dicom(data, limits, volume=False): ...
    for frame in stored_values(data): ...       # what the file stores, before any rescale

Every transfer syntax that the installed codecs decode; with or without preamble and file meta information; native
grey pixels are a view on the file's bytes. Sizes are checked in the header and again in each compressed frame before
it is decoded. Names, dates and identifiers stay out of `Picture.header`.
Source: DICOM PS3.3 C.7.6.3 (image pixel), PS3.5 section 8 and annex A, PS3.10 section 7.
"""

import io
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from medserve.data.readers.codecs import register
from medserve.data.readers.codestream import components, rows_and_columns
from medserve.data.readers.dicom_scan import Wanted, meta, scan
from medserve.data.readers.dicom_values import picture_of, positive, text
from medserve.data.readers.formats import READERS, Limits
from medserve.errors import Refusal
from medserve.types import Array, Picture

_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_RLE = "1.2.840.10008.1.2.5"
MOST_ITEMS = 65_536  # of all sequences and fragments
MOST_READS = 500_000  # of a header: two or three an element
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # (FFFE,E000), little and big endian
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_FACTS = [
    "SpecificCharacterSet", "Modality", "Manufacturer", "ManufacturerModelName", "BodyPartExamined", "ViewPosition",
    "KVP", "PatientID", "PixelSpacing", "ImagerPixelSpacing", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleIntercept", "RescaleSlope",
    "RescaleType", "ModalityLUTSequence", "VOILUTSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "PaletteColorLookupTableUID",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Opened:
    """A DICOM file whose header is understood.

    facts: the elements that reading needs, by keyword, completed where the file leaves them out.
    dataset: the same for pydicom's decoders and lookup tables; None where the plain `facts` are all there is.
    native: uncompressed 8 or 16 bit grey pixels, little endian, as they stand in the file; else None.
    """

    facts: dict[str, Any]
    dataset: Any
    syntax: Any
    native: memoryview | None


@READERS.register("application/dicom")
def read_dicom(data: bytes, limits: Limits, volume: bool) -> Iterator[Picture]:
    """Pictures of a DICOM file, one a frame. Raises: Refusal."""
    opened = open_dicom(data, limits)
    for index, frame in enumerate(frames_of(opened, limits)):
        yield picture_of(opened.facts, opened.dataset, frame, index, str(opened.syntax))


def stored_values(data: bytes, *, max_pixels: int = 64_000_000) -> Iterator[Array]:
    """The frames as decoded: (H, W), or (H, W, 3) RGB; palette indices stay indices; no rescale, no inversion.

    Raises: Refusal, and whatever pydicom raises on a damaged file.
    """
    limits = Limits(max_pixels, max_pixels)
    return frames_of(open_dicom(data, limits), limits)


def open_dicom(data: bytes, limits: Limits) -> Opened:
    """Raises: Refusal `file-truncated`, `image-too-large`, `dicom-no-pixels`, `dicom-bad-header`."""
    register()
    syntax, start = meta(data)
    if syntax == _DEFLATED:
        data, start, syntax = _inflate(data[start:], limits), 0, _EXPLICIT
    return (_quickly(data, syntax, start) if syntax in (_IMPLICIT, _EXPLICIT) else None) or _thoroughly(data, syntax)


@cache
def _wanted() -> Wanted:
    return Wanted.of(_FACTS)


def _quickly(data: bytes, syntax: str, start: int) -> Opened | None:
    """Uncompressed grey of 8 or 16 bits with a plain header; None for anything else."""
    from pydicom.uid import UID

    found = scan(data, start, implicit=syntax == _IMPLICIT, wanted=_wanted())
    if found is None or not found[2]:
        return None
    header, at, length = found
    facts = _complete(header, length)
    if facts["SamplesPerPixel"] != 1 or facts["BitsAllocated"] not in (8, 16):
        return None
    return Opened(facts, None, UID(syntax), memoryview(data)[at : at + length])


def _thoroughly(data: bytes, syntax: str) -> Opened:
    """Any DICOM file, as pydicom reads it."""
    from pydicom import dcmread
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    if max(map(data.count, _ITEMS)) > MOST_ITEMS:
        raise _endless(f"more than {MOST_ITEMS} items")
    tags: list[Any] = [*_FACTS, *_PIXELS]
    dataset: Any = dcmread(_Bounded(data), force=True, specific_tags=tags)
    kind = next((tag for tag in _PIXELS if tag in dataset), None)
    if kind is None:
        modality = text(dataset, "Modality") or "unknown"
        raise Refusal(
            "dicom-no-pixels",
            f"The DICOM object holds no image (modality {modality}): a report, a plan, a waveform or a directory.",
            hint="Send the image object itself.",
        )
    element = dataset[kind]
    if not element.value:
        raise Refusal("file-truncated", "The pixel data of the DICOM file are empty.", hint="Fetch the file again.")
    if not syntax:
        implicit, little = dataset.original_encoding
        syntax = _IMPLICIT if implicit else _EXPLICIT if little else _BIG_ENDIAN
    uid = UID(syntax)
    if syntax in (_IMPLICIT, _EXPLICIT, _BIG_ENDIAN) and element.is_undefined_length:
        raise Refusal("dicom-bad-header", "The pixel data are compressed, but the transfer syntax says they are not.")
    tags_found = [tag for tag in dataset.keys() if tag.group != 0x7FE0]  # noqa: SIM118  (a data set is no dict)
    facts = {found.keyword: found.value for found in map(dataset.__getitem__, tags_found)}
    facts = _complete(facts, len(element.value), {"PixelData": 0, "FloatPixelData": 32}.get(kind, 64))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid
    for keyword, value in facts.items():
        if keyword not in dataset:
            setattr(dataset, keyword, value)
    grey = kind == "PixelData" and int(facts["SamplesPerPixel"]) == 1 and int(facts["BitsAllocated"]) in (8, 16)
    native = memoryview(element.value) if grey and syntax in (_IMPLICIT, _EXPLICIT) else None
    return Opened(facts, dataset, uid, native)


class _Bounded(io.BytesIO):
    """A file that is read from a limited number of times, whatever its header makes of itself."""

    left = MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise _endless("far too many elements")
        return super().read(size)


def _endless(found: str) -> Refusal:
    return Refusal("dicom-bad-header", f"The DICOM file has {found}.", hint="Export the image again.")


def _promised(header: bytes) -> int:
    """Bytes of pixels that the beginning of a data set promises; 0 where it cannot be read."""
    from pydicom import dcmread

    names: list[Any] = ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated"]
    try:
        found = dcmread(_Bounded(header), force=True, stop_before_pixels=True, specific_tags=names)
        facts = {name: found.get(name) for name in names}
    except Exception:  # whatever pydicom makes of a cut header
        return 0
    rows, columns, *others = (positive(facts, name) for name in names)
    return (rows or 0) * (columns or 0) * math.prod(n or 1 for n in others[:2]) * (others[2] or 16) // 8


def _inflate(data: bytes, limits: Limits) -> bytes:
    """A deflated data set as plain explicit little endian; never more than the limits allow."""
    inflater = zlib.decompressobj(-15)
    try:
        plain = inflater.decompress(data, 2**20)
        room = min(_promised(plain), 8 * limits.pixels) + 2**24
        plain += inflater.decompress(inflater.unconsumed_tail, room)
    except zlib.error as error:
        raise Refusal("file-truncated", "The deflated DICOM data set is damaged or cut short.") from error
    if inflater.unconsumed_tail:
        raise limits.refusal("The deflated data set has no end")
    if not inflater.eof:
        raise Refusal("file-truncated", "The deflated DICOM data set is cut short.", hint="Fetch the file again.")
    return plain


def _complete(facts: dict[str, Any], pixel_bytes: int, default_bits: int = 0) -> dict[str, Any]:
    """A missing image pixel attribute takes the value that follows from the others. Raises: Refusal."""
    rows, columns = positive(facts, "Rows"), positive(facts, "Columns")
    if not rows or not columns:
        raise Refusal("dicom-bad-header", "The DICOM image states no Rows or Columns.", hint="Export it again.")
    samples = positive(facts, "SamplesPerPixel") or 1
    room = pixel_bytes // (rows * columns * samples * (positive(facts, "NumberOfFrames") or 1))
    bits = positive(facts, "BitsAllocated") or default_bits or 8 * min(max(room, 1), 2)
    defaults = {
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "MONOCHROME2" if samples == 1 else "RGB",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": 0,
    } | ({"PlanarConfiguration": 0} if samples > 1 else {})
    for keyword, value in defaults.items():
        if facts.get(keyword) in (None, ""):
            facts[keyword] = value
    if (positive(facts, "BitsStored") or 0) > (positive(facts, "BitsAllocated") or 0):
        raise Refusal(
            "dicom-bad-header", "The DICOM image stores more bits than it allocates.", hint="Export it again."
        )
    return facts


def frames_of(opened: Opened, limits: Limits) -> Iterator[Array]:
    """Stored frames, decoded when asked for. Raises: Refusal `image-too-large`, `file-truncated`, `codec-missing`."""
    facts = opened.facts
    rows, columns = positive(facts, "Rows"), positive(facts, "Columns")
    frames = positive(facts, "NumberOfFrames") or 1
    limits.check(rows * columns, frames)
    if opened.native is not None:
        _check_length(facts, rows * columns * frames, len(opened.native))
        return _native_grey(facts, opened.native, rows, columns, frames)
    decoder = _decoder(opened.syntax)
    if opened.syntax.is_encapsulated:
        _check_frames(opened, rows, columns, limits)
    else:
        tag = next(tag for tag in _PIXELS if tag in opened.dataset)
        _check_length(facts, rows * columns * frames, len(opened.dataset[tag].value))
    return (frame for frame, _ in decoder.iter_array(opened.dataset))


def _decoder(syntax: Any) -> Any:
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(syntax)
        if decoder.is_available:
            return decoder
    except NotImplementedError:
        pass
    raise Refusal(
        "codec-missing",
        f"No codec for DICOM transfer syntax {syntax.name} ({syntax}) is installed.",
        hint="Run: pip install 'medserve[imaging]'; or convert the file to Explicit VR Little Endian.",
    )


def _native_grey(facts: dict[str, Any], data: memoryview, rows: int, columns: int, frames: int) -> Iterator[Array]:
    """Views on the file's own bytes; unused high bits are cleared, or filled with the sign, as pydicom does."""
    allocated, stored = int(facts["BitsAllocated"]), int(facts["BitsStored"])
    signed = bool(facts["PixelRepresentation"])
    dtype = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    size, spare = rows * columns, allocated - stored
    low, high = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
    for index in range(frames):
        frame = np.frombuffer(data, dtype, size, index * size * dtype.itemsize).reshape(rows, columns)
        if 0 < spare < allocated and (frame.max() > high or frame.min() < low):
            frame = (frame << spare) >> spare
        yield frame


def _check_length(facts: dict[str, Any], pixels: int, found: int) -> None:
    """Uncompressed pixel data must be as long as the header promises."""
    bits = pixels * int(facts["SamplesPerPixel"]) * int(facts["BitsAllocated"])
    if facts["PhotometricInterpretation"] == "YBR_FULL_422":
        bits = bits * 2 // 3
    promised = (bits + 7) // 8
    if found < promised:
        raise Refusal(
            "file-truncated",
            f"The DICOM file holds {found} bytes of pixels; its header promises {promised}.",
            hint="Fetch the file again.",
        )


def _check_frames(opened: Opened, rows: int, columns: int, limits: Limits) -> None:
    """Every compressed frame is whole, says the same size as the header, and there are not too many of them."""
    from pydicom.encaps import generate_frames

    facts, offsets = opened.facts, None
    if facts.get("ExtendedOffsetTable") and facts.get("ExtendedOffsetTableLengths"):
        offsets = (facts["ExtendedOffsetTable"], facts["ExtendedOffsetTableLengths"])
    frames, count = positive(facts, "NumberOfFrames") or 1, 0
    room = rows * columns * int(facts["SamplesPerPixel"]) * int(facts["BitsAllocated"]) // 8
    for frame in generate_frames(opened.dataset.PixelData, number_of_frames=frames, extended_offsets=offsets):
        count += 1
        limits.check(rows * columns, max(count, frames))
        if opened.syntax == _RLE and len(frame) > 2 * room + 2**16:  # the worst of PackBits
            raise _endless(f"a run-length frame of {len(frame)} bytes for {room} bytes of pixels")
        if components(frame) > 4:
            raise _endless(f"a JPEG 2000 image of {components(frame)} components")
        if frame[:2] == b"\xff\xd8" and not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
            # without its end marker a JPEG was cut; some decoders would paint the rest grey and say nothing
            raise Refusal("file-truncated", "A compressed frame of the DICOM file ends early.", hint="Fetch it again.")
        if frame[:2] == b"\xff\xd8":
            limits.check_jpeg(frame)
        found = rows_and_columns(frame)
        if found is not None and found != (rows, columns):
            limits.check(found[0] * found[1], frames)
            raise Refusal(
                "dicom-bad-header",
                f"The header says {rows} x {columns} pixels, its compressed image {found[0]} x {found[1]}.",
                hint="Export the image again.",
            )
    if count < frames:
        raise Refusal("file-truncated", f"The DICOM file holds {count} frames; its header promises {frames}.")
