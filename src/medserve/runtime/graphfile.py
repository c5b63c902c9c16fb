"""A look at an ONNX file before any engine parses it: its size, where its tensors live, whose operators it names.

    data = read_graph(package.path("graph.onnx"))     # bytes that are safe to hand to the engine

ONNX may point at other files for its tensors ("external data"), nest graphs, or call operators of foreign libraries.
A package holds one self-contained file, so anything that points outside is refused. The walk reads only the tags and
lengths of the protobuf wire format and jumps over the weights.
Source: onnx.proto3 (field numbers), protobuf encoding guide (tag = field << 3 | wire type).
"""

from collections.abc import Iterator
from pathlib import Path

from medserve.errors import BadPackage

MAX_GRAPH_BYTES = 2**31 - 1  # protobuf's own limit for one message
MAX_DEPTH = 16
MAX_NODES = 200_000
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})  # operators that the engine ships; none of a foreign library

# message -> field number -> message of that field; every other field is jumped over
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION, _DOMAIN = 13, 14, 7


def read_graph(path: Path, *, max_bytes: int = MAX_GRAPH_BYTES) -> bytes:
    """The bytes of one self-contained ONNX file.

    Raises: BadPackage "graph-missing", "graph-too-large", "graph-external-data", "graph-operators", "graph-broken".
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
    """Raises: BadPackage: the graph points outside itself, names foreign operators, or is no ONNX."""
    view, nodes, graphs = memoryview(data), 0, 0
    todo = [("model", view, 0)]
    while todo:
        kind, message, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise _broken("its graphs are nested too deeply")
        nodes += kind == "node"
        graphs += kind == "graph"
        if nodes > MAX_NODES:
            raise _broken(f"it has more than {MAX_NODES} nodes")
        inner = _FIELDS[kind]
        for field, value in _fields(message):
            if kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)):
                raise BadPackage(
                    "graph-external-data",
                    "The graph keeps tensors in other files; a package holds one self-contained graph.onnx.",
                    hint="Export the model again with its weights inside.",
                )
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


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, varint or bytes) of one message, in order."""
    at, end = 0, len(message)
    while at < end:
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


def _broken(why: str) -> BadPackage:
    return BadPackage(
        "graph-broken", f"graph.onnx is not a readable ONNX file: {why}.", hint="Fetch the whole package again."
    )
