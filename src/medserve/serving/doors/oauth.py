"""Programs sign in: SMART Backend Services.

    GET  /.well-known/smart-configuration             where and how
    POST /oauth/token  grant_type=client_credentials  {"access_token": "mst_...", "expires_in": 300, "scope": ...}

Errors of the token endpoint are those of RFC 6749, 5.2, where `error` is a word; our code, hint, kind and trace stand
beside it: `{"error": "invalid_client", "error_description", "code", "hint", "kind", "trace"}`.
"""

import asyncio
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response

from medserve.access.accounts import Accounts
from medserve.access.audit import Event
from medserve.access.clients import ALGORITHMS, SCOPES, Clients, OAuthError
from medserve.access.policy import Principal
from medserve.errors import Fault, MedServeError
from medserve.serving.bodies import BodyTiming, read_body
from medserve.serving.browser import own_url
from medserve.serving.control import WireResponse, told
from medserve.serving.doors import Parts, event, note
from medserve.serving.openapi import SIGN_IN_TAG
from medserve.serving.wire import header

FORM = "application/x-www-form-urlencoded"
MOST_BYTES, MOST_FIELDS = 32 * 1024, 16
TOKEN = "/oauth/token"


def router(parts: Parts) -> APIRouter:
    routes = APIRouter(tags=[SIGN_IN_TAG])
    clients = Clients(Accounts(parts.database, parts.ledger, parts.policy), parts.identity.sessions)

    @routes.get("/.well-known/smart-configuration", summary="How programs sign in (SMART Backend Services).")
    async def configuration(request: Request) -> Response:
        return WireResponse(
            {
                "token_endpoint": own_url(request.scope, parts.settings) + TOKEN,
                "grant_types_supported": ["client_credentials"],
                "token_endpoint_auth_methods_supported": ["private_key_jwt"],
                "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
                "scopes_supported": list(SCOPES),
                "capabilities": ["client-confidential-asymmetric", "permission-v1", "permission-v2"],
            }
        )

    @routes.post(TOKEN, summary="An access token for a program, against its signed assertion.")
    async def token(request: Request) -> Response:
        def granted(who: Principal) -> Event:
            note(request, caller=who, key=who.id)
            return event(request, 200)

        try:
            form = await _form(request)
            audience = own_url(request.scope, parts.settings) + TOKEN
            new, scope = await asyncio.to_thread(clients.grant, form, audience, granted)
        except Fault:
            raise
        except MedServeError as error:
            return _error(request, error)
        return WireResponse(
            {"access_token": new.token, "token_type": "bearer", "expires_in": int(new.life_s), "scope": scope}
        )

    return routes


async def _form(request: Request) -> dict[str, str]:
    """Raises: OAuthError "form-invalid"; TooLarge, SlowBody."""
    if header(request.scope, b"content-type").partition(";")[0].strip().lower() != FORM:
        raise _bad(f"The body is {FORM}.")
    if header(request.scope, b"authorization"):
        raise _bad("A client signs in by its assertion alone, without an Authorization header.")
    if request.scope.get("query_string"):
        raise _bad("The parameters stand in the body, not in the address.")
    body = await read_body(request.receive, MOST_BYTES, BodyTiming())
    try:
        pairs = parse_qsl(body.decode("ascii"), strict_parsing=True, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise _bad(f"The body is not {FORM}.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise _bad("A parameter stands there twice.")
    return form


def _error(request: Request, error: MedServeError) -> Response:
    """In the words of RFC 6749, with ours beside them."""
    told(request, error)
    word = "invalid_request"
    if isinstance(error, OAuthError):
        word = error.oauth
        if error.who is not None:
            note(request, caller=error.who, key=error.who.id, denied=True)
    body: dict[str, Any] = {"error": word, "error_description": error.message, "code": error.code}
    body |= {"hint": error.hint, "kind": error.kind, "trace": request.scope["medserve.trace"]}
    return WireResponse(body, error.status)


def _bad(what: str) -> OAuthError:
    return OAuthError("invalid_request", "form-invalid", what)
