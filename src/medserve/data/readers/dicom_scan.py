"""The quick way into an uncompressed DICOM file: find the few header elements that reading needs and skip the rest.

    found = scan(data, start, implicit=False, wanted=wanted)     # None: read it the thorough way

A CT slice has some 260 header elements; 30 matter here. Elements are stepped over by their lengths, the wanted ones are
copied out for pydicom to understand. Anything unusual (sequences of undefined length, an unknown VR, a length beyond
the end) gives None, never a guess. Source: DICOM PS3.5 section 7.1 (data elements), PS3.10 section 7.1 (file meta).
"""

from collections.abc import Set
from struct import Struct

_LONG_VR = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_SHORT_VR = set(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_SYNTAX = b"\x02\x00\x10\x00"
_u2, _u4 = Struct("<H").unpack_from, Struct("<I").unpack_from


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


def scan(data: bytes, start: int, *, implicit: bool, wanted: Set[bytes]) -> tuple[bytes, int, int] | None:
    """
    Args:
        wanted: tags as four little-endian bytes.

    Returns: the wanted elements before the pixel data, joined; start and length of the pixel data. None: unusual.
    """
    parts: list[bytes] = []
    at, end = start, len(data)
    while at + 12 <= end:
        tag = data[at : at + 4]
        if implicit:
            value, length = at + 8, _u4(data, at + 4)[0]
        else:
            kind = data[at + 4 : at + 6]
            if kind in _SHORT_VR:
                value, length = at + 8, _u2(data, at + 6)[0]
            elif kind in _LONG_VR:
                value, length = at + 12, _u4(data, at + 8)[0]
            else:
                return None
        stop = value + length
        if length == 0xFFFFFFFF or stop > end:
            return None
        if tag == _PIXEL_DATA:
            return b"".join(parts), value, length
        if tag in wanted:
            parts.append(data[at:stop])
        at = stop
    return None
