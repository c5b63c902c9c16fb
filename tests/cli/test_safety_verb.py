"""`medserve safety`: medicines held against rules on the command line."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "safety"))

from bundles import NO_ALLERGY, NO_PROBLEM, bundle, patient, request, taken

from medserve.cli import run

PATIENT = {"age_years": 61, "sex": "female", "pregnancy": None, "conditions": [{"code": "icd10|I50.1"}],
           "allergies": [], "medicines": [{"drug": "warfarin"}],
           "labs": [{"code": "loinc|98979-8", "value": 35, "unit": "mL/min/{1.73_m2}"}]}  # fmt: skip


@pytest.fixture
def ask(tmp_path, capsys):
    """(exit code, stdout, stderr)."""
    path = tmp_path / "patient.json"
    path.write_text(json.dumps(PATIENT))

    def asked(*args, file=path):
        status = run(["safety", *([str(file)] if file else []), "--home", str(tmp_path / "home"), *args])
        out = capsys.readouterr()
        return status, out.out, out.err

    return asked


def test_a_patient_and_some_names(ask):
    """One line or more for each medicine, with rule and label; --json is one object."""
    status, out, _ = ask("--drugs", "ibuprofen", "metformin", "loratadine")
    assert status == 0
    assert all(word in out for word in ("ibuprofen", "blocked", "CI-017", "DDI-001", "limited", "1000 mg/d", "offered"))
    status, out, _ = ask("--drugs", "ibuprofen", "metformin", "--json")
    found = json.loads(out)
    assert status == 0 and found["offered"] == ["atc|A10BA02"] and found["intent"] == "proposal"
    assert [fact["code"] for fact in found["changes"][0]["facts"]] == ["icd10|I50.1", "atc|B01AA03"]


def test_the_sources(ask, tmp_path):
    """Each with version, date and number of rules; a folder of one's own is added, or refused by line."""
    status, out, _ = ask("--sources", "--json", file=None)
    (source,) = json.loads(out)["sources"]
    assert status == 0 and source["version"] == "2" and source["rules"] > 200
    own = tmp_path / "own"
    own.mkdir()
    (own / "header.yaml").write_text("id: own\n")
    status, _, err = ask("--sources", "--rules", str(own), file=None)
    assert status == 2 and err.startswith("rules-header: header.yaml")


def test_a_bundle_in_and_out(ask, tmp_path):
    """A FHIR Bundle with its proposals, and the answer as one; names beside them."""
    path = tmp_path / "bundle.json"
    path.write_bytes(bundle(patient(), NO_ALLERGY, NO_PROBLEM, taken("atc|B01AA03"), request("atc|M01AE01")))
    status, out, _ = ask("--drugs", "loratadine", "--fhir", file=path)
    kinds = [entry["resource"]["resourceType"] for entry in json.loads(out)["entry"]]
    assert status == 0 and kinds.count("MedicationRequest") == 1 and "DetectedIssue" in kinds
    assert json.loads(ask("--drugs", "loratadine", "--json", file=path)[1])["offered"] == ["atc|R06AX13"]


def test_bad_input(ask, tmp_path):
    """Each with a code and the next step."""
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"patient": {"name": "Jane Smith"}, "candidates": [{"drug": "x"}]}')
    order = tmp_path / "order.json"
    order.write_text(json.dumps({"patient": PATIENT, "candidates": [{"drug": "warfarin"}], "execute": True}))
    for args, file, code in (((), None, "patient-missing"), ((), tmp_path / "none.json", "input-missing"),
                             (("--drugs", "x"), wrong, "safety-request"), ((), order, "auto-execute")):  # fmt: skip
        status, _, err = ask(*args, file=file)
        assert status == 2 and err.startswith(code) and "next:" in err and "Smith" not in err
    assert ask()[2].startswith("drugs-missing")
