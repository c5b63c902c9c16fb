"""Batches: a manifest of inputs for one model, answered in the background with what is left of its time.

    POST   /v1/models/{name}/batch          application/x-ndjson         202 {"batch": "b-...", "items": 1000}
                                            application/zip: the same, or files
                                            chemical/x-daylight-smiles, chemical/x-mdl-sdfile: a library
    GET    /v1/batches, /v1/batches/{batch}                                state, counts, seconds left
    GET    /v1/batches/{batch}/results?from=0                              NDJSON in the order of the manifest
    GET    /v1/batches/{batch}/ranking?top=100                             the best of what is answered so far
    GET    /v1/batches/{batch}/events                                      progress as server-sent events
    DELETE /v1/batches/{batch}                                             ends it, and destroys what it holds

A line is the body of a prediction with a name: `{"id": "a", "inputs": {...}}`, or `{"id": "b", "case": ID}`; with
`"patient"`, a pseudonym, it is sealed under that patient's key. A line that is wrong becomes a result with an error,
and the others are answered. A ZIP holds the same lines, or files (`zipped.py`). With `Idempotency-Key`, the same
request again gives the same batch; another one under the same key is refused.
"""

import asyncio
import contextlib
import hashlib
import re
import secrets
import time
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from medserve.errors import Busy, NotFound, Refusal, Usage
from medserve.models.spec import ModelSpec
from medserve.serving import bodies
from medserve.serving.batches import Runner, who_of
from medserve.serving.control import WireResponse
from medserve.serving.doors import Parts, caller, effect, event, note
from medserve.serving.doors.cases import MOST_PATIENT, Room, step
from medserve.serving.doors.events import Streams
from medserve.serving.doors.ranking import RANKING, asked_ranking, ranked
from medserve.serving.gate import Quota
from medserve.serving.libraries import LIBRARIES, items_of, molecule_input
from medserve.serving.openapi import reply
from medserve.serving.schema import BatchInfo, BatchList, BatchStored, Ranking
from medserve.serving.wire import SAFE, TooLarge, WrongMedia
from medserve.serving.zipped import Wrong, lines_of, members_of
from medserve.store.batches import ENDED, Batches, BatchRow, Chunk, Item
from medserve.store.keyring import PatientKey

NDJSON = "application/x-ndjson"
MOST_ITEMS, MOST_LIVE, MOST_UPLOADS, MOST_ID = 100_000, 20, 4, 256
CHUNK_ITEMS, CHUNK_BYTES = 64, 2**20
RECEIVE_LEASE_S = 60.0
_ID = re.compile(r"b-[0-9a-f]{16}")
ZIP = "application/zip"
ZIP_UPLOADS = 4  # a ZIP is held in memory, and may be as large as so many files
_BODY: dict[str, Any] = {"required": True, "content": {media: {"schema": {}} for media in (NDJSON, ZIP, *LIBRARIES)}}
_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key of the same principal gives the same batch.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
}
_FROM: dict[str, Any] = {
    "name": "from", "in": "query", "description": "How many results to skip: go on with a download.",
    "schema": {"type": "integer", "minimum": 0},
}  # fmt: skip


class Line(msgspec.Struct, forbid_unknown_fields=True):
    id: str | None = None
    patient: str | None = None
    case: str | None = None
    inputs: msgspec.Raw = msgspec.Raw()  # empty: there are none
    facts: msgspec.Raw = msgspec.Raw()  # of the patient, for the rules of safety: `patient` of a prediction


_line = msgspec.json.Decoder(Line)


def router(parts: Parts, batches: Batches, runner: Runner) -> APIRouter:
    routes, timing, uploads = APIRouter(tags=["batches"]), bodies.BodyTiming(), Room(MOST_UPLOADS)
    limit, streams = parts.settings.max_batch_bytes, Streams(parts.identity.gone)
    longest = bodies.body_limit(bodies.JSON_TYPE, parts.settings.max_upload_bytes) + 1024
    created: dict[str, Any] = {
        "status_code": 202,
        "responses": reply(202, BatchStored),
        "openapi_extra": {"parameters": [_KEY], "requestBody": _BODY},
    }

    @routes.post("/v1/models/{name}/batch", summary="Many inputs, answered in the background.", **created)
    async def create(request: Request, name: str) -> Response:
        return await received(request, name, None)

    @routes.post("/v1/models/{name}/versions/{version}/batch", summary="The same, for one version.", **created)
    async def create_for(request: Request, name: str, version: str) -> Response:
        return await received(request, name, version)

    async def received(request: Request, name: str, version: str | None) -> Response:
        model = parts.registry.find(name, version).model
        media = bodies.declared_media(request.scope)
        if media not in (NDJSON, ZIP, *LIBRARIES):
            raise WrongMedia(
                "media-type", f"A batch is {NDJSON} or {ZIP}; of molecules also {' or '.join(LIBRARIES)}.",
                hint=f"Say it: -H 'Content-Type: {NDJSON}'",
            )  # fmt: skip
        want = molecule_input(model.spec) if media in LIBRARIES else ""
        most = min(limit, ZIP_UPLOADS * parts.settings.max_upload_bytes) if media == ZIP else limit
        expected = bodies.expected_bytes(request.scope, most)
        who, id = caller(request), f"b-{secrets.token_hex(8)}"
        row = BatchRow(
            id=id, tenant=who.tenant, model=model.name, version=model.version, digest=model.digest,
            asked_key=_asked_key(request, who.id) or id, created_by=who.id, who=who_of(who),
            purpose=request.scope["medserve.note"]["purpose"], created_at=time.time(),
            leased_until=time.time() + RECEIVE_LEASE_S,
        )  # fmt: skip
        held = contextlib.nullcontext() if media != ZIP else request.app.state.admission.admit(expected)
        with uploads, held:
            known, digest = await step(lambda: enter(row)), hashlib.sha256(request.scope["path"].encode() + b"\0")
            came = _digested(bodies.parts_of(request.receive, most, timing), digest)
            if known is not None:
                note(request, resource=known.id)
                async for _ in came:
                    pass
                if known.asked not in (None, digest.digest()):
                    raise Refusal(
                        "idempotency-key-reused", "Another request was sent with this Idempotency-Key before.",
                        hint="Give every batch a key of its own; the same key repeats the same address and body.",
                    )  # fmt: skip
                return _stored(known)
            try:
                count = await receive(lines_from(came, media, want, model.spec), row)
                await step(lambda: kept(request, row, count, digest.digest()))
            except BaseException:
                note(request, resource="")
                await step(lambda: batches.drop(row))
                raise
        runner.wake()
        return _stored(row, count)

    def enter(row: BatchRow) -> BatchRow | None:
        """Raises: Quota "batches-full"; Busy "batch-receiving": the first request with this key is under way."""
        known = batches.asked(row.tenant, row.asked_key)
        if known is None and batches.live(row.tenant) >= MOST_LIVE:
            raise Quota("batches-full", f"{MOST_LIVE} batches wait or run.", hint="Wait for one, or delete one.")
        known = known or batches.begin(row)
        if known is None or known.state not in ("receiving", "deleted"):
            return known
        batches.sweep()  # its process is gone, or it has just been deleted
        if batches.begin(row) is None:
            return None
        hint = "Try again after the time in Retry-After."
        raise Busy("batch-receiving", "This batch is coming in by another request.", hint=hint, retry_after_s=5)

    def lines_from(
        came: AsyncGenerator[bytes, None], media: str, want: str, spec: ModelSpec
    ) -> AsyncIterator[bytes | Wrong]:
        """want: the input that a molecule of a library is."""
        if media == ZIP:
            return zipped(came, spec)
        lines = _lines(came, longest, blank=media != NDJSON)
        return lines if media == NDJSON else items_of(lines, media, want)

    async def zipped(came: AsyncGenerator[bytes, None], spec: ModelSpec) -> AsyncIterator[bytes | Wrong]:
        """The items of a ZIP that is read whole first: its directory stands at its end."""
        body = b"".join([part async for part in came])
        members = await asyncio.to_thread(members_of, body, most_bytes=limit, most_items=MOST_ITEMS)
        found = lines_of(body, members, spec, most_bytes=parts.settings.max_upload_bytes)
        while (line := await asyncio.to_thread(next, found, None)) is not None:
            yield line

    async def receive(lines: AsyncIterator[bytes | Wrong], row: BatchRow) -> int:
        """Every line, a chunk at a time. Returns: how many items."""
        seen: set[str] = set()
        keys: dict[str, PatientKey] = {}
        chunk: list[tuple[int, bytes | Wrong]] = []
        n, count, size = 0, 0, 0

        def put() -> None:
            items = [item_of(row, number, line, seen, keys) for number, line in chunk]
            batches.put(row, Chunk(n, chunk[0][0] - 1, len(chunk)), items, lease_s=RECEIVE_LEASE_S)

        async for line in lines:
            count += 1
            if count > MOST_ITEMS:
                raise TooLarge("batch-too-long", f"A batch has at most {MOST_ITEMS} items.", hint="Send several.")
            chunk.append((count, line))
            size += len(line) if isinstance(line, bytes) else 0
            if len(chunk) >= CHUNK_ITEMS or size >= CHUNK_BYTES:
                await step(put)
                n, size = n + 1, 0
                chunk.clear()
        if chunk:
            await step(put)
        if not count:
            raise Refusal("batch-empty", "The body holds no item.", hint='One JSON object a line: {"id", "inputs"}')
        return count

    def item_of(row: BatchRow, number: int, line: bytes | Wrong, seen: set[str], keys: dict[str, PatientKey]) -> Item:
        """Never raises for what a client wrote: a bad line is an item with an error."""
        if isinstance(line, Wrong):
            return Item(number, line.id, error=line.error.as_dict()["error"])
        id = None
        try:
            said = _parsed(line)
            id = said.id
            if id is not None and id in seen:
                raise Usage("item-id-taken", "An earlier line has the same id.", hint="Give every item its own.")
            if id is not None:
                seen.add(id)
            if said.case is not None:
                return Item(number, id, case=said.case)
            facts = b',"patient":' + bytes(said.facts) if bytes(said.facts) else b""
            body = b'{"inputs":' + bytes(said.inputs) + facts + b"}"
            if said.patient is None:
                return Item(number, id, body=body)
            if said.patient not in keys:
                keys[said.patient] = batches.owner(row.tenant, said.patient)
            key = keys[said.patient]
            return Item(number, id, body=batches.seal(row, "item", number, key.id, key.key, body), owner=key.id)
        except Usage as error:
            return Item(number, id, error=error.as_dict()["error"])

    def kept(request: Request, row: BatchRow, count: int, asked: bytes) -> None:
        note(request, resource=row.id, digest=row.digest)
        made = msgspec.structs.replace(event(request, 202), count=count)
        with effect(parts, made) as db:
            batches.queue(db, row, items=count, asked=asked)

    @routes.get("/v1/batches", summary="The newest batches of the own tenant.", responses=reply(200, BatchList))
    async def listed(request: Request) -> Response:
        rows = await asyncio.to_thread(batches.rows, caller(request).tenant)
        return WireResponse(BatchList([info(row) for row in rows if sees(request, row)]))

    @routes.get("/v1/batches/{batch}", summary="State, counts, seconds left.", responses=reply(200, BatchInfo))
    async def page(request: Request, batch: str) -> Response:
        return WireResponse(info(await find(request, batch)))

    @routes.get(
        "/v1/batches/{batch}/results",
        summary="The results so far, in the order of the manifest, as NDJSON.",
        responses={200: {"description": "A line an item.", "content": {NDJSON: {"schema": {}}}}},
        openapi_extra={"parameters": [_FROM]},
    )
    async def results(request: Request, batch: str) -> Response:
        start = _start(request)
        row = await find(request, batch)
        note(request, digest=row.digest, count=max(0, row.done - start))
        lines = batches.results(row, start)
        first = await asyncio.to_thread(lambda: list(next_lines(lines)))  # a fault has its status while it still can

        async def stream() -> AsyncIterator[bytes]:
            part = first
            while part:
                yield b"".join(part)
                part = await asyncio.to_thread(lambda: list(next_lines(lines)))

        return StreamingResponse(stream(), headers=_safe(), media_type=NDJSON)

    @routes.get(
        "/v1/batches/{batch}/ranking",
        summary="The items with the largest (or smallest) score for a label, of what is answered so far.",
        responses=reply(200, Ranking),
        openapi_extra={"parameters": RANKING},
    )
    async def ranking(request: Request, batch: str) -> Response:
        top, label, high = asked_ranking(request.query_params.multi_items())
        row = await find(request, batch)
        note(request, digest=row.digest, count=row.done)
        return WireResponse(await asyncio.to_thread(ranked, row.id, batches.results(row), top, label, high))

    @routes.get(
        "/v1/batches/{batch}/events",
        summary="Progress as server-sent events, until the batch has ended.",
        responses={200: {"description": "text/event-stream", "content": {"text/event-stream": {"schema": {}}}}},
    )
    async def progress(request: Request, batch: str) -> Response:
        row = await find(request, batch)

        async def look() -> tuple[str, dict[str, Any], bool]:
            now = await asyncio.to_thread(batches.row, row.tenant, row.id)
            if now is None:
                return "deleted", {"batch": row.id, "state": "deleted"}, True
            return f"{now.state}-{now.done}", msgspec.to_builtins(info(now)), now.state in ENDED

        return await streams.answer(request, look)

    @routes.delete("/v1/batches/{batch}", summary="End a batch and destroy its answers.", status_code=204)
    async def delete(request: Request, batch: str) -> Response:
        row = await find(request, batch)
        note(request, digest=row.digest)

        def end() -> None:
            with effect(parts, msgspec.structs.replace(event(request, 204), count=row.items)) as db:
                batches.delete(db, row)
            batches.sweep()

        await step(end)
        return Response(status_code=204, headers=_safe())

    async def find(request: Request, batch: str) -> BatchRow:
        """Raises: NotFound, in the same words for another tenant's and for one about a model that is hidden."""
        row = await asyncio.to_thread(batches.row, caller(request).tenant, batch) if _ID.fullmatch(batch) else None
        if row is None or not sees(request, row):
            raise NotFound("batch", "of this id", None, hint="List them with GET /v1/batches.")
        note(request, resource=row.id)
        return row

    def sees(request: Request, row: BatchRow) -> bool:
        who = caller(request)
        own = parts.registry.tenant_of(row.model) in (None, who.tenant)
        return row.tenant == who.tenant and own and parts.policy.sees(who, row.model)

    def info(row: BatchRow) -> BatchInfo:
        return BatchInfo(
            batch=row.id, model=row.model, version=row.version, digest=row.digest,
            state=row.state, items=row.items, done=row.done, failed=row.failed,  # type: ignore[arg-type]
            left_s=None if row.left_s is None else round(row.left_s, 1), created_by=row.created_by,
            created_at=row.created_at, ended_at=row.ended_at, error=row.error,
        )  # fmt: skip

    return routes


def next_lines(lines: Any, most: int = CHUNK_ITEMS) -> Any:
    for _ in range(most):
        line = next(lines, None)
        if line is None:
            return
        yield line


async def _digested(parts: AsyncGenerator[bytes, None], digest: Any) -> AsyncGenerator[bytes, None]:
    """The same parts; `digest` has taken them in."""
    async for part in parts:
        digest.update(part)
        yield part


async def _lines(parts: AsyncGenerator[bytes, None], longest: int, *, blank: bool = False) -> AsyncIterator[bytes]:
    """Lines that hold anything; with `blank`, the others too. Raises: TooLarge "batch-line-too-large"."""
    rest = bytearray()
    async for part in parts:
        first, *more = part.split(b"\n")
        rest += first
        for line in more:
            if blank or rest.strip():
                yield bytes(rest)
            rest = bytearray(line)
        if len(rest) > longest:
            raise TooLarge(
                "batch-line-too-large", f"A line is longer than {longest} bytes.", hint="Store it as a case."
            )
    if rest.strip():
        yield bytes(rest)


def _parsed(line: bytes) -> Line:
    """Raises: Usage "item-invalid", which echoes nothing of it."""
    try:
        said = _line.decode(line)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError):
        said = Line()
    named = said.patient is None or (
        0 < len(said.patient) <= MOST_PATIENT
        and said.patient.isprintable()
        and said.patient == said.patient.strip()
        and unicodedata.is_normalized("NFC", said.patient)
    )
    if (said.case is None) == (not bytes(said.inputs)) or not named or len(said.id or "") > MOST_ID:
        raise Usage(
            "item-invalid", 'An item is {"id", "inputs": {...}} with or without "patient", or {"id", "case"}.',
            hint="Correct the line and send it in another batch.",
        )  # fmt: skip
    if said.case is not None and said.patient is not None:
        raise Usage("item-invalid", "A stored case has its patient already.", hint='Leave "patient" out.')
    if said.case is not None and bytes(said.facts):
        raise Usage("item-invalid", "A stored case holds its facts itself.", hint='Leave "facts" out.')
    return said


def _asked_key(request: Request, principal: str) -> str:
    """Hash of the client's key: its text is not kept. Raises: Usage "idempotency-key"."""
    given = [value for name, value in request.scope["headers"] if name == b"idempotency-key"]
    if not given:
        return ""
    if len(given) > 1 or not (0 < len(given[0]) <= 128 and given[0].isascii()):
        raise Usage(
            "idempotency-key",
            "Idempotency-Key is one header of 1 to 128 ASCII characters.",
            hint="For instance: Idempotency-Key: import-7",
        )
    return hashlib.sha256(b"\0".join((principal.encode(), given[0]))).hexdigest()


def _start(request: Request) -> int:
    """Raises: Usage "query-invalid"."""
    given = request.query_params.multi_items()
    value = given[0][1] if given else "0"
    if (
        len(given) > 1
        or (given and given[0][0] != "from")
        or not (value.isascii() and value.isdigit())
        or len(value) > 9
    ):
        why = "The address takes one parameter: from, a number of lines, 0 or more."
        raise Usage("query-invalid", why, hint="For instance ?from=500")
    return int(value)


def _stored(row: BatchRow, items: int | None = None) -> Response:
    answer = WireResponse(BatchStored(row.id, row.items if items is None else items), 202)
    answer.headers["location"] = f"/v1/batches/{row.id}"
    return answer


def _safe() -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in SAFE}
