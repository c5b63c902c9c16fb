"""The parts of FHIR R4 resources that tell what happened to a patient, as one structure for all types.

Every field that no reader needs is skipped while parsing, without becoming an object; a null is as good as nothing.
Fields that mean different things in different resources are unions, so that a Claim between two Observations does not
stop the reading.
Source: HL7 FHIR R4 (4.0.1) and R4B (4.3.0), hl7.org/fhir/R4.
"""

import msgspec

_NOTHING = msgspec.Raw()


class Coding(msgspec.Struct, gc=False):
    system: str | None = None
    code: str | None = None
    display: str | None = None


class Concept(msgspec.Struct, gc=False):
    """CodeableConcept."""

    coding: list[Coding] | None = None
    text: str | None = None


class Quantity(msgspec.Struct, gc=False):
    value: float | None = None
    unit: str | None = None
    code: str | None = None
    system: str | None = None
    comparator: str | None = None


class Reference(msgspec.Struct, gc=False):
    reference: str | None = None


class Period(msgspec.Struct, gc=False):
    start: str | None = None
    end: str | None = None


class Attachment(msgspec.Struct, gc=False):
    contentType: str | None = None
    data: str | None = None
    title: str | None = None


class Content(msgspec.Struct, gc=False):
    attachment: Attachment | None = None


class Rate(msgspec.Struct, gc=False):
    doseQuantity: Quantity | None = None


class Dosage(msgspec.Struct, gc=False):
    dose: Quantity | None = None
    doseAndRate: list[Rate] | None = None


class Component(msgspec.Struct, kw_only=True, gc=False):
    """Of an Observation; an Observation itself has the same value fields."""

    code: Concept | None = None
    valueQuantity: Quantity | None = None
    valueCodeableConcept: Concept | None = None
    valueString: str | None = None
    valueInteger: int | None = None
    valueBoolean: bool | None = None
    valueDateTime: str | None = None
    valueTime: str | None = None
    valueRange: msgspec.Raw = _NOTHING
    valueRatio: msgspec.Raw = _NOTHING
    valuePeriod: msgspec.Raw = _NOTHING
    valueSampledData: msgspec.Raw = _NOTHING
    dataAbsentReason: Concept | None = None


class Contained(msgspec.Struct, gc=False):
    id: str | None = None
    code: Concept | str | None = None


class Resource(Component, kw_only=True, gc=False):
    """Any resource."""

    resourceType: str
    id: str | None = None
    code: Concept | str | None = None  # type: ignore[assignment]  # a text in resources that are not read
    status: str | Concept | None = None
    subject: Reference | list[Reference] | None = None
    patient: Reference | list[Reference] | None = None
    contained: list[Contained] | None = None
    component: list[Component] | None = None
    effectiveDateTime: str | None = None
    effectiveInstant: str | None = None
    effectivePeriod: Period | None = None
    issued: str | None = None
    onsetDateTime: str | None = None
    onsetPeriod: Period | None = None
    recordedDate: str | None = None
    verificationStatus: Concept | str | None = None
    medicationCodeableConcept: Concept | None = None
    medicationReference: Reference | None = None
    authoredOn: str | None = None
    dateAsserted: str | None = None
    dosage: Dosage | list[Dosage] | None = None
    dosageInstruction: list[Dosage] | None = None
    performedDateTime: str | None = None
    performedPeriod: Period | None = None
    occurrenceDateTime: str | None = None
    vaccineCode: Concept | None = None
    period: Period | list[Period] | None = None
    class_: Coding | list[Coding] | None = msgspec.field(default=None, name="class")
    type: Concept | list[Concept] | str | None = None
    date: str | None = None
    description: Concept | str | None = None
    content: Content | list[Content] | str | None = None
    gender: str | None = None
    birthDate: str | None = None
    deceasedDateTime: str | None = None


class Entry(msgspec.Struct, gc=False):
    fullUrl: str | None = None
    resource: Resource | None = None


class Bundle(msgspec.Struct, gc=False):
    resourceType: str = ""
    entry: list[Entry] | None = None


class RawEntry(msgspec.Struct):
    fullUrl: str | None = None
    resource: msgspec.Raw = _NOTHING


class RawBundle(msgspec.Struct):
    resourceType: str = ""
    entry: list[RawEntry] | None = None


class Head(msgspec.Struct):
    resourceType: str = ""
