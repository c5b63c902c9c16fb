"""The words of an inference request and its answer, as JSON and with binary tensors behind it.

    asked = parse(body, head=header_length)        # InferRequest; every tensor as an array, or a list of bytes
    head, body = render(answer, tensors, binary={"probability"})

Source: Open Inference Protocol, "Predict Protocol, Version 2", and its binary tensor data extension.
"""

import base64
import binascii
import math
import struct
from collections.abc import Container, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from medserve.errors import Refusal, Usage
from medserve.runtime.batcher import PRIORITIES, ROUTINE
from medserve.runtime.inputs import MOST_PIECES
from medserve.types import Array

DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_PLAIN: dict[str, set[type]] = {
    "b": {bool},
    "u": {int},
    "i": {int},
    "f": {int, float},
}  # what JSON has for each kind of datatype
MOST_TENSORS = 1024
MOST_HEAD_BYTES = 2**20
HEAD_LENGTH = b"inference-header-content-length"
Values = Array | list[bytes]


class TensorIn(msgspec.Struct):
    """data: flat or nested, row-major; none where the tensor stands behind the JSON, `binary_data_size` bytes of it."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class OutputAsked(msgspec.Struct):
    """parameters: binary_data, whether it is to stand behind the JSON."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """inputs: rows are cases. parameters: priority (1 first, 2, 3), timeout (microseconds), binary_data_output."""

    inputs: list[TensorIn]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[OutputAsked] = []


class TensorOut(msgspec.Struct, omit_defaults=True):
    """One output; `data` flat, row-major."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: Any = None


class InferResponse(msgspec.Struct, omit_defaults=True):
    """Outputs in the order asked for; those with `binary_data_size` stand behind the JSON."""

    model_name: str
    outputs: list[TensorOut]
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Any] = {}


class InferError(msgspec.Struct):
    """The protocol's form of an error. error: the code, what is wrong, and what to do, as one text."""

    error: str
    code: str
    kind: str
    trace: str


class TensorShape(msgspec.Struct):
    """shape: -1 where it is free; the first is the number of cases."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct):
    """What a model takes and gives, in tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorShape]
    outputs: list[TensorShape]


class ModelReady(msgspec.Struct):
    """Whether a model answers."""

    name: str
    ready: bool


class ModelIndex(msgspec.Struct):
    """One version of a model. state: READY, LOADING or UNAVAILABLE; the next request loads it, unless it failed."""

    name: str
    version: str
    state: str
    reason: str


class ServerMetadata(msgspec.Struct):
    """This service, and the extensions of the protocol that it speaks."""

    name: str
    version: str
    extensions: list[str]


class IndexAsked(msgspec.Struct):
    """ready: only of versions that are loaded."""

    ready: bool = False


class ChangeAsked(msgspec.Struct):
    """parameters: `unload_dependents` may be said, and changes nothing."""

    parameters: dict[str, Any] = {}


class Changed(msgspec.Struct):
    """It is done."""


_decoder = msgspec.json.Decoder(InferRequest)


def parse(body: bytes, head: str) -> tuple[InferRequest, dict[str, Values]]:
    """
    Args:
        head: of the header `Inference-Header-Content-Length`; "" where the body is JSON alone.

    Returns: the request, and its tensors by name, in their shapes; BYTES as a flat list.
    Raises: Usage "infer-invalid", "tensor-invalid"; Refusal "json-too-many-values".
    """
    length = len(body)
    if head:
        if not (head.isascii() and head.isdigit() and len(head) < 10 and int(head) <= min(len(body), MOST_HEAD_BYTES)):
            raise _invalid("Inference-Header-Content-Length is not the length of a JSON head of this body")
        length = int(head)
    said = body[:length]
    if sum(map(said.count, (b",", b"[", b"{"))) > MOST_PIECES:  # each costs more as an object than as text
        raise Refusal(
            "json-too-many-values", f"The JSON holds more than {MOST_PIECES} values.", hint="Send them binary."
        )
    try:
        asked = _decoder.decode(said)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(f"the JSON is not an inference request: {str(error)[:200]}") from error
    if max(len(asked.inputs), len(asked.outputs)) > MOST_TENSORS or not asked.inputs:
        raise _invalid(f"it needs 1 to {MOST_TENSORS} input tensors")
    tensors: dict[str, Values] = {}
    at = length
    for tensor in asked.inputs:
        if tensor.name in tensors:
            raise _invalid("two inputs have one name")
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            tensors[tensor.name] = _from_json(tensor)
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(body) - at:
            raise _wrong(tensor, "its binary_data_size is not in the body")
        tensors[tensor.name] = _from_bytes(tensor, memoryview(body)[at : at + size])
        at += size
    if at != len(body):
        raise _invalid("bytes are left over behind the last tensor")
    return asked, tensors


def rows_of(asked: InferRequest) -> int:
    """The first dimension of all inputs. Raises: Usage "tensor-invalid"."""
    counts = {tensor.shape[0] if tensor.shape else 0 for tensor in asked.inputs}
    if len(counts) != 1 or min(counts) < 1:
        raise Usage(
            "tensor-invalid",
            "The first dimension of every input is the number of cases, 1 or more.",
            hint="Send as many elements in each input.",
        )
    return counts.pop()


def wishes(asked: InferRequest, unsaid: int = ROUTINE) -> tuple[int, float]:
    """The batcher's priority (`unsaid` where nothing is said), and the longest wait in seconds.

    Raises: Usage "parameter-unsupported".
    """
    said = asked.parameters
    if any(said.get(name) for name in ("sequence_id", "sequence_start", "sequence_end")):
        raise Usage(
            "parameter-unsupported",
            "Requests are answered one by one; there are no sequences.",
            hint="Leave sequence_id, sequence_start and sequence_end out.",
        )
    priority, timeout = said.get("priority", 0), said.get("timeout", 0)
    for value, most in ((priority, len(PRIORITIES)), (timeout, 2**63)):
        if type(value) is not int or not 0 <= value <= most:
            raise Usage(
                "parameter-unsupported",
                "priority is 1, 2 or 3 (0: not said), timeout whole microseconds.",
                hint="Mend them, or leave them out.",
            )
    return (priority - 1 if priority else unsaid), (timeout / 1e6 if timeout else math.inf)


def _count(tensor: TensorIn) -> int:
    if not tensor.shape or min(tensor.shape) < 0 or len(tensor.shape) > 8 or math.prod(tensor.shape) > 2**31:
        raise _wrong(tensor, "its shape holds 1 to 8 sizes")
    return math.prod(tensor.shape)


def _from_bytes(tensor: TensorIn, data: memoryview) -> Values:
    count = _count(tensor)
    if tensor.datatype == "BYTES":
        return _texts(tensor, _strings(tensor, data, count))
    dtype = _dtype(tensor)
    if len(data) != count * dtype.itemsize:
        raise _wrong(tensor, f"{count * dtype.itemsize} bytes were expected, not {len(data)}")
    return np.frombuffer(data, dtype).reshape(tensor.shape)


def _strings(tensor: TensorIn, data: memoryview, count: int) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(data) and len(found) < count:
        if at + 4 > len(data):
            break
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if length > len(data) - at:
            break
        found.append(bytes(data[at : at + length]))
        at += length
    if at != len(data) or len(found) != count:
        raise _wrong(tensor, "its elements are not 4 bytes of length and as many bytes")
    return found


def _from_json(tensor: TensorIn) -> Values:
    count = _count(tensor)
    if tensor.data is None:
        raise _wrong(tensor, "it has neither data nor binary_data_size")
    if tensor.datatype == "BYTES":
        flat = _flat(tensor.data)
        if len(flat) != count or not all(isinstance(value, str) for value in flat):
            raise _wrong(tensor, f"{count} texts were expected")
        return _texts(tensor, [value.encode("utf-8", errors="replace") for value in flat])
    dtype = _dtype(tensor)
    values = [math.nan if value is None else value for value in _flat(tensor.data)]
    if not set(map(type, values)) <= _PLAIN[dtype.kind]:  # numpy would cut 1.7 to 1, and read "5"
        raise _wrong(tensor, f"its data are not {tensor.datatype}")
    try:
        with np.errstate(over="raise"):
            found = np.array(values, dtype)
    except (ValueError, ArithmeticError) as error:
        raise _wrong(tensor, f"its data are not {tensor.datatype}") from error
    if found.shape != (count,):
        raise _wrong(tensor, f"{count} values were expected, not {found.size}")
    return found.reshape(tensor.shape)


def _flat(data: Any) -> list[Any]:
    """Nested lists, row-major."""
    level = data if isinstance(data, list) else [data]
    for _ in range(8):
        if not any(isinstance(value, list) for value in level):
            break
        level = [one for value in level for one in (value if isinstance(value, list) else [value])]
    return level


def _texts(tensor: TensorIn, found: list[bytes]) -> list[bytes]:
    """Files inside JSON stand in base64, and say so."""
    if tensor.parameters.get("content_type") != "base64":
        return found
    try:
        return [base64.b64decode(value, validate=True) for value in found]
    except (binascii.Error, ValueError) as error:
        raise _wrong(tensor, "its elements are not base64, as its content_type says") from error


def _dtype(tensor: TensorIn) -> np.dtype[Any]:
    if tensor.datatype not in DTYPES:
        raise _wrong(tensor, f"its datatype is none of {', '.join([*DTYPES, 'BYTES'])}")
    return np.dtype(DTYPES[tensor.datatype])


def render(
    response: InferResponse, tensors: Mapping[str, tuple[str, Values]], binary: Container[str]
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON head where tensors stand behind it.

    Args:
        response: without outputs. tensors: name -> datatype and values. binary: names that go behind the JSON.
    """
    behind: list[bytes] = []
    for name, (datatype, values) in tensors.items():
        shape = [len(values)] if isinstance(values, list) else list(values.shape)
        out = TensorOut(name, datatype, shape)
        if name in binary:
            behind.append(_packed(values, datatype))
            out.parameters = {"binary_data_size": len(behind[-1])}
        elif isinstance(values, list):
            out.data = [value.decode("utf-8", errors="replace") for value in values]
        else:
            out.data = values.ravel().tolist()
        response.outputs.append(out)
    head = msgspec.json.encode(response)
    return (b"".join([head, *behind]), len(head)) if behind else (head, None)


def _packed(values: Values, datatype: str) -> bytes:
    if isinstance(values, list):
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return np.ascontiguousarray(values, DTYPES[datatype]).tobytes()


def asked_outputs(asked: InferRequest, offered: Sequence[str]) -> tuple[list[str], set[str]]:
    """Names in order, and those that are to be binary. Raises: Usage "tensor-unknown"."""
    every = asked.parameters.get("binary_data_output") is True
    names = [want.name for want in asked.outputs] or list(offered)
    if unknown := [name for name in names if name not in offered]:
        raise Usage(
            "tensor-unknown", f"There is no output {unknown[0][:64]!r}.", hint=f"Outputs: {', '.join(offered)}."
        )
    if any("classification" in want.parameters for want in asked.outputs):
        raise Usage(
            "parameter-unsupported", "There is no classification extension.", hint="Take probability or answer."
        )
    said = {want.name: want.parameters.get("binary_data", every) for want in asked.outputs}
    return list(dict.fromkeys(names)), {name for name in names if said.get(name, every) is True}


def _invalid(why: str) -> Usage:
    return Usage(
        "infer-invalid", f"This is no inference request: {why}.", hint="See GET /openapi.json, schema InferRequest."
    )


def _wrong(tensor: TensorIn, why: str) -> Usage:
    return Usage(
        "tensor-invalid",
        f"The tensor {tensor.name[:64]!r} cannot be read: {why}.",
        hint="Mend its shape, datatype or data; GET /v2/models/MODEL lists the inputs.",
    )
