"""Medicines held against the rules of safety, apart from every model.

    POST /v1/safety/review     {"patient": {...}, "candidates": [...]}, or a FHIR Bundle; the answer in the same form
    GET  /v1/safety            which sources are asked, in which versions

If the rules cannot be read, both are refused (503 "safety-unavailable"). The audit event names the digest of the rules
in the place of a model's, and keyed digests of what was asked and answered; the log holds nothing of the patient.
"""

import asyncio
import datetime
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from medserve.access.witness import Witness
from medserve.errors import Usage
from medserve.safety.envelope import Envelope
from medserve.safety.fhir_in import is_bundle, read_bundle
from medserve.safety.fhir_out import as_fhir
from medserve.safety.orders import refuse_orders_in_query
from medserve.safety.patient import MAX_BODY, parse_request
from medserve.safety.policy import Standing
from medserve.safety.review import SafetyPage, SafetyReview
from medserve.serving import bodies
from medserve.serving.control import WireResponse
from medserve.serving.doors import caller, note
from medserve.serving.openapi import reply
from medserve.serving.wire import WrongMedia, encode, header

FHIR = "application/fhir+json"
INLINE_BYTES = 64 * 1024  # a longer body is read in a thread
_REF = {"$ref": "#/components/schemas/SafetyRequest"}
_BODY: dict[str, Any] = {"required": True, "content": {bodies.JSON_TYPE: {"schema": _REF}, FHIR: {"schema": {}}}}


class FhirResponse(WireResponse):
    """FHIR as JSON."""

    media_type = FHIR


def router(rules: Standing, witness: Witness) -> APIRouter:
    routes, timing = APIRouter(tags=["safety"]), bodies.BodyTiming()

    @routes.get("/v1/safety", summary="Which rules of safety are asked here.", responses=reply(200, SafetyPage))
    async def page() -> Response:
        envelope = rules.ask()
        notes = envelope.notes(datetime.date.today())
        page = SafetyPage(notes, len(envelope.knowledge), envelope.digest)
        return WireResponse(page if rules.required else msgspec.structs.replace(page, review="optional"))

    @routes.post(
        "/v1/safety/review",
        summary="Hold medicines against allergies, contraindications, dose limits, duplicates and interactions.",
        responses=reply(200, SafetyReview),
        openapi_extra={"requestBody": _BODY},
    )
    async def review(request: Request) -> Response:
        envelope = rules.ask()
        note(request, digest=envelope.digest)
        if query := request.scope.get("query_string"):
            refuse_orders_in_query(query)
            raise Usage("query-invalid", "The address takes no parameters.", hint="All of it stands in the body.")
        media = bodies.declared_media(request.scope)
        if media not in (bodies.JSON_TYPE, FHIR):
            raise WrongMedia("media-type", f"A review takes {bodies.JSON_TYPE} or {FHIR}.",
                             hint=f"Say it: -H 'Content-Type: {bodies.JSON_TYPE}'")  # fmt: skip
        bodies.expected_bytes(request.scope, MAX_BODY)
        body = await bodies.read_body(request.receive, MAX_BODY, timing)
        tenant, trace = caller(request).tenant, request.scope["medserve.trace"]
        note(request, bytes=len(body), input=witness.of("input", tenant, trace, body))
        fhir = FHIR in (media, header(request.scope, b"accept").partition(";")[0].strip().lower())
        if len(body) <= INLINE_BYTES:
            said = _reviewed(envelope, body, fhir)
        else:
            said = await asyncio.to_thread(_reviewed, envelope, body, fhir)
        note(request, answer="reviewed", said=witness.of("answer", tenant, trace, encode(said)))
        return FhirResponse(said) if fhir else WireResponse(said)

    return routes


def _reviewed(envelope: Envelope, body: bytes, fhir: bool) -> Any:
    """Raises: Refusal; Unavailable "safety-unavailable"."""
    now = datetime.datetime.now(datetime.UTC)
    if is_bundle(body):
        bundle = read_bundle(body, today=now.date())
        found = envelope.review(bundle.patient, bundle.candidates, would_change=not fhir, notes=bundle.notes)
        return as_fhir(found, subject=bundle.subject, at=now) if fhir else found
    asked = parse_request(body)
    found = envelope.review(asked.patient, asked.candidates, together=asked.together, would_change=asked.would_change)
    return as_fhir(found, at=now) if fhir else found
