"""One instant of the database, held while it is copied and the service goes on.

    with snapshot(settings, engine, still) as taken:         # `still`: nothing is written to the audit log meanwhile
        taken.keys                                           # MEDSERVE_HOME/keys of the same instant
        taken.copy(folder)                                   # database.sqlite, or database.pgdump

SQLite: a read transaction, copied by its backup interface. PostgreSQL: an exported snapshot and pg_dump. While it is
held, an erasure cannot finish: it is finished by the next start, or by erasing once more.
"""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL

from medserve.errors import Fault
from medserve.settings import Settings
from medserve.store.engines import FILE, check_url
from medserve.store.sealed import read_keys

SQLITE, DUMP = "database.sqlite", "database.pgdump"
Still = Callable[[], AbstractContextManager[object]]
_SERVER = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY"}


@dataclass(frozen=True, slots=True)
class Taken:
    """keys: name -> content. file: which of the two `copy` writes. db: sees the instant; None: ask the copy."""

    file: str
    keys: dict[str, bytes] = field(repr=False)
    copy: Callable[[Path], None]
    db: sa.Connection | None


@contextlib.contextmanager
def snapshot(settings: Settings, engine: sa.Engine, still: Still) -> Iterator[Taken]:
    """Raises: Fault "pg-dump-missing", "database-copy"."""
    before = read_keys(settings)
    with ExitStack() as stack:
        with still():
            db = stack.enter_context(_held(engine)) if settings.database else None
            copy = _sqlite(settings, stack) if db is None else _postgres(db)
            now = read_keys(settings)
        # A master key that a rotation is about to destroy is still the snapshot's: as it was before.
        masters = {name: data for name, data in before.items() if name.startswith("master-")}
        yield Taken(DUMP if settings.database else SQLITE, now | masters, copy, db)


def _sqlite(settings: Settings, stack: ExitStack) -> Callable[[Path], None]:
    source = stack.enter_context(contextlib.closing(sqlite3.connect(settings.home / FILE, isolation_level=None)))
    source.execute("BEGIN")
    source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the instant

    def copy(folder: Path) -> None:
        path = folder / SQLITE
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
        try:
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as target:
                source.backup(target, pages=4096, sleep=0)
                target.execute("PRAGMA journal_mode=DELETE").fetchone()
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        except sqlite3.Error as error:
            raise copy_failed(str(error)) from error
        finally:
            source.execute("COMMIT")  # the log may be emptied again

    return copy


@contextlib.contextmanager
def _held(engine: sa.Engine) -> Iterator[sa.Connection]:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as db:
        db.exec_driver_sql("SET idle_in_transaction_session_timeout = 0")
        yield db
        db.invalidate()  # its settings are its own


def _postgres(db: sa.Connection) -> Callable[[Path], None]:
    program = client("pg_dump")
    name = db.scalar(sa.text("SELECT pg_export_snapshot()"))

    def copy(folder: Path) -> None:
        path = folder / DUMP
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
        run_client(
            [program, "-Fc", "--no-owner", "--no-privileges", f"--snapshot={name}", "-f", str(path)], db.engine.url
        )
        db.rollback()

    return copy


def restore_database(source: Path, settings: Settings) -> None:
    """Put the copy in its place; the place is empty.

    Raises: Usage "restore-not-empty", "database-url"; Fault "database-copy", "pg-dump-missing".
    """
    if source.name == SQLITE:
        shutil.copyfile(source, settings.home / FILE)
        (settings.home / FILE).chmod(0o600)
        return
    url = check_url(settings.database)
    run_client(
        [client("pg_restore"), "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges",
         f"--dbname={url.database}", str(source)],
        url,
    )  # fmt: skip


def check_copy(path: Path) -> None:
    """Read the copy through. Raises: Fault "database-copy"."""
    if path.name == DUMP:
        run_client([client("pg_restore"), "--file=/dev/null", str(path)], None)
        return
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as db:
            (said,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        raise copy_failed(str(error)) from error
    if said != "ok":
        raise copy_failed(said)


def client(program: str) -> str:
    """Raises: Fault "pg-dump-missing"."""
    found = shutil.which(program)
    if found is None:
        raise Fault(
            "pg-dump-missing", f"{program} is not installed here.", hint="Install PostgreSQL's client programs."
        )
    return found


def run_client(command: list[str], url: URL | None) -> None:
    """The password goes by the environment, which others cannot read."""
    given: dict[str, str] = {}
    if url is not None:
        host, port = url.host or url.query.get("host"), url.port or url.query.get("port")
        words = {"PGHOST": host, "PGPORT": port, "PGUSER": url.username, "PGPASSWORD": url.password}
        words |= {"PGDATABASE": url.database} | {name: url.query.get(word) for word, name in _SERVER.items()}
        given = {name: str(value) for name, value in words.items() if value}
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise copy_failed((done.stderr.strip().splitlines() or ["no reason given"])[0][:300])


def copy_failed(why: str) -> Fault:
    return Fault(
        "database-copy", f"The database could not be copied whole: {why}.", hint="Nothing was kept. Try again."
    )
