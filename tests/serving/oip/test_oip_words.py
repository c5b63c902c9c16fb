"""Requests as bytes: what is read is what was written, and no bytes make anything but a coded error."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import binary

from medserve.errors import MedServeError
from medserve.serving.oip import words
from medserve.serving.oip.words import DTYPES, InferResponse, OutputAsked, parse, render

SHAPE = st.lists(st.integers(-2, 2**40), max_size=9)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4), max_leaves=12,
)  # fmt: skip
TENSOR = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b"]), "shape": SHAPE, "datatype": st.sampled_from([*DTYPES, "BYTES", "x"])},
    optional={
        "data": VALUES,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "content_type"]),
            st.integers(-1, 2**33) | st.just("base64"),
            max_size=2,
        ),
    },
)
REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, max_size=3)},
    optional={"id": VALUES, "parameters": st.dictionaries(st.text(max_size=8), VALUES, max_size=2) | VALUES},
)


def _read(body: bytes, head: str) -> None:
    """Every tensor holds what its shape says, or the request is refused."""
    try:
        asked, tensors = parse(body, head)
        words.wishes(asked), words.rows_of(asked), words.asked_outputs(asked, ["answer"])
    except MedServeError as error:
        assert error.status in (400, 422)
        return
    for tensor in asked.inputs:
        values = tensors[tensor.name]
        shape = (len(values),) if isinstance(values, list) else values.shape
        assert np.prod(shape) == np.prod(tensor.shape)


@settings(max_examples=400, deadline=None)
@given(REQUEST, st.binary(max_size=40), st.sampled_from(["", "right", "0", "7", "99999"]))
def test_any_request_is_read_or_refused(request, behind, head):
    body = json.dumps(request).encode()
    _read(body + behind, str(len(body)) if head == "right" else head)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.text(max_size=4))
def test_any_bytes_are_read_or_refused(body, head):
    _read(body, head)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_request_is_read_or_refused(data):
    """Bytes of a good one changed, cut or doubled."""
    body, headers = binary({"a": np.arange(6.0).reshape(2, 3), "b": [b"one", b"two"]})
    broken = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    _read(bytes(broken[: data.draw(st.integers(0, len(body)))]), headers["inference-header-content-length"])


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_is_read_from_json_and_from_bytes_alike(datatype):
    """Three values, row-major, little-endian."""
    dtype = np.dtype(DTYPES[datatype])
    values = np.array([[0, 1, 1]], dtype)
    tensor = {"name": "a", "shape": [1, 3], "datatype": datatype}
    listed = json.dumps({"inputs": [tensor | {"data": values.tolist()}]}).encode()
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 3 * dtype.itemsize}}]}).encode()
    for body, length in ((listed, ""), (head + values.tobytes(), str(len(head)))):
        found = parse(body, length)[1]["a"]
        assert found.dtype == dtype and np.array_equal(found, values)


def test_the_tensor_extension_as_it_is_written_down():
    """The protocol's own example, its length by hand: BYTES "one", "two" take 2 * (4 + 3) bytes."""
    head = b'{"inputs":[{"name":"t","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":14}}]}'
    body = head + b"\x03\0\0\0one\x03\0\0\0two"
    assert parse(body, str(len(head)))[1] == {"t": [b"one", b"two"]}
    out, length = render(InferResponse("m", []), {"t": ("BYTES", [b"one", b"two"])}, {"t"})
    assert out[length:] == struct.pack("<I3sI3s", 3, b"one", 3, b"two")
    assert json.loads(out[:length])["outputs"] == [
        {"name": "t", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 14}}
    ]


def test_a_tensor_of_bytes_is_a_view_of_the_body():
    """No copy between the socket and the batcher."""
    body, headers = binary({"a": np.zeros((4, 1, 64, 64), np.uint8)})
    found = parse(body, headers["inference-header-content-length"])[1]["a"]
    assert not found.flags.owndata and not found.flags.writeable


def test_outputs_that_nobody_has_or_that_are_classified_are_refused():
    asked, _ = parse(b'{"inputs":[{"name":"a","shape":[1],"datatype":"BOOL","data":[true]}]}', "")
    asked.outputs = [OutputAsked("answer", {"classification": 3})]
    with pytest.raises(MedServeError, match="classification"):
        words.asked_outputs(asked, ["answer"])
