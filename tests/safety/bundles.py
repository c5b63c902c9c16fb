"""FHIR Bundles of invented patients."""

import json

SYSTEM = {"atc": "http://www.whocc.no/atc", "rxnorm": "http://www.nlm.nih.gov/research/umls/rxnorm",
          "loinc": "http://loinc.org", "snomed": "http://snomed.info/sct", "icd10": "http://hl7.org/fhir/sid/icd-10",
          "icd10cm": "http://hl7.org/fhir/sid/icd-10-cm"}  # fmt: skip
ME = {"reference": "Patient/p1"}


def concept(*codes, text=None):
    said = {"coding": [{"system": SYSTEM[one.partition("|")[0]], "code": one.partition("|")[2]} for one in codes]}
    return (said if codes else {}) | ({"text": text} if text else {})


def patient(**more):
    return {"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1965-06-01"} | more


def condition(*codes, clinical="active", **more):
    status = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": clinical}]}
    return {"resourceType": "Condition", "subject": ME, "code": concept(*codes), "clinicalStatus": status} | more


def allergy(*codes, **more):
    return {"resourceType": "AllergyIntolerance", "patient": ME, "code": concept(*codes)} | more


def lab(code, value, unit, **more):
    quantity = {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
    return {"resourceType": "Observation", "status": "final", "subject": ME, "code": concept(code),
            "effectiveDateTime": "2026-11-20T08:00:00Z", "valueQuantity": quantity} | more  # fmt: skip


def answer(asked, /, *codes, **more):
    return {"resourceType": "Observation", "status": "final", "subject": ME, "code": concept(asked),
            "effectiveDateTime": "2026-11-20", "valueCodeableConcept": concept(*codes)} | more  # fmt: skip


def taken(*codes, **more):
    return {"resourceType": "MedicationStatement", "status": "active", "subject": ME,
            "medicationCodeableConcept": concept(*codes)} | more  # fmt: skip


def request(*codes, intent="proposal", status="active", **more):
    return {"resourceType": "MedicationRequest", "status": status, "intent": intent, "subject": ME,
            "medicationCodeableConcept": concept(*codes)} | more  # fmt: skip


NO_ALLERGY, NO_PROBLEM = allergy("snomed|716186003"), condition("snomed|160245001")
NO_MEDICINE = taken("snomed|787481004")


def bundle(*resources):
    entries = [{"resource": one} for one in resources]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()
