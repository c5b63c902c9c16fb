"""How large a compressed frame says it is, read from its first markers without decoding it.

    rows_and_columns(frame)          # (512, 512), or None where the bytes do not say

A DICOM header may say 10 x 10 while the JPEG inside it says 65535 x 65535; a decoder believes the JPEG.
Source: ITU-T T.81 B.2.2 (SOFn), T.87 C.2.2 (SOF55), T.800 A.5.1 (SIZ).
"""

import re

_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # within a scan too: there 0xFF is followed by less, or RSTn
MOST_SEGMENTS = 20_000
_NO_LENGTH = {0x01, 0xD8, *range(0xD0, 0xD8)}  # TEM, SOI, RSTn: markers that stand alone
_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOFn and SOF55, not DHT, JPG, DAC
_J2K = b"\xff\x4f\xff\x51"  # SOC, SIZ


def jpeg_scans(data: bytes) -> int | None:
    """How often a JPEG goes over its pixels; None: it has more than `MOST_SEGMENTS` markers."""
    at, scans = 2, 0
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or data[found.start() + 1] == 0xD9:
            return scans
        marker, at = data[found.start() + 1], found.end()
        scans += marker == 0xDA
        if marker not in _NO_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    return None


def components(frame: bytes) -> int:
    """Components that a JPEG 2000 codestream declares; 0: it is none."""
    start = frame.find(_J2K, 0, 4096)
    return int.from_bytes(frame[start + 40 : start + 42], "big") if start >= 0 else 0


def rows_and_columns(frame: bytes) -> tuple[int, int] | None:
    """Source: see above. A JP2 wrapper is skipped: its codestream starts within the first 4 KiB."""
    start = frame.find(_J2K, 0, 4096)
    if start >= 0:
        sizes = [int.from_bytes(frame[start + at : start + at + 4], "big") for at in (8, 12, 16, 20)]
        width, height, left, top = sizes
        return height - top, width - left
    at = 2 if frame[:2] == b"\xff\xd8" else len(frame)
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _NO_LENGTH:
            at += 2
        elif marker in _FRAME:
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
