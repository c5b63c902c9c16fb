"""Batches: many inputs for one model, kept encrypted with their answers until these are deleted.

    batches.begin(row)                                    # "receiving": nobody else sees it yet
    batches.put(row, chunk, items)                        # as they come, some at a time
    with ledger.with_effect(event) as db:
        batches.queue(db, row, items=1000)
    row = batches.claim("worker-1", lease_s=10)           # None: nothing to do
    batches.settle(row, chunk, outcomes, within=...)      # answers, counts and lease in one transaction
    for line in batches.results(row, start=0): ...        # in order, as far as it has come

Chunks are objects of the vault. What belongs to a patient is sealed within them once more, under his own key: erasing
him erases his inputs and answers in every batch, and nothing of the others'. An answer about a stored case is sealed
under the key of that case, so that deleting the case destroys it too.
Source: NIST SP 800-38D (AES-GCM), RFC 5869 (HKDF).
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from medserve.errors import Fault, Gone, NotFound
from medserve.settings import Settings
from medserve.store.batch_tables import batch_chunks, batch_rows
from medserve.store.cases import Cases
from medserve.store.database import database
from medserve.store.keyring import PatientKey
from medserve.store.wrap import KEY_BYTES, NONCE_BYTES, binding

LIVE = ("queued", "running")
ENDED = ("done", "failed")
NOBODY = "\x1fbatches"  # no pseudonym: those are printable. What names no patient is under this key of the tenant
MOST_CHUNK_BYTES = 2**30


class Item(msgspec.Struct, array_like=True):
    """One line. case: a stored one, else body: what a prediction takes, as JSON; sealed where it has an owner. owner:
    id of the patient's key. error: why it is no item."""

    line: int
    id: str | None
    case: str = ""
    body: bytes = b""
    owner: str = ""
    error: dict[str, str] | None = None


class Outcome(msgspec.Struct, array_like=True):
    """What came of an item. body: JSON, sealed where it has an owner or a case. owner: id of the patient's key."""

    line: int
    id: str | None
    body: bytes
    failed: bool
    owner: str = ""
    case: str = ""

    @property
    def under(self) -> str:
        """What it is sealed under."""
        return f"case {self.case}" if self.case else self.owner


@dataclass(frozen=True, slots=True)
class BatchRow:
    """Times are seconds since 1970. items: 0 while it is received."""

    id: str
    tenant: str
    model: str
    version: str
    digest: str
    asked_key: str
    created_by: str
    who: dict[str, Any]
    purpose: str
    created_at: float
    state: str = "receiving"
    ended_at: float | None = None
    items: int = 0
    done: int = 0
    failed: int = 0
    error: dict[str, Any] | None = field(default=None)
    worker: str | None = None
    leased_until: float = 0.0
    turn_at: float = 0.0
    began_at: float = 0.0
    began_done: int = 0
    asked: bytes | None = None

    @property
    def left_s(self) -> float | None:
        """Seconds to go at the pace of this turn; None where it is not known."""
        settled, spent = self.done - self.began_done, time.time() - self.began_at
        if self.state != "running" or settled <= 0:
            return None
        return spent / settled * (self.items - self.done)


@dataclass(frozen=True, slots=True)
class Chunk:
    n: int
    first: int
    items: int
    asked: str = ""


class Lost(Exception):
    """The batch is no longer this worker's: deleted, or taken over."""


class Batches:
    """All batches of one MEDSERVE_HOME. Safe to use from several threads and processes."""

    def __init__(self, settings: Settings, cases: Cases) -> None:
        self._engine, self._cases = database(settings), cases

    def close(self) -> None:
        self._engine.dispose()

    # What is asked

    def begin(self, row: BatchRow) -> BatchRow | None:
        """None: it is registered; else the one that was asked for with the same key."""
        try:
            with self._engine.begin() as db:
                db.execute(batch_rows.insert().values(**asdict(row)))
        except sa.exc.IntegrityError:
            return self.asked(row.tenant, row.asked_key)
        return None

    def asked(self, tenant: str, asked_key: str) -> BatchRow | None:
        mine = sa.select(batch_rows).where(batch_rows.c.tenant == tenant, batch_rows.c.asked_key == asked_key)
        with self._engine.connect() as db:
            found = db.execute(mine).first()
        return None if found is None else _row(found)

    def owner(self, tenant: str, patient: str) -> PatientKey:
        """The key of a pseudonym; made where there is none."""
        key = self._cases.vault.patient_key(tenant, patient, make=True)
        assert key is not None
        return key

    def put(self, row: BatchRow, chunk: Chunk, items: Sequence[Item], *, lease_s: float) -> None:
        """The next items, on disk. Raises: Lost; what `Vault.write` raises."""

        @contextmanager
        def within() -> Iterator[sa.Connection]:
            with self._engine.begin() as db:
                yield db
                mine = batch_rows.update().where(batch_rows.c.id == row.id, batch_rows.c.state == "receiving")
                if not db.execute(mine.values(leased_until=time.time() + lease_s)).rowcount:
                    raise Lost
                said = {"n": chunk.n, "first": chunk.first, "size": len(items), "asked": out.object}
                db.execute(batch_chunks.insert().values(batch=row.id, **said))

        with self._cases.vault.write(row.tenant, NOBODY, within=within) as out:
            out.write(msgspec.msgpack.encode(list(items)))

    def queue(self, db: sa.Connection, row: BatchRow, *, items: int, asked: bytes = b"") -> None:
        """Within a transaction: all of it has come. asked: digest of the request. Raises: Lost."""
        mine = batch_rows.update().where(batch_rows.c.id == row.id, batch_rows.c.state == "receiving")
        values = {
            "state": "queued", "items": items, "leased_until": 0.0, "turn_at": time.time(), "asked": asked or None
        }  # fmt: skip
        if not db.execute(mine.values(**values)).rowcount:
            raise Lost

    # What is known

    def rows(self, tenant: str, most: int = 200) -> list[BatchRow]:
        """The newest first."""
        seen = (batch_rows.c.tenant == tenant, batch_rows.c.state.in_((*LIVE, *ENDED)))
        wanted = sa.select(batch_rows).where(*seen).order_by(batch_rows.c.created_at.desc()).limit(most)
        with self._engine.connect() as db:
            return [_row(found) for found in db.execute(wanted)]

    def row(self, tenant: str, id: str) -> BatchRow | None:
        seen = (batch_rows.c.tenant == tenant, batch_rows.c.id == id, batch_rows.c.state.in_((*LIVE, *ENDED)))
        with self._engine.connect() as db:
            found = db.execute(sa.select(batch_rows).where(*seen)).first()
        return None if found is None else _row(found)

    def live(self, tenant: str) -> int:
        """How many of the tenant come in, wait or run."""
        mine = (batch_rows.c.tenant == tenant, batch_rows.c.state.in_((*LIVE, "receiving")))
        with self._engine.connect() as db:
            return int(db.scalar(sa.select(sa.func.count()).select_from(batch_rows).where(*mine)) or 0)

    def results(self, row: BatchRow, start: int = 0) -> Iterator[bytes]:
        """A line of JSON for each item from number `start` on, in order, up to the first that is not yet settled; one
        of an erased patient says so."""
        keys: dict[str, bytes | None] = {}
        for chunk, answers in self._chunks(row.id):
            if answers is None:
                return
            if chunk.first + chunk.items <= start:
                continue
            data = self._cases.vault.get(row.tenant, answers, max_bytes=MOST_CHUNK_BYTES)
            for outcome in msgspec.msgpack.decode(data, type=list[Outcome])[max(0, start - chunk.first) :]:
                yield _line(outcome, self._open(row, "answer", outcome.line, outcome.under, outcome.body, keys))

    # Work

    def claim(self, worker: str, *, lease_s: float) -> BatchRow | None:
        """The batch whose turn it is, or one whose holder is gone; two workers never get the same."""
        now = time.time()
        lapsed = sa.and_(batch_rows.c.state == "running", batch_rows.c.leased_until < now)
        free = sa.or_(batch_rows.c.state == "queued", lapsed)
        first = sa.select(batch_rows.c.id).where(free).order_by(batch_rows.c.turn_at).limit(1)
        taken = (
            batch_rows.update()
            .where(batch_rows.c.id == first.with_for_update(skip_locked=True).scalar_subquery(), free)
            .values(state="running", worker=worker, leased_until=now + lease_s, began_at=now,
                    began_done=batch_rows.c.done)
            .returning(batch_rows)
        )  # fmt: skip
        with self._engine.begin() as db:
            found = db.execute(taken).first()
        return None if found is None else _row(found)

    def renew(self, row: BatchRow, *, lease_s: float) -> bool:
        """False: it is no longer this worker's."""
        with self._engine.begin() as db:
            return bool(db.execute(self._mine(row).values(leased_until=time.time() + lease_s)).rowcount)

    def release(self, row: BatchRow) -> None:
        """Let another have its turn."""
        with self._engine.begin() as db:
            db.execute(self._mine(row).values(state="queued", worker=None, leased_until=0.0, turn_at=time.time()))

    def todo(self, row: BatchRow) -> list[Chunk]:
        """What has no answers yet."""
        return [chunk for chunk, answers in self._chunks(row.id) if answers is None]

    def items(self, row: BatchRow, chunk: Chunk) -> list[Item]:
        """Opened; of an erased patient: with his error."""
        keys: dict[str, bytes | None] = {}
        data = self._cases.vault.get(row.tenant, chunk.asked, max_bytes=MOST_CHUNK_BYTES)
        found = msgspec.msgpack.decode(data, type=list[Item])
        for item in found:
            if item.owner:
                body = self._open(row, "item", item.line, item.owner, item.body, keys)
                item.body, item.error = body or b"", item.error if body is not None else _erased()
        return found

    def seal(self, row: BatchRow, what: str, line: int, under: str, key: bytes, data: bytes) -> bytes:
        """For one place of one batch: what is moved to another does not open."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + _cipher(key).encrypt(nonce, data, binding("batch", row.tenant, row.id, what, line, under))

    def settle(
        self, row: BatchRow, chunk: Chunk, outcomes: Sequence[Outcome],
        within: Callable[[str], AbstractContextManager[sa.Connection]], *, lease_s: float,
    ) -> None:  # fmt: skip
        """Keep the answers of a chunk, sealed here. All of it or nothing, and once.

        Args:
            within: gets the object's id, gives the transaction.

        Raises: Lost; what `Vault.write` raises.
        """
        kept = [self._sealed(row, one) for one in outcomes]

        @contextmanager
        def both() -> Iterator[sa.Connection]:
            with within(out.object) as db:
                yield db
                counts = {"done": batch_rows.c.done + len(kept), "failed": batch_rows.c.failed + _bad(kept)}
                if not db.execute(self._mine(row).values(leased_until=time.time() + lease_s, **counts)).rowcount:
                    raise Lost
                mine = batch_chunks.update().where(batch_chunks.c.batch == row.id, batch_chunks.c.n == chunk.n)
                if not db.execute(mine.where(batch_chunks.c.answers.is_(None)).values(answers=out.object)).rowcount:
                    raise Lost

        with self._cases.vault.write(row.tenant, NOBODY, within=both) as out:
            out.write(msgspec.msgpack.encode(kept))

    def end(self, row: BatchRow, state: str, error: dict[str, Any] | None = None) -> None:
        """Its inputs are destroyed; what was answered stays."""
        asked = [chunk.asked for chunk, _ in self._chunks(row.id)]

        @contextmanager
        def both() -> Iterator[sa.Connection]:
            with self._engine.begin() as db:
                yield db
                values = {"state": state, "ended_at": time.time(), "error": error, "worker": None}
                if not db.execute(self._mine(row).values(**values)).rowcount:
                    raise Lost

        self._cases.vault.remove(row.tenant, *asked, within=both)

    # The end of it

    def delete(self, db: sa.Connection, row: BatchRow) -> None:
        """Within a transaction: from now on it is not there, and whoever works on it has lost it; then `sweep`."""
        mine = batch_rows.update().where(batch_rows.c.id == row.id, batch_rows.c.tenant == row.tenant)
        db.execute(mine.values(state="deleted", worker=None, leased_until=0.0))

    def expired(self, days: float) -> list[BatchRow]:
        """Ended so long ago that their answers go."""
        old = (batch_rows.c.state.in_(ENDED), batch_rows.c.ended_at < time.time() - days * 86400)
        with self._engine.connect() as db:
            return [_row(found) for found in db.execute(sa.select(batch_rows).where(*old))]

    def sweep(self) -> int:
        """Destroy what is left of deleted batches, and of uploads that broke off with their process."""
        broken = sa.and_(batch_rows.c.state == "receiving", batch_rows.c.leased_until < time.time())
        with self._engine.begin() as db:
            db.execute(batch_rows.update().where(broken).values(state="deleted"))
            rows = [_row(r) for r in db.execute(sa.select(batch_rows).where(batch_rows.c.state == "deleted"))]
        for row in rows:
            self._destroy(row)
        return len(rows)

    def drop(self, row: BatchRow) -> None:
        """An upload that did not end well."""
        with self._engine.begin() as db:
            self.delete(db, row)
        self._destroy(row)

    def _destroy(self, row: BatchRow) -> None:
        chunks = list(self._chunks(row.id))
        alive = [] if row.ended_at is not None else [chunk.asked for chunk, _ in chunks]
        objects = [*alive, *(answers for _, answers in chunks if answers is not None)]

        @contextmanager
        def both() -> Iterator[sa.Connection]:
            with self._engine.begin() as db:
                yield db
                db.execute(batch_chunks.delete().where(batch_chunks.c.batch == row.id))
                db.execute(batch_rows.delete().where(batch_rows.c.id == row.id))

        if objects:
            self._cases.vault.remove(row.tenant, *objects, within=both)
        else:
            with both():
                pass

    def _mine(self, row: BatchRow) -> sa.Update:
        return batch_rows.update().where(
            batch_rows.c.id == row.id, batch_rows.c.worker == row.worker, batch_rows.c.state == "running"
        )

    def _chunks(self, id: str) -> list[tuple[Chunk, str | None]]:
        columns = batch_chunks.c
        wanted = sa.select(columns.n, columns.first, columns.size, columns.asked, columns.answers)
        with self._engine.connect() as db:
            rows = db.execute(wanted.where(columns.batch == id).order_by(columns.n)).all()
        return [(Chunk(r.n, r.first, r.size, r.asked), r.answers) for r in rows]

    def _sealed(self, row: BatchRow, one: Outcome) -> Outcome:
        if not one.under:
            return one
        key = self._key(row.tenant, one.under)
        if key is None:  # erased or deleted while it was asked about: the answer is not kept either
            return msgspec.structs.replace(one, body=b"", failed=True)
        return msgspec.structs.replace(one, body=self.seal(row, "answer", one.line, one.under, key, one.body))

    def _key(self, tenant: str, under: str) -> bytes | None:
        """None: it was destroyed."""
        kind, _, case = under.partition(" ")
        try:
            return self._cases.vault.secret_of(tenant, case) if case else self._cases.vault.key_of(tenant, kind).key
        except (Gone, NotFound):
            return None

    def _open(
        self, row: BatchRow, what: str, line: int, under: str, data: bytes, keys: dict[str, bytes | None]
    ) -> bytes | None:
        """None: the patient was erased, or his case deleted."""
        if not under:
            return data
        if under not in keys:
            keys[under] = self._key(row.tenant, under)
        key = keys[under]
        if key is None:
            return None
        try:
            bound = binding("batch", row.tenant, row.id, what, line, under)
            return _cipher(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], bound)
        except InvalidTag:
            raise Fault(
                "batch-damaged", "An item of the batch does not open.", hint="Restore the database from a backup."
            ) from None


def _line(outcome: Outcome, body: bytes | None) -> bytes:
    """`{"item": number, "id": ..., "answer" or "error": {...}}`."""
    said = body if body is not None else msgspec.json.encode({"error": _erased()})
    head = msgspec.json.encode({"item": outcome.line, "id": outcome.id})
    return head[:-1] + b"," + said[1:] + b"\n"


def _erased() -> dict[str, str]:
    message = "The patient was erased, or the case deleted."
    return {"code": "erased", "message": message, "hint": "It cannot be brought back.", "kind": "usage"}


def _bad(outcomes: Sequence[Outcome]) -> int:
    return sum(one.failed for one in outcomes)


def _cipher(key: bytes) -> AESGCM:
    kdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=binding("batch key"))
    return AESGCM(kdf.derive(key))


def _row(found: Any) -> BatchRow:
    return BatchRow(**found._mapping)
