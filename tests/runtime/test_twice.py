"""What `inputs` and `patient` both say of one patient: where they agree, and where a request is refused."""

import json

import msgspec
import pytest

from medserve.errors import Refusal
from medserve.models.spec import InputSpec, ModelSpec, OutputSpec
from medserve.runtime.twice import Twice, as_said
from medserve.safety.patient import parse_patient
from medserve.types import Named


def number(name, unit, fhir=None):
    return InputSpec(name=name, kind="number", shape=(1,), unit=unit, fhir=fhir)


def category(name, words, fhir=None):
    return InputSpec(name=name, kind="category", shape=(1,), words=words, fhir=fhir)


INPUTS = [
    number("age", "a"), number("months", "mo", "Patient.age"), category("sex", ["F", "M"]), number("weight", "kg"),
    category("pregnant", ["no", "yes"]), category("diabetes", ["no", "yes"], "Condition icd10|E11"),
    number("statin", "1", "Medication atc|C10AA"), number("potassium", "mmol/L", "loinc|2823-3"), number("pain", "1"),
]  # fmt: skip
CHECK = Twice(
    ModelSpec(name="m", question="treatment", inputs=INPUTS, transforms=[Named("none") for _ in INPUTS],
              output=OutputSpec(task="number", labels=["dose"]), architecture=Named("by-hand"))
)  # fmt: skip


def ask(inputs, **facts):
    raw = msgspec.json.decode(json.dumps(inputs), type=dict[str, msgspec.Raw])
    CHECK(raw, as_said(parse_patient(json.dumps(facts).encode())))


HEAVY = [{"code": "loinc|29463-7", "value": 176.4, "unit": "[lb_av]", "date": "2026-11-20"}]  # 80 kg
BOTH = [
    {"code": "loinc|2823-3", "value": 5.9, "unit": "mmol/L"},
    {"code": "loinc|2823-3", "value": 4.1, "unit": "mmol/L"},
]


@pytest.mark.parametrize(
    ("inputs", "facts"),
    [
        ({"age": 75}, {"age_years": 25}),
        ({"age": {"value": 75, "unit": "a"}}, {"age_years": 71}),
        ({"months": 3}, {"age_years": 1}),
        ({"sex": "F"}, {"sex": "male"}),
        ({"weight": 80}, {"labs": [{"code": "loinc|29463-7", "value": 8, "unit": "kg"}]}),
        ({"weight": {"value": 80, "unit": "[lb_av]"}}, {"labs": HEAVY}),
        ({"pregnant": "no"}, {"pregnancy": "pregnant"}),
        ({"pregnant": "yes"}, {"pregnancy": "not-pregnant"}),
        ({"diabetes": "no"}, {"conditions": [{"code": "icd10|E11.9"}]}),
        ({"diabetes": "yes"}, {"conditions": []}),
        ({"statin": 0}, {"medicines": [{"drug": "atc|C10AA05"}]}),
        ({"potassium": 5.0}, {"labs": BOTH}),
    ],
)
def test_facts_that_contradict_are_refused(inputs, facts):
    """By the name of the input, without a value."""
    with pytest.raises(Refusal) as error:
        ask(inputs | {"pain": 3}, **facts)
    (name,) = inputs
    assert error.value.code == "facts-contradict" and error.value.hint and error.value.message.startswith(f"{name}:")
    assert not any(digit in error.value.message for digit in "0123456789")


@pytest.mark.parametrize(
    ("inputs", "facts"),
    [
        ({"age": 75}, {"age_years": 75.9}),
        ({"age": 75}, {}),
        ({"age": None}, {"age_years": 25}),
        ({"age": "old"}, {"age_years": 25}),
        ({"months": 11}, {"age_years": 1}),
        ({"sex": "F"}, {"sex": "female"}),
        ({"sex": "F"}, {"sex": "unknown"}),
        ({"sex": "2"}, {"sex": "male"}),
        ({"weight": 80.5}, {"labs": HEAVY}),
        ({"weight": 80}, {"labs": [{"code": "loinc|29463-7", "value": 90, "unit": "kg", "comparator": "<"}]}),
        ({"pregnant": "no"}, {"pregnancy": "unknown"}),
        ({"diabetes": "no"}, {"conditions": [{"code": "icd10|E11.9", "status": "resolved"}]}),
        ({"diabetes": "yes"}, {}),
        ({"diabetes": "maybe"}, {"conditions": []}),
        ({"statin": 1}, {"medicines": [{"drug": "atc|C10AA05"}]}),
        ({"potassium": 4.1}, {"labs": BOTH}),
        ({"potassium": 4.1}, {"labs": [{"code": "loinc|2823-3", "value": 9, "unit": "furlong"}]}),
        ({"pain": 3}, {"age_years": 3}),
    ],
)
def test_facts_that_agree_or_stand_alone_pass(inputs, facts):
    """What is unknown, or unreadable for this purpose, contradicts nothing; its own reader says what is wrong."""
    ask(inputs, **facts)
