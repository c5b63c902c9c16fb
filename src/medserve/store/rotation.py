"""New master and tenants' keys while the service goes on.

    rotate_tenant(vault, "cardiology")        # a new key; everything under the old one is wrapped anew
    rotate_master(vault)                      # the same one floor higher; rotate_master(vault, "passphrase") moves it
    finish(vault)                             # what a crash interrupted

From the first commit on new keys are made under the new version. Old ones are wrapped anew in batches, each a
transaction of its own: others read at any time and write between two batches, and a crash loses at most one batch.
The old version is destroyed in the same transaction that finds nothing under it. Objects are not touched.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from medserve.errors import NotFound
from medserve.store.erasure import drive_out
from medserve.store.keyring import bound_to, check_tenant, writing
from medserve.store.vault import Vault
from medserve.store.vault_tables import vault_keys
from medserve.store.wrap import DESTROYED, Wrapper

BATCH = 500

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Rotated:
    """what: "master" or a tenant's name. keys: how many were wrapped anew."""

    what: str
    version: int
    keys: int
    seconds: float


def rotate_tenant(vault: Vault, tenant: str, *, batch: int = BATCH, progress: Progress | None = None) -> Rotated:
    """Give a tenant a new key, or finish an interrupted rotation.

    Args:
        batch: keys wrapped anew in one transaction, during which others wait to write (never to read).
        progress: told the number of keys done.

    Raises: NotFound: the tenant has no keys.
    """
    start = time.monotonic()
    with writing(vault.engine) as db:
        rows = _live(db, check_tenant(tenant))
        if not rows:
            raise NotFound("tenant", tenant, tenants(db), hint="`medserve vault status` lists them.")
        if len(rows) == 1:
            vault.keys.add_tenant_key(db, tenant)
            rows = _live(db, tenant)
    new = rows[-1]
    done = 0
    for old in rows[:-1]:
        done = _rewrap(vault, old.id, new.id, _retire_tenant_key, batch, done, progress)
    drive_out(vault.engine)
    return Rotated(tenant, new.version, done, time.monotonic() - start)


def rotate_master(vault: Vault, source: str = "", *, batch: int = BATCH, progress: Progress | None = None) -> Rotated:
    """Make a new master key, or finish an interrupted rotation; the old key is destroyed at the end.

    Args:
        source: where the new key lives (a kind the vault was opened with); default: where the current one does.

    Raises: NotFound: the vault has no master key yet; Usage "key-source".
    """
    start, masters = time.monotonic(), vault.keys.masters
    with writing(vault.engine) as db:
        rows = masters.live(db)
        if not rows:
            raise NotFound("master key", "of this vault", None, hint="It is made when the first object is stored.")
        if len(rows) == 1:
            masters.add(db, source or rows[0].source)
            rows = masters.live(db)
    new = rows[-1]
    done = 0
    for old in rows[:-1]:
        done = _rewrap(vault, old.id, new.id, masters.retire, batch, done, progress)
    drive_out(vault.engine)
    with vault.engine.connect() as db:
        masters.sweep(db)
    return Rotated("master", new.version, done, time.monotonic() - start)


def finish(vault: Vault) -> list[Rotated]:
    """Finish every rotation that a crash interrupted; makes no new version."""
    with vault.engine.connect() as db:
        late = [tenant for tenant in tenants(db) if len(_live(db, tenant)) > 1]
        master = len(vault.keys.masters.live(db)) > 1
    return ([rotate_master(vault)] if master else []) + [rotate_tenant(vault, tenant) for tenant in late]


def tenants(db: sa.Connection) -> list[str]:
    """All that have a key."""
    query = sa.select(vault_keys.c.tenant).where(vault_keys.c.kind == "tenant", vault_keys.c.wrapped != DESTROYED)
    return sorted(set(db.scalars(query)))


def _live(db: sa.Connection, tenant: str) -> list[sa.Row[Any]]:
    """The tenant's key versions, the oldest first."""
    query = sa.select(vault_keys).where(
        vault_keys.c.tenant == tenant, vault_keys.c.kind == "tenant", vault_keys.c.wrapped != DESTROYED
    )
    return list(db.execute(query.order_by(vault_keys.c.version)))


def _rewrap(
    vault: Vault,
    old: str,
    new: str,
    retire: Callable[[sa.Connection, str], None],
    batch: int,
    done: int,
    progress: Progress | None,
) -> int:
    query = sa.select(vault_keys).where(vault_keys.c.under == old, vault_keys.c.wrapped != DESTROYED).limit(batch)
    change = (
        vault_keys.update()
        .where(vault_keys.c.serial == sa.bindparam("at"))
        .values(under=new, wrapped=sa.bindparam("again"))
    )
    while True:
        start = time.monotonic()
        with writing(vault.engine) as db:
            rows = list(db.execute(query))
            if not rows:
                retire(db, old)
                return done
            inner, outer = (vault.keys.wrapper(db, rows[0].kind, id) for id in (old, new))
            db.execute(change, [{"at": row.serial, "again": _again(row, inner, outer, new)} for row in rows])
        done += len(rows)
        if progress is not None:
            progress(done)
        time.sleep(time.monotonic() - start)  # half of the time is others': SQLite's lock has no queue


def _again(row: sa.Row[Any], old: Wrapper, new: Wrapper, under: str) -> bytes:
    return new.wrap(old.unwrap(row.wrapped, bound_to(row)), bound_to(row, under))


def _retire_tenant_key(db: sa.Connection, id: str) -> None:
    db.execute(vault_keys.update().where(vault_keys.c.id == id).values(wrapped=DESTROYED))
