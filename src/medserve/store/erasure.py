"""Erasing a patient by destroying his key, and proving that the key's bytes have left the disk.

    receipt = vault.erase("cardiology", "p-8c1f")

In one transaction the wrapped key is overwritten in its row, the blind index beside it is replaced by noise, and a
receipt is written. Then the files of the objects are removed, the write-ahead log is truncated, and the database's
files are searched for the bytes that were overwritten. A crash in between leaves an unfinished receipt, which the next
start finishes; the patient is erased from the first commit on.
Source: NIST SP 800-88 Rev. 1, section 2.6 (cryptographic erase).
"""

import contextlib
import json
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from medserve.errors import Fault, Gone, NotFound
from medserve.store.files import append_line
from medserve.store.keyring import Keyring, writing
from medserve.store.object_files import Objects
from medserve.store.vault_tables import vault_keys, vault_objects, vault_receipts
from medserve.store.wrap import DESTROYED

PATIENCE_S = 30.0  # for readers of an older state of the database to end
_SEARCH = """
import sys
sought, tail = sys.stdin.buffer.read(), b""
with open(sys.argv[1], "rb") as file:
    while part := file.read(int(sys.argv[2])):
        if sought in tail + part:
            sys.exit(10)
        tail = part[-len(sought):]
"""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What stays of a patient. name: his blind index. at: seconds since 1970. objects: how many became unreadable."""

    id: str
    tenant: str
    name: str
    key: str
    objects: int
    at: float


def erase_patient(
    engine: sa.Engine, keys: Keyring, files: Objects, tenant: str, pseudonym: str, mirror: Path | None = None
) -> Receipt:
    """See `Vault.erase`."""
    old = b""
    with writing(engine) as db:
        name = keys.name(db, tenant, pseudonym, make=False)
        row = None
        if name is not None:
            mine = (vault_keys.c.tenant == tenant, vault_keys.c.kind == "patient", vault_keys.c.name == name)
            row = db.execute(sa.select(vault_keys).where(*mine)).one_or_none()
        if row is None:
            receipt = None if name is None else _earlier(db, tenant, name)
            if receipt is None:
                raise NotFound("patient", "(not shown)", None, hint="The vault holds nothing for him.")
        else:
            old = row.wrapped
            receipt = destroy(db, row, secrets.token_hex(16), time.time())
    _finish(engine, files, receipt, old, mirror)
    return receipt


def destroy(db: sa.Connection, row: sa.Row[Any], id: str, at: float) -> Receipt:
    """Overwrite one patient's key in its row and write the receipt. row: of `vault_keys`, not destroyed yet."""
    count = sa.select(sa.func.count()).where(vault_objects.c.patient == row.id, vault_objects.c.wrapped != DESTROYED)
    receipt = Receipt(id, row.tenant, row.name, row.id, db.scalar(count) or 0, at)
    # As many bytes as before: the row is rewritten where it stands (see vault_tables).
    noise = secrets.token_hex(len(row.name) // 2)
    db.execute(vault_keys.update().where(vault_keys.c.serial == row.serial).values(wrapped=DESTROYED, name=noise))
    db.execute(
        vault_receipts.insert().values(
            id=receipt.id, tenant=row.tenant, name=receipt.name, key=row.id, objects=receipt.objects, at=at
        )
    )
    return receipt


def finish_erasures(engine: sa.Engine, files: Objects, mirror: Path | None = None) -> int:
    """Finish those that a crash interrupted, and tell the mirror what it has not heard of; returns how many."""
    with engine.connect() as db:
        rows = list(db.execute(sa.select(vault_receipts)))
    told = {said["receipt"] for said in told_erasures(mirror)} if rows and mirror is not None else set()
    for row in rows:
        receipt = Receipt(row.id, row.tenant, row.name, row.key, row.objects, row.at)
        if row.finished_at is None:
            _finish(engine, files, receipt, b"", mirror)
        elif mirror is not None and row.id not in told:
            _tell(mirror, receipt)
    return sum(row.finished_at is None for row in rows)


def told_erasures(mirror: Path) -> list[dict[str, Any]]:
    """What a mirror says of erasures: {"erased": id of the key, "receipt", "tenant", "at"}; it names no patient."""
    found = []
    for line in mirror.read_bytes().splitlines() if mirror.exists() else ():
        with contextlib.suppress(ValueError):  # a line that a crash cut off
            said = json.loads(line)
            if isinstance(said, dict) and {"erased", "receipt", "tenant", "at"} <= said.keys():
                found.append(said)
    return found


def _tell(mirror: Path | None, receipt: Receipt) -> None:
    """Backups hold the key still: the mirror, on another disk, is what a restore erases it again by."""
    if mirror is None:
        return
    line = {"erased": receipt.key, "receipt": receipt.id, "tenant": receipt.tenant, "at": receipt.at}
    try:
        append_line(mirror, json.dumps(line).encode())
    except OSError as error:
        raise unfinished(f"the mirror {mirror} cannot be told of it") from error


def truncate_log(engine: sa.Engine) -> None:
    """Empty SQLite's write-ahead log, which still holds pages as they were.

    Raises: Fault "erase-unfinished": something has been reading an older state for half a minute.
    """
    if engine.dialect.name != "sqlite":
        return
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            busy = db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
        if not busy:
            return
        if time.monotonic() > deadline:
            raise unfinished("the database's log is still being read")
        time.sleep(0.05)


def drive_out(engine: sa.Engine) -> None:
    """Leave no page that shows wrapped keys as they were: SQLite's log is emptied, PostgreSQL writes the table anew.

    What this cannot reach in PostgreSQL: its own write-ahead log until it is recycled, archives of that log, standbys
    and backups. The bytes there are wrapped keys, which open with the tenant's key alone.

    Raises: Fault "erase-unfinished": something has been reading an older state for too long.
    """
    truncate_log(engine)
    if engine.dialect.name != "postgresql":
        return
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
                db.exec_driver_sql("SET lock_timeout = '200ms'")  # whoever reads waits behind this
                try:
                    db.exec_driver_sql(f"VACUUM (FULL) {vault_keys.name}")
                finally:
                    db.invalidate()  # with its setting
            return
        except sa.exc.OperationalError as error:
            if time.monotonic() > deadline:
                raise unfinished("the table of keys is still being read") from error
        time.sleep(0.5)


def holds(path: Path, sought: bytes, *, block: int = 2**22) -> bool:
    """True when the file has these bytes anywhere.

    Another process looks: closing the database's file here would drop SQLite's locks on it (see `engines._sqlite`).
    """
    if not path.exists():
        return False
    command = [sys.executable, "-I", "-S", "-c", _SEARCH, str(path), str(block)]
    looked = subprocess.run(command, input=sought, check=False)
    if looked.returncode not in (0, 10):
        raise unfinished("the database's files cannot be searched")
    return looked.returncode == 10


def unfinished(why: str) -> Fault:
    return Fault(
        "erase-unfinished",
        f"The key is destroyed, but {why}.",
        hint="Erase the same patient again, or start the service again; both finish it.",
    )


def _finish(engine: sa.Engine, files: Objects, receipt: Receipt, old: bytes, mirror: Path | None) -> None:
    query = sa.select(vault_objects.c.object, vault_objects.c.version).where(vault_objects.c.patient == receipt.key)
    with engine.connect() as db:
        names = [f"{object}.{version}" for object, version in db.execute(query)]
    for name in names:
        files.remove(name)
    drive_out(engine)
    path = engine.url.database
    if old and engine.dialect.name == "sqlite" and path:
        where = [Path(path), Path(path + "-wal")]
        if any(holds(file, old) for file in where):
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
                db.exec_driver_sql("VACUUM")
            truncate_log(engine)
            if any(holds(file, old) for file in where):
                raise unfinished("its old bytes still stand in the database's files")
    _tell(mirror, receipt)
    with engine.begin() as db:
        db.execute(vault_receipts.update().where(vault_receipts.c.id == receipt.id).values(finished_at=time.time()))


def _earlier(db: sa.Connection, tenant: str, name: str) -> Receipt | None:
    """The unfinished receipt of a patient who is erased already.

    Raises: Gone "erased": it is finished.
    """
    mine = (vault_receipts.c.tenant == tenant, vault_receipts.c.name == name)
    row = db.execute(sa.select(vault_receipts).where(*mine).order_by(vault_receipts.c.at.desc()).limit(1)).one_or_none()
    if row is None:
        return None
    if row.finished_at is not None:
        raise Gone("erased", "This patient has been erased already.", hint=f"The receipt is {row.id}.")
    return Receipt(row.id, row.tenant, row.name, row.key, row.objects, row.at)
