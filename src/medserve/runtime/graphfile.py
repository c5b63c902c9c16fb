"""A look at an ONNX file before any engine parses it: its size, where its tensors live, whose operators it names, and
whether its tensors are all that they declare.

    data = read_graph(package.path("graph.onnx"))     # bytes that are safe to hand to the engine

ONNX may point at other files for its tensors ("external data"), nest graphs, or call operators of foreign libraries.
A package holds one self-contained file, so anything that points outside is refused; so are functions of its own and
graphs for training, which MedServe never writes and whose expansion is a bomb, and tensors of text or of more values
than they bring. The walk reads only the tags and lengths of the protobuf wire format and jumps over the weights.
Source: onnx.proto3 (field numbers), protobuf encoding guide (tag = field << 3 | wire type).
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medserve.errors import BadPackage

MAX_GRAPH_BYTES = 2**31 - 1  # protobuf's own limit for one message
MAX_DEPTH = 16
MAX_NODES = 200_000
MAX_ATTRIBUTES = 1_000_000
MAX_AXES = 16
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})  # operators that the engine ships; none of a foreign library

# message -> field number -> message of that field; every other field is jumped over
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "tensor": {},
}
_DOMAIN = 7  # of a node
# Numbers and short words of an attribute stand one by one, each with its tag; a forest holds millions: jumped at once.
_WORDS = b"|".join(b"%s.{%d}" % (re.escape(bytes([size])), size) for size in range(16))
_LISTS = re.compile(rb"(?:\x3d.{4}|\x40[\x80-\xff]{0,8}[\x00-\x7f]|\x4a(?:" + _WORDS + rb"))++", re.DOTALL)
_DIMS, _DTYPE, _STRINGS, _RAW = 1, 2, 6, 9  # of a tensor
_TYPED = {4: 4, 5: 0, 7: 0, 10: 8, 11: 0}  # fields of typed values: bytes of each, 0 for varints
_COMPLEX = (14, 15)
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
         17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8}  # of a value, by data type; no text (8)  # fmt: skip


def read_graph(path: Path, *, max_bytes: int = MAX_GRAPH_BYTES) -> bytes:
    """The bytes of one self-contained ONNX file.

    Raises: BadPackage "graph-missing", "graph-too-large", "graph-external-data", "graph-operators", "graph-tensors",
        "graph-broken".
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise BadPackage("graph-too-large", f"{path.name} has {size} bytes; at most {max_bytes} are read.")
        data = path.read_bytes()
    except OSError as error:
        raise BadPackage(
            "graph-missing",
            f"Cannot read {path.name}: {error.strerror}.",
            hint="Fetch the whole package again.",
        ) from error
    check_graph(data)
    return data


def check_graph(data: bytes) -> None:
    """Raises: BadPackage: the graph points outside itself, names foreign operators, lies, or is no ONNX."""
    view, nodes, graphs, attributes = memoryview(data), 0, 0, 0
    todo = [("model", view, 0)]
    while todo:
        kind, message, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise _broken("its graphs are nested too deeply")
        nodes += kind == "node"
        graphs += kind == "graph"
        attributes += kind == "attribute"
        if nodes > MAX_NODES or attributes > MAX_ATTRIBUTES:
            raise _broken(f"it has more than {MAX_NODES} nodes, or {MAX_ATTRIBUTES} attributes")
        if kind in ("function", "training"):
            raise BadPackage(
                "graph-operators",
                f"The graph brings {'functions' if kind == 'function' else 'training steps'} of its own.",
                hint="Export the model with standard operators only.",
            )
        if kind == "sparse":
            raise _lies("it is sparse")
        if kind == "tensor":
            _check_tensor(message)
            continue
        inner = _FIELDS[kind]
        for field, value in _fields(message, lists=kind == "attribute"):
            if kind == "node" and field == _DOMAIN and bytes(_message(value)).decode("utf-8", "replace") not in DOMAINS:
                raise BadPackage(
                    "graph-operators",
                    "The graph calls operators that are not part of standard ONNX.",
                    hint="Export the model with standard operators only.",
                )
            if field in inner:
                todo.append((inner[field], _message(value), depth + (inner[field] == "graph")))
    if graphs == 0:
        raise _broken("it holds no graph")


def _check_tensor(message: memoryview) -> None:
    """A tensor holds as many values as its dims say, all of them numbers, all of them here."""
    dims: list[int] = []
    dtype = raw = typed = 0
    for field, value in _fields(message):
        if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0):
            raise BadPackage(
                "graph-external-data",
                "The graph keeps tensors in other files; a package holds one self-contained graph.onnx.",
                hint="Export the model again with its weights inside.",
            )
        if field == _DIMS:
            dims += [value] if isinstance(value, int) else _packed(value)
        elif field == _DTYPE:
            dtype = value if isinstance(value, int) else 0
        elif field == _STRINGS:
            raise _lies("it holds text")
        elif field == _RAW:
            raw += len(_message(value)) * 8
        elif field in _TYPED:
            typed += 1 if isinstance(value, int) else _count(field, value)
    if dtype not in _BITS:
        raise _lies("its values are no numbers")
    if len(dims) > MAX_AXES or not all(0 <= size < 2**40 for size in dims):
        raise _lies("its sizes are not those of a tensor")
    bits = _BITS[dtype]
    given = raw + typed * (bits // 2 if dtype in _COMPLEX else max(bits, 8))  # small ones share a number of 8 bits
    if math.prod(dims) * bits > given:
        raise _lies("it declares more values than it brings")


def _packed(value: memoryview) -> list[int]:
    numbers: list[int] = []
    at = 0
    while at < len(value):
        if len(numbers) > MAX_AXES:
            raise _lies("its sizes are not those of a tensor")
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _count(field: int, value: memoryview) -> int:
    """How many values a packed field brings."""
    if width := _TYPED[field]:
        return len(value) // width
    return int(np.count_nonzero(np.frombuffer(value, np.uint8) < 0x80))  # each varint ends with such a byte


def _fields(message: memoryview, *, lists: bool = False) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, varint or bytes) of one message, in order. lists: without the lists of an attribute."""
    at, end = 0, len(message)
    while at < end:
        if lists and (run := _LISTS.match(message, at)):
            at = run.end()
            continue
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise _broken("its encoding is unknown")
        if at + length > end:
            raise _broken("it ends in the middle of a field")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise _broken("it ends in the middle of a number")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _broken("a field has the wrong type")
    return value


def _lies(why: str) -> BadPackage:
    return BadPackage("graph-tensors", f"A tensor of graph.onnx is not opened: {why}.", hint="Export the model again.")


def _broken(why: str) -> BadPackage:
    return BadPackage(
        "graph-broken", f"graph.onnx is not a readable ONNX file: {why}.", hint="Fetch the whole package again."
    )
