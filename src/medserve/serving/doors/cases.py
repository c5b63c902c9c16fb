"""Cases: one input of a patient, stored encrypted until a model is asked about it.

    POST   /v1/cases           X-Patient: p-8c1f      201 {"case": ID, "version": 1, "bytes": n}, once it is on disk
    GET    /v1/cases/{case}                           what is known of it; not whose it is
    DELETE /v1/cases/{case}                           destroys its key, and those of the answers about it

The body goes into the vault as it comes, a segment at a time. The pseudonym in `X-Patient` is stored as a keyed blind
index alone, and stands in no log: events name the id of the patient's key.
"""

import asyncio
import contextlib
import functools
import re
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from medserve.data.readers import HEAD_BYTES, READERS
from medserve.errors import Busy, Refusal, Usage
from medserve.serving import bodies
from medserve.serving.control import WireResponse
from medserve.serving.doors import Parts, caller, effect, event, note
from medserve.serving.openapi import reply
from medserve.serving.schema import CasePage, CaseStored
from medserve.serving.wire import WrongMedia
from medserve.store.cases import Case, no_case
from medserve.store.vault import Writing

T = TypeVar("T")
MOST_UPLOADS = 32  # at once; each holds one segment and what has come of the next
MOST_PATIENT = 128  # characters
RECORD_MEDIA = ("application/json", "application/fhir+json", "text/plain", "text/csv", "application/zip",
                "application/edf", "application/bdf", "application/octet-stream")  # fmt: skip
MEDIA = tuple(dict.fromkeys((*READERS, *RECORD_MEDIA)))
_ID = re.compile(r"[0-9a-f]{32}")
_PATIENT: dict[str, Any] = {
    "name": "X-Patient",
    "in": "header",
    "required": True,
    "description": "The patient's pseudonym; stored as a keyed blind index only.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MOST_PATIENT},
}
_BODY: dict[str, Any] = {"required": True, "content": {media: {"schema": {}} for media in MEDIA}}


def router(parts: Parts) -> APIRouter:
    routes, cases, limit = APIRouter(tags=["cases"]), parts.cases, parts.settings.max_upload_bytes
    timing, uploads = bodies.BodyTiming(), Room(MOST_UPLOADS)

    @routes.post(
        "/v1/cases",
        summary="Store one input of a patient, encrypted.",
        status_code=201,
        responses=reply(201, CaseStored),
        openapi_extra={"parameters": [_PATIENT], "requestBody": _BODY},
    )
    async def create(request: Request) -> Response:
        who = caller(request)
        _no_query(request)
        patient, media = patient_of(request), _media(request)
        bodies.expected_bytes(request.scope, limit)
        with uploads:
            receiving = cases.receive(who.tenant, patient, media, within=lambda: effect(parts, event(request, 201)))
            ref = await _stream(request, receiving, media, limit, timing)
        return WireResponse({"case": ref.object, "version": ref.version, "bytes": ref.size}, 201)

    @routes.get("/v1/cases/{case}", summary="What is known of a stored case.", responses=reply(200, CasePage))
    async def page(request: Request, case: str) -> Response:
        found = await _look(request, case)
        stored = [{"version": v, "bytes": size, "created": at} for v, size, at in found.stored.versions]
        newest = {"bytes": stored[-1]["bytes"], "created": stored[-1]["created"]}
        return WireResponse({"case": found.id, "media_type": found.media_type, **newest, "versions": stored})

    @routes.delete("/v1/cases/{case}", summary="Destroy a stored case and the answers about it.", status_code=204)
    async def remove(request: Request, case: str) -> Response:
        found = await _look(request, case)
        await step(lambda: cases.remove(found.tenant, found.id, within=lambda: effect(parts, event(request, 204))))
        return Response(status_code=204)

    async def _look(request: Request, case: str) -> Case:
        _no_query(request)
        if not _ID.fullmatch(case):
            raise no_case()
        found = await asyncio.to_thread(cases.look, caller(request).tenant, case)
        note(request, resource=found.id, patient=found.stored.patient)
        return found

    return routes


class Room:
    """So many at once; of one event loop."""

    def __init__(self, most: int) -> None:
        self._free = most

    def __enter__(self) -> None:
        if not self._free:
            raise Busy(
                "uploads-full", "Too many uploads are under way.", hint="Try again after the time in Retry-After."
            )
        self._free -= 1

    def __exit__(self, *_: object) -> None:
        self._free += 1


def patient_of(request: Request) -> str:
    """The pseudonym in `X-Patient`. Raises: Usage "patient-invalid", which does not echo it."""
    given = [value for name, value in request.scope["headers"] if name == b"x-patient"]
    try:
        (raw,) = given
        patient: str = raw.decode("utf-8")
    except ValueError:
        patient = ""
    if not (
        0 < len(patient) <= MOST_PATIENT
        and patient.isprintable()
        and patient == patient.strip()
        and unicodedata.is_normalized("NFC", patient)
    ):
        raise Usage(
            "patient-invalid",
            f"X-Patient is one header of 1 to {MOST_PATIENT} printable characters (UTF-8, NFC), without spaces around.",
            hint="Give the patient's pseudonym: -H 'X-Patient: p-8c1f'",
        )
    return patient


def _media(request: Request) -> str:
    media = bodies.declared_media(request.scope)
    if media not in MEDIA:
        raise WrongMedia(
            "media-type", f"A case is one of {', '.join(MEDIA)}.", hint="Say it: -H 'Content-Type: application/dicom'"
        )
    return media


def _no_query(request: Request) -> None:
    if request.scope.get("query_string"):
        raise Usage("query-invalid", "The address takes no parameters.", hint="The patient is named in X-Patient.")


async def _stream(
    request: Request,
    receiving: AbstractContextManager[Writing],
    media: str,
    limit: int,
    timing: bodies.BodyTiming,
) -> Any:
    """The body into the vault, each part in a thread. Returns: the object's ref."""
    out = await step(receiving.__enter__)
    try:
        note(request, resource=out.object, patient=out.patient)
        head, size = b"", 0
        async with contextlib.aclosing(bodies.parts_of(request.receive, limit, timing)) as parts:
            async for part in parts:
                if size < HEAD_BYTES <= size + len(part):
                    bodies.check_kind(head + part[:HEAD_BYTES], media)
                elif size < HEAD_BYTES:
                    head += part
                size += len(part)
                await step(functools.partial(out.write, part))
        if not size:
            raise Refusal("file-empty", "The body holds no bytes.", hint="Send the file of one case.")
        if size < HEAD_BYTES:
            bodies.check_kind(head, media)
        note(request, bytes=size)
    except BaseException as error:
        note(request, resource="")  # there is no such case
        receiving.__exit__(type(error), error, error.__traceback__)
        raise
    try:
        await step(lambda: receiving.__exit__(None, None, None))
    except BaseException:
        note(request, resource="")
        raise
    return out.ref


async def step(work: Callable[[], T]) -> T:
    """In a thread; one that has begun is waited for, also where the request is cancelled."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
