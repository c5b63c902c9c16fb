"""A review -> FHIR R4: a GuidanceResponse with a RequestGroup of proposals, and a DetectedIssue for every rule met.

    bundle = as_fhir(review, subject="Patient/1", at=datetime.now(UTC))      # a plain mapping, ready for json

A MedicationRequest here is a draft of intent "proposal", for a person to confirm; nothing is an order. What could not
be judged stands in an OperationOutcome. Valid by the published R4B structures (a test reads it with fhir.resources).
Source: HL7 FHIR R4 (4.0.1); codes of issues from HL7 v3 ActCode (detected issue).
"""

import datetime
import uuid
from typing import Any

from medserve.safety.review import Finding, Item, Most, SafetyReview

REASON = "urn:medserve:reason"
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
SYSTEMS = {"atc": "http://www.whocc.no/atc", "rxnorm": "http://www.nlm.nih.gov/research/umls/rxnorm"}
ISSUES = {
    "allergy": ("ALGY", "Allergy Alert"), "condition": ("COND", "Condition Alert"), "lab": ("LAB", "Lab alert"),
    "age": ("AGE", "Age Alert"), "pregnancy": ("PREG", "Pregnancy Alert"),
    "renal": ("DOSECOND", "Dosage-Condition Alert"), "hepatic": ("DOSECOND", "Dosage-Condition Alert"),
    "dose": ("DOSEH", "High Dose Alert"),
    "duplicate": ("DUPTHPY", "Duplicate Therapy Alert"), "interaction": ("DRG", "Drug Interaction Alert"),
}  # fmt: skip
SEVERITY = {"contraindicated": "high", "major": "high", "moderate": "moderate", "minor": "low"}


def as_fhir(review: SafetyReview, *, subject: str = "", at: datetime.datetime) -> dict[str, Any]:
    """
    Args:
        subject: how the request refers to its patient; "" where it is not named.

    Returns: a Bundle of type collection: GuidanceResponse, RequestGroup, then the rest.
    """
    patient = {"reference": subject} if subject else {"type": "Patient", "display": "the patient of the request"}
    made = Entries()
    actions, outcome = [], []
    for item in review.items:
        found = [(one, True) for one in item.blocks] + [(one, False) for one in item.warnings]
        refs = [made.add(issue_of(one, item, patient, at, blocks)) for one, blocks in found]
        outcome += not_judged(item)
        if item.is_offered:
            request = made.add(proposal_of(item, patient, at, refs))
            actions.append({"title": item.name, "resource": {"reference": request}})
    notes = [{"text": text} for text in (*review.notes, *dict.fromkeys(one.coverage for one in review.sources))]
    named = ", ".join(f"{one.id}, version {one.version}" for one in review.sources)
    response: dict[str, Any] = {
        "resourceType": "GuidanceResponse",
        "moduleUri": f"urn:medserve:safety:{review.rules}",
        "status": "success" if not outcome else "data-required",
        "subject": patient,
        "occurrenceDateTime": at.isoformat(timespec="seconds"),
        "performer": {"display": "MedServe safety rules"},
        "note": [{"text": f"Rules asked: {named}. Proposals, for a person to confirm; nothing is ordered."}, *notes],
    }
    if outcome:
        response["evaluationMessage"] = [
            {"reference": made.add({"resourceType": "OperationOutcome", "issue": outcome})}
        ]
    if actions:
        group = {"resourceType": "RequestGroup", "status": "draft", "intent": "proposal", "subject": patient,
                 "authoredOn": at.isoformat(timespec="seconds"), "action": actions}  # fmt: skip
        response["result"] = {"reference": made.add(group)}
    made.add(response)
    order = ("GuidanceResponse", "RequestGroup", "MedicationRequest", "DetectedIssue", "OperationOutcome")
    made.entries.sort(key=lambda one: order.index(one["resource"]["resourceType"]))
    stamp = at.isoformat(timespec="seconds")
    return {"resourceType": "Bundle", "type": "collection", "timestamp": stamp, "entry": made.entries}


class Entries:
    """Of a Bundle, each with an address of its own."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def add(self, resource: dict[str, Any]) -> str:
        url = f"urn:uuid:{uuid.uuid4()}"
        self.entries.append({"fullUrl": url, "resource": resource})
        return url


def coded(code: str, name: str) -> dict[str, Any]:
    """A medicine as a CodeableConcept."""
    system, _, value = code.partition("|")
    if system not in SYSTEMS:
        return {"text": name or code}
    coding = {"system": SYSTEMS[system], "code": value} | ({"display": name} if name else {})
    return {"coding": [coding], "text": name or code}


def issue_of(one: Finding, item: Item, patient: dict[str, Any], at: datetime.datetime, blocks: bool) -> dict[str, Any]:
    """A DetectedIssue for one rule that was met."""
    code, display = ISSUES[one.kind]
    involved = [{"display": item.name or item.drug}]
    if one.fact.kind in ("medicine", "candidate"):
        involved.append({"display": one.fact.name or one.fact.code})
    fact = one.fact.name or one.fact.code
    amount = f": {one.fact.value:g} {one.fact.unit}".rstrip() if one.fact.value is not None else ""
    return {
        "resourceType": "DetectedIssue",
        "identifier": [{"system": f"urn:medserve:rules:{one.source}:{one.version}", "value": one.rule}],
        "status": "preliminary",
        "code": {"coding": [{"system": ACT, "code": code, "display": display}], "text": f"{one.kind}, {one.severity}"},
        "severity": SEVERITY.get(one.severity, "high"),
        "patient": patient,
        "identifiedDateTime": at.isoformat(timespec="seconds"),
        "implicated": involved,
        "evidence": [{"code": [{"text": f"{fact}{amount}"}], "detail": [{"display": one.citation}]}],
        "detail": f"{'Blocked' if blocks else 'Warning'} ({one.severity}): {one.text} {one.citation}. "
        f"Rule {one.rule} of {one.source}, version {one.version}.",
    }


def proposal_of(item: Item, patient: dict[str, Any], at: datetime.datetime, issues: list[str]) -> dict[str, Any]:
    """A MedicationRequest, a draft of intent proposal. issues: where the DetectedIssues about it stand."""
    made: dict[str, Any] = {
        "resourceType": "MedicationRequest",
        "status": "draft",
        "intent": "proposal",
        "medicationCodeableConcept": coded(item.drug, item.name),
        "subject": patient,
        "authoredOn": at.isoformat(timespec="seconds"),
        "note": [{"text": item.statement}],
    }
    if issues:
        made["detectedIssue"] = [{"reference": one} for one in issues]
    lowest = _lowest(item.most)
    if lowest is not None:
        said = f"At most {lowest.value:g} {lowest.unit}. {lowest.text} {lowest.citation}."
        amount = {"value": lowest.value, "unit": lowest.unit.removesuffix("/d"), "system": "http://unitsofmeasure.org",
                  "code": lowest.unit.removesuffix("/d")}  # fmt: skip
        day = {"value": 1, "unit": "d", "system": "http://unitsofmeasure.org", "code": "d"}
        made["dosageInstruction"] = [{"text": said, "maxDosePerPeriod": {"numerator": amount, "denominator": day}}]
        made["note"] += [{"text": f"{one.text} {one.citation}. Rule {one.rule} of {one.source}, version {one.version}."}
                         for one in item.most]  # fmt: skip
    return made


def _lowest(most: list[Most]) -> Most | None:
    """The bound that holds; of unlike units none is below the other, and the first stands for all in the notes."""
    alike = [one for one in most if one.unit == most[0].unit]
    return min(alike, key=lambda one: one.value, default=None)


def not_judged(item: Item) -> list[dict[str, Any]]:
    """Issues of an OperationOutcome."""
    severity = "warning" if item.status == "blocked" else "error"
    return [
        {
            "severity": severity,
            "code": "not-found" if one.code.endswith("-unknown") else "incomplete",
            "details": {"coding": [{"system": REASON, "code": one.code}],
                        "text": f"{item.name or item.drug}: {one.code}: {one.message}"},
            "diagnostics": one.next,
        }
        for one in item.missing
    ]  # fmt: skip
