"""Sessions of people with an account here; and who one is.

POST   /v1/session   {"name", "password", "code"}    201 {"token": "mst_...", "expires_in", "idle_s", ...}
GET    /v1/session                                   who asks, in which role, until when
DELETE /v1/session                                   ends the session that asks
"""

import asyncio
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from medserve.access.accounts import Accounts
from medserve.access.keys import load_pepper
from medserve.access.people import People
from medserve.access.policy import Principal, as_dict
from medserve.access.sessions import IDLE_S, SESSION_S, NewSession
from medserve.errors import Usage
from medserve.serving.bodies import BodyTiming, read_body
from medserve.serving.browser import SESSION, set_cookie
from medserve.serving.control import WireResponse
from medserve.serving.doors import Parts, caller, event, note
from medserve.serving.openapi import SIGN_IN_TAG

MOST_BYTES = 4096


class SignIn(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    password: str
    code: str


def router(parts: Parts) -> APIRouter:
    routes = APIRouter()
    accounts = Accounts(parts.database, parts.ledger, parts.policy)
    people, sessions = People(accounts, load_pepper(parts.settings)), parts.identity.sessions

    def opened(request: Request, said: SignIn) -> NewSession:
        row = people.sign_in(said.name, said.password, said.code)
        who = people.principal(row)
        note(request, caller=who, key=who.id)
        with parts.ledger.with_effect(event(request, 201)) as db:
            return sessions.issue(db, who, life_s=SESSION_S, idle_s=IDLE_S, account=row.id)

    @routes.post("/v1/session", summary="Sign in by name, password and code.", tags=[SIGN_IN_TAG], status_code=201)
    async def sign_in(request: Request) -> Response:
        body = await read_body(request.receive, MOST_BYTES, BodyTiming())
        try:
            said = msgspec.json.decode(body, type=SignIn)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise Usage(
                "json-invalid",
                'The body is {"name": ..., "password": ..., "code": ...}.',
                hint="Send all three, as texts.",
            ) from None
        new = await asyncio.to_thread(opened, request, said)
        return WireResponse(described(new), 201)

    @routes.get("/v1/session", summary="Who asks.", tags=["identity"])
    async def who(request: Request) -> Response:
        return WireResponse(about(caller(request)))

    @routes.delete("/v1/session", summary="End the session that asks.", tags=["identity"], status_code=204)
    async def end(request: Request) -> Response:
        found = caller(request)
        if not found.session:
            raise Usage("session-none", "An API key is no session.", hint="End it with `medserve keys revoke`.")

        def ended() -> None:
            with parts.ledger.with_effect(event(request, 204)) as db:
                sessions.end(db, found.session)
            sessions.forget()  # a request beside this one may have read it again before it was committed

        note(request, code="ended")
        await asyncio.to_thread(ended)
        answer = Response(status_code=204)
        answer.raw_headers.append(
            set_cookie(request.scope, parts.settings, SESSION, "", path="/", same_site="Strict", max_age_s=0)
        )
        return answer

    return routes


def about(who: Principal) -> dict[str, Any]:
    """Of a principal, for itself."""
    return {"principal": who.id, **as_dict(who), "second_factor": who.strong, "session": who.session or None}


def described(new: NewSession) -> dict[str, Any]:
    """Of a new session, for whoever opened it."""
    return {"token": new.token, "expires_in": int(new.life_s), "idle_s": int(IDLE_S), **about(new.principal)}
