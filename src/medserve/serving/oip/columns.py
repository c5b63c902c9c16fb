"""A model's signature in tensors: rows of a request are cases, columns of its answer are what was said of each.

    inputs_of(spec), outputs_of(spec)         # for the metadata
    rows(spec, tensors, count)                # what each case is: bytes of a body, a prepared picture, or its refusal
    columns(spec, answers, names)             # name -> (datatype, values)

A picture goes in as BYTES, the file itself, and takes the whole way: scope checks and transforms included. UINT8 of the
graph's own shape is taken as a picture that has been prepared already: what the transforms would check of the file
(modality, colour, blankness) is then the client's word, and only the distance to the training data still refuses.
"""

import base64
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from medserve.data.readers import HEAD_BYTES, sniff
from medserve.errors import MedServeError, Refusal, Usage
from medserve.models.spec import InputSpec, ModelSpec
from medserve.serving import bodies
from medserve.serving.oip.words import TensorShape, Values
from medserve.types import Array

Row = bytes | Array | MedServeError  # bytes: what the body of /v1 would be, JSON of a record that is no lone file
MOST_ROWS = 256
_TABLE = "GET /v2/models/MODEL lists the inputs; each has B elements, one for a case."


def inputs_of(spec: ModelSpec) -> list[TensorShape]:
    kinds = {"number": "FP64"}
    return [TensorShape(want.name, kinds.get(want.kind, "BYTES"), [-1]) for want in spec.inputs]


def outputs_of(spec: ModelSpec) -> list[TensorShape]:
    out = [TensorShape("status", "BYTES", [-1]), TensorShape("answer", "BYTES", [-1])]
    if spec.output.task in ("number", "generate"):
        return [TensorShape("value", "FP64", [-1, 1]), TensorShape("interval", "FP64", [-1, 2]), *out]
    return out if spec.output.task in ("tags", "effect") else [TensorShape("probability", "FP64", [-1, -1]), *out]


def rows(spec: ModelSpec, tensors: dict[str, Values], count: int) -> list[Row]:
    """Raises: Usage "tensor-invalid", "tensor-unknown"; Refusal "batch-too-large"."""
    if count > MOST_ROWS:
        raise Refusal("batch-too-large", f"{count} cases in one request; at most {MOST_ROWS}.", hint="Send several.")
    names = [want.name for want in spec.inputs]
    if unknown := [name for name in tensors if name not in names]:
        raise Usage("tensor-unknown", f"There is no input {unknown[0][:64]!r}.", hint=f"Inputs: {', '.join(names)}.")
    if not spec.is_record:
        return _pictures(spec, tensors, count)
    columns = {want.name: _column(want, tensors[want.name], count) for want in spec.inputs if want.name in tensors}
    return [_record({name: values[row] for name, values in columns.items()}) for row in range(count)]


def _record(inputs: dict[str, Any]) -> Row:
    given = {name: value for name, value in inputs.items() if value is not None}
    values = list(given.values())
    if refused := next((value for value in values if isinstance(value, MedServeError)), None):
        return refused
    if not any(isinstance(value, bytes) for value in values):
        return msgspec.json.encode({"inputs": given})
    if len(values) == 1:
        return bytes(values[0])
    return Usage(
        "tensor-invalid",
        "Beside other inputs a waveform is its JSON form, not a file.",
        hint="Send the JSON that /v1 takes.",
    )


def _picture(want: InputSpec, data: bytes) -> Row:
    try:
        return bodies.picture_bytes(data, sniff(data[:HEAD_BYTES]) or "", want)
    except MedServeError as error:
        return error


def _pictures(spec: ModelSpec, tensors: dict[str, Values], count: int) -> list[Row]:
    (want,) = spec.inputs
    values = tensors.get(want.name)
    if isinstance(values, list) and len(values) == count:
        return [_picture(want, value) for value in values]
    if isinstance(values, np.ndarray) and values.dtype == np.uint8 and values.shape[1:] == spec.shape:
        return list(values)
    shape = ", ".join(map(str, spec.shape))
    raise Usage(
        "tensor-invalid", f"{want.name!r} is BYTES [B], files, or UINT8 [B, {shape}], prepared pictures.", hint=_TABLE
    )


def _column(want: InputSpec, values: Values, count: int) -> list[Any]:
    if want.kind == "number":
        if isinstance(values, list) or values.size != count or values.dtype == bool:
            raise Usage(
                "tensor-invalid", f"{want.name!r} is one number a case: FP64 [B]; NaN where there is none.", hint=_TABLE
            )
        flat = values.reshape(count).astype(np.float64).tolist()
        return [_finite(want, value) for value in flat]
    if not isinstance(values, list) or len(values) != count:
        raise Usage("tensor-invalid", f"{want.name!r} is BYTES [B]; empty where there is none.", hint=_TABLE)
    return [None if not value else _value(want, value) for value in values]


def _finite(want: InputSpec, value: float) -> float | None | MedServeError:
    if math.isinf(value):  # JSON has none, and would call it missing
        return Usage("tensor-invalid", f"{want.name!r} is infinite.", hint="Send a number, or NaN where there is none.")
    return None if math.isnan(value) else value


def _value(want: InputSpec, value: bytes) -> Any:
    """As it would stand in `{"inputs": ...}`, or a file, or why it cannot be read."""
    if want.kind in ("image", "volume"):
        return base64.b64encode(value).decode()
    if want.kind == "timeline" or (want.kind == "waveform" and value.lstrip()[:1] == b"{"):
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return Usage(
                "tensor-invalid",
                f"{want.name!r} holds JSON in each element, and one is none.",
                hint="Send the JSON that /v1 takes, in UTF-8.",
            )
    return value if want.kind == "waveform" else value.decode("utf-8", errors="replace")


def columns(
    spec: ModelSpec, answers: Sequence[dict[str, Any] | MedServeError], names: Sequence[str]
) -> dict[str, tuple[str, Values]]:
    """A refused case has the status "refused", its error as the answer, and NaN for every number.

    Args:
        names: of the outputs that are wanted, all of them offered.
    """
    good = [None if isinstance(one, MedServeError) else one for one in answers]
    width = max((len(one["outputs"]) for one in good if one is not None), default=1)
    found: dict[str, tuple[str, Values]] = {}
    if spec.output.task in ("number", "generate"):
        nan = (math.nan, math.nan)
        firsts = [one["outputs"][0] if one is not None else {} for one in good]
        found["value"] = "FP64", np.array([[_number(first.get("value"))] for first in firsts], np.float64)
        found["interval"] = "FP64", np.array([first.get("interval") or nan for first in firsts], np.float64)
    elif spec.output.task not in ("tags", "effect"):
        nans = [math.nan] * width
        rows = [nans if one is None else [_number(out["probability"]) for out in _in_order(spec, one)] for one in good]
        found["probability"] = "FP64", np.array(rows, np.float64).reshape(len(answers), width)
    found["status"] = "BYTES", [b"refused" if one is None else one["status"].encode() for one in good]
    if "answer" in names:
        said = [one.as_dict() if isinstance(one, MedServeError) else one for one in answers]
        found["answer"] = "BYTES", [msgspec.json.encode(one) for one in said]
    return {name: found[name] for name in names}


def _in_order(spec: ModelSpec, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs in the order of the signature's labels, where an answer ranks them."""
    outputs: list[dict[str, Any]] = answer["outputs"]
    if spec.output.medicines is None:
        return outputs
    return sorted(outputs, key=lambda out: spec.output.labels.index(out["label"]))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
