"""Files that this process does not open itself: a serving process hands them to sandboxed workers.

    with read_outside(crew): ...         # from here on `iter_pictures` and `read_wave` ask the crew for these files

PNG, JPEG and uncompressed DICOM stay: their size is known from the header, and their decoders are small. What is
decompressed by a foreign codec (compressed DICOM, TIFF, NIfTI) and every waveform file goes outside.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Protocol

from medserve.types import Picture, Wave

HERE = frozenset({"image/png", "image/jpeg"})
PLAIN_SYNTAXES = frozenset(
    {b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2"}
)  # DICOM PS3.5, A.1-A.3
_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI[\x00-\x40]\x00([0-9.]{1,64})")


class Outside(Protocol):
    """Who reads instead; raises as the readers do, and Refusal "decode-time", "decode-crashed"."""

    def pictures(self, data: bytes, *, name: str, max_pixels: int, volume: bool) -> Iterator[Picture]: ...

    def wave(self, data: bytes, *, name: str, media: str | None, unit: str | None) -> Wave: ...


_crew: Outside | None = None


@contextlib.contextmanager
def read_outside(crew: Outside) -> Iterator[None]:
    """For the whole process; the previous state comes back afterwards."""
    global _crew
    before, _crew = _crew, crew
    try:
        yield
    finally:
        _crew = before


def crew() -> Outside | None:
    return _crew


def goes_outside(kind: str, head: bytes) -> bool:
    """Whether an image of this media type is for the workers. head: its first bytes, 1,024 or more of them."""
    if kind in HERE:
        return False
    if kind == "application/dicom":
        syntax = _SYNTAX.search(head)
        return syntax is None or syntax[1] not in PLAIN_SYNTAXES
    return True
