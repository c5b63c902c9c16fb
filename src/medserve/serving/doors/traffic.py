"""Which versions answer under a model's bare name, and the way back.

    GET    /v1/models/{name}/traffic             shares, shadows, and what was counted
    PUT    /v1/models/{name}/traffic             {"versions": {"1": 90, "2": 10}, "shadow": ["3"]}
    POST   /v1/models/{name}/rollback            the split before, at once
    DELETE /v1/models/{name}/versions/{version}  never again; what is under way is finished

A change and its event are one transaction; it holds for the next request here, and within `EVERY_S` on every other node
(see `changes`). A version is in memory before it gets a share; only a rollback does not wait for that.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa
from fastapi import APIRouter, Request, Response

from medserve.errors import NotFound, Usage
from medserve.serving import bodies
from medserve.serving.control import WireResponse
from medserve.serving.doors import Parts, caller, effect, event, note
from medserve.serving.openapi import reply
from medserve.serving.registry import Taken
from medserve.serving.schema import SetTraffic, ShadowInfo, TrafficPage
from medserve.serving.service import Service
from medserve.serving.traffic import check_split
from medserve.store.traffic import SplitRow

MOST_BYTES = 16 * 1024
_BODY: dict[str, Any] = {
    "required": True,
    "content": {bodies.JSON_TYPE: {"schema": {"$ref": "#/components/schemas/SetTraffic"}}},
}
_decoder = msgspec.json.Decoder(SetTraffic)


def router(parts: Parts) -> APIRouter:
    routes, registry, splits = APIRouter(tags=["models"]), parts.registry, parts.splits
    changing, timing = asyncio.Lock(), bodies.BodyTiming()
    loading: set[asyncio.Task[None]] = set()

    def page(name: str) -> TrafficPage:
        now, services = _now(parts, name), registry.versions(name)
        split = registry.split_of(name)
        before = now.before or None
        return TrafficPage(
            name=name,
            versions=now.versions,
            shadow=now.shadow,
            before=None if before is None else SetTraffic(**before),
            changed_at=None if split is None else now.changed_at,
            changed_by=None if split is None else now.changed_by,
            answered={one.model.version: one.answered for one in services},
            shadows={version: _shadow(parts, name, version) for version in now.shadow},
        )

    def checked(name: str, versions: dict[str, int], shadow: list[str]) -> dict[str, Service]:
        """The services, if the split makes sense of them."""
        served = {one.model.version: one for one in registry.versions(name)}
        check_split(name, versions, shadow, served)
        return served

    async def keep(
        request: Request, row: SplitRow, status: int = 200, more: Callable[[sa.Connection], None] = lambda db: None
    ) -> None:
        """Durable with its event, then in force."""
        note(request, said=_words(row))

        def write() -> None:
            with effect(parts, event(request, status)) as db:
                splits.set(db, row) if row.versions else splits.drop(db, row)
                more(db)

        await asyncio.to_thread(write)
        registry.set_splits(await asyncio.to_thread(splits.rows))

    @routes.get(
        "/v1/models/{name}/traffic",
        summary="Which versions answer, and how often.",
        responses=reply(200, TrafficPage),
    )
    async def read(name: str) -> Response:
        return WireResponse(page(name))

    @routes.put(
        "/v1/models/{name}/traffic",
        summary="Split the requests among versions.",
        responses=reply(200, TrafficPage),
        openapi_extra={"requestBody": _BODY},
    )
    async def put(request: Request, name: str) -> Response:
        wanted = _asked(await bodies.read_body(request.receive, MOST_BYTES, timing))
        who = caller(request)
        await _load(checked(name, wanted.versions, wanted.shadow), wanted)  # before the lock: a rollback never waits
        async with changing:
            checked(name, wanted.versions, wanted.shadow)
            now = _now(parts, name)
            before = {"versions": now.versions, "shadow": now.shadow}
            row = SplitRow(now.tenant, name, wanted.versions, wanted.shadow, before, now.salt, time.time(), who.id)
            await keep(request, row)
        return WireResponse(page(name))

    @routes.post(
        "/v1/models/{name}/rollback",
        summary="The split before, at once.",
        responses=reply(200, TrafficPage),
    )
    async def rollback(request: Request, name: str) -> Response:
        who = caller(request)
        async with changing:
            now = _now(parts, name)
            if not now.before:
                raise Taken("traffic-first", "There was no split before this one.", hint="Set one: PUT .../traffic")
            back = now.back(who.id)
            served = checked(name, back.versions, back.shadow)
            await keep(request, back)
        task = asyncio.ensure_future(_load_quietly(served, SetTraffic(back.versions, back.shadow)))
        loading.add(task)
        task.add_done_callback(loading.discard)
        return WireResponse(page(name))

    @routes.delete(
        "/v1/models/{name}/versions/{version}",
        summary="Serve a version no more; what is under way is finished.",
        status_code=204,
    )
    async def withdraw(request: Request, name: str, version: str) -> Response:
        who = caller(request)
        async with changing:
            service = registry.find(name, version)
            now, digest = _now(parts, name), service.model.digest
            note(request, digest=digest)
            row = now.without(version, who.id) if registry.split_of(name) else SplitRow(now.tenant, name, {})

            def gone(db: sa.Connection) -> None:
                splits.withdraw(db, now.tenant, name, version, digest, who.id)

            await keep(request, row, 204, gone)
        with contextlib.suppress(NotFound):  # the node that follows itself was faster
            await registry.withdraw(name, version)
        return Response(status_code=204)

    return routes


def _now(parts: Parts, name: str) -> SplitRow:
    """What is in force: as it was kept, else all for the version added last, with the one before it as the way back."""
    services, split = parts.registry.versions(name), parts.registry.split_of(name)
    if split is not None:
        return split.row
    order = [one.model.version for one in services]
    before = {"versions": {order[-2]: 100}, "shadow": []} if len(order) > 1 else {}
    return SplitRow(parts.registry.tenant_of(name) or "", name, {order[-1]: 100}, [], before)


def _shadow(parts: Parts, name: str, version: str) -> ShadowInfo:
    found = parts.registry.compared(name, version)
    mean = found.sum_difference / found.measured if found.measured else None
    most = found.most_difference if found.measured else None
    return ShadowInfo(found.agreed, found.differed, found.refused, found.failed, found.dropped, mean, most)


async def _load(served: dict[str, Service], wanted: SetTraffic) -> None:
    for version in (*(key for key, share in wanted.versions.items() if share), *wanted.shadow):
        await served[version].load()


async def _load_quietly(served: dict[str, Service], wanted: SetTraffic) -> None:
    try:
        await _load(served, wanted)
    except Exception:  # the next request asks for it again, and is told why
        return


def _asked(body: bytes) -> SetTraffic:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Usage(
            "json-invalid", 'The body is {"versions": {"1": 90, "2": 10}, "shadow": []}.', hint="See docs/traffic.md."
        ) from None


def _words(row: SplitRow) -> str:
    """For the audit log."""
    shares = ", ".join(f"{version} {share} %" for version, share in row.versions.items())
    return f"traffic: {shares or 'newest'}{'; shadow ' + ', '.join(row.shadow) if row.shadow else ''}"[:500]
