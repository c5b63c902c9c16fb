"""FHIR R4 in and out: what a Bundle says of a patient, and what is answered, valid by the published structures."""

import datetime
import sys
from pathlib import Path

import pytest
from fhir.resources.R4B import get_fhir_model_class

sys.path.insert(0, str(Path(__file__).parent))

from bundles import (
    NO_ALLERGY,
    NO_MEDICINE,
    NO_PROBLEM,
    allergy,
    answer,
    bundle,
    concept,
    condition,
    lab,
    patient,
    request,
    taken,
)
from plain_reading import Tables
from random_patients import Hospital

from medserve.errors import Refusal
from medserve.safety.envelope import Envelope
from medserve.safety.fhir_in import is_bundle, read_bundle
from medserve.safety.fhir_out import as_fhir
from medserve.safety.source import STARTER

TODAY = datetime.date(2026, 12, 1)
NOW = datetime.datetime(2026, 12, 1, 12, tzinfo=datetime.UTC)
WELL = (patient(), NO_ALLERGY, NO_PROBLEM, NO_MEDICINE, lab("loinc|98979-8", 90, "mL/min/{1.73_m2}"),
        lab("loinc|35591-7", 90, "mL/min"))  # fmt: skip


@pytest.fixture(scope="module")
def envelope():
    return Envelope.open()


def review(envelope, *resources):
    said = read_bundle(bundle(*resources), today=TODAY)
    return envelope.review(said.patient, said.candidates, today=TODAY, notes=said.notes)


def first(envelope, *resources):
    return review(envelope, *resources).items[0]


def test_a_patient_of_whom_everything_is_known(envelope):
    """Age from the birth date, lists that are said to be empty, the newest values."""
    assert is_bundle(bundle()) and not is_bundle(b'{"patient": {}}')
    said = read_bundle(bundle(*WELL, request("atc|A10BA02")), today=TODAY)
    assert said.subject == "Patient/p1" and round(said.patient.age_years, 1) == 61.5
    assert (said.patient.conditions, said.patient.allergies, said.patient.medicines) == ([], [], [])
    assert first(envelope, *WELL, request("atc|A10BA02")).status == "offered"


@pytest.mark.parametrize(
    ("drug", "resources", "status", "word"),
    [
        ("atc|M01AE01", [taken("rxnorm|11289")], "blocked", "DDI-001"),
        ("atc|M01AE01", [request("atc|B01AA03", intent="order")], "blocked", "DDI-001"),
        ("atc|M01AE01", [request("atc|B01AA03", intent="order", status="stopped")], "offered", ""),
        ("atc|M01AE01", [taken("atc|B01AA03", status="entered-in-error"), NO_MEDICINE], "offered", ""),
        ("atc|M01AE01", [condition("snomed|84114007", "icd10cm|I50.9")], "blocked", "CI-017"),
        ("atc|M01AE01", [condition("icd10|I50.9", clinical="resolved")], "offered", ""),
        ("atc|J01CA04", [allergy("snomed|91936005")], "blocked", "ALG-002"),
        ("atc|J01CA04", [allergy("snomed|91936005", verificationStatus=concept("snomed|1") | {
            "coding": [{"code": "refuted"}]}), NO_ALLERGY], "offered", ""),
        ("atc|J01CA04", [allergy(code=concept(text="penicillin"))], "unknown", "allergy-free-text"),
        ("atc|J01CA04", [allergy(code=None, reaction=[{"substance": concept("rxnorm|7984")}])], "blocked", "ALG-002"),
        ("atc|A10BA02", [lab("loinc|98979-8", 20, "mL/min/{1.73_m2}", effectiveDateTime="2026-11-25")], "blocked",
         "LIM-001"),
        ("atc|A10BA02", [lab("loinc|98979-8", 20, "mL/min/{1.73_m2}", effectiveDateTime="2026-11-25",
                             status="entered-in-error")], "offered", ""),
        ("atc|L01BA01", [answer("loinc|82810-3", "snomed|77386006")], "blocked", "CI-"),
        ("atc|B01AF02", [answer("loinc|98979-8", code=concept(text="Child-Pugh class"),
                                valueCodeableConcept=concept(text="Class C"))], "blocked", "LIM-041"),
        ("atc|C01EB17", [{"resourceType": "Observation", "status": "final", "code": concept("loinc|8867-4"),
                          "valueQuantity": {"value": 70, "unit": "/min"}},
                         {"resourceType": "Observation", "status": "final", "code": {"text": "Blood pressure"},
                          "component": [{"code": concept("loinc|8480-6"),
                                         "valueQuantity": {"value": 85, "unit": "mm[Hg]"}}]}], "blocked", "CI-"),
    ],
)  # fmt: skip
def test_what_a_resource_says_counts(envelope, drug, resources, status, word):
    """Each kind of resource, with its status; the resource takes the place of "none known" of its kind."""
    kinds = {one["resourceType"] for one in resources} - {"Observation"}
    rest = [one for one in WELL if one["resourceType"] not in kinds
            and not (one["resourceType"] == "MedicationStatement" and "MedicationRequest" in kinds)]  # fmt: skip
    item = first(envelope, *rest, *resources, request(drug))
    found = [f.rule for f in item.blocks] + [m.code for m in item.missing]
    assert item.status == status, found
    assert any(one.startswith(word) for one in found) or not word


@pytest.mark.parametrize(
    ("left_out", "code"),
    [(NO_ALLERGY, "allergies-unknown"), (NO_PROBLEM, "conditions-unknown"), (NO_MEDICINE, "medicines-unknown")],
)
def test_what_is_not_sent_is_not_known(envelope, left_out, code):
    """A Bundle without allergies does not say that there are none."""
    item = first(envelope, *(one for one in WELL if one is not left_out), request("atc|A10BA02"))
    assert item.status == "unknown" and code in {missing.code for missing in item.missing}


@pytest.mark.parametrize(
    ("born", "years"), [("2014-12-01", 12.0), ("2014-12-02", 11.99), ("2000-02-29", 26.76), ("2026-12-01", 0.0)]
)
def test_a_birthday_is_a_whole_number_of_years(born, years):
    """On the twelfth birthday one is twelve, and the day before one is not."""
    found = read_bundle(bundle(patient(birthDate=born), request("atc|A10BA02")), today=TODAY).patient.age_years
    assert found == pytest.approx(years, abs=0.02) and (found >= 12) == (years >= 12)


def test_references_and_doses(envelope):
    """A Medication of the Bundle, a contained one; the dose of a day from one simple instruction."""
    medication = {"resourceType": "Medication", "id": "m1", "code": concept("atc|A10BA02")}
    dose = {"timing": {"repeat": {"frequency": 2, "period": 1, "periodUnit": "d"}},
            "doseAndRate": [{"doseQuantity": {"value": 1000, "unit": "mg", "system": "http://unitsofmeasure.org",
                                              "code": "mg"}}]}  # fmt: skip
    asked = request(medicationCodeableConcept=None, medicationReference={"reference": "Medication/m1"},
                    dosageInstruction=[dose])  # fmt: skip
    rest = [one for one in WELL if one["resourceType"] != "Observation"]
    low = lab("loinc|98979-8", 40, "mL/min/{1.73_m2}")
    item = first(envelope, *rest, low, medication, asked)
    assert item.drug == "atc|A10BA02" and item.status == "blocked" and item.blocks[0].kind == "dose"
    contained = request(
        medicationCodeableConcept=None, medicationReference={"reference": "#x"},
        contained=[{"resourceType": "Medication", "id": "x", "code": concept("rxnorm|6809")}],
    )  # fmt: skip
    assert first(envelope, *rest, low, contained).status == "limited"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[]", "fhir-unreadable"),
        (b'{"resourceType": "Patient"}', "fhir-not-a-bundle"),
        (bundle(request("atc|A10BA02")), "fhir-patients"),
        (bundle(patient(), patient(), request("atc|A10BA02")), "fhir-patients"),
        (bundle(patient(), request("atc|A10BA02", subject={"reference": "Patient/p2"})), "fhir-other-patient"),
        (bundle(patient(), allergy(code="penicillin"), request("atc|A10BA02")), "fhir-malformed"),
        (bundle(patient(), lab("loinc|98979-8", "many", "mL/min"), request("atc|A10BA02")), "fhir-malformed"),
        (bundle(patient(birthDate="1700-01-01"), request("atc|A10BA02")), "fhir-malformed"),
        (bundle(patient(), taken("atc|A10BA02")), "no-candidates"),
    ],
)  # fmt: skip
def test_a_bundle_that_cannot_be_read_is_refused(body, code):
    """Nothing is skipped, and nothing of the patient stands in the message."""
    with pytest.raises(Refusal) as error:
        read_bundle(body, today=TODAY)
    assert error.value.code == code
    assert "penicillin" not in str(error.value) and "p2" not in str(error.value)


def test_what_is_not_read_is_told(envelope):
    """A kind of resource that no rule asks for is counted in the notes."""
    other = {"resourceType": "MedicationDispense", "status": "completed"}
    found = review(envelope, *WELL, other, request("atc|A10BA02"))
    assert "Not read: 1 MedicationDispense." in found.notes


def test_the_answer_is_valid_fhir_and_proposes_only_what_is_offered(envelope):
    """By the published structures of R4B, for 200 random patients: a proposal for each offered item, an issue for each
    finding, with rule and source; no order anywhere."""
    hospital = Hospital(Tables(STARTER), seed=4)
    from msgspec import convert

    from medserve.safety.patient import Patient

    seen = set()
    for _ in range(200):
        found = envelope.review(convert(hospital.patient(), Patient), hospital.candidates(), today=TODAY)
        made = as_fhir(found, subject="Patient/p1", at=NOW)
        get_fhir_model_class("Bundle").model_validate(made)
        resources = [entry["resource"] for entry in made["entry"]]
        urls = {entry["fullUrl"] for entry in made["entry"]}
        for one in resources:
            get_fhir_model_class(one["resourceType"]).model_validate(one)
            seen.add(one["resourceType"])
        assert resources[0]["resourceType"] == "GuidanceResponse"
        proposed = [one for one in resources if one["resourceType"] == "MedicationRequest"]
        assert [f"atc|{one['medicationCodeableConcept']['coding'][0]['code']}" for one in proposed] == found.offered
        assert {(one["intent"], one["status"]) for one in proposed} <= {("proposal", "draft")}
        issues = [one for one in resources if one["resourceType"] == "DetectedIssue"]
        rules = [f.rule for item in found.items for f in (*item.blocks, *item.warnings)]
        assert sorted(one["identifier"][0]["value"] for one in issues) == sorted(rules)
        assert all("medserve-starter" in one["detail"] for one in issues)
        for group in (one for one in resources if one["resourceType"] == "RequestGroup"):
            assert {action["resource"]["reference"] for action in group["action"]} <= urls
    assert seen == {"GuidanceResponse", "RequestGroup", "MedicationRequest", "DetectedIssue", "OperationOutcome"}


def test_a_limit_is_told_as_the_largest_dose_of_a_day(envelope):
    """`maxDosePerPeriod` holds the lowest of the bounds."""
    rest = [one for one in WELL if one["resourceType"] != "Observation"]
    found = review(envelope, *rest, lab("loinc|98979-8", 40, "mL/min/{1.73_m2}"), request("atc|A10BA02"))
    made = as_fhir(found, subject="Patient/p1", at=NOW)
    (one,) = [e["resource"] for e in made["entry"] if e["resource"]["resourceType"] == "MedicationRequest"]
    bound = one["dosageInstruction"][0]["maxDosePerPeriod"]
    assert (bound["numerator"]["value"], bound["numerator"]["code"], bound["denominator"]["code"]) == (1000, "mg", "d")


@pytest.mark.parametrize(("day", "status"), [("2026-11-20", "offered"), ("2026-10-20", "unknown"), ("2026", "unknown")])
def test_that_there_is_no_pregnancy_was_so_on_its_day(envelope, day, status):
    """After some weeks it is not known; that there is one is taken for true all the same."""
    young = patient(birthDate="1990-06-01")
    facts = [young, NO_ALLERGY, NO_PROBLEM, NO_MEDICINE]
    said = answer("loinc|82810-3", "snomed|60001007", effectiveDateTime=day)
    got = first(envelope, *facts, said, request("atc|C09AA03"))
    assert got.status == status and (status == "offered" or got.missing[0].code == "pregnancy-unknown")
    said = answer("loinc|82810-3", "snomed|77386006", effectiveDateTime=day)
    assert first(envelope, *facts, said, request("atc|C09AA03")).blocks[0].rule == "CI-056"
