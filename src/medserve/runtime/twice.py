"""What a request says twice of one patient, in `inputs` for the model and in `patient` for the rules, must agree.

    check = Twice(spec)
    check({"age": b"61"}, said)              # Refusal "facts-contradict" where the patient is 25

Two patients in one request are a mistake of whoever joined them, and the model would advise one by the facts of the
other. An input is held against the element of a Bundle that its declaration names (`fhir`), else by its name: age, sex,
gender, weight, height, pregnant, pregnancy. What is on one side alone, or cannot be read, contradicts nothing.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from medserve.data.elements import Element, element
from medserve.data.units import convert
from medserve.errors import Refusal
from medserve.models.spec import InputSpec, ModelSpec
from medserve.runtime.bundle import told_by, value_of
from medserve.safety.fhir_in import BundleSaid, Observed
from medserve.safety.patient import Patient

AGE_APART, INFANT, INFANT_APART = 1.0, 2.0, 0.25  # years; a birthday may lie between the two
APART = 0.05  # of a measurement, which may have been repeated
_NAMED = {
    "age": Element("age", ""), "sex": Element("gender", ""), "gender": Element("gender", ""),
    "weight": Element("observation", "loinc|29463-7"), "height": Element("observation", "loinc|8302-2"),
}  # fmt: skip
_KINDS = {"age": "number", "gender": "category", "observation": "number"}
_SEXES = {"female": "female", "f": "female", "male": "male", "m": "male"}
_PREGNANT = ("pregnant", "pregnancy")
_YES, _NO = frozenset({"yes", "true", "1", "pregnant"}), frozenset({"no", "false", "0", "not-pregnant", "not pregnant"})


class Twice:
    """Of one package: which inputs a patient's facts may say too."""

    def __init__(self, spec: ModelSpec) -> None:
        self._held: dict[str, tuple[InputSpec, Element | None]] = {}
        for want in spec.inputs:
            named = want.name.lower()
            where = element(want.fhir) if want.fhir else _NAMED.get(named)
            if where is not None and want.kind == _KINDS.get(where.kind, want.kind):
                self._held[want.name] = want, where
            elif named in _PREGNANT:
                self._held[want.name] = want, None

    def __call__(self, inputs: Mapping[str, msgspec.Raw], said: BundleSaid) -> None:
        """
        Args:
            inputs: by name, not yet decoded.

        Raises: Refusal "facts-contradict".
        """
        for name, (want, where) in self._held.items():
            if name in inputs and not _agree(msgspec.json.decode(inputs[name]), want, where, said):
                raise Refusal(
                    "facts-contradict", f"{name}: `inputs` and `patient` say unlike things of it.",
                    hint="Look whether both are of one patient, and send the same value in both; nothing is advised on"
                    " facts that contradict.",
                )  # fmt: skip


def as_said(patient: Patient) -> BundleSaid:
    """The facts of a patient as JSON, in the form of those of a Bundle."""
    observed = [
        Observed([lab.code, *lab.also], lab.date.isoformat() if lab.date else "", lab.value, lab.unit,
                 lab.comparator or "", [])
        for lab in patient.labs
    ]  # fmt: skip
    return BundleSaid(patient, [], observed=observed)


def _agree(given: Any, want: InputSpec, where: Element | None, said: BundleSaid) -> bool:
    if where is None:
        status, word = said.patient.pregnancy, str(_plain(given)).lower()
        return not (status == "pregnant" and word in _NO) and not (status == "not-pregnant" and word in _YES)
    if where.kind == "gender":
        sex = _SEXES.get(str(_plain(given)).lower())  # words of another spelling are for their reader
        return sex is None or said.patient.sex not in ("female", "male") or sex == said.patient.sex
    if where.kind == "observation" and want.kind == "number":
        mine = _number(given, want)
        told = [_number({"value": one.value, "unit": one.unit}, want) for one in told_by(where.code, said)
                if one.value is not None and not one.bound]  # fmt: skip
        known = [one for one in told if one is not None]
        return mine is None or not known or any(_near(mine, one, APART * max(abs(mine), abs(one))) for one in known)
    try:
        fact = value_of(want, where, said)
    except Refusal:
        return True  # whoever reads the facts says what is wrong
    if fact is None or given is None:
        return True
    if want.kind != "number":
        return str(_plain(given)) not in (want.words or ()) or str(_plain(given)) == str(fact)
    mine, other = _number(given, want), _number(fact, want)
    if mine is None or other is None:
        return True
    if where.kind != "age":
        return mine == other
    years = [convert(one, want.unit or "a", "a", what="age") for one in (mine, other)]
    return _near(years[0], years[1], AGE_APART if min(years) >= INFANT else INFANT_APART)


def _near(one: float, other: float, apart: float) -> bool:
    return abs(one - other) <= apart + 1e-9


def _plain(given: Any) -> Any:
    return given.get("value") if isinstance(given, dict) else given


def _number(given: Any, want: InputSpec) -> float | None:
    """In the unit of the input; None where it is none, or of another kind, which its own reader refuses."""
    value, unit = _plain(given), given.get("unit") if isinstance(given, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return convert(float(value), unit, want.unit, what=want.name) if unit and want.unit else float(value)
    except Refusal:
        return None
