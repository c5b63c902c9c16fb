"""People sign in at the hospital's own provider (OpenID Connect), in a browser.

GET /login             302 to the provider, with a cookie that only this browser has
GET /login/callback    the session, as a cookie and as JSON
"""

import asyncio
import hmac

from fastapi import APIRouter, Request, Response

from medserve.access.oidc import FILE, Login
from medserve.access.sessions import IDLE_S, SESSION_S, NewSession
from medserve.errors import Denied, Usage
from medserve.serving.browser import LOGIN, SESSION, cookie, own_url, set_cookie
from medserve.serving.control import WireResponse
from medserve.serving.doors import Parts, event, note
from medserve.serving.doors.session import described
from medserve.serving.openapi import SIGN_IN_TAG

CALLBACK = "/login/callback"
PENDING_S = 600


class Unconfigured(Usage):
    status = 404


def router(parts: Parts) -> APIRouter:
    routes = APIRouter(tags=[SIGN_IN_TAG])
    login, settings = Login.open(parts.settings, parts.policy), parts.settings

    def provider() -> Login:
        if login is None:
            raise Unconfigured(
                "login-not-configured", "No provider is set up here.", hint=f"Write MEDSERVE_HOME/{FILE}."
            )
        return login

    def finish(request: Request, state: str, code: str, issuer: str) -> NewSession:
        who = provider().finish(state, code, own_url(request.scope, settings) + CALLBACK, issuer)
        note(request, caller=who, key=who.id)
        with parts.ledger.with_effect(event(request, 200)) as db:
            return parts.identity.sessions.issue(db, who, life_s=SESSION_S, idle_s=IDLE_S)

    @routes.get("/login", summary="Go to the provider.", status_code=302)
    async def begin(request: Request) -> Response:
        url, state = await asyncio.to_thread(provider().begin, own_url(request.scope, settings) + CALLBACK)
        answer = WireResponse({"location": url}, 302)
        answer.headers["location"] = url
        answer.raw_headers.append(
            set_cookie(request.scope, settings, LOGIN, state, path="/login", same_site="Lax", max_age_s=PENDING_S)
        )
        return answer

    @routes.get(CALLBACK, summary="Come back from the provider.")
    async def callback(request: Request) -> Response:
        provider()
        given = request.query_params
        state, code = given.get("state", ""), given.get("code", "")
        kept = cookie(request.scope, LOGIN)
        if not state or not hmac.compare_digest(state.encode(), kept.encode()):
            raise Denied("login-state", "This sign-in did not begin in this browser.", hint="Begin at /login.")
        if "error" in given or not code:
            raise Denied("login-refused", "The provider did not let you in.", hint="Begin again at /login.")
        new = await asyncio.to_thread(finish, request, state, code, given.get("iss", ""))
        answer = WireResponse(described(new))
        for name, value, path, age in ((SESSION, new.token, "/", int(SESSION_S)), (LOGIN, "", "/login", 0)):
            site = "Strict" if name == SESSION else "Lax"
            answer.raw_headers.append(
                set_cookie(request.scope, settings, name, value, path=path, same_site=site, max_age_s=age)
            )
        return answer

    return routes
