"""The audit log: one event a request, kept so that a later change of it shows.

    ledger = Ledger.open(settings)
    ledger.write([Event(action="model.predict", principal="k-1f", outcome="allow", ...)])    # durable when it returns
    ledger.verify()                                    # Verdict; names the first bad line

Every row holds the SHA-256 of the row before it and of its own body, and an HMAC of that under the key of its epoch.
An epoch ends after `EPOCH_EVENTS` events or `EPOCH_S` seconds: its last hash is signed (Ed25519) together with the
public key of the next epoch, and both of its secrets are destroyed. Whoever steals the secrets of today can therefore
rewrite the open epoch at most; everything before it is under signatures that nobody can make any more. What cannot be
seen in the log alone (the whole state rolled back to an older copy) shows against `heads.jsonl`, which the operator
keeps on another disk (`mirror`).

Source of the forward-secure chain: Bellare and Yee, "Forward integrity for secure audit logs" (1997).
"""

import base64
import contextlib
import fcntl
import hmac
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from medserve.access.chain import START, State, Verdict, chain, mirrored, said, walk
from medserve.errors import Fault
from medserve.settings import Settings
from medserve.store.database import audit_checkpoints, audit_events, database
from medserve.store.engines import AUDIT, alone
from medserve.store.files import append_line, write_bytes
from medserve.store.swift import Swift, run

EPOCH_EVENTS, EPOCH_S = 10_000, 60.0  # an end writes to disk several times; nobody else writes meanwhile
LOCK_S = 5.0  # longest wait for another process
POLL_S = 0.0001  # a commit takes half a millisecond
_RATCHET = b"medserve audit ratchet"
_READ = 5000  # rows at a time
_ROWS = 64  # most rows of one statement
_ENDS = """SELECT p.epoch AS closed, p.seq AS signed, e.seq, e.epoch, e.hash FROM (SELECT 1 AS one) AS x
 LEFT JOIN (SELECT epoch, seq FROM audit_checkpoints ORDER BY epoch DESC LIMIT 1) AS p ON 1 = 1
 LEFT JOIN (SELECT seq, epoch, hash FROM audit_events ORDER BY seq DESC LIMIT 1) AS e ON 1 = 1"""


class AuditFault(Fault):
    """The log cannot be written: what was asked is not done."""

    status = 503


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who did what, when, and what came of it; never a patient's value.

    at: seconds since 1970. principal: its id, or "anonymous". resource: for instance a model's name. patient: a
    pseudonym. model: digest. rules: digest of the rules of safety that a model's advice was held against. outcome:
    "allow" or "deny". status: of HTTP. policy: digest of the policy decided by.
    count: requests that the event stands for, or cases of one request, where it is more than one.
    input, answer: of a prediction, a keyed digest (`witness`), or `vault:OBJECT` where it is kept.
    """

    action: str
    outcome: str
    at: float = 0.0
    trace: str = ""
    principal: str = "anonymous"
    tenant: str = ""
    role: str = ""
    purpose: str = ""
    resource: str = ""
    patient: str = ""
    model: str = ""
    rules: str = ""
    code: str = ""
    status: int = 0
    policy: str = ""
    count: int = 0
    input: str = ""
    answer: str = ""


class Ledger:
    """One log. Safe across threads and processes: a lock orders the writers. The secrets of the open epoch stand in a
    file: over PostgreSQL, several nodes need one MEDSERVE_HOME/keys on storage that they share. A database would keep
    copies of them in its own log, and nothing that was signed would be out of a thief's reach.

    Args:
        mirror: where each epoch's end is told as well; on another disk, it shows a rollback of this one.
    """

    def __init__(self, engine: sa.Engine, folder: Path, mirror: Path | None = None) -> None:
        self._engine, self._folder, self._mirror = engine, folder, mirror
        self._path = folder / "audit.state"
        self._swift = Swift.of(engine)
        self._locks = [str(folder / name) for name in ("audit.turn.lock", "audit.lock")]

    @classmethod
    def open(cls, settings: Settings, mirror: Path | None = None) -> "Ledger":
        """Raises: Fault "audit-state-missing", "audit-rolled-back", "key-exposed"."""
        ledger = cls.unchecked(settings, mirror)
        try:
            with ledger._writing() as db:
                ledger._state(db)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def unchecked(cls, settings: Settings, mirror: Path | None = None) -> "Ledger":
        """Also where the log is not sound: to verify it."""
        return cls(database(settings), settings.folder("keys"), mirror or settings.audit_mirror)

    def count(self) -> int:
        """Events so far."""
        with self._engine.connect() as db:
            return self._count(db)

    def _count(self, db: sa.Connection) -> int:
        return int(db.execute(sa.select(sa.func.max(audit_events.c.seq))).scalar() or 0)

    @property
    def anchor(self) -> str:
        """Base64 of the first epoch's public key: kept elsewhere, it proves that this is still the same log."""
        return (self._folder / "audit-anchor.txt").read_text(encoding="ascii").strip()

    def close(self) -> None:
        if self._swift is not None:
            self._swift.close()
        self._engine.dispose()

    def write(self, events: Sequence[Event], more: Callable[[], Sequence[Event]] = tuple) -> None:
        """Append, durably: `commit` and `sync`. Raises: as they do."""
        self.commit(events, more)
        self.sync()

    def commit(self, events: Sequence[Event], more: Callable[[], Sequence[Event]] = tuple) -> None:
        """Append, in order with all others; nothing may be acknowledged before `sync`, which holds up nobody else.

        Args:
            more: gives what came while another process had the log; asked once nobody else has it.

        Raises: AuditFault "audit-busy", before `more` was asked; "audit-unwritable": nothing was written.
        """
        try:
            with self._alone():
                events = [*events, *more()]
                with self._engine.begin() if self._swift is None else self._swift.begin() as db:
                    alone(db, AUDIT)
                    ended = self.append(db, events)
                if ended:
                    self.sync()
                    self._let_go()
        except (OSError, sa.exc.SQLAlchemyError) as error:
            raise unwritable() from error

    def sync(self) -> None:
        """Whatever was committed before is on disk when it returns. Raises: AuditFault "audit-unwritable"."""
        try:
            if self._swift is not None:
                self._swift.sync()
        except OSError as error:
            raise unwritable() from error

    @contextlib.contextmanager
    def with_effect(self, *events: Event) -> Iterator[sa.Connection]:
        """A transaction for a change and its events: all are kept, or none is."""
        with self._alone():
            try:
                with self._writing(held=True) as db:
                    yield db
                    ended = self.append(db, events)
            except sa.exc.OperationalError as error:  # a full disk, a lost server
                raise unwritable() from error
            if ended:
                self._let_go()

    def _let_go(self) -> None:
        """Destroy the secrets of an epoch that was just signed; what was committed stays committed in any case."""
        with contextlib.suppress(OSError, sa.exc.SQLAlchemyError, Fault), self._writing(held=True) as db:
            self._state(db)

    def append(self, db: sa.Connection, events: Sequence[Event]) -> bool:
        """Within a transaction, under the lock. Whether the epoch ended with it: its secrets are to be let go."""
        ends = _ends(db)
        state = self._state(db, ends)
        seq, head = (ends.seq, ends.hash) if ends.seq is not None else (0, START)
        opened = (ends.signed or 0) + 1
        now, rows = time.time(), []
        for event in events:
            body = msgspec.json.encode(event if event.at else msgspec.structs.replace(event, at=now), order="sorted")
            seq += 1
            head = chain(head, body)
            rows.append((seq, state.epoch, body, head, hmac.digest(state.key, head, "sha256")))
        _insert(db, rows)
        if rows and (seq + 1 - opened >= EPOCH_EVENTS or now - state.since >= EPOCH_S):
            self._end(db, state, seq, head, now)
            return True
        return False

    def end_epoch(self) -> None:
        """Sign what stands there now; nothing where the open epoch is empty."""
        with self._writing() as db:
            ends = _ends(db)
            state = self._state(db, ends)
            if ends.epoch == state.epoch:
                self._end(db, state, ends.seq, ends.hash, time.time())
        with self._writing() as db:
            self._state(db)

    def _end(self, db: sa.Connection, state: State, seq: int, head: bytes, now: float) -> None:
        """Sign the epoch. Its secrets are destroyed once the signature is committed: on the next look at the state."""
        if state.following is None:
            state.following = Ed25519PrivateKey.generate().private_bytes_raw()
            self._store(state)
        public = Ed25519PrivateKey.from_private_bytes(state.following).public_key().public_bytes_raw()
        signed = said(state.epoch, seq, head, public, now)
        signature = Ed25519PrivateKey.from_private_bytes(state.signing).sign(signed)
        row = {"epoch": state.epoch, "seq": seq, "hash": head, "next": public, "at": now, "signature": signature}
        db.execute(audit_checkpoints.insert(), row)

    def _state(self, db: sa.Connection, ends: Any = None) -> State:
        """The open epoch's secrets; an epoch that was signed since is let go first. ends: of the log, where read.

        Raises: Fault "audit-state-missing", "audit-rolled-back", "key-exposed".
        """
        ends = _ends(db) if ends is None else ends
        closed = ends.closed
        try:
            mode, kept = _read_small(self._path)
        except FileNotFoundError:
            if closed is not None or ends.seq is not None:
                raise Fault(
                    "audit-state-missing",
                    f"{self._path} is gone, but the audit log has rows: it can be read, no longer written.",
                    hint="Restore it from a backup, or move the database away and keep it.",
                ) from None
            key = Ed25519PrivateKey.generate()
            state = State(epoch=1, since=time.time(), key=os.urandom(32), signing=key.private_bytes_raw())
            write_bytes(
                self._folder / "audit-anchor.txt", base64.b64encode(key.public_key().public_bytes_raw()) + b"\n"
            )
            self._store(state)
            return state
        if mode & 0o077:
            raise Fault("key-exposed", f"{self._path} can be read by others.", hint=f"Run: chmod 600 {self._path}")
        try:
            state = msgspec.json.decode(kept, type=State)
        except msgspec.DecodeError as error:
            raise AuditFault(
                "audit-state-damaged", f"{self._path} is not as it was written.", hint="Restore it from a backup."
            ) from error
        if closed is not None and closed == state.epoch and state.following is not None:
            self._tell(db, closed)
            state = State(
                epoch=state.epoch + 1,
                since=time.time(),
                key=hmac.digest(state.key, _RATCHET, "sha256"),
                signing=state.following,
            )
            self._store(state)
        if (closed or 0) != state.epoch - 1:
            raise Fault(
                "audit-rolled-back",
                f"The audit log ends with epoch {closed or 0}, but {state.epoch - 1} epochs were signed: "
                "the database is older than its keys, or newer.",
                hint="Restore the database and MEDSERVE_HOME/keys from the same backup.",
            )
        return state

    def _tell(self, db: sa.Connection, epoch: int) -> None:
        """One line in the mirror for an epoch whose signature is committed."""
        if self._mirror is None:
            return
        point = db.execute(sa.select(audit_checkpoints).where(audit_checkpoints.c.epoch == epoch)).one()
        line = {"epoch": epoch, "seq": point.seq, "hash": point.hash.hex(), "signature": point.signature.hex()}
        append_line(self._mirror, json.dumps(line).encode())

    def _store(self, state: State) -> None:
        write_bytes(self._path, msgspec.json.encode(state), mode=0o600)

    @contextlib.contextmanager
    def _writing(self, *, held: bool = False) -> Iterator[sa.Connection]:
        """A transaction that no other writer of the log overlaps: the lock file orders the processes of this machine
        (held: it is held already), PostgreSQL's lock those of all machines."""
        with contextlib.nullcontext() if held else self._alone(), self._engine.begin() as db:
            alone(db, AUDIT)
            yield db

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Nobody writes meanwhile, here or on another node: for a copy of the log with its secrets."""
        with self._writing():
            yield

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Whoever waits holds the turn: who has just let go of the log comes after him, however quick he is."""
        deadline = time.monotonic() + LOCK_S
        turn = self._locked(self._locks[0], deadline)
        try:
            handle = self._locked(self._locks[1], deadline)
        finally:
            os.close(turn)
        try:
            yield
        finally:
            os.close(handle)

    def _locked(self, path: str, deadline: float) -> int:
        """The open file; closing it lets go. Raises: AuditFault "audit-busy"."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(handle)
                    raise AuditFault(
                        "audit-busy", "Another process holds the audit log.", hint="Look for a stopped `medserve`."
                    ) from None
                time.sleep(POLL_S)
            except OSError:
                os.close(handle)
                raise

    def read(self, *, after: int = 0) -> Iterator[tuple[int, Event]]:
        """Every event in order."""
        for row in self._rows(after):
            yield row.seq, msgspec.json.decode(row.body, type=Event)

    def verify(self, anchor: str | None = None) -> Verdict:
        """Walk the whole log.

        Args:
            anchor: the first public key as it was noted elsewhere; this machine's own copy where None.
        """
        try:
            with self._writing() as db:
                state = self._state(db)
                points = {p.epoch: p for p in db.execute(sa.select(audit_checkpoints))}
                end = self._count(db)
            verdict = walk(self._rows(0), points, state, base64.b64decode(anchor or self.anchor), end)
            if verdict.sound and points and self._mirror is not None:
                told = self._mirror.read_bytes() if self._mirror.exists() else b""
                if problem := mirrored(told, points):
                    return replace(verdict, problem=problem, seq=0)
            return verdict
        except Fault as error:
            return Verdict(0, 0, error.code, 0)
        except (OSError, ValueError, TypeError, AttributeError, sa.exc.SQLAlchemyError):
            return Verdict(0, 0, "log-unreadable", 0)

    def _rows(self, after: int) -> Iterator[Any]:
        while True:
            with self._engine.connect() as db:
                query = sa.select(audit_events).where(audit_events.c.seq > after).order_by(audit_events.c.seq)
                rows = db.execute(query.limit(_READ)).all()
            if not rows:
                return
            yield from rows
            after = rows[-1].seq


def unwritable() -> AuditFault:
    return AuditFault(
        "audit-unwritable",
        "The audit log cannot be written, so nothing is done.",
        hint="Free some space, or check the disk under MEDSERVE_HOME.",
    )


class _Ends(NamedTuple):
    """The last signed epoch with its last row, and the last row of all; None where there is none."""

    closed: Any  # int
    signed: Any  # int
    seq: Any  # int
    epoch: Any  # int
    hash: Any  # bytes


def _ends(db: sa.Connection) -> _Ends:
    return _Ends(*run(db, _ENDS)[0])


def _insert(db: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Many rows a statement: SQLite's driver gives the interpreter away at each, and gets it back when others allow."""
    at = 0
    while at < len(rows):
        count = min(_ROWS, 1 << (len(rows) - at).bit_length() - 1)  # few texts, so that the driver keeps them prepared
        flat = [field for row in rows[at : at + count] for field in row]
        run(db, _insertion("?" if db.dialect.paramstyle == "qmark" else "%s", count), flat)
        at += count


@cache
def _insertion(mark: str, count: int) -> str:
    values = ", ".join([f"({', '.join([mark] * 5)})"] * count)
    return f"INSERT INTO audit_events (seq, epoch, body, hash, mac) VALUES {values}"


def _read_small(path: Path) -> tuple[int, bytes]:
    """Mode and content of a file of at most some kilobytes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.fstat(handle).st_mode, os.read(handle, 1 << 16)
    finally:
        os.close(handle)


def events_of(rows: Iterable[tuple[int, Event]]) -> Iterator[dict[str, Any]]:
    """As plain JSON, one mapping an event."""
    for seq, event in rows:
        yield {"seq": seq, **msgspec.to_builtins(event)}
