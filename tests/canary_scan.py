"""Searches raw bytes of files for planted strings, in every form in which they may stand there.

found([home, temp], texts)        # [] where none of them is on disk
"""

import base64
import urllib.parse
from collections.abc import Iterable
from pathlib import Path


def forms(text: str) -> dict[str, list[bytes]]:
    """How a string may stand in a file; base64 at each of its three offsets, without the ends that depend on
    neighbours."""
    raw = text.encode()
    return {
        "utf-8": [raw],
        "utf-16le": [text.encode("utf-16le")],
        "utf-16be": [text.encode("utf-16be")],
        "utf-32": [text.encode("utf-32le"), text.encode("utf-32be")],
        "base64": [base64.b64encode(bytes(shift) + raw)[4 if shift else 0 : -4] for shift in range(3)],
        "hex": [raw.hex().encode(), raw.hex().upper().encode()],
        "url": [urllib.parse.quote(text).encode()],
        "gb18030": [text.encode("gb18030")],
        "reversed": [raw[::-1], text[::-1].encode()],
    }


def found(roots: Path | Iterable[Path], texts: list[str]) -> list[tuple[str, str, str]]:
    """(file, form, text) of every string that any file under these folders holds, in its bytes or its name."""
    files = [path for root in ([roots] if isinstance(roots, Path) else roots) for path in root.rglob("*")]
    by_start: dict[bytes, list[tuple[str, str, bytes]]] = {}  # most needles begin alike: one look for all of them
    for text in texts:
        for form, needles in forms(text).items():
            for needle in needles:
                by_start.setdefault(needle[:6], []).append((form, text, needle))
    hits = []
    for path in files:
        blob = path.name.encode()
        if path.is_file():
            try:
                blob += b"\0" + path.read_bytes()
            except FileNotFoundError:  # a live service removes its work files
                continue
        for start, sought in by_start.items():
            if start in blob:
                hits += [(path.name, form, text) for form, text, needle in sought if needle in blob]
    return hits
