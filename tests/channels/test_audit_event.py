"""Audit events as FHIR R4: valid by the resource model, and nothing of the event is lost."""

import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from medserve.access.audit import Event
from medserve.access.policy import ACTIONS, PURPOSES
from medserve.channels import audit_event as module
from medserve.channels.audit_event import audit_event

FULL = Event(
    action="models.predict", outcome="allow", at=1_790_000_000.5, trace="abc", principal="k-1", tenant="clinic-a",
    role="clinician", purpose="treatment", resource="chest", patient="p-77", model="sha256:00", status=200, policy="1f",
    input="hmac-sha256:aa", answer="vault:bb",
)  # fmt: skip


def test_every_part_of_an_event_has_its_place():
    made = AuditEvent.model_validate(audit_event(7, FULL, site="medserve.ward")).model_dump(mode="json")
    text = str(made)
    for said in ("abc", "k-1", "clinic-a", "clinician", "TREAT", "chest", "p-77", "sha256:00", "urn:sha256:1f",
                 "hmac-sha256:aa", "vault:bb"):  # fmt: skip
        assert said in text
    assert made["recorded"].startswith("2026-09-21T") and (made["action"], made["outcome"]) == ("E", "0")
    assert [a["type"]["coding"][0]["code"] for a in made["agent"]] == ["110153", "110152", "IRCP"]
    assert [a["requestor"] for a in made["agent"]] == [False, False, True]


@pytest.mark.parametrize("action", [*ACTIONS, "unknown"])
def test_every_action_is_a_valid_resource(action):
    for outcome, status, code in (("allow", 200, "0"), ("deny", 403, "4"), ("allow", 422, "4"), ("allow", 503, "8")):
        event = Event(action=action, outcome=outcome, status=status, at=1.0)
        assert AuditEvent.model_validate(audit_event(1, event, site="s")).outcome == code


@pytest.mark.parametrize(
    ("action", "done"),
    [("cases.create", "C"), ("packages.upload", "C"), ("packages.publish", "U"), ("jobs.cancel", "D"),
     ("session.open", "C"), ("session.read", "R"), ("access.review", "U"), ("keys.manage", "U"), ("unparsed", "E")],
)  # fmt: skip
def test_what_was_done_is_told_by_the_last_word(action, done):
    event = Event(action=action, outcome="allow", status=200, at=1.0)
    assert AuditEvent.model_validate(audit_event(1, event, site="s")).action == done


def test_every_purpose_has_its_code():
    assert set(module.PURPOSES) == set(PURPOSES)
