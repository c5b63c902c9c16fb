"""Jobs: training and evaluation on the data that the operator has laid ready, in the background.

    POST   /v1/jobs            {"kind": "train", "data": "chest.npz"}     201, with the job's id
    GET    /v1/jobs, /v1/jobs/{job}                                        state, progress, result; the end of its log
    GET    /v1/jobs/{job}/events                                           the same, as server-sent events
    DELETE /v1/jobs/{job}                                                  ends it

`jobs.executor` runs them. What is trained becomes a package of whoever asked, to be published by somebody else.
"""

import asyncio
import hashlib
import re
import secrets
import time
from dataclasses import asdict
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from medserve.errors import NotFound, Usage
from medserve.jobs.asked import Asked, Evaluate, data_path
from medserve.jobs.executor import tail
from medserve.jobs.table import LIVE, JobRow
from medserve.serving import bodies
from medserve.serving.control import WireResponse
from medserve.serving.doors import Parts, caller, effect, event, note
from medserve.serving.doors.events import Streams
from medserve.serving.gate import Quota
from medserve.serving.openapi import reply
from medserve.serving.schema import JobInfo, JobList, JobPage

MOST_BYTES, MOST_LIVE = 16 * 1024, 20
_ID = re.compile(r"j-[0-9a-f]{16}")
_BODY: dict[str, Any] = {"required": True, "content": {bodies.JSON_TYPE: {"schema": {"type": "object"}}}}


def router(parts: Parts) -> APIRouter:
    routes, jobs, timing = APIRouter(tags=["jobs"]), parts.jobs, bodies.BodyTiming()
    changing, streams = asyncio.Lock(), Streams(parts.identity.gone)

    @routes.post(
        "/v1/jobs",
        summary="Train or evaluate in the background.",
        status_code=201,
        responses=reply(201, JobInfo),
        openapi_extra={"requestBody": _BODY},
    )
    async def create(request: Request) -> Response:
        asked = _asked(await bodies.read_body(request.receive, MOST_BYTES, timing))
        async with changing:
            row = await asyncio.to_thread(enter, request, asked)
        return WireResponse(_info(row), 201)

    def enter(request: Request, asked: Asked) -> JobRow:
        who = caller(request)
        data_path(parts.settings, who.tenant, asked.data)
        if isinstance(asked, Evaluate) and parts.shelf.row(who.tenant, asked.package) is None:
            raise NotFound("package", "of this digest", None, hint="List them with GET /v1/packages.")
        if jobs.live(who.tenant) >= MOST_LIVE:
            raise Quota("jobs-full", f"{MOST_LIVE} jobs wait or run already.", hint="Wait for one, or end one.")
        row = JobRow(
            id=f"j-{secrets.token_hex(8)}", tenant=who.tenant, asked=msgspec.to_builtins(asked), created_by=who.id,
            creator=who.name, created_at=time.time(),
        )  # fmt: skip
        note(request, resource=row.id)
        with effect(parts, event(request, 201)) as db:
            jobs.add(db, row)
        return row

    @routes.get("/v1/jobs", summary="The newest jobs of the own tenant.", responses=reply(200, JobList))
    async def listed(request: Request) -> Response:
        rows = await asyncio.to_thread(jobs.rows, caller(request).tenant)
        return WireResponse(JobList([_info(row) for row in rows]))

    @routes.get("/v1/jobs/{job}", summary="One job and the end of its log.", responses=reply(200, JobPage))
    async def page(request: Request, job: str) -> Response:
        row = await find(request, job)
        log = await asyncio.to_thread(tail, parts.settings, row.id)
        return WireResponse(JobPage(_info(row), row.asked, row.result, row.error, log))

    @routes.get(
        "/v1/jobs/{job}/events",
        summary="Progress as server-sent events, until the job has ended.",
        responses={200: {"description": "text/event-stream", "content": {"text/event-stream": {"schema": {}}}}},
    )
    async def progress(request: Request, job: str) -> Response:
        row = await find(request, job)

        async def look() -> tuple[str, dict[str, Any], bool]:
            now = await asyncio.to_thread(jobs.row, row.tenant, row.id)
            assert now is not None  # rows of jobs are never deleted
            said = hashlib.sha256(now.progress.encode()).hexdigest()[:8]
            return f"{now.state}-{said}", msgspec.to_builtins(_info(now)), now.state not in LIVE

        return await streams.answer(request, look)

    @routes.delete("/v1/jobs/{job}", summary="End a job that waits or runs.", responses=reply(200, JobInfo))
    async def cancel(request: Request, job: str) -> Response:
        row = await find(request, job)

        def end() -> None:
            with effect(parts, event(request, 200)) as db:
                jobs.cancel(db, row)

        await asyncio.to_thread(end)
        return WireResponse(_info(await find(request, job)))

    async def find(request: Request, job: str) -> JobRow:
        """Raises: NotFound, in the same words for another tenant's."""
        tenant = caller(request).tenant
        row = await asyncio.to_thread(jobs.row, tenant, job) if _ID.fullmatch(job) else None
        if row is None or row.tenant != tenant:
            raise NotFound("job", "of this id", None, hint="List them with GET /v1/jobs.")
        note(request, resource=row.id)
        return row

    return routes


def _asked(body: bytes) -> Asked:
    try:
        asked: Asked = msgspec.json.decode(body, type=Asked)  # type: ignore[arg-type]
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
        raise Usage(
            "job-invalid", f"This is no job: {error}.", hint='For instance {"kind": "train", "data": "chest.npz"}'
        ) from error
    return asked


def _info(row: JobRow) -> JobInfo:
    said = asdict(row) | {"kind": row.asked["kind"]}
    return JobInfo(**{name: said[name] for name in JobInfo.__struct_fields__})
