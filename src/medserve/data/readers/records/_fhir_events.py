"""One FHIR resource -> its events.

    events_of(resource, medications)        # [(time, code, value, unit, text)] or the reason why there are none

The time is when a fact could be known: a condition stands at the date it was recorded, where there is one, not at the
onset that was told later. Observations stand at their effective time.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from medserve.data.readers.records._fhir_types import Component, Concept, Dosage, Period, Quantity, Resource
from medserve.data.readers.records._time import iso_hours
from medserve.data.readers.records.codes import MAX_CODE, PREFERRED, short

Told = tuple[float, str, float | None, str | None, str | None]  # time, code, value, unit, text
UCUM = "http://unitsofmeasure.org"
WRONG = frozenset({"entered-in-error", "refuted"})
NOT_DONE = frozenset({"not-done", "cancelled", "not-taken"})
EMPTY = (b"", b"null")
MAX_NOTE = 2**20  # characters of one document
_RANK = {system: at for at, system in enumerate(PREFERRED)}


def code_of(concept: Any) -> str | None:
    """`system|code` of the best known coding; `text|...` where there is only a text."""
    if not isinstance(concept, Concept):
        return None
    best, rank = None, len(_RANK) + 1
    for coding in concept.coding or ():
        if coding.code:
            system = short(coding.system)
            at = _RANK.get(system, len(_RANK))
            if at < rank:
                best, rank = f"{system}|{coding.code}", at
    if best is None:
        said = concept.text or next((c.display for c in concept.coding or () if c.display), None)
        best = f"text|{said}" if said else None
    return best[:MAX_CODE] if best else None


def events_of(resource: Resource, medications: Mapping[str, str]) -> list[Told] | str:
    """Returns: its events, or the reason why it has none: "entered-in-error", "not-done", "no-time", "no-code",
    "no-value"."""
    status = resource.status
    if isinstance(status, str) and status in WRONG or _said(resource.verificationStatus) in WRONG:
        return "entered-in-error"
    if isinstance(status, str) and status in NOT_DONE:
        return "not-done"
    return READ[resource.resourceType](resource, medications)


def _said(concept: Any) -> str | None:
    return concept.coding[0].code if isinstance(concept, Concept) and concept.coding else None


def _when(*times: str | Period | list[Period] | None, end: bool = False) -> float | None:
    """The first that is a time; of a period its start, or its end."""
    for time in times:
        if isinstance(time, list):
            time = time[0] if time else None
        if isinstance(time, Period):
            time = time.end if end else time.start or time.end
        if time is not None and (hours := iso_hours(time)) is not None:
            return hours
    return None


def _quantity(quantity: Quantity | None) -> tuple[float | None, str | None, str | None]:
    if quantity is None or quantity.value is None:
        return None, None, None
    unit = quantity.code if quantity.code and quantity.system == UCUM else quantity.unit or quantity.code
    return quantity.value, unit, quantity.comparator


def _value(said: Component) -> tuple[float | None, str | None, str | None] | None:
    """(value, unit, text); None: there is no value."""
    if said.valueQuantity is not None and said.valueQuantity.value is not None:
        return _quantity(said.valueQuantity)
    if said.valueCodeableConcept is not None:
        return None, None, code_of(said.valueCodeableConcept)
    if said.valueInteger is not None:
        return float(said.valueInteger), None, None
    if said.valueBoolean is not None:
        return float(said.valueBoolean), None, None
    text = said.valueString or said.valueDateTime or said.valueTime
    if text is not None:
        return None, None, text[:MAX_NOTE]
    whole = (said.valueRange, said.valueRatio, said.valuePeriod, said.valueSampledData)
    told = (bytes(raw) for raw in whole)
    return next(((None, None, raw.decode("utf-8", "replace")[:MAX_NOTE]) for raw in told if raw not in EMPTY), None)


def _observation(resource: Resource, medications: Mapping[str, str]) -> list[Told] | str:
    time = _when(resource.effectiveDateTime, resource.effectiveInstant, resource.effectivePeriod, resource.issued)
    if time is None:
        return "no-time"
    found: list[Told] = []
    codes = 0
    for part in (resource, *(resource.component or ())):
        code, value = code_of(part.code), _value(part)
        codes += code is not None
        if code is not None and value is not None:
            found.append((time, code, *value))
    if found:
        return found
    if not codes:
        return "no-code"
    code = code_of(resource.code)
    if code is None or resource.dataAbsentReason is not None or resource.component:
        return "no-value"
    return [(time, code, None, None, None)]  # a panel, whose members stand for themselves


def _one(
    time: float | None, code: str | None, text: str | None = None, dose: Quantity | None = None
) -> list[Told] | str:
    if time is None:
        return "no-time"
    if code is None:
        return "no-code"
    value, unit, comparator = _quantity(dose)
    return [(time, code, value, unit, comparator or text)]


def _condition(resource: Resource, medications: Mapping[str, str]) -> list[Told] | str:
    return _one(_when(resource.recordedDate, resource.onsetDateTime, resource.onsetPeriod), code_of(resource.code))


def _medication(resource: Resource, medications: Mapping[str, str]) -> list[Told] | str:
    code = code_of(resource.medicationCodeableConcept)
    if code is None and resource.medicationReference is not None and (to := resource.medicationReference.reference):
        if to.startswith("#"):
            code = next((code_of(c.code) for c in resource.contained or () if c.id == to[1:]), None)
        else:
            code = medications.get(to) or medications.get(to.rsplit("/", 1)[-1])
    time = _when(
        resource.effectiveDateTime,
        resource.effectivePeriod,
        resource.authoredOn,
        resource.dateAsserted,
        resource.issued,
    )
    return _one(time, code, resource.resourceType.removeprefix("Medication").lower(), _dose(resource))


def _dose(resource: Resource) -> Quantity | None:
    said = resource.dosage if resource.dosage is not None else resource.dosageInstruction
    first = said if isinstance(said, Dosage) else said[0] if said else None
    if first is None:
        return None
    return first.dose or next((rate.doseQuantity for rate in first.doseAndRate or () if rate.doseQuantity), None)


def _procedure(resource: Resource, medications: Mapping[str, str]) -> list[Told] | str:
    return _one(_when(resource.performedDateTime, resource.performedPeriod), code_of(resource.code))


def _report(resource: Resource, medications: Mapping[str, str]) -> list[Told] | str:
    time = _when(resource.effectiveDateTime, resource.effectivePeriod, resource.issued)
    return _one(time, code_of(resource.code))


def _allergy(resource: Resource, medications: Mapping[str, str]) -> list[Told] | str:
    found = _one(_when(resource.recordedDate, resource.onsetDateTime, resource.onsetPeriod), code_of(resource.code))
    return found if isinstance(found, str) else [(t, f"allergy/{code}", *rest) for t, code, *rest in found]  # type: ignore[misc]


def _immunization(resource: Resource, medications: Mapping[str, str]) -> list[Told] | str:
    return _one(_when(resource.occurrenceDateTime, resource.recordedDate), code_of(resource.vaccineCode))


def _document(resource: Resource, medications: Mapping[str, str]) -> list[Told] | str:
    kind = resource.type if isinstance(resource.type, Concept) else None
    found = _one(_when(resource.date), code_of(kind) or "document", _note(resource))
    return found


def _note(resource: Resource) -> str | None:
    parts = resource.content if isinstance(resource.content, list) else []
    for part in parts:
        held = part.attachment
        if held is None or not held.data or len(held.data) > 2 * MAX_NOTE:
            continue
        if (held.contentType or "text/plain").startswith("text/"):
            try:
                return base64.b64decode(held.data, validate=True).decode("utf-8", "replace")[:MAX_NOTE]
            except (binascii.Error, ValueError):
                continue
    return resource.description if isinstance(resource.description, str) else None


def _encounter(resource: Resource, medications: Mapping[str, str]) -> list[Told] | str:
    """Its start and its end; how long it will last is not known at its start."""
    held = resource.class_[0] if isinstance(resource.class_, list) and resource.class_ else resource.class_
    kind = (held.code or held.display if not isinstance(held, list) and held is not None else None) or "unknown"
    types = resource.type if isinstance(resource.type, list) else [resource.type]
    start, end = _when(resource.period), _when(resource.period, end=True)
    if start is None:
        return "no-time"
    found: list[Told] = [(start, f"encounter|{kind}"[:MAX_CODE], None, None, code_of(types[0]) if types else None)]
    if end is not None:
        found.append((end, f"encounter-end|{kind}"[:MAX_CODE], None, None, None))
    return found


READ: dict[str, Callable[[Resource, Mapping[str, str]], list[Told] | str]] = {
    "AllergyIntolerance": _allergy,
    "Condition": _condition,
    "DiagnosticReport": _report,
    "DocumentReference": _document,
    "Encounter": _encounter,
    "Immunization": _immunization,
    "MedicationAdministration": _medication,
    "MedicationRequest": _medication,
    "MedicationStatement": _medication,
    "Observation": _observation,
    "Procedure": _procedure,
}
