"""What kinds of image file there are, how their first bytes look, and how large a picture may be.

    sniff(head)                  # "image/png"
    READERS["image/png"]         # the function that reads it

The name of a file is never believed: only its bytes are.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from medserve.catalog import Catalog
from medserve.data.readers.codestream import MOST_SEGMENTS, jpeg_scans, rows_and_columns
from medserve.errors import Refusal
from medserve.types import Picture

USUAL_SCANS, MOST_SCANS = 16, 64  # of a progressive JPEG; encoders write some ten
SCANNED = 4  # a JPEG of more scans than usual may go over this many times `Limits.pixels` pixels
HEAD_BYTES = 1024  # enough for `sniff`


@dataclass(frozen=True, slots=True)
class Limits:
    """pixels: most pixels of one picture or volume. total: most pixels of all pictures of one file."""

    pixels: int
    total: int

    def check(self, pixels: int, pictures: int = 1) -> None:
        """Refuses a *declared* size, before anything is decoded.

        Raises: Refusal `image-too-large`.
        """
        if pixels > self.pixels or pixels * pictures > self.total:
            raise self.refusal(f"The file declares {pictures} x {pixels} pixels")

    def check_jpeg(self, data: bytes) -> None:
        """Refuses a JPEG of very many segments, or one that paints a large picture over and over.

        Raises: Refusal `image-too-large`, `file-unreadable`.
        """
        scans = jpeg_scans(data)
        if scans is None:
            raise too_many("segments", MOST_SEGMENTS)
        if scans > USUAL_SCANS:
            rows, columns = rows_and_columns(data) or (0, 0)
            if scans > MOST_SCANS or scans * rows * columns > SCANNED * self.pixels:
                raise self.refusal(f"The JPEG goes over its pixels {scans} times")

    def refusal(self, found: str) -> Refusal:
        """`image-too-large`, with what was found and what is allowed."""
        return Refusal(
            "image-too-large",
            f"{found}; at most {self.pixels} a picture and {self.total} in all are read.",
            hint="Send a smaller image, or raise the limit if the file is trusted.",
        )


def too_many(parts: str, most: int) -> Refusal:
    return Refusal("file-unreadable", f"The file has more than {most} {parts}.", hint="Export it again.")


Reader = Callable[[bytes, Limits, bool], Iterator[Picture]]  # (data, limits, volume) -> pictures, decoded one by one
READERS: Catalog[Reader] = Catalog("reader")

_VR = {
    a + b
    for a, b in zip(*[iter("AEASATCSDADSDTFDFLISLOLTOBODOFOLOVOWPNSHSLSQSSSTSVTMUCUIULUNURUSUTUV")] * 2, strict=True)
}


def sniff(head: bytes) -> str:
    """The media type that the first `HEAD_BYTES` bytes show, "" when they show none that we read."""
    if head[128:132] == b"DICM":  # first: the preamble may hold the header of another format
        return "application/dicom"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "image/tiff"
    plain = _first_inflated(head) if head[:2] == b"\x1f\x8b" else head
    if plain[344:348] in (b"n+1\0", b"ni1\0") or plain[4:8] in (b"n+2\0", b"ni2\0"):
        return "application/x-nifti"
    return "application/dicom" if _looks_like_bare_dicom(head) else ""


def _first_inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(head, 540)
    except zlib.error:
        return b""


def _looks_like_bare_dicom(head: bytes) -> bool:
    """A data set without preamble: it starts with an element of group 0002 or 0008, in either byte order."""
    for order in ("little", "big"):
        group, element = int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)  # type: ignore[arg-type]
        if group not in (0x0002, 0x0008) or element > 0x0120:
            continue
        explicit = head[4:6].decode("latin-1") in _VR
        length = int.from_bytes(head[4:8], order)  # type: ignore[arg-type]
        if explicit or (order == "little" and length <= 128 and len(head) > 8 + length):
            return True
    return False
