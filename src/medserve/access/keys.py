"""API keys: who may ask. A key is shown once and stored only as a keyed hash.

    ring = KeyRing.open(settings)
    new = ring.create("ward 7", days=90, role="clinician")      # new.key is shown once: msk_...
    caller = ring.verify(text)                # Principal; raises Denied
    ring.revoke(new.id)                       # a running server follows within one second

A key is `msk_` + 43 base-62 digits (256 random bits) + 6 digits of CRC-32, so that a scanner of leaked secrets knows
one, and a mistyped one never reaches the database. The stored hash is HMAC-SHA-256 under a pepper that lives beside
the database, in a file of its own that only its owner can read: a copy of the database alone opens nothing.
"""

import contextlib
import hmac
import os
import re
import secrets
import threading
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from medserve.access.audit import Event, Ledger
from medserve.access.mac import Mac
from medserve.access.policy import DEFAULT_TENANT, Policy, Principal
from medserve.errors import Denied, Fault, NotFound, Usage
from medserve.settings import Settings
from medserve.store.database import accounts, api_keys, database, key_grants

PREFIX = "msk_"
FRESH_S = 0.5  # a verified key is read again after this long, so that a revocation takes effect at once
AHEAD_S = 0.25  # and one in use after this long already, beside the requests, so that none of them waits for it
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_DIGITS, _CHECK_DIGITS = 43, 6  # 62**43 > 2**256, 62**6 > 2**32
_MAX_CACHED = 4096
TENANT = re.compile(r"[a-z0-9_-]{1,64}")
_ALL = sa.select(
    api_keys, key_grants.c.tenant, key_grants.c.role, key_grants.c.duties, key_grants.c.models
).select_from(api_keys.outerjoin(key_grants, key_grants.c.key_id == api_keys.c.id))


class Ended(Denied):
    """It was somebody's, and is no longer good. who: whose; named in the audit log, never in the answer."""

    def __init__(self, code: str, message: str, who: Principal, *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.who = who


@dataclass(frozen=True, slots=True)
class KeyRow:
    """What is kept of a key. Times are seconds since 1970."""

    id: str
    name: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    tenant: str = DEFAULT_TENANT
    role: str = "service"
    duties: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    @property
    def principal(self) -> Principal:
        return Principal(self.id, self.name, self.tenant, self.role, self.duties, self.models)

    def state(self, now: float) -> str:
        """ "active", "expired" or "revoked"."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


@dataclass(frozen=True, slots=True, repr=False)
class NewKey:
    """The only moment at which the key itself exists here."""

    row: KeyRow
    key: str


class KeyRing:
    """All keys of one MEDSERVE_HOME. Safe to use from several threads. Making and ending a key is audited."""

    def __init__(self, engine: sa.Engine, pepper: bytes, ledger: Ledger, policy: Policy) -> None:
        self._engine, self._mac, self._ledger, self._policy = engine, Mac(pepper), ledger, policy
        self._cache: dict[bytes, tuple[float, KeyRow, Principal]] = {}  # since when it is known
        self._lock = threading.Lock()
        self._rereading: set[bytes] = set()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="keys")

    @classmethod
    def open(cls, settings: Settings) -> "KeyRing":
        """Raises: Fault "key-exposed", "key-unreadable": the pepper is unsafe or broken; those of `Ledger.open`, and
        Usage "policy-invalid"."""
        pepper, policy = load_pepper(settings), Policy.load(settings)
        return cls(database(settings), pepper, Ledger.open(settings), policy)

    def close(self) -> None:
        """Let the database's connections go."""
        self._reader.shutdown(cancel_futures=True)
        self._engine.dispose()
        self._ledger.close()

    def create(
        self,
        name: str,
        *,
        days: float | None = 90,
        role: str = "service",
        tenant: str = DEFAULT_TENANT,
        duties: Sequence[str] = (),
        models: Sequence[str] = (),
    ) -> NewKey:
        """Make a key.

        Args:
            name: what the key is for; shown in lists and logs, so no person's name.
            days: until it expires; None: never.
            role, duties: words of the policy. models: names that the key is limited to; empty: no limit.

        Raises: Usage "key-name", "key-days", "key-tenant", "role-unknown", "duty-unknown".
        """
        if not 1 <= len(name) <= 64 or not name.isprintable():
            raise Usage("key-name", "A key's name has 1 to 64 printable characters.", hint="For instance: --name ward7")
        if days is not None and not 0 < days <= 3650:
            raise Usage("key-days", "A key lives between 0 and 3650 days.", hint="For instance: --days 90")
        if not TENANT.fullmatch(tenant):
            raise Usage("key-tenant", "A tenant is named by 1 to 64 of a-z, 0-9, - and _.", hint="--tenant clinic-a")
        self._policy.check_grant(role, tuple(duties))
        key, now = fresh_secret(PREFIX), time.time()
        expires = None if days is None else now + days * 86400
        row = KeyRow(f"k-{secrets.token_hex(6)}", name, now, expires, None, tenant, role, tuple(duties), tuple(models))
        with self._ledger.with_effect(self._event(row, "created")) as db:
            db.execute(
                api_keys.insert().values(
                    id=row.id, name=name, hash=self._hash(key), created_at=now, expires_at=row.expires_at
                )
            )
            db.execute(
                key_grants.insert().values(
                    key_id=row.id, tenant=tenant, role=role, duties=list(duties), models=list(models)
                )
            )
        return NewKey(row, key)

    def _event(self, row: KeyRow, code: str) -> Event:
        """Of someone at this machine's command line; tenant and role are the key's."""
        return Event(
            action="keys.manage", outcome="allow", principal="local", tenant=row.tenant, role=row.role,
            resource=row.id, purpose="operations", code=code, policy=self._policy.digest,
        )  # fmt: skip

    def rows(self) -> list[KeyRow]:
        with self._engine.connect() as db:
            return [_row(row) for row in db.execute(_ALL.order_by(api_keys.c.created_at))]

    def active(self) -> list[KeyRow]:
        now = time.time()
        return [row for row in self.rows() if row.state(now) == "active"]

    def ended(self, principal: str) -> bool:
        """Whether a principal's key is revoked or expired, or his account disabled; nobody's id is not ended."""
        mine = sa.select(api_keys.c.expires_at, api_keys.c.revoked_at).where(api_keys.c.id == principal)
        with self._engine.connect() as db:
            key = db.execute(mine).one_or_none()
            off = db.scalar(sa.select(accounts.c.disabled_at).where(accounts.c.id == principal))
        expired = key is not None and key.expires_at is not None and key.expires_at <= time.time()
        return off is not None or expired or (key is not None and key.revoked_at is not None)

    def standing(self, principal: str) -> dict[str, tuple[str, ...] | str] | None:
        """Role, duties and models of a key or an account as they are now; None: of neither, so it is not kept here."""
        with self._engine.connect() as db:
            for table, id in ((key_grants, key_grants.c.key_id), (accounts, accounts.c.id)):
                wanted = sa.select(table.c.role, table.c.duties, table.c.models).where(id == principal)
                if (found := db.execute(wanted).one_or_none()) is not None:
                    return {"role": found.role, "duties": tuple(found.duties), "models": tuple(found.models)}
        return None

    def revoke(self, id: str) -> KeyRow:
        """End a key now; revoking twice keeps the first time."""
        rows = {row.id: row for row in self.rows()}
        if id not in rows:
            raise NotFound("key", id, rows, hint="List them with `medserve keys list`.")
        with self._ledger.with_effect(self._event(rows[id], "revoked")) as db:
            db.execute(
                api_keys.update()
                .where(api_keys.c.id == id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=time.time())
            )
        with self._lock:
            self._cache.clear()
        return next(row for row in self.rows() if row.id == id)

    def verify(self, key: str) -> Principal:
        """Who holds this key.

        Raises: Denied "key-missing", "key-invalid"; Ended "key-expired", "key-revoked", only to one who held it.
        """
        if not key:
            raise Denied(
                "key-missing",
                "This address answers only with an API key.",
                hint="Send 'Authorization: Bearer KEY'; make a key with `medserve keys create`.",
            )
        if not well_formed(key):
            raise _invalid()
        digest = self._hash(key)
        row = self._cached(digest) or self._read(digest)
        state = row.state(time.time())
        if state != "active":
            raise Ended(
                f"key-{state}",
                f"This API key is {state}.",
                row.principal,
                hint="Make a new one with `medserve keys create`.",
            )
        return row.principal

    def _cached(self, digest: bytes) -> KeyRow | None:
        with self._lock:
            found = self._cache.get(digest)
        return found[1] if found is not None and time.monotonic() - found[0] < FRESH_S else None

    def _ahead(self, digest: bytes) -> None:
        """On a thread: read a key again before what is known of it is too old."""
        with contextlib.suppress(Denied, sa.exc.SQLAlchemyError):  # the next request that shows it is told
            self._read(digest)
        with self._lock:
            self._rereading.discard(digest)

    def held(self, key: str) -> Principal | None:
        """What `verify` returns, where that is known without the database; else None. For every request, so cheap."""
        digest, now = self._hash(key), time.monotonic()
        with self._lock:
            found = self._cache.get(digest)  # what is not well formed was never kept
            if found is None:
                return None
            at, row, principal = found
            if now - at >= FRESH_S or row.state(time.time()) != "active":
                return None
            if now - at >= AHEAD_S and digest not in self._rereading:
                self._rereading.add(digest)
                with contextlib.suppress(RuntimeError):  # closing
                    self._reader.submit(self._ahead, digest)
            return principal

    def cached(self, key: str) -> bool:
        """True when `verify` would not touch the database now."""
        return not well_formed(key) or self._cached(self._hash(key)) is not None

    def _read(self, digest: bytes) -> KeyRow:
        began = time.monotonic()
        with self._engine.connect() as db:
            found = db.execute(_ALL.where(api_keys.c.hash == digest)).one_or_none()
        if found is None or not hmac.compare_digest(found.hash, digest):
            raise _invalid()
        row = _row(found)
        with self._lock:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[digest] = (began, row, row.principal)
        return row

    def _hash(self, key: str) -> bytes:
        return self._mac.of(key.encode())


def _row(found: Any) -> KeyRow:
    row = KeyRow(found.id, found.name, found.created_at, found.expires_at, found.revoked_at)
    if found.role is None:
        return row
    return replace(row, tenant=found.tenant, role=found.role, duties=tuple(found.duties), models=tuple(found.models))


def new_key() -> str:
    return fresh_secret(PREFIX)


def fresh_secret(prefix: str) -> str:
    """256 random bits behind a prefix, with a checksum."""
    secret = _base62(int.from_bytes(secrets.token_bytes(32)), _SECRET_DIGITS)
    return prefix + secret + _check(secret)


def well_formed(key: str, prefix: str = PREFIX) -> bool:
    """The prefix, the length and the checksum are right; says nothing of whether it exists."""
    secret, check = key[len(prefix) : -_CHECK_DIGITS], key[-_CHECK_DIGITS:]
    return (
        key.startswith(prefix)
        and len(key) == len(prefix) + _SECRET_DIGITS + _CHECK_DIGITS
        and key.isascii()
        and hmac.compare_digest(check, _check(secret))
    )


def load_pepper(settings: Settings) -> bytes:
    """The 32 bytes under which keys are hashed; made on first use, 0600.

    Raises: Fault "key-exposed": others can read it, so every stored hash must be taken as known.
    """
    path = settings.folder("keys") / "api-pepper.key"
    try:
        _make_pepper(path)
        mode, value = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise Fault("key-unreadable", f"Cannot use {path}: {error.strerror}.", hint="Check its owner.") from error
    if mode & 0o077:
        raise Fault("key-exposed", f"{path} can be read by others.", hint=f"Run: chmod 600 {path}")
    if len(value) != 32:
        raise Fault(
            "key-unreadable",
            f"{path} is not the 32 bytes that were written.",
            hint="Restore it from a backup; or move it away and create all API keys anew.",
        )
    return value


def _make_pepper(path: Path) -> None:
    """Whole or absent, also when two processes start at once."""
    if path.exists():
        return
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(work, path)
    except FileExistsError:
        pass  # another process made it first; its pepper is the one
    finally:
        work.unlink()


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, rest = divmod(number, 62)
        digits.append(_DIGITS[rest])
    return "".join(reversed(digits))


def _check(secret: str) -> str:
    return _base62(zlib.crc32(secret.encode()), _CHECK_DIGITS)


def _invalid() -> Denied:
    return Denied(
        "key-invalid", "This API key is not known here.", hint="List the known ones with `medserve keys list`."
    )
