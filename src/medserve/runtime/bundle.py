"""A FHIR Bundle -> the inputs of a table, as its declaration says which element each of them is (`fhir`).

    inputs_of(spec, read_bundle(body, today=date.today(), proposals=False))
    # {"age": {"value": 61.5, "unit": "a"}, "weight": {"value": 80, "unit": "kg"}, "diabetes": "absent"}

Values keep the unit that the Bundle gives; the field converts it. What is not there is left out, and is then missing. A
list that is not known (no Condition at all), or an entry without a code that could be it, is no absence.
"""

from typing import Any

from medserve.data.elements import Element, element
from medserve.errors import Refusal, neighbours
from medserve.models.spec import InputSpec, ModelSpec
from medserve.safety.fhir_in import BundleSaid, Observed
from medserve.safety.words import starts, tidy, vague


def inputs_of(spec: ModelSpec, said: BundleSaid) -> dict[str, Any]:
    """Raises: Refusal "unit-missing", "value-uncertain", "unknown-code", "number-expected"."""
    found: dict[str, Any] = {}
    for want in spec.inputs:
        where = None if want.fhir is None else element(want.fhir)
        value = None if where is None else value_of(want, where, said)
        if value is not None:
            found[want.name] = value
    return found


def value_of(want: InputSpec, where: Element, said: BundleSaid) -> Any:
    """What the facts say of one input; None where they say nothing.

    Raises: Refusal "unit-missing", "value-uncertain", "unknown-code", "number-expected".
    """
    if where.kind == "age":
        age = said.patient.age_years
        return None if age is None else {"value": age, "unit": "a"}
    if where.kind == "gender":
        return None if said.patient.sex is None else word_of(said.patient.sex, want)
    if where.kind == "observation":
        last = max(told_by(where.code, said), key=lambda one: one.when, default=None)
        return None if last is None else _number(want, last) if want.kind == "number" else _word(want, last)
    there = _condition(where.code, said) if where.kind == "condition" else _medicine(where.code, said)
    if there is None:
        return None
    return float(there) if want.kind == "number" else (want.words or ["0", "1"])[there]


def told_by(code: str, said: BundleSaid) -> list[Observed]:
    """The Observations of a code."""
    wanted = _same(code)
    return [one for one in said.observed if wanted in map(_same, one.codes)]


def word_of(gender: str, want: InputSpec) -> str:
    """FHIR's word for it in the model's own spelling ("female", "F")."""
    for word in want.words or []:
        if word.lower() == gender.lower() or word.lower() == gender[:1].lower():
            return word
    return gender


def _number(want: InputSpec, one: Observed) -> Any:
    if one.value is None:
        raise Refusal("number-expected", f"{want.name}: the newest Observation of {want.fhir} holds no number.",
                      hint="Send a valueQuantity with its unit.")  # fmt: skip
    if one.bound:
        raise Refusal("value-uncertain", f"{want.name}: only a bound is known ({one.bound}).",
                      hint="Send the value itself, or leave the Observation out.")  # fmt: skip
    plain = want.unit in (None, "1")
    bare = one.unit is None or one.unit == "1" or (one.unit.startswith("{") and one.unit.endswith("}"))
    if not plain and one.unit is None:
        raise Refusal("unit-missing", f"{want.name}: the Observation of {want.fhir} has no unit.",
                      hint=f"Send its unit in UCUM, for instance {want.unit}.")  # fmt: skip
    return one.value if plain and bare else {"value": one.value, "unit": one.unit}


def _word(want: InputSpec, one: Observed) -> str:
    words = {word.lower(): word for word in want.words or ()}
    for said in one.words:
        if said.lower() in words:
            return words[said.lower()]
    if not words and one.words:
        return one.words[0]
    raise Refusal(
        "unknown-code",
        f"{want.name}: the answer of {want.fhir} is none of its words ({neighbours('', words.values())}).",
        hint="Code it, or give it a text, as the model knows it; GET /v1/models/NAME lists the words.",
    )


def _condition(code: str, said: BundleSaid) -> bool | None:
    """Whether one is active; None where that is not known."""
    wanted = _same(code)
    if said.patient.conditions is None:
        return None
    unclear = False
    for one in said.patient.conditions:
        if one.status != "active":
            continue
        codes = [_same(each) for each in (one.code, *one.also) if each]
        if any(starts(each, wanted) for each in codes):
            return True
        own = [each for each in codes if each.partition("|")[0] == wanted.partition("|")[0]]
        unclear |= not own or any(vague(each, wanted) for each in own)
    return None if unclear else False


def _medicine(code: str, said: BundleSaid) -> bool | None:
    """Whether it, or one of its class of ATC, is taken now; None where that is not known."""
    wanted, unclear = _same(code), False
    if said.patient.medicines is None:
        return None
    for one in said.patient.medicines:
        codes = [_same(each) for each in (one.drug, *one.also)]
        own = [each for each in codes if each.partition("|")[0] == wanted.partition("|")[0]]
        if any(each.startswith(wanted) if wanted.startswith("atc|") else each == wanted for each in own):
            return True
        unclear |= not own
    return None if unclear else False


def _same(code: str) -> str:
    return tidy(code) or code
