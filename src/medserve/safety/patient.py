"""What is asked: a patient's facts and the medicines that are thought of, as JSON.

    request = parse_request(b'{"patient": {...}, "candidates": [{"drug": "atc|B01AA03"}]}')

A list that is left out is not known; an empty list says that there is none. The difference decides whether a rule can
be judged. Codes are `system|code`: atc, rxnorm, icd10, snomed, loinc. A medicine may also be named ("warfarin").
"""

import datetime
from typing import Annotated, Literal

import msgspec

from medserve.errors import Refusal
from medserve.safety.orders import refuse_orders

MOST = 500  # of one list
MAX_BODY = 4 * 2**20  # bytes
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """also: the same condition in further code systems. text: where there is no code. resolved: it is past."""

    code: Text | None = None
    also: Annotated[list[Text], msgspec.Meta(max_length=20)] = []
    text: Text | None = None
    status: Literal["active", "resolved"] = "active"


class Lab(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A measurement. unit: UCUM; without one, it cannot be judged. comparator: where only a bound is known (">90")."""

    code: Text
    value: float
    unit: Text | None = None
    comparator: Literal["<", "<=", ">", ">="] | None = None
    date: datetime.date | None = None
    also: Annotated[list[Text], msgspec.Meta(max_length=20)] = []


class AllergySaid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """code: of the substance, its class, or the finding. An allergy with a text alone cannot be judged."""

    code: Text | None = None
    also: Annotated[list[Text], msgspec.Meta(max_length=20)] = []
    text: Text | None = None
    category: Literal["medication", "food", "environment", "biologic"] | None = None


class Medicine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is taken now. drug: a code or a name."""

    drug: Text
    also: Annotated[list[Text], msgspec.Meta(max_length=20)] = []


class Amount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one day. unit: UCUM, for instance mg/d."""

    value: Annotated[float, msgspec.Meta(gt=0)]
    unit: Text | None = None


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A medicine that is thought of. dose: where one is, it is held against the limits."""

    drug: Text
    also: Annotated[list[Text], msgspec.Meta(max_length=20)] = []
    dose: Amount | None = None


class Patient(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Nothing that tells who it is. child_pugh: "none" where there is no cirrhosis. as_of: the day of the question,
    against which dates of laboratory values are held; today where it is left out."""

    age_years: Annotated[float, msgspec.Meta(ge=0, le=130)] | None = None
    sex: Literal["female", "male", "other", "unknown"] | None = None
    pregnancy: Literal["pregnant", "not-pregnant", "unknown"] | None = None
    gestation_weeks: Annotated[float, msgspec.Meta(ge=0, le=45)] | None = None
    child_pugh: Literal["A", "B", "C", "none"] | None = None
    conditions: Annotated[list[Condition], msgspec.Meta(max_length=MOST)] | None = None
    labs: Annotated[list[Lab], msgspec.Meta(max_length=10 * MOST)] = []
    allergies: Annotated[list[AllergySaid], msgspec.Meta(max_length=MOST)] | None = None
    medicines: Annotated[list[Medicine], msgspec.Meta(max_length=MOST)] | None = None
    as_of: datetime.date | None = None


class SafetyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """together: the candidates are one set, the most wanted first, and none of them may interact with one before it
    that is offered; false: they are alternatives, each judged by itself. would_change: also say which facts stand in
    the way of each."""

    patient: Patient
    candidates: Annotated[list[Candidate], msgspec.Meta(min_length=1, max_length=MOST)]
    together: bool = True
    would_change: bool = False


_decoder, _patient = msgspec.json.Decoder(SafetyRequest), msgspec.json.Decoder(Patient)


def parse_request(body: bytes) -> SafetyRequest:
    """
    Raises: Refusal "safety-request": not of this form; "auto-execute": it asks for an order.
    """
    if len(body) > MAX_BODY:
        raise Refusal("safety-request", f"The request is larger than {MAX_BODY} bytes.")
    try:
        refuse_orders(msgspec.json.decode(body))
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        where = str(error).splitlines()[0] if isinstance(error, msgspec.ValidationError) else "It is not JSON."
        raise Refusal(
            "safety-request",
            f"The request is not of the form that docs/safety.md shows. {plain(where)}",
            hint='For instance {"patient": {"age_years": 61, ...}, "candidates": [{"drug": "atc|B01AA03"}]}',
        ) from error


def parse_patient(body: bytes) -> Patient:
    """The `patient` alone, beside the inputs of a model.

    Raises: Refusal "safety-request".
    """
    if len(body) > MAX_BODY:
        raise Refusal("safety-request", f"The patient's facts are larger than {MAX_BODY} bytes.")
    try:
        return _patient.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        where = str(error).splitlines()[0] if isinstance(error, msgspec.ValidationError) else "It is not JSON."
        raise Refusal(
            "safety-request", f"`patient` is not of the form that docs/safety.md shows. {plain(where)}",
            hint='For instance {"age_years": 61, "allergies": [], "conditions": [], "medicines": []}',
        ) from error  # fmt: skip


def plain(said: str) -> str:
    """msgspec's words without the value that they may echo: a path of names is left."""
    head, _, path = said.partition(" - at `")
    shown = head if head.startswith(("Expected", "Object missing", "Object contains unknown")) else "A value is wrong"
    return f"{shown[:200]} (at {path.rstrip('`')[:80]})." if path else f"{shown[:200]}."
