"""Opaque tokens for a while: access tokens of programs and sessions of people.

    sessions = Sessions.open(settings)
    with ledger.with_effect(event) as db:
        new = sessions.issue(db, principal, life_s=300)       # new.token is shown once: mst_...
    sessions.verify(new.token)                                # Principal; raises Denied "session-..."
    sessions.end(db, new.principal.session)

A token is 256 random bits with a checksum, made like an API key, and only its keyed hash is stored. Nothing is signed,
so nothing can be forged, and what is ended here, or whose account is disabled, ends within `FRESH_S` everywhere.
"""

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from medserve.access.audit import Event, Ledger
from medserve.access.keys import FRESH_S, Ended, fresh_secret, load_pepper, well_formed
from medserve.access.policy import Principal
from medserve.errors import Denied
from medserve.settings import Settings
from medserve.store.database import accounts, broken_glass, database, sessions

PREFIX = "mst_"
TOKEN_S = 300.0  # of a program's access token
SESSION_S, IDLE_S = 8 * 3600.0, 15 * 60.0  # of a person: at most, and without a request
SEEN_S = 5.0  # how exactly the last request of a session is kept
KEPT_S = 86400.0  # an ended token is known by name for this long
_MAX_CACHED = 4096


@dataclass(frozen=True, slots=True, repr=False)
class NewSession:
    """The only moment at which the token itself exists here."""

    token: str
    principal: Principal
    life_s: float


@dataclass(frozen=True, slots=True)
class _Row:
    principal: Principal
    seen_at: float
    idle_s: float
    expires_at: float
    ended: bool
    glass_until: float


class Sessions:
    """All tokens of one MEDSERVE_HOME. Safe to use from several threads."""

    def __init__(self, engine: sa.Engine, pepper: bytes) -> None:
        self._engine, self._key = engine, hmac.digest(pepper, b"medserve sessions", "sha256")
        self._cache: dict[bytes, tuple[float, _Row]] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, settings: Settings) -> "Sessions":
        """Raises: Fault "key-exposed", "key-unreadable"."""
        return cls(database(settings), load_pepper(settings))

    def close(self) -> None:
        """Let the database's connections go."""
        self._engine.dispose()

    def issue(
        self, db: sa.Connection, who: Principal, *, life_s: float, idle_s: float = 0.0, account: str | None = None
    ) -> NewSession:
        """A token for `who`, within the transaction of its audit event.

        Args:
            idle_s: ends earlier after so long without a request; 0: it does not.
            account: whose disabling ends it.

        Raises: Denied "account-disabled": in the meantime.
        """
        now = time.time()
        if account is not None:
            found = db.execute(sa.select(accounts.c.disabled_at).where(accounts.c.id == account)).one_or_none()
            if found is None or found.disabled_at is not None:
                raise Denied("account-disabled", "This account is disabled.", hint="Ask an administrator.")
        token, id = fresh_secret(PREFIX), f"s-{secrets.token_hex(8)}"
        db.execute(sessions.delete().where(sessions.c.expires_at < now - KEPT_S))
        db.execute(
            sessions.insert().values(
                id=id, hash=self._hash(token), account=account, principal=who.id, name=who.name, tenant=who.tenant,
                role=who.role, duties=list(who.duties), models=list(who.models), actions=list(who.actions),
                strong=who.strong, created_at=now, seen_at=now, idle_s=idle_s, expires_at=now + life_s,
            )
        )  # fmt: skip
        return NewSession(token, replace(who, session=id), life_s)

    def end(self, db: sa.Connection, id: str) -> None:
        """Now; in this process at once."""
        db.execute(
            sessions.update().where(sessions.c.id == id, sessions.c.ended_at.is_(None)).values(ended_at=time.time())
        )
        self.forget()

    def end_all(self, principal: str, ledger: Ledger) -> int:
        """Of a principal, at this machine's command line; how many."""
        event = Event(action="keys.manage", outcome="allow", principal="local", resource=principal, code="ended")
        with ledger.with_effect(event) as db:
            open_ = sessions.update().where(sessions.c.principal == principal, sessions.c.ended_at.is_(None))
            count = db.execute(open_.where(sessions.c.expires_at > time.time()).values(ended_at=time.time())).rowcount
        self.forget()
        return count

    def forget(self) -> None:
        """Read everything again at the next request."""
        with self._lock:
            self._cache.clear()

    def verify(self, token: str) -> Principal:
        """Whose token this is.

        Raises: Denied "token-invalid"; Ended "session-expired", "session-ended", with whose it was.
        """
        if not well_formed(token, PREFIX):
            raise _invalid()
        digest = self._hash(token)
        row = self._cached(digest) or self._read(digest)
        now = time.time()
        who = row.principal
        if row.ended:
            raise Ended("session-ended", "This session was ended.", who, hint="Sign in again.")
        if row.expires_at <= now or (row.idle_s and row.seen_at + row.idle_s <= now):
            raise Ended("session-expired", "This session is over.", who, hint="Sign in again.")
        return who

    def over(self, id: str) -> bool:
        """Whether a session has ended, by its id; asking is no request of it."""
        wanted = sa.select(sessions.c.ended_at, sessions.c.expires_at, sessions.c.seen_at, sessions.c.idle_s)
        with self._engine.connect() as db:
            found = db.execute(wanted.where(sessions.c.id == id)).one_or_none()
        now = time.time()
        if found is None or found.ended_at is not None or found.expires_at <= now:
            return True
        return bool(found.idle_s) and found.seen_at + found.idle_s <= now

    def cached(self, token: str) -> bool:
        """True when `verify` would not touch the database now."""
        return not well_formed(token, PREFIX) or self._cached(self._hash(token)) is not None

    def _cached(self, digest: bytes) -> _Row | None:
        with self._lock:
            at, row = self._cache.get(digest, (0.0, None))
        fresh = row is not None and time.monotonic() - at < FRESH_S
        return row if fresh and row is not None and (not row.glass_until or time.time() < row.glass_until) else None

    def _read(self, digest: bytes) -> _Row:
        now = time.time()
        query = sa.select(sessions, accounts.c.disabled_at).select_from(
            sessions.outerjoin(accounts, accounts.c.id == sessions.c.account)
        )
        with self._engine.connect() as db:
            found = db.execute(query.where(sessions.c.hash == digest)).one_or_none()
            if found is None or not hmac.compare_digest(found.hash, digest):
                raise _invalid()
            glass = db.execute(_GLASS.where(broken_glass.c.session == found.id, broken_glass.c.until > now)).all()
        row = _row(found, glass)
        alive = not row.ended and row.expires_at > now and (not row.idle_s or row.seen_at + row.idle_s > now)
        if alive and row.idle_s and now - row.seen_at >= SEEN_S:
            with self._engine.begin() as db:
                db.execute(sessions.update().where(sessions.c.id == found.id).values(seen_at=now))
            row = replace(row, seen_at=now)
        with self._lock:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[digest] = (time.monotonic(), row)
        return row

    def _hash(self, token: str) -> bytes:
        return hmac.new(self._key, token.encode(), hashlib.sha256).digest()


_GLASS = sa.select(broken_glass).order_by(broken_glass.c.at.desc())


def _row(found: Any, glass: Any) -> _Row:
    models = tuple(found.models)
    if models and glass:
        more = [name for one in glass for name in one.models]
        models = () if any(not one.models for one in glass) else tuple(dict.fromkeys([*models, *more]))
    who = Principal(
        found.principal, found.name, found.tenant, found.role, tuple(found.duties), models, tuple(found.actions),
        strong=found.strong, session=found.id, glass=glass[0].id if glass else "",
    )  # fmt: skip
    ended = found.ended_at is not None or found.disabled_at is not None
    until = min((one.until for one in glass), default=0.0)
    return _Row(who, found.seen_at, found.idle_s, found.expires_at, ended, until)


def _invalid() -> Denied:
    return Denied("token-invalid", "This token is not known here.", hint="Ask for a new one, or sign in again.")
