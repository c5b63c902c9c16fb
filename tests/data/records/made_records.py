"""Small invented records: FHIR resources that the published R4B structures accept, and OMOP tables."""

import base64
import csv
import json
from pathlib import Path
from typing import Any

from fhir.resources.R4B import get_fhir_model_class

LOINC, SNOMED, RXNORM = "http://loinc.org", "http://snomed.info/sct", "http://www.nlm.nih.gov/research/umls/rxnorm"
NOTE = "Chest pain since the morning."


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}


def resources(patient: str = "p1") -> list[dict[str, Any]]:
    """One of every kind that is read, and two that are not."""
    who = {"reference": f"Patient/{patient}"}
    act = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"}
    note = {"contentType": "text/plain", "data": base64.b64encode(NOTE.encode()).decode()}
    final = {"status": "final", "subject": who}
    found = [
        {"resourceType": "Patient", "id": patient, "gender": "female", "birthDate": "1950-02"},
        {"resourceType": "Encounter", "id": f"e-{patient}", "status": "finished", "class": act, "subject": who,
         "period": {"start": "2020-05-01T08:00:00Z", "end": "2020-05-04T10:00:00Z"}},
        {"resourceType": "Observation", **final, "code": concept(LOINC, "2160-0"),
         "effectiveDateTime": "2020-05-01T11:00:00+02:00", "valueQuantity": quantity(1.2, "mg/dL")},
        {"resourceType": "Observation", **final, "code": concept(LOINC, "85354-9"),
         "effectiveDateTime": "2020-05-01T10:00:00Z",
         "component": [{"code": concept(LOINC, "8480-6"), "valueQuantity": quantity(121, "mm[Hg]")},
                       {"code": concept(LOINC, "8462-4"), "valueQuantity": quantity(79, "mm[Hg]")}]},
        {"resourceType": "Observation", **final, "code": concept(LOINC, "72166-2"),
         "effectiveDateTime": "2020-05-01", "valueCodeableConcept": concept(SNOMED, "266919005")},
        {"resourceType": "Observation", **final, "code": concept(LOINC, "2345-7"), "effectiveDateTime": "2020-05-01",
         "dataAbsentReason": {"text": "clotted"}},
        {"resourceType": "Observation", **final, "status": "entered-in-error", "code": concept(LOINC, "2345-7"),
         "effectiveDateTime": "2020-05-01", "valueQuantity": quantity(900, "mg/dL")},
        {"resourceType": "Condition", "subject": who, "code": concept(SNOMED, "44054006"),
         "onsetDateTime": "2011", "recordedDate": "2020-05-02T09:00:00Z"},
        {"resourceType": "Medication", "id": f"m-{patient}", "code": concept(RXNORM, "860975")},
        {"resourceType": "MedicationRequest", "status": "active", "intent": "order", "subject": who,
         "medicationReference": {"reference": f"Medication/m-{patient}"}, "authoredOn": "2020-05-02"},
        {"resourceType": "MedicationAdministration", "status": "completed", "subject": who,
         "medicationCodeableConcept": concept(RXNORM, "860975"), "effectiveDateTime": "2020-05-02T18:30:00Z",
         "dosage": {"dose": quantity(500, "mg")}},
        {"resourceType": "MedicationStatement", "status": "active", "subject": who, "dateAsserted": "2020-05-01",
         "medicationCodeableConcept": {"text": "fish oil"}},
        {"resourceType": "Procedure", "status": "completed", "subject": who, "code": concept(SNOMED, "40701008"),
         "performedPeriod": {"start": "2020-05-02T12:00:00Z", "end": "2020-05-02T12:30:00Z"}},
        {"resourceType": "DiagnosticReport", **final, "code": concept(LOINC, "58410-2"),
         "issued": "2020-05-01T12:00:00Z"},
        {"resourceType": "AllergyIntolerance", "patient": who, "code": concept(SNOMED, "91936005"),
         "recordedDate": "2020-05"},
        {"resourceType": "Immunization", "status": "completed", "patient": who, "occurrenceDateTime": "2019-10-01",
         "vaccineCode": concept("http://hl7.org/fhir/sid/cvx", "140")},
        {"resourceType": "DocumentReference", "status": "current", "subject": who, "date": "2020-05-01T09:00:00Z",
         "type": concept(LOINC, "34117-2"), "content": [{"attachment": note}]},
        {"resourceType": "Organization", "name": "A ward"},
        {"resourceType": "Goal", "lifecycleStatus": "active", "description": {"text": "Walk"}, "subject": who},
    ]  # fmt: skip
    for resource in found:
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)
    return found


def bundle(*patients: str) -> dict[str, Any]:
    entries = [{"resource": resource} for patient in patients or ("p1",) for resource in resources(patient)]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def write_ndjson(folder: Path, *patients: str) -> Path:
    """A bulk export: one file a type, patients mixed."""
    folder.mkdir(parents=True, exist_ok=True)
    for patient in patients or ("p1",):
        for resource in resources(patient):
            with (folder / f"{resource['resourceType']}.ndjson").open("a") as file:
                file.write(json.dumps(resource) + "\n")
    return folder


OMOP: dict[str, list[list[Any]]] = {
    "person": [
        ["person_id", "gender_concept_id", "year_of_birth", "month_of_birth", "day_of_birth", "race_concept_id",
         "race_source_value"],
        [1, 8532, 1950, 2, "", 8527, "white"], [2, 8507, 1980, 1, 31, 0, ""],
    ],
    "observation_period": [["person_id"], [1], [2]],
    "visit_occurrence": [
        ["visit_occurrence_id", "person_id", "visit_concept_id", "visit_start_date", "visit_start_datetime",
         "visit_end_date", "visit_end_datetime", "visit_source_value"],
        [1, 1, 9201, "2020-05-01", "2020-05-01 08:00:00", "2020-05-04", "2020-05-04 10:00:00", "x"],
    ],
    "condition_occurrence": [
        ["condition_occurrence_id", "person_id", "condition_concept_id", "condition_start_date",
         "condition_start_datetime", "condition_source_value"],
        [1, 1, 201826, "2020-05-02", "", "44054006"], [2, 2, 0, "2020-05-02", "", "E11"],
        [3, 2, 201826, "", "", "44054006"],
    ],
    "drug_exposure": [
        ["drug_exposure_id", "person_id", "drug_concept_id", "drug_exposure_start_date",
         "drug_exposure_start_datetime", "drug_source_value"],
        [1, 2, 40163924, "2020-05-02", "", "860975"],
    ],
    "measurement": [
        ["measurement_id", "person_id", "measurement_concept_id", "measurement_date", "measurement_datetime",
         "value_as_number", "value_as_concept_id", "unit_concept_id", "measurement_source_value",
         "unit_source_value", "value_source_value"],
        [1, 1, 3016723, "2020-05-01", "2020-05-01 09:00:00", 1.2, 0, 8840, "2160-0", "mg/dL", "1.2"],
        [2, 1, 3016723, "2020-05-03", "", 1.4, "", 0, "2160-0", "mg/dl", "1.4"],
        [3, 1, 3009261, "2020-05-01", "", "", 45878583, "", "5792-7", "", "neg"],
        [4, "", 3016723, "2020-05-03", "", 1.4, "", 0, "2160-0", "mg/dl", "1.4"],
        [5, 1],
    ],
    "observation": [
        ["observation_id", "person_id", "observation_concept_id", "observation_date", "value_as_number",
         "value_as_string", "value_as_concept_id", "unit_concept_id", "observation_source_value", "unit_source_value"],
        [1, 2, 40766362, "2020-05-01", "", "never, ever\nagain", 0, 0, "72166-2", ""],
    ],
    "procedure_occurrence": [
        ["procedure_occurrence_id", "person_id", "procedure_concept_id", "procedure_date", "procedure_source_value"],
        [1, 1, 4230911, "2020-05-02", "40701008"],
    ],
    "death": [["person_id", "death_date"], [1, "2021-01-01"]],
    "concept": [
        ["concept_id", "concept_name", "vocabulary_id", "concept_code"],
        [201826, "Type 2 diabetes", "SNOMED", "44054006"], [3016723, "Creatinine", "LOINC", "2160-0"],
        [8840, "milligram per deciliter", "UCUM", "mg/dL"], [9201, "Inpatient Visit", "Visit", "IP"],
        [40163924, "Metformin", "RxNorm", "860975"], [3009261, "Glucose in urine", "LOINC", "5792-7"],
        [45878583, "Negative", "LOINC", "LA6577-6"], [4230911, "Echocardiography", "SNOMED", "40701008"],
        [40766362, "Tobacco smoking status", "LOINC", "72166-2"], [8527, "White", "Race", "5"],
    ],
}  # fmt: skip


def write_omop(folder: Path, *, upper: bool = False, tabs: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in OMOP.items():
        file = f"{name.upper()}.CSV" if upper else f"{name}.csv"
        with (folder / file).open("w", newline="") as out:
            csv.writer(out, delimiter="\t" if tabs else ",").writerows(rows)
    return folder


STAY = """Time,Parameter,Value
00:00,RecordID,132539
00:00,Age,54
00:00,Gender,0
00:00,Height,-1
00:00,ICUType,4
00:00,Weight,80.5
00:00,HR,70
00:07,GCS,15
12:30,Weight,81
12:30,Temp,-1
47:37,HR,86
47:99,HR,86
"""
