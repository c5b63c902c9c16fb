"""Messages of gRPC in the words of HTTP, and back: one form of a request is answered, see rest.py.

head, behind = request_of(message)             # its JSON, and the bytes of its tensors
message = response_of(body, head_length)
"""

from typing import Any

import msgspec
import numpy as np

from medserve.errors import Usage
from medserve.serving.oip import open_inference_pb2
from medserve.serving.oip.words import DTYPES

pb: Any = open_inference_pb2  # made by a tool, without types
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def request_of(request: Any) -> tuple[bytes, list[bytes]]:
    """The same request as JSON, and the bytes of its tensors. Raises: Usage "infer-invalid"."""
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise _invalid("raw_input_contents has not one entry for each input")
    behind = raw or [_packed(tensor) for tensor in request.inputs]
    inputs = [
        {"name": t.name, "shape": list(t.shape), "datatype": t.datatype,
         "parameters": plain(t.parameters) | {"binary_data_size": len(data)}}
        for t, data in zip(request.inputs, behind, strict=True)
    ]  # fmt: skip
    said = {
        "id": request.id,
        "parameters": plain(request.parameters) | {"binary_data_output": True},
        "inputs": inputs,
        "outputs": [
            {"name": o.name, "parameters": plain(o.parameters) | {"binary_data": True}} for o in request.outputs
        ],
    }
    return msgspec.json.encode(said), behind


def _packed(tensor: Any) -> bytes:
    """Typed contents as raw ones."""
    if tensor.datatype not in _CONTENTS:
        raise _invalid("a datatype has no contents")
    values = getattr(tensor.contents, _CONTENTS[tensor.datatype])
    if tensor.datatype == "BYTES":
        return b"".join(len(value).to_bytes(4, "little") + value for value in values)
    try:
        return np.array(list(values), DTYPES[tensor.datatype]).tobytes()  # of a list numpy checks the range
    except OverflowError as error:
        raise _invalid(f"a value does not fit {tensor.datatype}") from error


def response_of(body: bytes, head: int) -> Any:
    """head: bytes of its JSON; every tensor stands behind it."""
    said = msgspec.json.decode(body[:head])
    at, outputs, raw = head, [], []
    for one in said["outputs"]:
        size = one["parameters"]["binary_data_size"]
        raw.append(body[at : at + size])
        at += size
        tensor = pb.ModelInferResponse.InferOutputTensor
        outputs.append(tensor(name=one["name"], datatype=one["datatype"], shape=one["shape"]))
    return pb.ModelInferResponse(
        model_name=said["model_name"], model_version=said["model_version"], id=said.get("id", ""), outputs=outputs,
        raw_output_contents=raw,
    )  # fmt: skip


def plain(parameters: Any) -> dict[str, Any]:
    """Parameters as JSON has them."""
    return {k: getattr(v, v.WhichOneof("parameter_choice") or "string_param") for k, v in parameters.items()}


def _invalid(why: str) -> Usage:
    return Usage("infer-invalid", f"This is no inference request: {why}.", hint="See open_inference.proto.")
