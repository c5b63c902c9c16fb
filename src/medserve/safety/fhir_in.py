"""A FHIR R4 Bundle -> the patient and the candidates that rules are asked about.

    bundle = read_bundle(body, today=date.today())
    review = envelope.review(bundle.patient, bundle.candidates, notes=bundle.notes)

Patient, Condition, Observation, AllergyIntolerance, MedicationRequest, MedicationStatement and the Medications they
refer to. Candidates are the MedicationRequests of intent proposal, plan or option, and drafts. A list counts as known
where at least one resource of its kind is there, or one that says that there is none ("no known allergy"). Unlike the
readers of data sets, this one skips nothing: a resource that should be read and cannot be refuses the Bundle.
Source: HL7 FHIR R4 (4.0.1); the codes for "none known" are those of the International Patient Summary.
"""

import datetime
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec

from medserve.data.readers.records._fhir_types import Coding, Concept, Period, Quantity, RawBundle, Reference
from medserve.data.readers.records.codes import short
from medserve.data.units import convert
from medserve.errors import Refusal
from medserve.safety.orders import refuse_orders_in_bundle
from medserve.safety.patient import MAX_BODY, AllergySaid, Amount, Candidate, Condition, Lab, Medicine, Patient

UCUM = "http://unitsofmeasure.org"
NONE_KNOWN = {
    "allergies": {"snomed|716186003", "snomed|409137002", "no-known-allergies", "no-known-medication-allergies"},
    "conditions": {"snomed|160245001", "no-known-problems"},
    "medicines": {"snomed|787481004", "no-known-medications"},
}
# What says nothing about the list that a rule asks for.
NOT_KNOWN = {"no-allergy-info", "no-problem-info", "no-medication-info", "no-known-food-allergies",
             "no-known-environmental-allergies", "snomed|429625007", "snomed|428607008"}  # fmt: skip
PREGNANCY = {"loinc|82810-3"}
PREGNANT = {"snomed|77386006": "pregnant", "snomed|60001007": "not-pregnant", "LA15173-0": "pregnant",
            "LA26683-5": "not-pregnant"}  # fmt: skip
PREGNANCY_DAYS = 30  # for which an Observation that there is no pregnancy counts
GESTATION = {"loinc|18185-9", "loinc|11884-4", "loinc|49051-6"}
CHILD_PUGH = {"child-pugh", "child-pugh class", "child-pugh score class"}
PROPOSED = frozenset({"proposal", "plan", "option"})
TAKEN = frozenset({"active", "on-hold", "unknown", "intended"})
WRONG = frozenset({"entered-in-error", "refuted"})
T = TypeVar("T")


class _Substance(msgspec.Struct):
    substance: Concept | None = None


class _Repeat(msgspec.Struct):
    frequency: int | None = None
    period: float | None = None
    periodUnit: str | None = None


class _Timing(msgspec.Struct):
    repeat: _Repeat | None = None


class _Rate(msgspec.Struct):
    doseQuantity: Quantity | None = None


class _Dosage(msgspec.Struct):
    timing: _Timing | None = None
    doseAndRate: list[_Rate] | None = None


class _Component(msgspec.Struct, kw_only=True):
    code: Concept | None = None
    valueQuantity: Quantity | None = None
    valueCodeableConcept: Concept | None = None
    valueString: str | None = None
    valueInteger: int | None = None
    valueBoolean: bool | None = None


class _Contained(msgspec.Struct):
    id: str | None = None
    code: Concept | None = None


class _Read(_Component, kw_only=True):
    """What is looked at of any of the resources."""

    resourceType: str
    id: str | None = None
    status: str | None = None
    intent: str | None = None
    doNotPerform: bool = False
    subject: Reference | None = None
    patient: Reference | None = None
    contained: list[_Contained] | None = None
    component: list[_Component] | None = None
    clinicalStatus: Concept | None = None
    verificationStatus: Concept | None = None
    category: Any = None
    reaction: list[_Substance] | None = None
    medicationCodeableConcept: Concept | None = None
    medicationReference: Reference | None = None
    dosageInstruction: list[_Dosage] | None = None
    effectiveDateTime: str | None = None
    effectivePeriod: Period | None = None
    issued: str | None = None
    gender: str | None = None
    birthDate: str | None = None


class _Kind(msgspec.Struct):
    resourceType: str = ""


class _Parameters(msgspec.Struct):
    parameter: list[Any] = []


READ = ("Patient", "Condition", "Observation", "AllergyIntolerance", "MedicationRequest", "MedicationStatement",
        "Medication")  # fmt: skip
_bundle, _kind = msgspec.json.Decoder(RawBundle), msgspec.json.Decoder(_Kind)
_read, _parameters = msgspec.json.Decoder(_Read), msgspec.json.Decoder(_Parameters)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Observed(NamedTuple):
    """One Observation, or a component of one. when: as it was written, "" where no time is said. bound: of a value that
    is one. words: of an answer that is no number: its codes, with and without their systems, and texts."""

    codes: list[str]
    when: str
    value: float | None
    unit: str | None
    bound: str
    words: list[str]


@dataclass(slots=True)
class BundleSaid:
    """subject: how the Bundle refers to its patient. observed: every Observation, for the inputs of a model."""

    patient: Patient
    candidates: list[Candidate]
    notes: list[str] = field(default_factory=list)
    subject: str = ""
    observed: list[Observed] = field(default_factory=list)


def is_bundle(body: bytes) -> bool:
    """Whether JSON is a FHIR resource."""
    try:
        return bool(_kind.decode(body).resourceType)
    except (msgspec.DecodeError, RecursionError):
        return False


def read_bundle(
    body: bytes, *, today: datetime.date, named: Iterable[Candidate] = (), proposals: bool = True
) -> BundleSaid:
    """
    Args:
        named: candidates beside those that the Bundle proposes.
        proposals: false where a model proposes: what the Bundle does is then a note.

    Raises: Refusal "fhir-not-a-bundle", "fhir-unreadable", "fhir-malformed", "fhir-patients", "fhir-other-patient",
        "no-candidates", "fhir-too-large", "auto-execute".
    """
    found, ignored = _resources(body)
    people = [(url, one) for url, one in found if one.resourceType == "Patient"]
    if len(people) != 1:
        raise Refusal("fhir-patients", f"The Bundle holds {len(people)} Patients.", hint="Send exactly one.")
    url, person = people[0]
    _check_subjects(found, url, person)
    reader = _Reader(today, {ref: one.code for u, one in found if one.resourceType == "Medication"
                             for ref in (u, one.id and f"Medication/{one.id}") if ref and one.code})  # fmt: skip
    reader.person(person)
    for _, one in found:
        reader.take(one)
    if not proposals and reader.candidates:
        reader.notes.append(f"Not reviewed: {len(reader.candidates)} proposals of the Bundle; the model's advice was.")
        reader.candidates.clear()
    reader.candidates += named
    if proposals and not reader.candidates:
        hint = "Send a MedicationRequest of intent proposal for each medicine that is thought of."
        raise Refusal("no-candidates", "The Bundle proposes no medicine.", hint=hint)
    subject = f"Patient/{person.id}" if person.id else url or ""
    notes = [f"Not read: {count} {kind}." for kind, count in sorted(ignored.items())] + reader.notes
    return BundleSaid(reader.patient(), reader.candidates, notes, subject, reader.observed)


def _resources(body: bytes) -> tuple[list[tuple[str | None, _Read]], Counter[str]]:
    if len(body) > MAX_BODY:
        raise Refusal("fhir-too-large", f"The Bundle is larger than {MAX_BODY} bytes.")
    try:
        bundle = _bundle.decode(body)
        own = {name: msgspec.json.decode(said) for name, said in _members.decode(body).items() if name != "entry"}
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal("fhir-unreadable", "The body is not JSON of a FHIR Bundle.") from error
    if bundle.resourceType != "Bundle":
        raise Refusal("fhir-not-a-bundle", "A FHIR Bundle was expected.", hint='Its "resourceType" is "Bundle".')
    refuse_orders_in_bundle(own, ())
    found, ignored = [], Counter[str]()
    for number, entry in enumerate(bundle.entry or (), 1):
        if bytes(entry.resource) in (b"", b"null"):
            continue
        kind = "resource"
        try:
            kind = _kind.decode(entry.resource).resourceType or "resource"
            if kind == "Parameters":
                refuse_orders_in_bundle({}, _parameters.decode(entry.resource).parameter)
            if kind not in READ:
                ignored[kind[:40]] += 1
                continue
            found.append((entry.fullUrl, _read.decode(entry.resource)))
        except (msgspec.DecodeError, RecursionError) as error:
            where = str(error).partition(" - at `")[2].rstrip("`")[:80]
            said = f"Entry {number} ({kind[:40]}) is not of the form of FHIR R4{f', at {where}' if where else ''}."
            raise Refusal("fhir-malformed", said, hint="Mend it, or leave it out; nothing is skipped.") from error
    return found, ignored


def _check_subjects(found: Iterable[tuple[str | None, _Read]], url: str | None, person: _Read) -> None:
    """Nothing of another patient."""
    own = {url, f"Patient/{person.id}", f"urn:uuid:{person.id}"}
    for _, one in found:
        said = one.subject or one.patient
        to = said.reference if said is not None else None
        if to and to not in own and not (person.id and to.endswith(f"/Patient/{person.id}")):
            raise Refusal("fhir-other-patient", f"A {one.resourceType} is about somebody else than the Patient.",
                          hint="Send one patient's resources alone.")  # fmt: skip


class _Reader:
    """One Bundle's resources, one after the other."""

    def __init__(self, today: datetime.date, medications: dict[str, Concept | str]) -> None:
        self._today, self._medications = today, medications
        self.candidates: list[Candidate] = []
        self.notes: list[str] = []
        self.observed: list[Observed] = []
        self._age: float | None = None
        self._sex: Any = None
        self._lists: dict[str, list[Any]] = {}
        self._labs: list[Lab] = []
        self._pregnancy: tuple[str, tuple[Any, datetime.date | None]] | None = None
        self._gestation: tuple[str, float] | None = None
        self._child_pugh: tuple[str, Any] | None = None

    def patient(self) -> Patient:
        return Patient(
            age_years=self._age, sex=self._sex, pregnancy=self._pregnant(),
            gestation_weeks=self._gestation[1] if self._gestation else None,
            child_pugh=self._child_pugh[1] if self._child_pugh else None, conditions=self._lists.get("conditions"),
            labs=self._labs, allergies=self._lists.get("allergies"), medicines=self._lists.get("medicines"),
            as_of=self._today,
        )  # fmt: skip

    def _pregnant(self) -> Any:
        """What the newest Observation says. That there is none was so on its day, and counts for some days."""
        if self._pregnancy is None:
            return None
        when, (answer, day) = self._pregnancy
        old = bool(when) and (day is None or (self._today - day).days > PREGNANCY_DAYS)
        if answer == "not-pregnant" and old:
            self.notes.append(f"That there is no pregnancy was said more than {PREGNANCY_DAYS} days ago, or on no"
                              " certain day: it counts as not known.")  # fmt: skip
            return None
        return answer

    def person(self, one: _Read) -> None:
        self._sex = one.gender if one.gender in ("female", "male", "other", "unknown") else None
        try:
            born = datetime.date.fromisoformat(one.birthDate or "")
        except ValueError:
            if one.birthDate:
                self.notes.append("The birth date is not a whole date, so the age is not known.")
            return
        age = _years(born, self._today)
        if not 0 <= age <= 130:
            raise Refusal("fhir-malformed", "The birth date gives no age between 0 and 130 years.")
        self._age = age

    def take(self, one: _Read) -> None:
        if one.status in WRONG or WRONG & set(_words(one.verificationStatus)):
            return
        if one.resourceType == "Condition":
            self._condition(one)
        elif one.resourceType == "AllergyIntolerance":
            self._allergy(one)
        elif one.resourceType == "Observation" and one.status != "cancelled":
            self._observation(one)
        elif one.resourceType in ("MedicationRequest", "MedicationStatement"):
            self._medicine(one)

    def _known(self, name: str, codes: list[str]) -> bool:
        """Whether the resource says that there is none, or that it is not known; then it is no entry of the list."""
        words = {one.rpartition("|")[2] for one in codes} | set(codes)
        if NOT_KNOWN & words:
            return True
        self._lists.setdefault(name, [])
        return bool(NONE_KNOWN[name] & words)

    def _condition(self, one: _Read) -> None:
        codes, text = _codes(one.code)
        if self._known("conditions", codes):
            return
        past = bool({"inactive", "remission", "resolved"} & set(_words(one.clinicalStatus)))
        code, also = (codes[0], codes[1:]) if codes else (None, [])
        self._lists["conditions"].append(Condition(code, also, text, "resolved" if past else "active"))

    def _allergy(self, one: _Read) -> None:
        codes, text = _codes(one.code)
        if "resolved" in _words(one.clinicalStatus):
            self._lists.setdefault("allergies", [])
            self.notes.append("A resolved allergy was not held against medicines.")
            return
        if self._known("allergies", codes):
            return
        for reaction in one.reaction or ():
            more, said = _codes(reaction.substance)
            codes, text = codes + more, text or said
        kinds = one.category if isinstance(one.category, list) else []
        kind = kinds[0] if len(kinds) == 1 and kinds[0] in ("food", "environment") else None
        code, also = (codes[0], codes[1:]) if codes else (None, [])
        self._lists["allergies"].append(AllergySaid(code, also, text or "not said", kind))

    def _observation(self, one: _Read) -> None:
        said = one.effectiveDateTime or (one.effectivePeriod and one.effectivePeriod.start) or one.issued or ""
        when = said[:10]
        try:
            day = datetime.date.fromisoformat(when) if when else None
        except ValueError:
            day = None  # a year or a month alone
        for part in (one, *(one.component or ())):
            codes, text = _codes(part.code)
            if not codes and not text:
                continue
            self.observed.append(_observed(part, codes, said))
            words = {*codes, *(word.rpartition("|")[2].lower() for word in codes), (text or "").lower()}
            if PREGNANCY & words:
                answer = next((PREGNANT[w] for w in _answers(part) if w in PREGNANT), "unknown")
                self._pregnancy = _later(self._pregnancy, when, (answer, day))
            elif CHILD_PUGH & words:
                grade = next((w.rpartition("|")[2].strip()[-1:].upper() for w in _answers(part) if w.strip()), "")
                if grade in ("A", "B", "C"):
                    self._child_pugh = _later(self._child_pugh, when, grade)
            elif (value := part.valueQuantity) is not None and value.value is not None and codes:
                unit = value.code if value.code and value.system == UCUM else value.unit or value.code
                if GESTATION & words:
                    self._weeks(value.value, unit, when, day)
                else:
                    bound: Any = value.comparator if value.comparator in ("<", "<=", ">", ">=") else None
                    self._labs.append(Lab(codes[0], value.value, unit, bound, day, codes[1:]))

    def _weeks(self, value: float, unit: str | None, when: str, day: datetime.date | None) -> None:
        """As of today, where the day of the observation is known."""
        weeks = convert(value, unit or "", "wk", what="gestational age")
        weeks += (self._today - day).days / 7 if day else 0.0
        if 0 <= weeks <= 45:
            self._gestation = _later(self._gestation, when, weeks)

    def _medicine(self, one: _Read) -> None:
        concept: Any = one.medicationCodeableConcept
        to = one.medicationReference.reference if one.medicationReference else None
        if concept is None and to:
            held = {f"#{inner.id}": inner.code for inner in one.contained or ()}
            short_name = "/".join(to.split("/_history/")[0].split("/")[-2:])
            concept = held.get(to) or self._medications.get(to) or self._medications.get(short_name)
        codes, text = _codes(concept)
        drug, also = (codes[0], codes[1:]) if codes else (f"text|{text or to or 'not said'}"[:400], [])
        if one.resourceType == "MedicationRequest" and (one.intent in PROPOSED or one.status == "draft"):
            if one.doNotPerform:
                self.notes.append("A request not to give a medicine is no proposal.")
            elif one.status in (None, "draft", *TAKEN):
                self.candidates.append(Candidate(drug, also, _daily(one.dosageInstruction)))
            return
        if self._known("medicines", codes) or one.status not in TAKEN or one.doNotPerform:
            return
        self._lists["medicines"].append(Medicine(drug, also))


def _years(born: datetime.date, day: datetime.date) -> float:
    """A birthday is a whole number of years."""
    whole = day.year - born.year - ((day.month, day.day) < (born.month, born.day))
    last = datetime.date(born.year + whole, born.month, min(born.day, 28) if born.month == 2 else born.day)
    return whole + max(0, (day - last).days) / 366


def _later(before: tuple[str, T] | None, when: str, value: T) -> tuple[str, T]:
    return (when, value) if before is None or when >= before[0] else before


def _codes(concept: Any) -> tuple[list[str], str | None]:
    """Every coding as `system|code`, and the words."""
    if not isinstance(concept, Concept):
        return [], None
    said: list[Coding] = concept.coding or []
    text = concept.text or next((one.display for one in said if one.display), None)
    return [f"{short(one.system)}|{one.code}"[:400] for one in said if one.code], text[:400] if text else None


def _words(concept: Concept | None) -> list[str]:
    return [one.code for one in (concept.coding or ()) if one.code] if concept is not None else []


def _answers(part: _Component) -> list[str]:
    codes, text = _codes(part.valueCodeableConcept)
    plain = [one.rpartition("|")[2] for one in codes]
    return [*codes, *plain, *filter(None, (text, part.valueString))]


def _observed(part: _Component, codes: list[str], when: str) -> Observed:
    quantity, words = part.valueQuantity, _answers(part)
    if part.valueBoolean is not None:
        words += ["yes", "true", "1"] if part.valueBoolean else ["no", "false", "0"]
    if quantity is None or quantity.value is None:
        whole = None if part.valueInteger is None else float(part.valueInteger)
        return Observed(codes, when, whole, None, "", words)
    unit = quantity.code if quantity.code and quantity.system == UCUM else quantity.unit or quantity.code
    return Observed(codes, when, quantity.value, unit, quantity.comparator or "", words)


def _daily(dosage: list[_Dosage] | None) -> Amount | None:
    """The dose of one day, where one simple instruction says it; else it is not held against limits."""
    if not dosage or len(dosage) != 1:
        return None
    repeat = dosage[0].timing.repeat if dosage[0].timing else None
    rates = [one.doseQuantity for one in dosage[0].doseAndRate or () if one.doseQuantity is not None]
    if repeat is None or len(rates) != 1 or not rates[0].value or not repeat.period:
        return None
    hours = {"h": 1.0, "d": 24.0, "wk": 168.0}.get(repeat.periodUnit or "")
    if hours is None or rates[0].value <= 0:
        return None
    unit = rates[0].code if rates[0].system == UCUM else rates[0].unit
    times = (repeat.frequency or 1) * 24.0 / (repeat.period * hours)
    return Amount(rates[0].value * times, f"{unit}/d" if unit else None)
