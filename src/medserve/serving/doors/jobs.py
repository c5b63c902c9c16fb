"""Jobs: training, evaluation, screens and panels on the data that the operator has laid ready, in the background.

    POST   /v1/jobs            {"kind": "train", "data": "chest.npz"}     201, with the job's id
    GET    /v1/jobs, /v1/jobs/{job}                                        state, progress, result; the end of its log
    GET    /v1/jobs/{job}/events                                           the same, as server-sent events
    GET    /v1/jobs/{job}/results                                          the files of a screen or a panel, as a ZIP
    DELETE /v1/jobs/{job}                                                  ends it, or destroys its results

`jobs.executor` runs them. What is trained becomes a package of whoever asked, to be published by somebody else.
"""

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import msgspec
import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from medserve.errors import NotFound, Usage
from medserve.jobs.asked import Asked, data_of, data_path, packages_of
from medserve.jobs.executor import tail
from medserve.jobs.table import LIVE, JobRow
from medserve.serving import bodies
from medserve.serving.control import WireResponse
from medserve.serving.doors import Parts, caller, effect, event, note
from medserve.serving.doors.events import Streams
from medserve.serving.gate import Quota
from medserve.serving.openapi import reply
from medserve.serving.schema import JobInfo, JobList, JobPage
from medserve.serving.wire import SAFE

MOST_BYTES, MOST_LIVE = 16 * 1024, 20
ZIP = "application/zip"
_ID = re.compile(r"j-[0-9a-f]{16}")
_BODY: dict[str, Any] = {"required": True, "content": {bodies.JSON_TYPE: {"schema": {"type": "object"}}}}


def router(parts: Parts) -> APIRouter:
    routes, jobs, timing = APIRouter(tags=["jobs"]), parts.jobs, bodies.BodyTiming()
    changing, streams = asyncio.Lock(), Streams(parts.identity.gone)

    @routes.post(
        "/v1/jobs",
        summary="Train, evaluate, screen a library or fill an ADMET panel in the background.",
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
        for path in data_of(asked):
            data_path(parts.settings, who.tenant, path)
        if any(parts.shelf.row(who.tenant, digest) is None for digest in packages_of(asked)):
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
        shown = row.result
        if shown and (kept := shown.get("results")):
            shown = shown | {"results": kept["files"]}
        return WireResponse(JobPage(_info(row), row.asked, shown, row.error, log))

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

    @routes.get(
        "/v1/jobs/{job}/results",
        summary="The files of a screen or a panel that is done, as a ZIP.",
        responses={200: {"description": "The folder that the verb writes.", "content": {ZIP: {"schema": {}}}}},
    )
    async def results(request: Request, job: str) -> Response:
        row = await find(request, job)
        kept = (row.result or {}).get("results")
        if kept is None:
            raise NotFound("results", "of this job", None, hint="A screen or an ADMET panel has them once it is done.")
        pieces = await asyncio.to_thread(parts.cases.vault.read, row.tenant, kept["object"])
        first = await asyncio.to_thread(next, pieces, b"")  # a fault has its status while it still can

        async def stream() -> AsyncIterator[bytes]:
            piece = first
            while piece:
                yield piece
                piece = await asyncio.to_thread(next, pieces, b"")

        named = {"content-disposition": f'attachment; filename="{row.id}.zip"'}
        return StreamingResponse(stream(), headers=named | {k.decode(): v.decode() for k, v in SAFE}, media_type=ZIP)

    @routes.delete(
        "/v1/jobs/{job}",
        summary="End a job that waits or runs, or destroy the results of one that has ended.",
        responses=reply(200, JobInfo),
    )
    async def cancel(request: Request, job: str) -> Response:
        row = await find(request, job)

        @contextmanager
        def both() -> Iterator[sa.Connection]:
            with effect(parts, event(request, 200)) as db:
                yield db
                jobs.forget(db, row)

        def end() -> None:
            if kept := (row.result or {}).get("results"):
                return parts.cases.vault.remove(row.tenant, kept["object"], within=both)
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
