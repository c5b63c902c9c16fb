"""Advice on a treatment -> FHIR R4: a GuidanceResponse, and beside it what it rests on.

    bundle = as_fhir(answer, spec, subject="Patient/1", at=datetime.now(UTC))      # a plain mapping, ready for json

A RiskAssessment holds the effect of each arm with its interval, a DetectedIssue every rule of safety that was met, a
RequestGroup of MedicationRequests what is offered (drafts of intent "proposal", for a person to confirm; nothing is an
order), an OperationOutcome every coded reason, Parameters the numbers of the answer. The JSON answer says more; this
one is for systems that speak FHIR. Valid by the published R4B structures (a test reads it with fhir.resources).
Source: HL7 FHIR R4 (4.0.1).
"""

import datetime
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from medserve.data.readers.records._fhir_types import RawBundle
from medserve.models.spec import ModelSpec
from medserve.safety.fhir_out import REASON, Entries, issue_of, not_judged, proposal_of
from medserve.safety.review import AnswerReview, Item, LabelReview

INTERVAL, EFFECT = "urn:medserve:interval", "urn:medserve:effect"
UCUM = "http://unitsofmeasure.org"
ORDER = ("GuidanceResponse", "RiskAssessment", "RequestGroup", "MedicationRequest", "DetectedIssue", "Parameters",
         "OperationOutcome")  # fmt: skip
LACKING = frozenset({"safety-unknown", "safety-required", "input-required", "input-missing"})  # more has to be said
_RATE = re.compile(r"(.+)/(h|d|wk|mo|a)")
_PERIODS = {"h": "an hour", "d": "a day", "wk": "a week", "mo": "a month", "a": "a year"}
_person = msgspec.json.Decoder(RawBundle)


class _Who(msgspec.Struct):
    resourceType: str = ""
    id: str | None = None


_who = msgspec.json.Decoder(_Who)


def subject_of(body: bytes) -> str:
    """How a Bundle refers to its patient; "" where the body is none, or names nobody."""
    try:
        for entry in _person.decode(body).entry or ():
            one = _who.decode(entry.resource)
            if one.resourceType == "Patient":
                return f"Patient/{one.id}" if one.id else entry.fullUrl or ""
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    return ""


def as_fhir(
    answer: Mapping[str, Any], spec: ModelSpec, *, subject: str = "", at: datetime.datetime
) -> dict[str, Any]:  # fmt: skip
    """
    Args:
        answer: of the wire, as plain values.
        subject: how the request refers to its patient; "" where it is not named.

    Returns: a Bundle of type collection, the GuidanceResponse first.
    """
    patient = {"reference": subject} if subject else {"type": "Patient", "display": "the patient of the request"}
    made, stamp = Entries(), at.isoformat(timespec="seconds")
    held = msgspec.convert(answer["safety"], AnswerReview) if answer.get("safety") else AnswerReview("not-reviewed")
    outcome = [_reason(one) for one in answer["reasons"]]
    issues: dict[tuple[str, str], list[str]] = {}
    for label in held.labels:
        for item in label.items:
            met = [(one, True) for one in item.blocks] + [(one, False) for one in item.warnings]
            issues[label.label, item.drug] = [made.add(issue_of(one, item, patient, at, b)) for one, b in met]
            outcome += not_judged(item)
    proposals = _proposals(answer, spec, held, patient, at, issues)
    actions = [{"title": title, "resource": {"reference": made.add(one)}} for title, one in proposals]
    lacking = answer["decision"] is None and any(one["code"] in LACKING for one in answer["reasons"])
    model = answer["model"]
    response: dict[str, Any] = {
        "resourceType": "GuidanceResponse",
        "requestIdentifier": {"system": "urn:medserve:trace", "value": answer["trace"]},
        "identifier": [{"system": "urn:medserve:answer", "value": answer["id"]}],
        "moduleUri": f"urn:medserve:model:{model['name']}:{model['version']}:{model['digest']}",
        "status": "data-required" if lacking else "success",
        "subject": patient,
        "occurrenceDateTime": stamp,
        "performer": {"display": "MedServe"},
        "outputParameters": {"reference": made.add(_parameters(answer))},
        "note": [{"text": one} for one in _notes(answer, held)],
    }
    if outcome:
        response["evaluationMessage"] = [
            {"reference": made.add({"resourceType": "OperationOutcome", "issue": outcome})}
        ]  # fmt: skip
    if actions:
        group = {"resourceType": "RequestGroup", "status": "draft", "intent": "proposal", "subject": patient,
                 "authoredOn": stamp, "action": actions}  # fmt: skip
        response["result"] = {"reference": made.add(group)}
    if answer.get("effect") is not None:
        made.add(_risk(answer, patient, stamp))
    made.add(response)
    made.entries.sort(key=lambda one: ORDER.index(one["resource"]["resourceType"]))
    return {"resourceType": "Bundle", "type": "collection", "timestamp": stamp, "entry": made.entries}


def _notes(answer: Mapping[str, Any], held: AnswerReview) -> list[str]:
    found = ["A proposal of a model, for a person to confirm; nothing is ordered."]
    if answer.get("effect") is not None:
        found.append(answer["effect"]["note"])
    if held.status == "reviewed":
        named = ", ".join(f"{one.id}, version {one.version}" for one in held.sources)
        found += [f"Rules of safety asked: {named}.", *held.notes, *dict.fromkeys(o.coverage for o in held.sources)]
    return found


def _reason(one: Mapping[str, str]) -> dict[str, Any]:
    code = one["code"]
    kind = "incomplete" if code in LACKING else "business-rule" if code.startswith("safety-") else "informational"
    return {
        "severity": "information" if kind == "informational" else "warning",
        "code": kind,
        "details": {"coding": [{"system": REASON, "code": code}], "text": one["message"]},
    }


def _advised(answer: Mapping[str, Any], spec: ModelSpec) -> list[str]:
    """Labels whose medicines are proposed: what is advised against proposes nothing."""
    if spec.output.task == "number":
        return [one["label"] for one in answer["outputs"] if one["value"] is not None]
    decision = answer["decision"] or {}
    if decision.get("advice") == "recommend-against":
        return []
    return decision.get("labels") or ([decision["label"]] if decision.get("label") else [])


def _proposals(
    answer: Mapping[str, Any], spec: ModelSpec, held: AnswerReview, patient: dict[str, Any], at: datetime.datetime,
    issues: Mapping[tuple[str, str], list[str]],
) -> list[tuple[str, dict[str, Any]]]:  # fmt: skip
    """Titles, and MedicationRequests: of every medicine of what is advised."""
    reviewed: dict[str, LabelReview] = {one.label: one for one in held.labels}
    found = []
    for label in _advised(answer, spec):
        unasked = [Item(code, "", "offered", statement=_unasked(answer)) for code in spec.medicines.get(label, ())]
        for item in reviewed[label].items if label in reviewed else unasked:
            request = proposal_of(item, patient, at, issues.get((label, item.drug), []))
            if spec.output.task == "number":
                _dose(request, answer["outputs"][0])
            found.append((item.name or label, request))
    return found


def _unasked(answer: Mapping[str, Any]) -> str:
    said = [one["message"] for one in answer["reasons"] if one["code"] == "safety-not-reviewed"]
    return said[0] if said else "No rule of safety was asked."


def _dose(request: dict[str, Any], output: Mapping[str, Any]) -> None:
    """The dose with its interval, into the one dosage of a proposal.

    An amount a day or a week stands as a rate: as a single dose with a timing, 35 mg a week would read as one dose of
    35 mg, and how an amount is divided is not the model's to say.
    """
    unit, interval = output["unit"] or "1", output["interval"]
    rate = _RATE.fullmatch(unit)
    plain = rate[1] if rate else unit
    (dosage,) = request.setdefault("dosageInstruction", [{"text": ""}])
    between = "" if interval is None else f" (interval {interval[0]:.4g} to {interval[1]:.4g})"
    divided = f" In all, over {_PERIODS[rate[2]]}: how it is divided into single doses is not said." if rate else ""
    dosage["text"] = f"{output['value']:.4g} {unit}{between}.{divided} {dosage['text']}".strip()
    amount = _quantity(output["value"], plain)
    ratio = {"rateRatio": {"numerator": amount, "denominator": _quantity(1, rate[2])}} if rate else {}
    dosage["doseAndRate"] = [ratio or {"doseQuantity": amount}]
    if interval is not None:
        limits = {"low": _quantity(interval[0], plain), "high": _quantity(interval[1], plain)}
        dosage["extension"] = [{"url": INTERVAL, "valueRange": limits}]


def _quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": round(float(value), 6), "unit": unit, "system": UCUM, "code": unit}


def _risk(answer: Mapping[str, Any], patient: dict[str, Any], stamp: str) -> dict[str, Any]:
    """The effect of each arm against the reference, with its interval, and the outcome expected under each arm."""
    told = answer["effect"]
    unit = told["unit"] or "1"
    until = f" up to {told['horizon']:g} {unit}" if told["horizon"] is not None else ""
    predictions = [
        {
            "outcome": {"text": f"{told['outcome']}{until}: {one['arm']} against {told['reference']}"},
            "rationale": f"Difference {one['effect']:.4g} {unit}, {one['level']:.0%} interval {one['interval'][0]:.4g}"
            f" to {one['interval'][1]:.4g}; {told['better']} is better.",
            "extension": [
                {"url": EFFECT, "valueQuantity": _quantity(one["effect"], unit)},
                {"url": INTERVAL, "valueRange": {"low": _quantity(one["interval"][0], unit),
                                                 "high": _quantity(one["interval"][1], unit)}},
            ],
        }
        for one in told["effects"]
    ]  # fmt: skip
    for arm, value in told["expected"].items():
        said = f"Expected under {arm}: {value:.4g} {unit}."
        predictions.append({"outcome": {"text": f"{told['outcome']}{until}: {arm}"}, "rationale": said})
    made: dict[str, Any] = {
        "resourceType": "RiskAssessment",
        "status": "preliminary",
        "method": {"text": "Doubly robust effect of a treatment, from past patients; not clinically validated."},
        "code": {"text": f"Effect of a treatment on {told['outcome']}"},
        "subject": patient,
        "occurrenceDateTime": stamp,
        "performer": {"display": f"{answer['model']['name']} {answer['model']['version']}"},
        "prediction": predictions,
        "note": [{"text": told["note"]}],
    }
    if answer["decision"] is not None:
        made["mitigation"] = f"{answer['decision']['advice']}: {answer['decision']['label']}"
    return made


def _parameters(answer: Mapping[str, Any]) -> dict[str, Any]:
    found: list[dict[str, Any]] = [{"name": "status", "valueString": answer["status"]}]
    for one in answer["outputs"]:
        parts: list[dict[str, Any]] = [{"name": "label", "valueString": one["label"]}]
        if one.get("probability") is not None:
            parts.append({"name": "probability", "valueDecimal": round(one["probability"], 6)})
        if (code := one.get("code")) is not None:
            parts.append({"name": "code", "valueCodeableConcept": {"coding": [dict(code)]}})
        if one.get("value") is not None:
            unit = one["unit"] or "1"
            parts.append({"name": "value", "valueQuantity": _quantity(one["value"], unit)})
            if one["interval"] is not None:
                low, high = one["interval"]
                limits = {"low": _quantity(low, unit), "high": _quantity(high, unit)}
                parts.append({"name": "interval", "valueRange": limits})
        found.append({"name": "output", "part": parts})
    if answer["decision"] is not None:
        labels = answer["decision"].get("labels") or [answer["decision"]["label"]]
        found += [{"name": "decision", "valueString": label} for label in labels]
        if "advice" in answer["decision"]:
            found.append({"name": "advice", "valueString": answer["decision"]["advice"]})
    if answer.get("safety"):
        found.append({"name": "safety", "valueString": answer["safety"]["status"]})
        if answer["safety"]["rules"]:
            found.append({"name": "rules", "valueString": answer["safety"]["rules"]})
    return {"resourceType": "Parameters", "parameter": found}
