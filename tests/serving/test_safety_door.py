"""Rules of safety over the network: closed by default, audited, fail closed, and silent about patients."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "safety"))

from bundles import NO_ALLERGY, NO_PROBLEM, bundle, lab, patient, request, taken
from tiny_package import asking, write_package

from medserve.access.audit import Ledger
from medserve.settings import Settings

PATIENT = {"age_years": 61, "sex": "female", "pregnancy": "not-pregnant", "conditions": [{"code": "icd10|I50.1"}],
           "allergies": [{"code": "snomed|91936005", "text": "zq4711zq"}], "medicines": [{"drug": "warfarin"}],
           "labs": [{"code": "loinc|98979-8", "value": 35, "unit": "mL/min/{1.73_m2}"}]}  # fmt: skip
ASKED = {"patient": PATIENT, "candidates": [{"drug": "ibuprofen"}, {"drug": "metformin"}], "would_change": True}
ADDRESS = "/v1/safety/review"
FHIR = {"content-type": "application/fhir+json"}


def test_a_review_over_the_network(running, http):
    """The answer of the engine, with its rules, in one audit event that names the digest of the rules."""
    got = http.post(ADDRESS, json=ASKED)
    assert got.status_code == 200
    found = got.json()
    assert [one["status"] for one in found["items"]] == ["blocked", "limited"] and found["offered"] == ["atc|A10BA02"]
    assert found["intent"] == "proposal" and len(found["changes"][0]["facts"]) == 2
    page = http.get("/v1/safety").json()
    assert page["digest"] == found["rules"] and page["sources"][0]["id"] == "medserve-starter"
    (event,) = [e for _, e in Ledger.open(running.settings).read() if e.trace == got.headers["x-trace-id"]]
    assert (event.action, event.outcome, event.model) == ("safety.review", "allow", found["rules"])
    assert event.input.startswith("hmac-sha256:") and event.answer.startswith("hmac-sha256:")
    line = running.line(got.headers["x-trace-id"])
    assert line["route"] == "safety.review" and line["answer"] == "reviewed" and line["bytes"] > 100
    whole = running.log.getvalue() + repr(event)
    assert not any(word in whole for word in ("zq4711zq", "warfarin", "ibuprofen", "I50", "91936005"))


def test_a_bundle_is_answered_as_a_bundle(http):
    """FHIR in, FHIR out; JSON in and FHIR out where that is accepted."""
    body = bundle(patient(), NO_ALLERGY, NO_PROBLEM, taken("atc|B01AA03"), request("atc|M01AE01"),
                  request("atc|A10BA02"), lab("loinc|98979-8", 80, "mL/min/{1.73_m2}"))  # fmt: skip
    got = http.post(ADDRESS, content=body, headers=FHIR)
    assert got.status_code == 200 and got.headers["content-type"] == "application/fhir+json"
    kinds = [entry["resource"]["resourceType"] for entry in got.json()["entry"]]
    assert kinds == ["GuidanceResponse", "RequestGroup", "MedicationRequest", "DetectedIssue"]
    got = http.post(ADDRESS, content=body, headers={"content-type": "application/json"})
    assert got.json()["offered"] == ["atc|A10BA02"]
    got = http.post(ADDRESS, json=ASKED, headers={"accept": "application/fhir+json"})
    assert got.json()["resourceType"] == "Bundle"


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {"content-type": "application/json"}, 422, "safety-request"),
        (b'{"patient": {"name": "Doe"}, "candidates": [{"drug": "x"}]}', {"content-type": "application/json"}, 422,
         "safety-request"),
        (b'{"patient": {}, "candidates": [{"drug": "x"}], "auto_order": true}', {"content-type": "application/json"},
         422, "auto-execute"),
        (b"{}", {"content-type": "text/plain"}, 415, "media-type"),
        (b"{}", FHIR, 422, "safety-request"),
        (b'{"resourceType": "Patient"}', FHIR, 422, "fhir-not-a-bundle"),
        (b'{"resourceType": "Bundle", "execute": true, "entry": []}', FHIR, 422, "auto-execute"),
        (b'{"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Parameters", "parameter": '
         b'[{"name": "execute", "valueBoolean": true}]}}]}', FHIR, 422, "auto-execute"),
        (b"[" * 100_000, {"content-type": "application/json"}, 422, "safety-request"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused(http, body, headers, status, code):
    """By code, without an echo."""
    got = http.post(ADDRESS, content=body, headers=headers)
    assert (got.status_code, got.json()["error"]["code"]) == (status, code)
    assert "Doe" not in got.text


def test_a_body_that_is_too_large_is_refused_before_it_is_read(http):
    got = http.post(ADDRESS, content=b" " * (4 * 2**20 + 1), headers={"content-type": "application/json"})
    assert (got.status_code, got.json()["error"]["code"]) == (413, "body-too-large")


def test_without_rules_every_review_is_refused(tmp_path):
    """A broken source does not stop the service, and no review is answered."""
    settings = Settings(home=tmp_path / "home")
    settings.folder()
    (settings.home / "safety.yaml").write_text("sources: [nowhere]\n")
    with asking(settings, write_package(tmp_path / "m", settings)) as client:
        assert client.get("/v1/models").status_code == 200
        for got in (client.post(ADDRESS, json=ASKED), client.get("/v1/safety")):
            assert (got.status_code, got.json()["error"]["code"]) == (503, "safety-unavailable")
