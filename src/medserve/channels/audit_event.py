"""Audit events in the hospital's language: FHIR R4 AuditEvent, after IHE BALP.

    resource = audit_event(7, event, site="medserve.ward.example")       # a plain mapping, ready for json

Patterns of BALP: what happened (a RESTful interaction), by which client, at which server, for which user, about which
data; the policy that decided as `agent.policy`, the purpose as `agent.purposeOfUse`. A patient appears as
the pseudonym.

Source: IHE ITI, Basic Audit Log Patterns 1.1.3; HL7 FHIR R4 AuditEvent.
"""

from datetime import UTC, datetime
from typing import Any

from medserve.access.audit import Event

DCM = "http://dicom.nema.org/resources/ontology/DCM"
REST = "http://hl7.org/fhir/restful-interaction"
_TYPES = "http://terminology.hl7.org/CodeSystem/audit-event-type"
_OBJECTS = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_REASONS = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_ACTS = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
# action of the policy -> (FHIR action, RESTful interaction)
DONE = {
    "models.predict": ("E", "operation"),
    "models.explain": ("E", "operation"),
    "safety.review": ("E", "operation"),
    "models.list": ("R", "search"),
    "models.read": ("R", "read"),
    "cases.create": ("C", "create"),
    "cases.read": ("R", "read"),
    "cases.delete": ("D", "delete"),
    "batches.predict": ("E", "operation"),
    "batches.expire": ("D", "delete"),
    "api.read": ("R", "capabilities"),
    "audit.read": ("R", "search"),
    "access.break": ("C", "create"),
}
# and where the action has no line of its own, by its last word
VERBS = {
    "list": ("R", "search"),
    "read": ("R", "read"),
    "live": ("R", "read"),
    "ready": ("R", "read"),
    "create": ("C", "create"),
    "open": ("C", "create"),
    "upload": ("C", "create"),
    "manage": ("U", "update"),
    "publish": ("U", "update"),
    "review": ("U", "update"),
    "delete": ("D", "delete"),
    "cancel": ("D", "delete"),
    "close": ("D", "delete"),
    "end": ("D", "delete"),
}
PURPOSES = {"treatment": "TREAT", "research": "HRESCH", "operations": "HOPERAT", "audit": "HCOMPL"}


def audit_event(seq: int, event: Event, *, site: str) -> dict[str, Any]:
    """
    Args:
        seq: the row of the log. site: how this service is named among the hospital's systems.
    """
    verb = event.action.rpartition(".")[2]
    action, interaction = DONE.get(event.action) or VERBS.get(verb, ("E", "operation"))
    denied = event.outcome == "deny"
    outcome = "4" if denied or 400 <= event.status < 500 else "8" if event.status >= 500 else "0"
    agent: dict[str, Any] = {
        "type": {"coding": [_coding(_ACTS, "IRCP", "information recipient")]},
        "who": {"identifier": {"value": event.principal}},
        "requestor": True,
    }
    if event.role:
        agent["role"] = [{"text": event.role}]
    if event.policy:
        agent["policy"] = [f"urn:sha256:{event.policy}"]
    if event.purpose in PURPOSES:
        agent["purposeOfUse"] = [{"coding": [_coding(_REASONS, PURPOSES[event.purpose])]}]
    made: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": f"medserve-{seq}",
        "type": _coding(_TYPES, "rest", "RESTful Operation"),
        "subtype": [_coding(REST, interaction)],
        "action": action,
        "recorded": datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds"),
        "outcome": outcome,
        "agent": [
            {
                "type": {"coding": [_coding(DCM, "110153", "Source Role ID")]},
                "who": {"identifier": {"value": event.principal}},
                "requestor": False,
            },
            {
                "type": {"coding": [_coding(DCM, "110152", "Destination Role ID")]},
                "who": {"display": site},
                "requestor": False,
            },
            agent,
        ],
        "source": {"observer": {"display": site}},
        "entity": [_entity("24", "trace", event.trace or str(seq))],
    }
    if event.code:
        made["outcomeDesc"] = event.code
    if event.tenant:
        made["source"]["site"] = event.tenant
    if event.resource:
        about = _entity("24", event.action, event.resource)
        known = {"digest": event.model, "rules": event.rules, "input": event.input, "answer": event.answer}
        details = [{"type": name, "valueString": value} for name, value in known.items() if value]
        if details:
            about["detail"] = details
        made["entity"].append(about)
    if event.patient:
        person = _entity("1", "patient", event.patient)
        person["type"], person["role"] = _coding(_OBJECTS, "1", "Person"), _coding(_ROLES, "1", "Patient")
        made["entity"].append(person)
    return made


_ROLES = "http://terminology.hl7.org/CodeSystem/object-role"


def _entity(role: str, name: str, value: str) -> dict[str, Any]:
    return {
        "what": {"identifier": {"value": value}},
        "type": _coding(_OBJECTS, "2", "System Object"),
        "role": _coding(_ROLES, role, "Query" if role == "24" else None),
        "name": name,
    }


def _coding(system: str, code: str, display: str | None = None) -> dict[str, str]:
    return {"system": system, "code": code} | ({"display": display} if display else {})
