"""The control plane: what is served here, in which health, and the one OpenAPI document for all of it.

Reached only through `asgi.Application`, which has already decided who may ask.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from medserve.errors import Fault, MedServeError, Usage
from medserve.serving.admission import Admission
from medserve.serving.openapi import document, reply
from medserve.serving.registry import Registry
from medserve.serving.schema import Live, ModelList, ModelPage, Ready
from medserve.serving.wire import JSON, SAFE, WrongMethod, encode, error_body, error_headers


class Nowhere(Usage):
    status = 404


def nowhere() -> Nowhere:
    """For an address that is none of this service's."""
    addresses = ("/v1/models", "/v1/models/NAME", "/v1/models/NAME/predict", "/openapi.json", "/v2/health/ready")
    hint = "GET /openapi.json lists all of them."
    return Nowhere("unknown-address", f"There is nothing here (known: {', '.join(addresses)}).", hint=hint)


class WireResponse(Response):
    """JSON by msgspec, with the headers that every answer carries."""

    media_type = JSON.decode()

    def __init__(self, content: Any, status_code: int = 200) -> None:
        super().__init__(encode(content), status_code, {name.decode(): value.decode() for name, value in SAFE})


def control_plane(registry: Registry, admission: Admission, doors: Sequence[APIRouter] = ()) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.admission = admission  # what lasts long looks whether the service is ending
    app.add_exception_handler(MedServeError, _known)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)

    @app.get("/v2/health/live", summary="The process answers.", tags=["health"], responses=reply(200, Live))
    async def live() -> Response:
        return WireResponse({"live": True})

    @app.get(
        "/v2/health/ready",
        summary="Every model answered a stored input within the last seconds.",
        tags=["health"],
        responses=reply(200, Ready) | reply(503, Ready),
    )
    async def ready() -> Response:
        good = not (admission.leaving or admission.draining) and await registry.ready()
        return WireResponse({"ready": good}, 200 if good else 503)

    @app.get("/v1/models", summary="All models served here.", tags=["models"], responses=reply(200, ModelList))
    async def models(request: Request) -> Response:
        visible = request.scope["medserve.visible"]
        return WireResponse({"models": [s.summary() for s in registry.services if s.model.name in visible]})

    @app.get(
        "/v1/models/{name}",
        summary="One model: its versions and its card.",
        tags=["models"],
        responses=reply(200, ModelPage),
    )
    async def model(name: str) -> Response:
        services = registry.versions(name)
        page = {"name": name, "versions": [s.summary() for s in services], "card": services[-1].model.card}
        return WireResponse(page)

    @app.get("/openapi.json", summary="This document.", tags=["models"])
    async def openapi(request: Request) -> Response:
        return WireResponse(described(tuple(request.scope["medserve.visible"]), registry.changes))

    @lru_cache(64)
    def described(visible: tuple[str, ...], changes: int) -> dict[str, Any]:
        found = (s.model for s in registry.services if s.model.name in visible)
        return document(app, {model.name: model.spec for model in found if model.spec.is_record})

    for router in doors:
        app.include_router(router)
    return app


def told(request: Request, error: MedServeError) -> None:
    """For the audit event and the log line."""
    note = request.scope["medserve.note"]
    note["code"], note["denied"] = error.code, note.get("denied") or error.kind == "access"


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, MedServeError)
    told(request, error)
    said = error_body(error, request.scope["medserve.trace"], request.scope["path"])
    response = WireResponse(said, error.status)
    for name, value in error_headers(error):
        response.headers[name.decode()] = value.decode()
    return response


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "GET")
        known: MedServeError = WrongMethod(
            "method-not-allowed", "This address takes another method.", hint=f"Use {allow}."
        )
    elif error.status_code == 404:
        known = nowhere()
    else:
        known = Fault(
            "internal", "The service failed on this request.", hint="Report the trace to whoever runs this service."
        )
    return await _known(request, known)


async def _invalid(request: Request, error: Exception) -> Response:
    return await _known(
        request,
        Usage(
            "request-invalid",
            "The request does not fit /openapi.json.",
            hint="Compare it with the schema of this address there.",
        ),
    )
