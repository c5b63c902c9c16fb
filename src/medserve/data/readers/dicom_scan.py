"""The quick way into an uncompressed DICOM file: find the few header elements that reading needs and skip the rest.

    found = scan(data, start, implicit=False, wanted=wanted)     # None: read it the thorough way

A CT slice has some 260 header elements; 30 matter here, and most are short ASCII text or one small number. Elements are
stepped over by their lengths. Anything unusual (undefined lengths, lookup tables, functional groups, an unknown VR, a
length beyond the end, text that is not ASCII) gives None, never a guess.
Source: DICOM PS3.5 section 7.1 (data elements), PS3.10 section 7.1 (file meta information).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any

_LONG_VR = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_SHORT_VR = set(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_TEXT_VR = {"CS", "DS", "IS", "LO", "SH", "UI"}
_PIXEL_DATA = 0x7FE00010
_SYNTAX = b"\x02\x00\x10\x00"
_u2, _u4, _head = (Struct(form).unpack_from for form in ("<H", "<I", "<HH2sH"))


def meta(data: bytes) -> tuple[str, int]:
    """Returns: transfer syntax of the file meta information ("" without one), and where the data set starts.

    Group 0002 is explicit little endian in every file.
    """
    at, syntax = 132 if data[128:132] == b"DICM" else 0, ""
    while data[at : at + 2] == b"\x02\x00" and at + 12 <= len(data):
        long = data[at + 4 : at + 6] in _LONG_VR
        value = at + (12 if long else 8)
        length = _u4(data, at + 8)[0] if long else _u2(data, at + 6)[0]
        if data[at : at + 4] == _SYNTAX:
            syntax = data[value : value + length].decode("latin-1").strip("\0 ")
        at = value + length
    return syntax, at


@dataclass(frozen=True, slots=True)
class Wanted:
    """keyword and VR of the elements to look for, by tag as one number."""

    elements: Mapping[int, tuple[str, str]]

    @classmethod
    def of(cls, keywords: Sequence[str]) -> "Wanted":
        from pydicom.datadict import dictionary_VR, tag_for_keyword

        tags = {int(tag_for_keyword(keyword) or 0): keyword for keyword in keywords}
        return cls({tag: (keyword, dictionary_VR(tag)) for tag, keyword in tags.items()})


def scan(data: bytes, start: int, *, implicit: bool, wanted: Wanted) -> tuple[dict[str, Any], int, int] | None:
    """
    Returns: values of the wanted elements by keyword: text, numbers of VR US, or lists of them; start and length of the
        pixel data. None: something unusual, such as a sequence that is wanted, or text that is not ASCII.
    """
    found: dict[str, Any] = {}
    elements, at, end = wanted.elements, start, len(data) - 12
    while at <= end:
        group, element, kind, length = _head(data, at)
        value = at + 8
        if implicit:
            length = _u4(data, at + 4)[0]
        elif kind in _LONG_VR:
            value, length = at + 12, _u4(data, at + 8)[0]
        elif kind not in _SHORT_VR:
            return None
        at = value + length
        if at > end + 12:
            return None
        tag = group << 16 | element
        if tag in elements:
            keyword, vr = elements[tag]
            plain = _plain(data[value:at], vr if implicit else kind.decode("ascii"))
            if plain is None:
                return None
            found[keyword] = plain
        elif tag == _PIXEL_DATA:
            return found, value, length
    return None


def _plain(value: bytes, vr: str) -> Any:
    """The value of a simple element; None for any other. Padding at the end is cut, as pydicom cuts it."""
    if vr == "US" and len(value) == 2:
        return _u2(value)[0]
    if vr in _TEXT_VR and value.isascii():
        text = value.decode("ascii").rstrip(" \0")
        return text.split("\\") if "\\" in text else text
    return None
