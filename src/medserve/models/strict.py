"""Looks at the plain files of a package before anything else parses them: JSON, and the header of safetensors.

    value = read_json(data, "card.json")           # one value; no key twice, no NaN, no endless number, not too deep
    check_tensors(folder / "weights.safetensors")  # the header and the extents that it declares; no tensor is read

Parsers disagree on a key that stands twice, and a number of a megabyte or ten thousand brackets cost seconds or the
stack: such a file is refused, whoever signed it.
Source: RFC 8259, section 4; the safetensors format, https://huggingface.co/docs/safetensors.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from medserve.errors import BadPackage

MAX_DEPTH = 64
MAX_DIGITS = 40  # of one number; a float64 is written with 24 characters at most
MAX_HEADER_BYTES, MAX_TENSORS, MAX_AXES = 8 * 2**20, 20_000, 16
DTYPE_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4,
               "F64": 8, "I64": 8, "U64": 8}  # fmt: skip
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def read_json(data: bytes, name: str) -> Any:
    """The one value in `data`, UTF-8. Raises: BadPackage "package-json", naming the file."""
    levels = np.frombuffer(_TEXT.sub(b"", data), np.uint8)
    steps = np.isin(levels, (0x5B, 0x7B)).astype(np.int32) - np.isin(levels, (0x5D, 0x7D))  # [ { and ] }
    if len(steps) and int(np.cumsum(steps).max()) > MAX_DEPTH:
        raise _bad(name, f"it is nested more than {MAX_DEPTH} deep")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _bad(name, "a key stands in it twice")
        return found

    def number(text: str) -> int | float:
        if len(text) > MAX_DIGITS:
            raise _bad(name, "a number in it is too long")
        value = float(text) if set(text) & set(".eE") else int(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise _bad(name, "a number in it is too large")
        return value

    def word(text: str) -> Any:
        raise _bad(name, f"{text} is no number of JSON")

    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=once, parse_int=number, parse_float=number, parse_constant=word
        )
    except (ValueError, RecursionError) as error:
        raise _bad(name, "it is no JSON") from error


def check_tensors(path: Path) -> None:
    """Raises: BadPackage "package-tensors", naming the file: it is no safetensors, or its header lies."""
    name, size = path.name, path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) != 8 or not 2 <= length <= MAX_HEADER_BYTES or 8 + length > size:
            raise _lies(name, f"its header is missing or above {MAX_HEADER_BYTES} bytes")
        text = file.read(length)
    try:
        header = read_json(text, name)
    except BadPackage as error:
        raise _lies(name, error.message) from error
    if not isinstance(header, dict):
        raise _lies(name, "its header is no object")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise _lies(name, "its metadata is not plain text")
    if len(header) > MAX_TENSORS:
        raise _lies(name, f"it declares more than {MAX_TENSORS} tensors")
    at = 0
    for start, end in sorted(_extent(name, tensor) for tensor in header.values()):
        if start != at:
            raise _lies(name, "its tensors overlap or leave a gap")
        at = end
    if 8 + length + at != size:
        raise _lies(name, "its tensors do not end where the file ends")


def _extent(name: str, tensor: Any) -> tuple[int, int]:
    """(first byte, byte after the last) of one tensor's declaration, which must add up."""
    if not isinstance(tensor, dict) or set(tensor) != {"dtype", "shape", "data_offsets"}:
        raise _lies(name, "a tensor is not declared by dtype, shape and data_offsets")
    dtype, shape, offsets = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    whole = [*(shape if isinstance(shape, list) else [None]), *(offsets if isinstance(offsets, list) else [None])]
    if not all(type(number) is int and 0 <= number < 2**63 for number in whole) or len(offsets) != 2:
        raise _lies(name, "a shape or an offset is no whole number")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES or len(shape) > MAX_AXES:
        raise _lies(name, "a tensor has an unknown dtype or too many axes")
    if offsets[1] - offsets[0] != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise _lies(name, "a tensor's bytes are not those of its shape")
    return offsets[0], offsets[1]


def _bad(name: str, why: str) -> BadPackage:
    return BadPackage("package-json", f"{name} is not opened: {why}.", hint="Train again, or fetch the package again.")


def _lies(name: str, why: str) -> BadPackage:
    return BadPackage(
        "package-tensors", f"{name} is not opened: {why}.", hint="Train again, or fetch the package again."
    )
