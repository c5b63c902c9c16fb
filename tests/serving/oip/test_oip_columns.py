"""Signatures in tensors: what a case is made of, and what is said of it in columns."""

import json

import numpy as np
import pytest
from tiny_package import png, ramp
from tiny_package import spec as picture_spec

from medserve.errors import MedServeError, Refusal, Usage
from medserve.models.spec import InputSpec, ModelSpec, OutputSpec
from medserve.serving.oip.columns import columns, inputs_of, outputs_of, rows
from medserve.types import Named

KINDS = {"age": "number", "sex": "category", "stay": "timeline", "ecg": "waveform", "film": "image"}


def record(*names: str, task: str = "binary") -> ModelSpec:
    inputs = [InputSpec(name=name, kind=KINDS[name], shape=(1,)) for name in names]
    labels = {"binary": ["no", "yes"], "number": ["dose"], "tags": ["drug"]}[task]
    return ModelSpec(name="m", inputs=inputs, output=OutputSpec(task=task, labels=labels), transforms=[],
                     architecture=Named("by-hand"))  # fmt: skip


def test_a_record_is_the_body_that_predict_would_get():
    """What is not given is left out; JSON within elements, pictures in base64."""
    spec = record("age", "sex", "stay", "film")
    tensors = {
        "age": np.array([[63], [np.nan]]), "sex": [b"F", b""], "stay": [b'[[2.5, "8867-4", 88]]', b""],
        "film": [b"\x89PNG", b""],
    }  # fmt: skip
    one, other = rows(spec, tensors, 2)
    assert json.loads(one) == {
        "inputs": {"age": 63.0, "sex": "F", "stay": [[2.5, "8867-4", 88]], "film": "iVBORw=="}
    }  # fmt: skip
    assert json.loads(other) == {"inputs": {}}
    assert json.loads(rows(spec, {"age": np.array([7], np.int8)}, 1)[0]) == {"inputs": {"age": 7.0}}


def test_a_lone_waveform_is_a_file_or_its_json():
    spec = record("ecg")
    assert rows(spec, {"ecg": [b"0       "]}, 1) == [b"0       "]
    assert json.loads(rows(spec, {"ecg": [b'{"hz": 500}']}, 1)[0]) == {"inputs": {"ecg": {"hz": 500}}}
    (beside,) = rows(record("age", "ecg"), {"age": np.array([1.0]), "ecg": [b"0       "]}, 1)
    assert isinstance(beside, Usage)


def test_one_row_that_cannot_be_read_is_refused_alone():
    """Broken JSON, an infinite number, a file of another kind."""
    found = rows(record("stay"), {"stay": [b"[", b"[]", b'{"a": ' + b"[" * 90_000]}, 3)
    assert [isinstance(row, MedServeError) for row in found] == [True, False, True]
    found = rows(record("age"), {"age": np.array([1.0, -np.inf])}, 2)
    assert [isinstance(row, MedServeError) for row in found] == [False, True]
    found = rows(picture_spec(), {"image": [png(ramp(), "TIFF"), png(ramp())]}, 2)
    assert isinstance(found[0], MedServeError) and found[1] == png(ramp())


@pytest.mark.parametrize(
    ("tensors", "count"),
    [
        ({"age": [b"63"]}, 1),
        ({"age": np.array([True])}, 1),
        ({"age": np.zeros((1, 2))}, 1),
        ({"sex": np.array([1.0])}, 1),
        ({"sex": [b"F", b"M"]}, 1),
        ({"weight": np.array([1.0])}, 1),
        ({"age": np.zeros(257)}, 257),
    ],
)
def test_columns_of_another_form_are_refused(tensors, count):
    with pytest.raises((Usage, Refusal)):
        rows(record("age", "sex"), tensors, count)


def test_a_prepared_picture_is_a_view():
    """Nothing is copied before the batch."""
    whole = np.zeros((3, 1, 28, 28), np.uint8)
    assert all(np.shares_memory(row, whole) for row in rows(picture_spec(), {"image": whole}, 3))


def test_what_is_said_of_a_number_and_of_marks():
    """A value with its interval, NaN where there is none or the case was refused; marks stand in the answer alone."""
    dose = [{"status": "answered", "outputs": [{"label": "dose", "value": 2.5, "interval": interval}]}
            for interval in ([1.0, 4.0], None)]  # fmt: skip
    spec = record("age", task="number")
    names = [out.name for out in outputs_of(spec)]
    found = columns(spec, [*dose, Refusal("case-empty", "Every input is missing.")], names)
    assert names == list(found) == ["value", "interval", "status", "answer"]
    np.testing.assert_array_equal(found["value"][1], [[2.5], [2.5], [np.nan]])
    np.testing.assert_array_equal(found["interval"][1], [[1, 4], [np.nan] * 2, [np.nan] * 2])
    assert found["status"][1] == [b"answered", b"answered", b"refused"]
    assert json.loads(found["answer"][1][2])["error"]["code"] == "case-empty"
    marks = record("age", task="tags")
    assert [out.name for out in outputs_of(marks)] == ["status", "answer"]
    assert list(columns(marks, [{"status": "answered", "outputs": []}], ["status"])) == ["status"]
    assert [(one.name, one.datatype) for one in inputs_of(record("age", "film"))] == [
        ("age", "FP64"),
        ("film", "BYTES"),
    ]
