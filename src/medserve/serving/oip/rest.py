"""Open Inference Protocol over HTTP: what is served, in tensors, and inference for one request of many cases.

    GET  /v2, /v2/models/{name}[/versions/{version}][/ready]
    POST /v2/models/{name}[/versions/{version}]/infer              # `infer`, called by asgi.Application
    POST /v2/repository/index, /v2/repository/models/{name}/load, .../unload

Every case of a request goes to the batcher at once and is answered, abstained from or refused for itself; what the
service lacks (room, time) fails the request as a whole. An error is `{"error": TEXT, "code", "kind", "trace"}`.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from fastapi import APIRouter, Request, Response

from medserve import __version__
from medserve.access.policy import Principal
from medserve.errors import MedServeError, Usage
from medserve.runtime.replay import canonical
from medserve.safety.orders import refuse_orders_in_query
from medserve.serving import bodies
from medserve.serving.control import WireResponse
from medserve.serving.doors import Parts
from medserve.serving.oip import columns, words
from medserve.serving.openapi import reply, takes
from medserve.serving.tracing import Told
from medserve.serving.waiting import due_of, priority_of, while_client_waits
from medserve.serving.wire import JSON, SAFE, Receive, Scope, Send, header

if TYPE_CHECKING:
    from medserve.serving.admission import Admission
    from medserve.serving.asgi import Limits
    from medserve.serving.gate import Gate
    from medserve.serving.live import Stages
    from medserve.serving.metrics import Metrics
    from medserve.serving.registry import Registry
    from medserve.serving.service import Service
    from medserve.serving.shadow import Shadows

INLINE_BYTES = 64 * 1024  # a longer JSON is read in a thread
MOST_BYTES = 16 * 1024  # of a body that asks of the repository
STATES = {"loaded": "READY", "loading": "LOADING"}  # in the words of the model repository extension
EXTENSIONS = ["binary_tensor_data", "model_repository"]
Outcome = tuple[dict[str, Any] | MedServeError, "Stages | None"]


class House(Protocol):
    """What `asgi.Application` lends."""

    registry: "Registry"
    limits: "Limits"
    gate: "Gate"
    admission: "Admission"
    metrics: "Metrics"
    shadows: "Shadows"

    async def digest(self, what: str, caller: Principal, trace: str, data: bytes) -> str: ...


async def infer(
    house: House,
    service: "Service",
    scope: Scope,
    receive: Receive,
    send: Send,
    trace: str,
    note: dict[str, Any],
    *,
    free: bool,
) -> None:
    """Answer one request.

    Args:
        note: what the audit event says; its `count` is the number of cases where it is above 1.
        free: the request names no version: its shadows are asked too, about what they read alike.
    """
    if query := scope.get("query_string"):
        refuse_orders_in_query(query)
        raise Usage("query-invalid", "This address takes no parameters.", hint="They stand in the body.")
    bodies.check_encoding(scope)
    urgent = priority_of(scope)
    limit = bodies.body_limit(bodies.JSON_TYPE, house.limits.max_upload_bytes)
    caller: Principal = note["caller"]
    spec = service.model.spec
    due = due_of(scope, house.limits.deadline_s)
    promise = note["promise"] = service.promise(due, urgent, house.limits.wait_s)
    with service.claimed(), house.admission.admit(bodies.expected_bytes(scope, limit)):
        began = time.perf_counter()
        body = await bodies.read_body(receive, limit, house.limits.timing)
        promise.read()
        read = time.perf_counter() - began
        note["bytes"] = len(body)
        head = header(scope, words.HEAD_LENGTH)
        known = head.isascii() and head.isdigit() and len(head) < 10  # what else it may be, `parse` refuses
        if (int(head) if known else len(body)) > INLINE_BYTES:
            asked, tensors = await house.registry.pools.decode(words.parse, body, head, priority=urgent)
        else:
            asked, tensors = words.parse(body, head)
        offered = [out.name for out in columns.outputs_of(spec)]
        names, binary = words.asked_outputs(asked, offered)
        priority, timeout_s = words.wishes(asked, urgent)
        count = words.rows_of(asked)
        if len(body) > INLINE_BYTES and any(isinstance(values, list) for values in tensors.values()):
            cases = await house.registry.pools.decode(columns.rows, spec, tensors, count, priority=priority)
        else:
            cases = columns.rows(spec, tensors, count)
        if count > 1:
            note["count"] = count
            house.gate.charge(caller, 0.0, more=count - 1)  # before the work: also where it ends in an error
        shown = cases[0] if count == 1 and isinstance(cases[0], bytes) else body  # of one file, as of a prediction
        note["input"] = await house.digest("input", caller, trace, shown)
        due = due if header(scope, b"x-request-deadline-ms") else time.monotonic() + house.limits.deadline_s
        deadline = min(time.monotonic() + timeout_s, due)
        found = await while_client_waits(_all(service, cases, deadline, trace, priority), receive, deadline)
    answers = [answer for answer, _ in found]
    stages = [stage for _, stage in found if stage is not None]
    note["told"] = Told(began, read, stages)
    house.gate.charge(caller, sum(stage.compute for stage in stages))
    if count == 1 and isinstance(answers[0], MedServeError):
        error = answers[0]
        del answers, found  # an error holds this frame, which would hold it and the body until a collection
        try:
            raise error
        finally:
            del error
    if service.model.reviewed:
        note["rules"] = next((one["safety"]["rules"] for one in answers if not isinstance(one, MedServeError)), "")
    refused = sum(isinstance(answer, MedServeError) for answer in answers)
    note["answer"] = "answered" if not refused else f"refused {refused}"
    said = b"\0\0".join(a.code.encode() if isinstance(a, MedServeError) else canonical(a) for a in answers)
    note["said"] = await house.digest("answer", caller, trace, said)
    response = words.InferResponse(service.model.name, [], service.model.version, asked.id)
    began = time.perf_counter()
    out, behind = words.render(response, columns.columns(spec, answers, names), binary)
    timing = house.metrics.answered(read, stages, time.perf_counter() - began)
    await _send(send, out, behind, trace, timing)
    for case, answer in zip(cases, answers, strict=True) if free else ():
        if not isinstance(case, MedServeError) and not isinstance(answer, MedServeError):
            media = _media(service, case) if isinstance(case, bytes) else ""
            house.shadows.after(service, case, media, answer, trace)


async def _all(
    service: "Service", cases: Sequence[columns.Row], deadline: float, trace: str, priority: int
) -> list[Outcome]:
    """The outcome of every case. What fails one for want of room or time, or by our fault, fails all of them."""
    if len(cases) == 1:
        return [await _one(service, cases[0], deadline, trace, priority)]
    work = [asyncio.ensure_future(_one(service, case, deadline, trace, priority)) for case in cases]
    try:
        return await asyncio.gather(*work)
    finally:
        for task in work:
            task.cancel()


async def _one(service: "Service", case: columns.Row, deadline: float, trace: str, priority: int) -> Outcome:
    try:
        if isinstance(case, MedServeError):
            raise case
        if isinstance(case, bytes):
            media = _media(service, case)
            return await service.predict(
                case, media=media, explain=None, deadline=deadline, trace=trace, priority=priority
            )
        return await service.predict_prepared(case, deadline=deadline, trace=trace, priority=priority)
    except MedServeError as error:
        if error.kind in ("refusal", "usage"):
            return error, None
        raise


def _media(service: "Service", case: bytes) -> str:
    """Of a record its JSON; files show what they are."""
    return bodies.JSON_TYPE if service.model.spec.is_record and case[:1] == b"{" else ""


async def _send(send: Send, body: bytes, head: int | None, trace: str, timing: bytes) -> None:
    media = JSON if head is None else b"application/octet-stream"
    start = [
        (b"content-type", media), (b"content-length", str(len(body)).encode()), (b"x-trace-id", trace.encode()), *SAFE,
        (b"server-timing", timing),
    ]  # fmt: skip
    if head is not None:
        start.append((words.HEAD_LENGTH, str(head).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": start})
    await send({"type": "http.response.body", "body": body})


def router(parts: Parts) -> APIRouter:
    """Everything but inference."""
    out, registry, timing = APIRouter(tags=["open-inference"]), parts.registry, bodies.BodyTiming()

    @out.get("/v2", summary="This service, for Open Inference clients.", responses=reply(200, words.ServerMetadata))
    async def server() -> Response:
        return WireResponse(words.ServerMetadata("medserve", __version__, EXTENSIONS))

    def metadata(name: str, version: str | None) -> Response:
        spec = registry.find(name, version).model.spec
        versions = [service.model.version for service in registry.versions(name)]
        said = words.ModelMetadata(name, versions, "medserve", columns.inputs_of(spec), columns.outputs_of(spec))
        return WireResponse(said)

    async def readiness(name: str, version: str | None) -> Response:
        service = registry.find(name, version)
        ready = service.resident and await service.ready()
        return WireResponse(words.ModelReady(name, ready), 200 if ready else 503)

    described = reply(200, words.ModelMetadata)
    readable = reply(200, words.ModelReady) | reply(503, words.ModelReady)

    @out.get("/v2/models/{name}", summary="A model's inputs and outputs in tensors.", responses=described)
    async def model(name: str) -> Response:
        return metadata(name, None)

    @out.get("/v2/models/{name}/versions/{version}", summary="The same of one version.", responses=described)
    async def model_version(name: str, version: str) -> Response:
        return metadata(name, version)

    @out.get("/v2/models/{name}/ready", summary="A stored input was answered just now.", responses=readable)
    async def ready(name: str) -> Response:
        return await readiness(name, None)

    @out.get("/v2/models/{name}/versions/{version}/ready", summary="The same of one version.", responses=readable)
    async def ready_version(name: str, version: str) -> Response:
        return await readiness(name, version)

    @out.post(
        "/v2/repository/index",
        summary="Every version of every model that may be served, and whether it is loaded.",
        responses=reply(200, words.ModelIndex, many=True),
        openapi_extra=takes(words.IndexAsked),
    )
    async def index(request: Request) -> Response:
        asked = await _asked(request, words.IndexAsked)
        found = [
            words.ModelIndex(
                name, version, STATES.get(state, "UNAVAILABLE"), reason or ("" if state == "loaded" else state)
            )
            for name, version, state, reason in registry.index(request.scope["medserve.visible"])
        ]
        return WireResponse([one for one in found if one.state == "READY" or not asked.ready])

    @out.post("/v2/repository/models/{name}/load", summary="Load a model, so that its first request need not wait.",
              responses=reply(200, words.Changed), openapi_extra=takes(words.ChangeAsked))  # fmt: skip
    async def load(request: Request, name: str) -> Response:
        await _asked(request, words.ChangeAsked)
        await registry.load(name)
        return WireResponse(words.Changed())

    @out.post("/v2/repository/models/{name}/unload", summary="Free a model's memory; a request loads it again.",
              responses=reply(200, words.Changed), openapi_extra=takes(words.ChangeAsked))  # fmt: skip
    async def unload(request: Request, name: str) -> Response:
        await _asked(request, words.ChangeAsked)
        await registry.unload(name)
        return WireResponse(words.Changed())

    async def _asked(request: Request, kind: Any) -> Any:
        body = await bodies.read_body(request.receive, MOST_BYTES, timing)
        try:
            asked = msgspec.json.decode(body or b"{}", type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
            raise Usage(
                "request-invalid", "The body does not fit /openapi.json.", hint="Send {} or no body."
            ) from error
        if set(getattr(asked, "parameters", ())) - {"unload_dependents"}:
            raise Usage("parameter-unsupported", "A model is loaded as it was packaged.", hint="Leave parameters out.")
        return asked

    return out
