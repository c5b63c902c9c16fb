"""DICOM images: the data set, its frames one by one, and the picture of each.

    for picture in read_dicom(data, limits, volume=False): ...
    for frame in stored_values(data): ...       # what the file stores, before any rescale

Every transfer syntax that the installed codecs decode; with or without preamble and file meta information; native
grey pixels are a view on the file's bytes. Sizes are checked in the header and again in each compressed frame before
it is decoded. Names, dates and identifiers stay out of `Picture.header`.
Source: DICOM PS3.3 C.7.6.3 (image pixel), PS3.5 section 8 and annex A, PS3.10 section 7.
"""

import io
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from medserve.data.readers.codecs import register
from medserve.data.readers.codestream import rows_and_columns
from medserve.data.readers.dicom_values import picture_of, positive, text
from medserve.data.readers.formats import READERS, Limits
from medserve.errors import Refusal
from medserve.types import Array, Picture

_DEFLATED = "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", _DEFLATED}
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_TAGS: list[Any] = [
    "SOPClassUID", "Modality", "Manufacturer", "ManufacturerModelName", "BodyPartExamined", "ViewPosition", "KVP",
    "PatientID", "PixelSpacing", "ImagerPixelSpacing", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleIntercept", "RescaleSlope",
    "RescaleType", "ModalityLUTSequence", "VOILUTSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "PaletteColorLookupTableUID",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "SliceThickness", *_PIXELS,
]  # fmt: skip


@READERS.register("application/dicom")
def read_dicom(data: bytes, limits: Limits, volume: bool) -> Iterator[Picture]:
    """Pictures of a DICOM file, one a frame. Raises: Refusal."""
    dataset = open_dataset(data, limits)
    for index, frame in enumerate(frames_of(dataset, limits)):
        yield picture_of(dataset, frame, index)


def stored_values(data: bytes, *, max_pixels: int = 64_000_000) -> Iterator[Array]:
    """The frames as decoded: (H, W), or (H, W, 3) RGB; palette indices stay indices; no rescale, no inversion.

    Raises: Refusal, and whatever pydicom raises on a damaged file.
    """
    limits = Limits(max_pixels, max_pixels)
    return frames_of(open_dataset(data, limits), limits)


def open_dataset(data: bytes, limits: Limits) -> Any:
    """The header elements that reading needs, with sensible values where the file leaves them out.

    Returns: a pydicom `FileDataset` whose `file_meta.TransferSyntaxUID` is set.
    Raises: Refusal `file-truncated`, `image-too-large`, `dicom-no-pixels`, `dicom-bad-header`.
    """
    from pydicom import dcmread
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    register()
    if _meta_syntax(data) == _DEFLATED:
        data = _inflate(data, limits)
    dataset: Any = dcmread(io.BytesIO(data), force=True, specific_tags=_TAGS)
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = UID(
            "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little else _BIG_ENDIAN
        )
    if not any(tag in dataset for tag in _PIXELS):
        kind = text(dataset, "Modality") or "unknown"
        raise Refusal(
            "dicom-no-pixels",
            f"The DICOM object holds no image (modality {kind}): a report, a plan, a waveform or a directory.",
            hint="Send the image object itself.",
        )
    if not dataset[next(tag for tag in _PIXELS if tag in dataset)].value:
        raise Refusal("file-truncated", "The pixel data of the DICOM file are empty.", hint="Fetch the file again.")
    _fill_in(dataset)
    return dataset


def _meta_syntax(data: bytes) -> str:
    """Transfer syntax of the file meta information, "" without one. Group 0002 is always explicit little endian."""
    at = 132 if data[128:132] == b"DICM" else 0
    while data[at : at + 2] == b"\x02\x00":
        long = data[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        length = int.from_bytes(data[at + 8 : at + 12] if long else data[at + 6 : at + 8], "little")
        value = at + (12 if long else 8)
        if data[at + 2 : at + 4] == b"\x10\x00":
            return data[value : value + length].decode("latin-1").strip("\0 ")
        at = value + length
    return ""


def _meta_end(data: bytes) -> int:
    at = 132 if data[128:132] == b"DICM" else 0
    while data[at : at + 2] == b"\x02\x00":
        long = data[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        length = int.from_bytes(data[at + 8 : at + 12] if long else data[at + 6 : at + 8], "little")
        at += (12 if long else 8) + length
    return at


def _inflate(data: bytes, limits: Limits) -> bytes:
    """A deflated file as plain explicit little endian, without meta information; never more than the limits allow."""
    most = 8 * limits.pixels + 2**24
    inflater = zlib.decompressobj(-15)
    try:
        plain = inflater.decompress(data[_meta_end(data) :], most)
    except zlib.error as error:
        raise Refusal("file-truncated", "The deflated DICOM data set is damaged or cut short.") from error
    if inflater.unconsumed_tail:
        limits.check(limits.pixels + 1)
    if not inflater.eof:
        raise Refusal("file-truncated", "The deflated DICOM data set is cut short.", hint="Fetch the file again.")
    return plain


def _fill_in(dataset: Any) -> None:
    """Missing image pixel attributes take the value that follows from the others; sizes must be there."""
    for tag in ("Rows", "Columns"):
        if not positive(dataset, tag):
            raise Refusal("dicom-bad-header", f"The DICOM image states no {tag}.", hint="Export the image again.")
    samples = positive(dataset, "SamplesPerPixel") or 1
    bits = positive(dataset, "BitsAllocated") or (
        32 if "FloatPixelData" in dataset else 64 if "DoubleFloatPixelData" in dataset else 0
    )
    if not bits:
        size = positive(dataset, "Rows") * positive(dataset, "Columns") * samples
        bits = 8 if len(dataset.PixelData) < 2 * size else 16
    defaults = {
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "MONOCHROME2" if samples == 1 else "RGB",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": 0,
    } | ({"PlanarConfiguration": 0} if samples > 1 else {})
    for tag, value in defaults.items():
        if dataset.get(tag) is None or dataset.get(tag) == "":
            setattr(dataset, tag, value)


def frames_of(dataset: Any, limits: Limits) -> Iterator[Array]:
    """Stored frames, decoded when asked for. Raises: Refusal `image-too-large`, `file-truncated`, `codec-missing`."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    frames = positive(dataset, "NumberOfFrames") or 1
    limits.check(rows * columns, frames)
    syntax = dataset.file_meta.TransferSyntaxUID
    decoder = _decoder(syntax)
    if syntax.is_encapsulated:
        _check_frames(dataset, rows, columns, limits)
    else:
        _check_length(dataset, rows * columns * frames)
        if syntax in _NATIVE and int(dataset.SamplesPerPixel) == 1 and int(dataset.BitsAllocated) in (8, 16):
            return _native_grey(dataset, rows, columns, frames)
    return (frame for frame, _ in decoder.iter_array(dataset))


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


def _native_grey(dataset: Any, rows: int, columns: int, frames: int) -> Iterator[Array]:
    """Views on the file's own bytes, unused high bits cleared as pydicom does."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    signed = bool(dataset.PixelRepresentation)
    dtype = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    data, size = dataset.PixelData, rows * columns
    for index in range(frames):
        frame = np.frombuffer(data, dtype, size, index * size * dtype.itemsize).reshape(rows, columns)
        if 0 < stored < allocated:
            spare = allocated - stored
            frame = (frame << spare) >> spare if signed else frame & dtype.type((1 << stored) - 1)
        yield frame


def _check_length(dataset: Any, pixels: int) -> None:
    """Uncompressed pixel data must be as long as the header promises."""
    bits = pixels * int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated)
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        bits = bits * 2 // 3
    promised = (bits + 7) // 8
    element = dataset[next(tag for tag in _PIXELS if tag in dataset)]
    if element.is_undefined_length:
        raise Refusal("dicom-bad-header", "The pixel data are compressed, but the transfer syntax says they are not.")
    found = len(element.value)
    if found < promised:
        raise Refusal(
            "file-truncated",
            f"The DICOM file holds {found} bytes of pixels; its header promises {promised}.",
            hint="Fetch the file again.",
        )


def _check_frames(dataset: Any, rows: int, columns: int, limits: Limits) -> None:
    """Every compressed frame says the same size as the header, and there are no more frames than the limits allow."""
    from pydicom.encaps import generate_frames

    offsets = None
    if dataset.get("ExtendedOffsetTable") and dataset.get("ExtendedOffsetTableLengths"):
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    frames = positive(dataset, "NumberOfFrames") or 1
    count = 0
    for frame in generate_frames(dataset.PixelData, number_of_frames=frames, extended_offsets=offsets):
        count += 1
        limits.check(rows * columns, max(count, frames))
        if frame[:2] == b"\xff\xd8" and not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
            # without its end marker a JPEG was cut; some decoders would paint the rest grey and say nothing
            raise Refusal("file-truncated", "A compressed frame of the DICOM file ends early.", hint="Fetch it again.")
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
