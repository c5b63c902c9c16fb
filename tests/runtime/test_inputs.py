"""What a client sends for a model of records: JSON, a FHIR Bundle, a text or a file of waves; and the schema of it."""

import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from medserve.data.fields import Records
from medserve.data.fields.category import Category
from medserve.data.fields.number import Number
from medserve.data.fields.text import Text
from medserve.data.fields.timeline import Timeline
from medserve.data.fields.waveform import Waveform
from medserve.errors import MedServeError, Refusal, Usage
from medserve.models.spec import InputSpec, ModelSpec, OutputSpec
from medserve.runtime.inputs import raw_inputs, schema_of, value_of_file
from medserve.types import Named

AGE = InputSpec(name="age", kind="number", shape=(1,), unit="a", range=(0, 120))
LACTATE = InputSpec(name="lactate", kind="number", shape=(1,), unit="mmol/L", range=(0, 40))
SEX = InputSpec(name="sex", kind="category", shape=(1,), words=["F", "M"])
STAY = InputSpec(name="stay", kind="timeline", shape=(2, 48))
NOTE = InputSpec(name="note", kind="text", shape=(16,))
ECG = InputSpec(name="ecg", kind="waveform", shape=(1, 100))
FIELDS = Records(
    (
        Number("age", unit="a", low=0, high=120),
        Number("lactate", unit="mmol/L", low=0, high=40),
        Category("sex", ("F", "M")),
    )
)
PATIENT = {"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1990-05-01"}
PULSE = {
    "resourceType": "Observation",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
    "subject": {"reference": "Patient/p1"},
    "effectiveDateTime": "2024-03-01T10:00:00Z",
    "valueQuantity": {"value": 88, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"},
}


def spec(*inputs: InputSpec) -> ModelSpec:
    return ModelSpec(
        name="clinic",
        version="1",
        inputs=list(inputs),
        output=OutputSpec(task="binary", labels=["no", "yes"]),
        transforms=[],
        architecture=Named("none"),
    )


TABLE = spec(AGE, LACTATE, SEX)


def bundle(*resources: dict[str, Any]) -> bytes:
    entries = [{"resource": r} for r in resources]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()


@pytest.mark.parametrize("media", ["", "application/json"])
def test_inputs_by_name_with_and_without_the_envelope(media):
    """{"inputs": {...}} and the plain mapping say the same; nothing is parsed here, a null stays a null."""
    values = {"age": 63, "lactate": {"value": 18, "unit": "mg/dL"}, "sex": None}
    for body in ({"inputs": values}, values):
        assert raw_inputs(TABLE, json.dumps(body, indent=1).encode(), media=media) == values


def test_what_stands_beside_the_inputs_is_named():
    """Not the word `inputs`, which is right: it would be looked for among the model's own."""
    with pytest.raises(Usage, match="no 'note'") as caught:
        raw_inputs(TABLE, b'{"inputs": {"age": 63}, "note": "x"}')
    assert caught.value.code == "json-invalid" and '{"inputs"' in caught.value.hint


@pytest.mark.parametrize("media", ["", "application/fhir+json"])
def test_a_bundle_gives_the_timeline_and_what_the_patient_resource_says(media):
    """Age in years by the birth date, sex in the model's own word, the whole Bundle for the timeline; what the Bundle
    does not carry stays out."""
    raw = raw_inputs(spec(AGE, SEX, STAY, LACTATE), bundle(PATIENT, PULSE), media=media)
    born = (dt.date.today() - dt.date(1990, 5, 1)).days / 365.25
    assert raw.keys() == {"age", "sex", "stay"} and raw["sex"] == "F"
    assert Number("age", unit="a").parse(raw["age"]) == pytest.approx(born, abs=0.06)
    history = Timeline("stay").parse(raw["stay"])
    assert history is not None and [(e.code, e.value) for e in history.events] == [("loinc|8867-4", 88.0)]


def test_the_age_of_a_bundle_is_in_the_unit_of_the_input():
    """A model of infants counts months: 36 years must not arrive as 36 months."""
    months = InputSpec(name="age", kind="number", shape=(1,), unit="mo")
    raw = raw_inputs(spec(months), bundle(PATIENT), media="application/fhir+json")
    born = (dt.date.today() - dt.date(1990, 5, 1)).days / 365.25 * 12
    assert Number("age", unit="mo").parse(raw["age"]) == pytest.approx(born, abs=1)


@pytest.mark.parametrize(
    ("model", "body", "code"),
    [
        (TABLE, json.dumps(PATIENT).encode(), "fhir-not-a-bundle"),
        (spec(LACTATE), bundle(PATIENT, PULSE), "inputs-mismatch"),
        (TABLE, bundle(PULSE), "inputs-mismatch"),
        (TABLE, b'{"resourceType": "Bundle", "entry": "all"}', "inputs-mismatch"),
        (TABLE, b'{"resourceType": "Bundle", "entry": [1, null, {"resource": 7}]}', "inputs-mismatch"),
        (spec(AGE), bundle(PATIENT | {"birthDate": 1990}), "inputs-mismatch"),
    ],
)
def test_a_bundle_that_carries_nothing_of_use_is_refused(model, body, code):
    with pytest.raises(Refusal) as caught:
        raw_inputs(model, body, media="application/fhir+json")
    assert caught.value.code == code and caught.value.hint


def test_a_birth_date_that_is_none_is_a_missing_age():
    for said in ("0000-13-40", "soon", "1990-02-30", ""):
        raw = raw_inputs(spec(AGE, SEX), bundle(PATIENT | {"birthDate": said}), media="application/fhir+json")
        assert FIELDS.fields[0].parse(raw["age"]) is None and raw["sex"] == "F"


def test_a_text_is_a_body_of_its_own():
    """Also one that begins like JSON: de-identified notes begin with a bracket."""
    note = "[**Name**], 61 years: short of breath since Monday. Fièvre 39 °C."
    assert raw_inputs(spec(NOTE), note.encode(), media="text/plain") == {"note": note}
    assert raw_inputs(spec(AGE, NOTE), note[10:].encode(), name="note.txt") == {"note": note[10:]}
    assert raw_inputs(spec(NOTE), note.encode(), name="note.txt") == {"note": note}


def test_a_file_of_waves_is_a_body_of_its_own():
    """The bytes reach the field whole, and it reads them."""
    out = io.BytesIO()
    np.savez(out, values=np.zeros((1, 4), np.float32))
    for data in (b"\x00\x01\xff\xfe" * 50, out.getvalue()):
        for media in ("", "application/octet-stream"):
            assert raw_inputs(spec(ECG), data, media=media) == {"ecg": data}
    with pytest.raises(Refusal):
        Waveform("ecg").parse(b"\x00\x01\xff\xfe" * 50)


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [("text", "fièvre".encode(), "fièvre"), ("molecule", b"CCO", "CCO"), ("image", b"\x89PNG", "iVBORw=="),
     ("waveform", b"0     ", {"data": "MCAgICAg"})],
)  # fmt: skip
def test_a_file_is_an_input_in_json(kind, data, value):
    """Words in base64 would be read as words, and scored; a number is no file."""
    assert value_of_file(kind, data) == value
    with pytest.raises(Refusal):
        value_of_file("number", data)


def test_a_recording_in_json_is_the_recording():
    """As its raw body is; the schema takes it, and what is no base64 is refused."""
    data = Path(get_testdata_file("waveform_ecg.dcm", download=False)).read_bytes()
    sent = value_of_file("waveform", data)
    assert Waveform("ecg").parse(sent) == Waveform("ecg").parse(data)
    assert fits(schema_of(spec(ECG)), {"inputs": {"ecg": sent}})
    for wrong in ({"data": "@"}, {"data": 7}, {"data": "", "hz": 5}):
        with pytest.raises(Refusal):
            Waveform("ecg").parse(wrong)


@pytest.mark.parametrize("media", ["", "application/json", "text/plain", "application/octet-stream"])
def test_a_body_of_another_kind_is_refused(media):
    """No bytes, a picture, a text for a model of numbers: coded, with the next step."""
    with pytest.raises(Refusal) as caught:
        raw_inputs(TABLE, b"", media=media, name="case.json")
    assert caught.value.code == "file-empty" and "case.json" in caught.value.message
    for data in (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, b"short of breath"):
        with pytest.raises((Refusal, Usage)) as wrong:
            raw_inputs(TABLE, data, media=media)
        assert wrong.value.code == ("json-invalid" if media == "application/json" else "inputs-mismatch")
        assert wrong.value.hint


@pytest.mark.parametrize(
    "body",
    [b"{", b'{"inputs": ', b"[1, 2]", b'{"inputs": [1]}', b'{"inputs": null}', b'{"inputs": {"age": NaN}}', b"nonsense",
     b'{"inputs": {"age": 63}} trailing', b'{"inputs": {"sex": "\xff"}}', b"[" * 200_000, b'{"a":' * 100_000,
     b'{"inputs": {"age": 1e999}}', b'{"inputs": {"sex": "\\ud800"}}'],
)  # fmt: skip
def test_what_is_not_json_is_said_to_be_none(body):
    """Cut off, deep, of another form: Usage "json-invalid", never a RecursionError."""
    with pytest.raises(Usage) as caught:
        raw_inputs(TABLE, body, media="application/json")
    assert caught.value.code == "json-invalid" and caught.value.hint


def fits(schema: dict[str, Any], value: Any) -> bool:
    """The words of JSON Schema (2020-12) that `schema_of` uses; any other word is a failure of this test."""
    kinds = {"object": dict, "array": list, "string": str, "number": (int, float), "null": type(None)}
    said = dict(schema)
    wanted = said.pop("type", None)
    for name in ("description", "contentEncoding"):
        said.pop(name, None)
    if wanted is not None:
        types = [wanted] if isinstance(wanted, str) else wanted
        if not any(isinstance(value, kinds[t]) and not isinstance(value, bool) for t in types):
            return False
    properties, extra = said.pop("properties", {}), said.pop("additionalProperties", True)
    items, required = said.pop("items", None), said.pop("required", [])
    if isinstance(value, dict):
        if set(required) - set(value) or (extra is False and set(value) - set(properties)):
            return False
        if not all(fits(properties[k], v) for k, v in value.items() if k in properties):
            return False
    if isinstance(value, list) and items is not None and not all(fits(items, v) for v in value):
        return False
    size = len(value) if isinstance(value, dict | list) else None
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    bounds = {"minItems": (size, 1), "maxItems": (size, -1), "minProperties": (size, 1),
              "minimum": (number, 1), "maximum": (number, -1)}  # fmt: skip
    for name, limit in list(said.items()):
        if name in bounds:
            found, sign = bounds[name]
            said.pop(name)
            if found is not None and sign * found < sign * limit:
                return False
    if "anyOf" in said and not any(fits(one, value) for one in said.pop("anyOf")):
        return False
    if "enum" in said and not any(type(one) is type(value) and one == value for one in said.pop("enum")):
        return False
    said.pop("anyOf", None), said.pop("enum", None)
    assert not said, said
    return True


GOOD = [{"age": 63}, {"age": 0, "sex": "F"}, {"age": 62.5, "sex": None}, {"age": {"value": 756, "unit": "mo"}},
        {"lactate": 40, "age": None}, {"lactate": {"value": 2}}]  # fmt: skip
BAD = [{"age": 121}, {"age": -1}, {"age": "old"}, {"age": [63]}, {"age": {"unit": "a", "value": "x"}}, {"sex": "X"},
       {"sex": "f"}, {"sex": ["F"]}, {"sex": {}}, {"weight": 70}, {"age": True}, {"age": {"value": 63, "of": "now"}},
       {"lactate": 10**400}, {"age": {"value": True, "unit": "a"}}]  # fmt: skip


@pytest.mark.parametrize("values", GOOD)
def test_the_schema_takes_what_the_fields_take(values):
    assert fits(schema_of(TABLE), {"inputs": values})
    FIELDS.parse(values)


@pytest.mark.parametrize("values", BAD, ids=lambda values: str(values)[:40])
def test_the_schema_and_the_fields_refuse_the_same(values):
    """A truth value is no age, and a number of 400 digits no lactate: the schema says so, and the field a code."""
    assert not fits(schema_of(TABLE), {"inputs": values})
    with pytest.raises(MedServeError):
        FIELDS.parse(values)


def test_a_number_beyond_the_record_is_refused():
    """A record is float32: what does not fit in it would reach the model as infinite."""
    free = Records((Number("dose"),))
    with pytest.raises(Refusal) as caught:
        free({"dose": 1e300})
    assert caught.value.code in ("number-expected", "value-out-of-range")


def test_the_schema_of_the_longer_kinds():
    """A text, a wave and a history as their fields take them; an envelope without inputs, or with more, is refused."""
    schema = schema_of(spec(NOTE, ECG, STAY))
    wave = {"leads": ["I"], "hz": 100, "unit": "mV", "values": [[0.1, None, 0.2]]}
    events = [[0.5, "HR", 88], [1, "Temp", 36.9, "Cel"], [2, "intubated"]]
    for body in ({"note": "No fever."}, {"ecg": wave}, {"stay": events}, {"stay": json.loads(bundle(PATIENT, PULSE))}):
        assert fits(schema, {"inputs": body})
        for name, value in body.items():
            assert {"note": Text, "ecg": Waveform, "stay": Timeline}[name](name).parse(value) is not None
    for body in ({"note": 7}, {"ecg": "x"}, {"ecg": {"hz": 100}}, {"stay": [[0.5]]}, {"stay": "HR"}, {}):
        assert not fits(schema, {"inputs": body})
    assert not fits(schema, {}) and not fits(schema, {"inputs": {"note": "a"}, "more": 1})
    json.dumps(schema, allow_nan=False)
