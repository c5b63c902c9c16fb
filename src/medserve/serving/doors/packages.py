"""Packages: a trained model comes in as one archive, is judged in a process of its own, and waits for a second person.

    POST /v1/packages                       application/zip     201 {"digest": ...}; 200 where it is here already
    GET  /v1/packages, /v1/packages/{digest}                    of the own tenant; with the card
    POST /v1/packages/{digest}/publish                          by somebody else than who uploaded it: it answers now

The body goes to a staging file as it comes. Nothing in it is believed before `runtime.examine` has opened it. What is
published is served at once, by name and version, to the tenant whose it is, and again after every start.
"""

import asyncio
import re
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from fastapi import APIRouter, Request, Response

from medserve.access.policy import Principal
from medserve.errors import Busy, NotFound
from medserve.models.package import CARD
from medserve.models.signing import Trust
from medserve.models.strict import read_json
from medserve.runtime.examine import Examined, examine
from medserve.serving import bodies
from medserve.serving.control import WireResponse
from medserve.serving.doors import Parts, caller, effect, event, note
from medserve.serving.gate import Forbidden
from medserve.serving.openapi import reply
from medserve.serving.registry import Taken
from medserve.serving.schema import PackageInfo, PackageList, PackagePage
from medserve.serving.traffic import version_key
from medserve.serving.wire import WrongMedia
from medserve.store.packages import PackageRow

MEDIA = "application/zip"
MOST_UPLOADS = 2  # at once; each takes as much disk as it sends, and one at a time is opened
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_PART = 2**20  # bytes that are gathered before a thread writes them
_BODY: dict[str, Any] = {"required": True, "content": {MEDIA: {"schema": {}}}}


def router(parts: Parts) -> APIRouter:
    routes, shelf, registry = APIRouter(tags=["packages"]), parts.shelf, parts.registry
    limit, timing = parts.settings.max_package_bytes, bodies.BodyTiming()
    uploads, judging, changing = asyncio.Semaphore(MOST_UPLOADS), asyncio.Lock(), asyncio.Lock()

    @routes.post(
        "/v1/packages",
        summary="Upload a model package; it is served once a second person has published it.",
        status_code=201,
        responses=reply(201, PackageInfo) | reply(200, PackageInfo),
        openapi_extra={"requestBody": _BODY},
    )
    async def upload(request: Request) -> Response:
        who = caller(request)
        if bodies.declared_media(request.scope) != MEDIA:
            raise WrongMedia("media-type", f"A package is sent as {MEDIA}.", hint=f"-H 'Content-Type: {MEDIA}'")
        bodies.expected_bytes(request.scope, limit)
        if uploads.locked():
            raise Busy("uploads-full", "Too many packages are being uploaded.", hint="Try again later.")
        async with uploads:
            found = await receive(request)
        async with changing:
            row, new = await asyncio.to_thread(keep, request, who, found)
        return WireResponse(_info(row), 201 if new else 200)

    async def receive(request: Request) -> Examined:
        staging = await asyncio.to_thread(shelf.staging)
        with tempfile.NamedTemporaryFile(dir=staging, suffix=".zip") as file:
            await _spool(request, file, limit, timing)
            async with judging:
                return await asyncio.to_thread(_judge, parts, Path(file.name), staging)

    def keep(request: Request, who: Principal, found: Examined) -> tuple[PackageRow, bool]:
        note(request, digest=found.digest)
        known = shelf.row(who.tenant, found.digest)
        if known is not None:
            shelf.drop(found.folder)
            return known, False
        row = PackageRow(
            tenant=who.tenant, digest=found.digest, name=found.name, version=found.version, bytes=found.bytes,
            signer=found.signer, state="uploaded", uploaded_by=who.id, uploader=who.name, uploaded_at=time.time(),
        )  # fmt: skip
        shelf.place(found.folder, who.tenant, found.digest)
        with effect(parts, event(request, 201)) as db:
            shelf.add(db, row)
        return row, True

    @routes.get("/v1/packages", summary="All packages of the own tenant.", responses=reply(200, PackageList))
    async def listed(request: Request) -> Response:
        who = caller(request)
        rows = await asyncio.to_thread(shelf.rows, who.tenant)
        return WireResponse(PackageList([_info(row) for row in rows if parts.policy.sees(who, row.name)]))

    @routes.get("/v1/packages/{digest}", summary="One package and its card.", responses=reply(200, PackagePage))
    async def page(request: Request, digest: str) -> Response:
        row = await _row(parts, request, digest)
        card = (await asyncio.to_thread(shelf.fetched, row) / CARD).read_bytes
        return WireResponse(PackagePage(_info(row), read_json(await asyncio.to_thread(card), CARD)))

    @routes.post(
        "/v1/packages/{digest}/publish",
        summary="Serve an uploaded package; not by the one who uploaded it.",
        responses=reply(200, PackageInfo),
    )
    async def publish(request: Request, digest: str) -> Response:
        who = caller(request)
        async with changing:
            row = await _row(parts, request, digest)
            check_second(who, row)
            if row.state == "published":
                return WireResponse(_info(row))
            check_newer(row, [one for one in await asyncio.to_thread(shelf.rows, who.tenant) if one.name == row.name])
            registry.check(row.name, row.version, row.tenant)
            service = await registry.prepare(await asyncio.to_thread(shelf.fetched, row))
            at = time.time()

            def write() -> None:
                with effect(parts, event(request, 200)) as db:
                    shelf.publish(db, row, who.id, at)

            try:
                await asyncio.to_thread(write)
            except BaseException:
                await service.withdraw()
                raise
            await registry.put(service, tenant=row.tenant)
        return WireResponse(_info(replace(row, state="published", published_by=who.id, published_at=at)))

    return routes


def check_second(who: Principal, row: PackageRow) -> None:
    """Raises: Forbidden "second-person": they are the same, by id or by name, whichever key is shown."""
    if who.id == row.uploaded_by or who.name.strip().casefold() == row.uploader.strip().casefold():
        raise Forbidden(
            "second-person",
            "Who uploaded a package, or had it trained, does not publish it.",
            hint="Ask another person with the duty approver.",
        )


def check_newer(row: PackageRow, named: list[PackageRow]) -> None:
    """Raises: Taken "package-rollback": a newer version of this name is published."""
    for other in named:
        if other.state == "published" and version_key(other.version) > version_key(row.version):
            raise Taken(
                "package-rollback",
                f"Version {other.version} of {row.name!r} is published; {row.version} is older.",
                hint="To go back, train or sign the older model under a higher version.",
            )


def _judge(parts: Parts, archive: Path, staging: Path) -> Examined:
    return examine(archive, staging, Trust.load(parts.settings).signers)


async def _spool(request: Request, file: IO[bytes], limit: int, timing: bodies.BodyTiming) -> None:
    gathered: list[bytes] = []
    held = 0
    async for chunk in bodies.parts_of(request.receive, limit, timing):
        gathered.append(chunk)
        held += len(chunk)
        if held >= _PART:
            await asyncio.to_thread(file.write, b"".join(gathered))
            gathered, held = [], 0
    await asyncio.to_thread(lambda: (file.write(b"".join(gathered)), file.flush()))


async def _row(parts: Parts, request: Request, digest: str) -> PackageRow:
    """Raises: NotFound, in the same words for another tenant's and for a name that the policy or the key hides."""
    who, found = caller(request), _DIGEST.fullmatch(digest)
    row = await asyncio.to_thread(parts.shelf.row, who.tenant, f"sha256:{found[1]}") if found else None
    if row is None or row.tenant != who.tenant or not parts.policy.sees(who, row.name):
        raise NotFound("package", "of this digest", None, hint="List them with GET /v1/packages.")
    note(request, digest=row.digest)
    return row


def _info(row: PackageRow) -> PackageInfo:
    said = asdict(row)
    return PackageInfo(**{name: said[name] for name in PackageInfo.__struct_fields__})
