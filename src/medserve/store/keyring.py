"""Tenants' and patients' keys: made on first use, stored wrapped, unwrapped when needed.

    ring = Keyring(masters)
    with writing(engine) as db:
        patient = ring.patient(db, "ward-7", "PAT-0012", make=True)
        wrapped = LocalKey(patient.key).wrap(object_key, bound)

A tenant's current key wraps its patients' keys and two keys that outlive every rotation: `index` (blind indexes) and
`fields` (encrypted columns). Tenants' keys are remembered by their id; patients' keys never, so that an erasure takes
effect at once in every process.
"""

import contextlib
import hashlib
import hmac
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from medserve.errors import Usage
from medserve.store.engines import VAULT, alone
from medserve.store.masters import Masters
from medserve.store.vault_tables import vault_keys
from medserve.store.wrap import DESTROYED, LocalKey, Wrapper, binding, key_damaged, new_id, new_key

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class PatientKey:
    """A patient's key, opened; `id` may be logged."""

    id: str
    tenant: str
    key: bytes = field(repr=False)


class Keyring:
    """Wrapped keys in `vault_keys`. Safe to use from several threads; every call takes the caller's transaction."""

    def __init__(self, masters: Masters) -> None:
        self.masters = masters
        self._tenants: dict[str, Wrapper] = {}  # by key id
        self._lasting: dict[tuple[str, str], bytes] = {}  # (tenant, kind): index and fields
        self._lock = threading.Lock()

    def patient(self, db: sa.Connection, tenant: str, pseudonym: str, *, make: bool) -> PatientKey | None:
        """The patient's key; None where there is none and none is to be made (then `db` must be `writing`)."""
        name = self.name(db, tenant, pseudonym, make=make)
        row = None if name is None else _find(db, tenant, "patient", name)
        if row is not None:
            return PatientKey(row.id, tenant, self.unwrap(db, row))
        if name is None or not make:
            return None
        id, key = self._make(db, "patient", tenant, name=name)
        return PatientKey(id, tenant, key)

    def name(self, db: sa.Connection, tenant: str, pseudonym: str, *, make: bool) -> str | None:
        """The blind index of a pseudonym, 64 hexadecimal digits; None where the tenant has no keys yet."""
        key = self.lasting(db, tenant, "index", make=make)
        return None if key is None else blind(key, "patient", pseudonym).hex()

    def lasting(self, db: sa.Connection, tenant: str, kind: str, *, make: bool) -> bytes | None:
        """The tenant's `index` or `fields` key."""
        with self._lock:
            key = self._lasting.get((tenant, kind))
        if key is not None:
            return key
        row = _find(db, check_tenant(tenant), kind, "")
        if row is None:
            return self._make(db, kind, tenant)[1] if make else None
        key = self.unwrap(db, row)
        with self._lock:
            self._lasting[tenant, kind] = key
        return key

    def tenant(self, db: sa.Connection, tenant: str) -> tuple[str, Wrapper]:
        """Id and wrapper of the tenant's current key, made if there is none. Call it inside `writing`."""
        row = _find(db, check_tenant(tenant), "tenant", "")
        if row is None:
            id, key = self.add_tenant_key(db, tenant)
            return id, LocalKey(key)
        return row.id, self._tenant_wrapper(db, row.id)

    def add_tenant_key(self, db: sa.Connection, tenant: str) -> tuple[str, bytes]:
        """A new version, from now on the current one."""
        newest = _find(db, tenant, "tenant", "")
        return self._make(db, "tenant", tenant, version=1 if newest is None else newest.version + 1)

    def wrapper(self, db: sa.Connection, kind: str, id: str) -> Wrapper:
        """What wraps keys of this kind under that id."""
        return self.masters.get(db, id).wrapper if kind == "tenant" else self._tenant_wrapper(db, id)

    def unwrap(self, db: sa.Connection, row: sa.Row[Any]) -> bytes:
        """Raises: Fault "key-damaged"."""
        return self.wrapper(db, row.kind, row.under).unwrap(row.wrapped, bound_to(row))

    def _tenant_wrapper(self, db: sa.Connection, id: str) -> Wrapper:
        with self._lock:
            known = self._tenants.get(id)
        if known is not None:
            return known
        row = db.execute(sa.select(vault_keys).where(vault_keys.c.id == id)).one_or_none()
        if row is None or row.kind != "tenant":
            raise key_damaged()
        known = LocalKey(self.unwrap(db, row))
        with self._lock:
            self._tenants[id] = known
        return known

    def _make(
        self, db: sa.Connection, kind: str, tenant: str, *, name: str = "", version: int = 1
    ) -> tuple[str, bytes]:
        if kind == "tenant":
            master = self.masters.current(db)
            under, wrapper = master.id, master.wrapper
        else:
            under, wrapper = self.tenant(db, tenant)
        id, key = new_id(), new_key()
        wrapped = wrapper.wrap(key, binding(kind, tenant, name, id, version, under))
        db.execute(
            vault_keys.insert().values(
                id=id, kind=kind, tenant=tenant, name=name, version=version, under=under, wrapped=wrapped,
                created_at=time.time(),
            )
        )  # fmt: skip
        return id, key


def bound_to(row: sa.Row[Any], under: str | None = None) -> bytes:
    """The words a wrapped key is bound to: its kind, tenant, patient, id, version and the key above it."""
    return binding(row.kind, row.tenant, row.name, row.id, row.version, under or row.under)


def blind(key: bytes, column: str, text: str) -> bytes:
    """32 bytes that are equal for equal texts of one column of one tenant, and tell nothing without the key."""
    return hmac.new(key, binding("blind", column, text.strip()), hashlib.sha256).digest()


def check_tenant(tenant: str) -> str:
    """Raises: Usage "bad-tenant"."""
    if not _TENANT.fullmatch(tenant):
        raise Usage(
            "bad-tenant",
            "A tenant's name has 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit.",
            hint="For instance: --tenant cardiology",
        )
    return tenant


@contextlib.contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that holds the write lock from its first statement, so that what it reads stays true."""
    with engine.begin() as db:
        at_once(db)
        yield db


def at_once(db: sa.Connection) -> None:
    """Take the write lock now. Call it before any other statement of the transaction."""
    if db.dialect.name == "sqlite":
        db.exec_driver_sql("BEGIN IMMEDIATE")
    alone(db, VAULT)


def _find(db: sa.Connection, tenant: str, kind: str, name: str) -> sa.Row[Any] | None:
    query = sa.select(vault_keys).where(
        vault_keys.c.tenant == tenant,
        vault_keys.c.kind == kind,
        vault_keys.c.name == name,
        vault_keys.c.wrapped != DESTROYED,
    )
    return db.execute(query.order_by(vault_keys.c.version.desc()).limit(1)).one_or_none()
