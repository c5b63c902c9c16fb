"""Requests of Open Inference Protocol made by hand, and its answers read."""

import json
import struct

import numpy as np

NAMES = {"u1": "UINT8", "f4": "FP32", "f8": "FP64", "i8": "INT64", "b1": "BOOL"}


def packed(values) -> bytes:
    if isinstance(values, list):
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return values.tobytes()


def binary(inputs, outputs=None, **said) -> tuple[bytes, dict[str, str]]:
    """inputs: name -> array, or list of bytes. Returns: body and headers."""
    behind, tensors = [], []
    for name, values in inputs.items():
        behind.append(packed(values))
        shape = [len(values)] if isinstance(values, list) else list(values.shape)
        datatype = "BYTES" if isinstance(values, list) else NAMES[values.dtype.str[1:]]
        size = {"binary_data_size": len(behind[-1])}
        tensors.append({"name": name, "shape": shape, "datatype": datatype, "parameters": size})
    wanted = {} if outputs is None else {"outputs": outputs}
    head = json.dumps({"inputs": tensors, **wanted, **said}).encode()
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    return head + b"".join(behind), headers


def read(answer) -> tuple[dict, dict]:
    """Returns: the JSON of a response, and its outputs by name: arrays, or lists of bytes."""
    length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    said, at, found = json.loads(answer.content[:length]), length, {}
    for out in said["outputs"]:
        size = out.get("parameters", {}).get("binary_data_size")
        if size is None:
            text = out["datatype"] == "BYTES"
            found[out["name"]] = [v.encode() for v in out["data"]] if text else np.array(out["data"], float)
            if not text:
                found[out["name"]] = found[out["name"]].reshape(out["shape"])
            continue
        raw, at = answer.content[at : at + size], at + size
        if out["datatype"] == "BYTES":
            values = []
            while raw:
                (size,) = struct.unpack_from("<I", raw)
                values.append(raw[4 : 4 + size])
                raw = raw[4 + size :]
            found[out["name"]] = values
        else:
            found[out["name"]] = np.frombuffer(raw, "<f8").reshape(out["shape"])
    assert at == len(answer.content)
    return said, found


def same(answer: dict, other: dict) -> bool:
    """Whether two answers of the wire say the same, to the last digit."""
    own = ("id", "trace")
    return {k: v for k, v in answer.items() if k not in own} == {k: v for k, v in other.items() if k not in own}
