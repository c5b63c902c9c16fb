"""Advice asked and answered in FHIR R4: one Bundle gives the model's inputs and the facts for the rules; what is
answered is valid by the published structures."""

import datetime
import json
import re
import sys
from pathlib import Path

import pytest
from fhir.resources.R4B import get_fhir_model_class

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "safety"))
sys.path.insert(0, str(Path(__file__).parent))

from bundles import (
    ME,
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
from made_advice import AGE, DIABETES, FHIR_OF, PAIN, SEX, SMOKES, write_arms, write_dose
from test_advice_served import house

from medserve.cli import run
from medserve.data.declaration import parse
from medserve.errors import BadData, Refusal
from medserve.runtime.inputs import raw_inputs

FHIR = {"content-type": "application/fhir+json"}
ARMS = {"none": [], "ibuprofen": ["atc|M01AE01"], "both": ["atc|N02BE01", "atc|R05DA04"]}
DAY = datetime.date.today() - datetime.timedelta(days=9)
WELL = (patient(gender="male"), NO_ALLERGY, NO_PROBLEM, NO_MEDICINE)


def seen(code, value, unit, **more):
    return lab(code, value, unit, effectiveDateTime=f"{DAY}T08:00:00Z", **more)


def said(text):
    """Whether somebody smokes, in words."""
    return answer("loinc|72166-2", valueCodeableConcept=concept(text=text))


PAINFUL, KIDNEY = seen("loinc|72514-3", 8, "{score}"), seen("loinc|98979-8", 90, "mL/min/{1.73_m2}")
HEAVY = seen("loinc|29463-7", 176.37, "[lb_av]")  # 80 kg


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    root = tmp_path_factory.mktemp("fhir")

    def folders(settings):
        fields = [PAIN, AGE, SEX, SMOKES, DIABETES]
        return [write_arms(root / "arms", settings, ARMS, fields=fields, fhir=FHIR_OF),
                write_arms(root / "bare", settings, {"none": [], "surgery": []}, name="bare", fhir=FHIR_OF),
                write_dose(root / "dose", settings, fhir=FHIR_OF)]  # fmt: skip

    with house(root, folders) as found:
        yield found


def send(ward, model, *resources, **headers):
    return ward.ask(model, content=bundle(*resources), headers=FHIR | headers)


def valid(got):
    """The resources of an answer by kind, each read with the published structures."""
    assert got.status_code == 200, got.text
    assert got.headers["content-type"] == "application/fhir+json"
    get_fhir_model_class("Bundle").model_validate(got.json())
    kinds = {}
    for entry in got.json()["entry"]:
        get_fhir_model_class(entry["resource"]["resourceType"]).model_validate(entry["resource"])
        kinds.setdefault(entry["resource"]["resourceType"], []).append(entry["resource"])
    return kinds


def test_advice_on_a_bundle_is_a_bundle(ward):
    """Effect with interval, proposal, rules asked; the patient is referred to as in the request."""
    found = valid(send(ward, "arms", *WELL, PAINFUL, KIDNEY))
    (guidance,), (risk,), (proposal,) = found["GuidanceResponse"], found["RiskAssessment"], found["MedicationRequest"]
    assert guidance["status"] == "success" and guidance["subject"] == ME == proposal["subject"]
    assert guidance["moduleUri"].startswith("urn:medserve:model:arms:1:sha256:")
    assert (proposal["status"], proposal["intent"]) == ("draft", "proposal")
    assert proposal["medicationCodeableConcept"]["coding"][0]["code"] == "M01AE01"
    assert "none found in medserve-starter, version" in proposal["note"][0]["text"]
    first = risk["prediction"][0]
    assert first["extension"][0]["valueQuantity"]["value"] == pytest.approx(0.6)
    assert first["extension"][1]["valueRange"]["low"]["value"] == pytest.approx(0.5)
    assert len(risk["prediction"]) == 2 + 3 and risk["mitigation"] == "recommend: ibuprofen"
    told = {one["name"]: one for one in found["Parameters"][0]["parameter"]}
    assert told["decision"]["valueString"] == "ibuprofen" and told["safety"]["valueString"] == "reviewed"
    assert any("Rules of safety asked: medserve-starter" in one["text"] for one in guidance["note"])


def test_what_is_blocked_is_an_issue_and_no_proposal(ward):
    """Warfarin is taken: DetectedIssue with the rule, OperationOutcome with the code, nothing proposed."""
    found = valid(send(ward, "arms", *WELL[:3], taken("atc|B01AA03"), PAINFUL, KIDNEY))
    assert "MedicationRequest" not in found and "RequestGroup" not in found
    rules = [one["identifier"][0]["value"] for one in found["DetectedIssue"]]
    assert "DDI-001" in rules
    codes = [one["details"].get("coding", [{}])[0].get("code") for one in found["OperationOutcome"][0]["issue"]]
    assert "safety-blocked" in codes
    found = valid(send(ward, "arms", *WELL[:1], *WELL[2:], allergy(code=concept(text="pills")), PAINFUL))
    assert found["GuidanceResponse"][0]["status"] == "data-required" and "MedicationRequest" not in found
    lacking = [one["details"]["coding"][0]["code"] for one in found["OperationOutcome"][0]["issue"]]
    assert "allergy-free-text" in lacking


def test_a_dose_is_a_quantity_with_its_interval(ward):
    """Pounds become kilograms; the daily dose and its limits stand in the proposal, or nothing does. It is an amount a
    day, not one dose that is taken once."""
    found = valid(send(ward, "dose", *WELL, HEAVY, KIDNEY))
    (dosage,) = found["MedicationRequest"][0]["dosageInstruction"]
    (rate,) = dosage["doseAndRate"]
    assert rate["rateRatio"]["numerator"]["value"] == pytest.approx(1600, abs=0.1)
    assert (rate["rateRatio"]["numerator"]["code"], rate["rateRatio"]["denominator"]["code"]) == ("mg", "d")
    assert "timing" not in dosage and "doseQuantity" not in rate and "over a day" in dosage["text"]
    assert dosage["extension"][0]["valueRange"]["high"]["value"] == pytest.approx(1800, abs=0.1)
    poor = seen("loinc|98979-8", 35, "mL/min/{1.73_m2}")
    found = valid(send(ward, "dose", *WELL, HEAVY, poor))
    assert "MedicationRequest" not in found and not re.search(r"1600( mg|[,}.])", json.dumps(found))
    assert any("At most 1000 mg/d" in one["detail"] for one in found["DetectedIssue"])
    light = seen("loinc|29463-7", 40, "kg")
    (dosage,) = valid(send(ward, "dose", *WELL, light, poor))["MedicationRequest"][0]["dosageInstruction"]
    assert dosage["maxDosePerPeriod"]["numerator"]["value"] == 1000 and dosage["text"].startswith("800 mg/d")


def test_either_form_may_be_asked_for(ward):
    """Accept decides; a Bundle within JSON gives the facts where the inputs are sent by name; a model that names no
    medicine speaks FHIR too."""
    got = send(ward, "arms", *WELL, PAINFUL, KIDNEY, accept="application/json")
    assert got.json()["decision"]["label"] == "ibuprofen"
    inside = json.loads(bundle(*WELL, KIDNEY))
    got = ward.ask("arms", {"pain": 8}, inside, headers={"accept": "application/fhir+json, application/json;q=0.5"})
    assert "MedicationRequest" in valid(got)
    assert ward.ask("arms", {"pain": 8}, inside).json()["safety"]["status"] == "reviewed"
    silent = valid(ward.ask("arms", {"pain": 8}, headers={"accept": "application/fhir+json"}))
    assert "MedicationRequest" not in silent and silent["GuidanceResponse"][0]["status"] == "data-required"
    found = valid(send(ward, "bare", *WELL, PAINFUL))
    assert found["RiskAssessment"][0]["mitigation"] == "recommend: surgery" and "MedicationRequest" not in found


@pytest.mark.parametrize(
    ("resources", "code"),
    [
        ([patient(), PAINFUL | {"valueQuantity": {"value": 8, "comparator": ">"}}], "value-uncertain"),
        ([patient(), PAINFUL | {"valueQuantity": {"value": 42}}], "value-out-of-range"),
        ([patient(), patient(id="p2"), PAINFUL], "fhir-patients"),
        ([patient(), PAINFUL | {"subject": {"reference": "Patient/other"}}], "fhir-other-patient"),
        ([patient(), PAINFUL | {"code": 3}], "fhir-malformed"),
        (
            [patient(), said("now and then"), PAINFUL],
            "unknown-code",
        ),
    ],
)
def test_a_bundle_that_cannot_be_read_is_refused(ward, resources, code):
    got = send(ward, "arms", *resources)
    assert (got.status_code, got.json()["error"]["code"]) == (422, code)


def test_a_value_without_a_unit_is_refused(ward):
    got = send(ward, "dose", *WELL, HEAVY | {"valueQuantity": {"value": 80}})
    assert (got.status_code, got.json()["error"]["code"]) == (422, "unit-missing")
    got = send(ward, "dose", *WELL, seen("loinc|29463-7", 80, "cm"))
    assert got.json()["error"]["code"] == "wrong-unit"


def test_each_input_is_the_element_that_is_declared(ward):
    """Age from the birth date, the newest value, words of an answer, and whether there is a condition; a list that is
    not known is no absence."""
    spec = ward.application.registry.find("arms", None).model.spec

    def read(*resources):
        return raw_inputs(spec, bundle(*resources), media="application/fhir+json")

    old = PAINFUL | {"effectiveDateTime": "2001-01-01", "valueQuantity": {"value": 1}}
    found = read(
        patient(),
        PAINFUL,
        old,
        said("Yes"),
        condition("icd10|E11.9"),
    )
    assert found["pain"] == 8 and found["sex"] == "female" and found["age"]["unit"] == "a"
    assert 61 <= found["age"]["value"] < 130
    assert (found["smokes"], found["diabetes"]) == ("yes", "present")
    assert read(patient(), NO_PROBLEM)["diabetes"] == "absent"
    assert "diabetes" not in read(patient()) and "pain" not in read(patient())
    assert "diabetes" not in read(patient(), condition(text="sugar", code=concept(text="sugar")))
    assert read(patient(), condition("icd10|E11.9", clinical="resolved"))["diabetes"] == "absent"
    with pytest.raises(Refusal, match="no number"):
        read(patient(), answer("loinc|72514-3", valueCodeableConcept=concept(text="much")))


def test_two_patients_in_one_request_are_refused(ward):
    """A Bundle beside inputs, facts as JSON beside inputs, and a line of them alike."""
    facts = {"age_years": 61, "sex": "male", "allergies": [], "conditions": [], "medicines": [], "child_pugh": "none"}
    inputs = {"pain": 8, "age": 61, "sex": "male"}
    assert ward.ask("arms", inputs, facts).status_code == 200
    for patient_ in (
        facts | {"sex": "female"},
        facts | {"age_years": 16},
        json.loads(bundle(*WELL[1:], patient(gender="female"))),
    ):
        got = ward.ask("arms", inputs, patient_)
        error = got.json()["error"]
        assert (got.status_code, error["code"], error["kind"]) == (422, "facts-contradict", "refusal")
        assert "61" not in error["message"]  # the trace beside it is random hexadecimal


def test_a_proposal_within_the_bundle_is_not_taken_for_the_advice(ward):
    """The model proposes; what the Bundle proposes is a note."""
    found = valid(send(ward, "arms", *WELL, PAINFUL, KIDNEY, request("atc|A10BA02")))
    (proposal,) = found["MedicationRequest"]
    assert proposal["medicationCodeableConcept"]["coding"][0]["code"] == "M01AE01"
    assert any("Not reviewed: 1 proposals" in one["text"] for one in found["GuidanceResponse"][0]["note"])


def test_the_command_line_prints_the_bundle(ward, tmp_path, capsys):
    folder = ward.application.registry.find("dose", None).model.package.folder
    (tmp_path / "bundle.json").write_bytes(bundle(*WELL, HEAVY, KIDNEY))
    asked = ["predict", str(folder), "--input", str(tmp_path / "bundle.json"), "--home", str(ward.settings.home)]
    assert run([*asked, "--fhir", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    get_fhir_model_class("Bundle").model_validate(made)
    assert {one["resource"]["resourceType"] for one in made["entry"]} >= {"GuidanceResponse", "MedicationRequest"}
    assert run(asked) == 0
    assert "1600" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "good"),
    [
        ("age: {kind: number, unit: a, fhir: Patient.age}", True),
        ('weight: {kind: number, unit: kg, fhir: "loinc|29463-7"}', True),
        ("af: {kind: category, classes: ['no', 'yes'], fhir: Condition icd10|I48}", True),
        ("af: {kind: category, fhir: Condition icd10|I48}", False),
        ("age: {kind: category, fhir: Patient.age}", False),
        ("age: {kind: number, fhir: Patient.birthDate}", False),
        ("note: {kind: text, fhir: Patient.gender}", False),
        ("af: {kind: number, fhir: Procedure icd10|I48}", False),
    ],
)
def test_the_declaration_names_an_element(said, good):
    """`fhir` of a number or a category; anything else is told with examples."""
    text = f"table: t.csv\nindependent: true\ninputs:\n  {said}\ntarget: {{column: y, kind: binary}}\n".encode()
    if good:
        assert next(iter(parse(text).inputs.values())).fhir
        return
    with pytest.raises(BadData) as caught:
        parse(text)
    assert caught.value.code == "declaration-value"


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("{none: [], drug: L02BA01}", ""),
        ("{none: [], drug: [atc|L02BA01, rxnorm|10324]}", ""),
        ("{drug: L02BA01}", "nothing of the arm 'none'"),
        ("{none: [], drugs: L02BA01}", "no arm"),
        ("{none: [], drug: tamoxifen}", "no code of a substance"),
        ("{none: [], drug: L02BA}", "no code of a substance"),
    ],
)
def test_the_medicines_of_the_arms_are_declared(said, word):
    text = (
        "table: t.csv\nindependent: true\ninputs:\n  age: {kind: number, unit: a}\n"
        "target: {column: y, kind: number, unit: mo}\n"
        "treatment: {column: arm, arms: [none, drug], outcome: better_is_higher, time_zero: day 0, eligibility: all,"
        f" adjust_for: [age], medicines: {said}}}\n"
    ).encode()
    if not word:
        trial = parse(text).treatment
        assert trial.drugs["none"] == [] and trial.drugs["drug"][0] == "atc|L02BA01"
        return
    with pytest.raises(BadData, match=word) as caught:
        parse(text)
    assert caught.value.code == "treatment-medicines"
