"""Breaking the glass, and looking at it afterwards.

POST /v1/break-glass               {"reason", "models": [...], "minutes": 60}    201; no models: all of the tenant
GET  /v1/break-glass               what was broken in the reviewer's tenant, newest first
POST /v1/break-glass/{glass}/review                                              somebody else has looked
"""

import asyncio
from dataclasses import replace

import msgspec
from fastapi import APIRouter, Request, Response

from medserve.access.glass import MOST_MINUTES, Broken, Glass
from medserve.access.policy import Principal
from medserve.errors import NotFound, Usage
from medserve.serving.bodies import BodyTiming, read_body
from medserve.serving.control import WireResponse
from medserve.serving.doors import Parts, caller, event, note

MOST_BYTES = 16 * 1024


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    reason: str
    models: list[str] = []
    minutes: float = MOST_MINUTES


def router(parts: Parts) -> APIRouter:
    routes, broken_glass = APIRouter(tags=["break-glass"]), Glass(parts.database)

    def broken(request: Request, who: Principal, wanted: Wanted) -> Broken:
        with parts.ledger.with_effect(event(request, 201)) as db:
            made = broken_glass.break_for(db, who, reason=wanted.reason, models=wanted.models, minutes=wanted.minutes)
        parts.identity.sessions.forget()
        return made

    @routes.post("/v1/break-glass", summary="Open more models of the own tenant, in an emergency.", status_code=201)
    async def break_(request: Request) -> Response:
        who = caller(request)
        wanted = await _wanted(request)
        broken_glass.check(who, wanted.reason, wanted.minutes)
        here = {service.model.name for service in parts.registry.services}
        free = replace(who, models=())
        for name in wanted.models:
            if name not in here or not parts.policy.sees(free, name):
                raise NotFound("model", name, None, hint="Name a model of your own organisation.")
        note(request, code=wanted.reason, loud=True)
        made = await asyncio.to_thread(broken, request, who, wanted)
        return WireResponse(made.as_dict(), 201)

    @routes.get("/v1/break-glass", summary="Where the glass was broken.")
    async def rows(request: Request) -> Response:
        found = await asyncio.to_thread(broken_glass.rows, caller(request).tenant)
        return WireResponse({"broken": [row.as_dict() for row in found]})

    @routes.post("/v1/break-glass/{glass}/review", summary="Acknowledge one.", status_code=204)
    async def review(request: Request, glass: str) -> Response:
        who = caller(request)

        def reviewed() -> None:
            row = broken_glass.of(glass, who)
            note(request, resource=row.id)
            with parts.ledger.with_effect(event(request, 204)) as db:
                broken_glass.review(db, row.id, who)

        await asyncio.to_thread(reviewed)
        return Response(status_code=204)

    return routes


async def _wanted(request: Request) -> Wanted:
    body = await read_body(request.receive, MOST_BYTES, BodyTiming())
    try:
        return msgspec.json.decode(body, type=Wanted)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Usage(
            "json-invalid", 'The body is {"reason": ..., "models": [...], "minutes": 60}.', hint="See docs/identity.md."
        ) from None
