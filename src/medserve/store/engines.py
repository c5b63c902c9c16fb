"""The two stores behind one face: SQLite under `MEDSERVE_HOME`, or a team's PostgreSQL.

    engine = open_engine(settings)            # connected, with the tables of this version
    with engine.begin() as db:
        alone(db, AUDIT)                      # until the transaction ends, no other process passes here

What was acknowledged survives a power cut: SQLite writes with a write-ahead log and `synchronous=FULL` (the audit log
as in `store.swift`), PostgreSQL with `synchronous_commit=on`. SQLite has one writer at a time by itself; on PostgreSQL
`alone` orders those that must not overlap, also across machines.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url

from medserve.errors import Fault, Usage
from medserve.settings import Settings
from medserve.store import migrations

FILE = "medserve.db"
TABLES, AUDIT, VAULT = 0x6D656473, 0x6D656474, 0x6D656475  # PostgreSQL's advisory locks
LOCK_S = 10  # longest wait for a lock of PostgreSQL
_ENCRYPTED = ("require", "verify-ca", "verify-full")


def open_engine(settings: Settings) -> sa.Engine:
    """Call it within `one_process`.

    Raises: Usage "database-url", "database-without-tls"; Fault "database-driver", "database-unreachable",
        "database-newer".
    """
    engine = _postgres(settings.database) if settings.database else _sqlite(settings)
    try:
        with engine.connect() as db:
            due = migrations.found(db) != migrations.HEAD
        if due:
            with engine.begin() as db:
                if engine.dialect.name == "sqlite":
                    db.exec_driver_sql("BEGIN IMMEDIATE")  # its driver would commit before each change of a table
                alone(db, TABLES)
                migrations.upgrade(db)
    except sa.exc.OperationalError as error:
        engine.dispose()
        if engine.dialect.name == "sqlite":
            raise
        raise Fault(
            "database-unreachable",
            f"PostgreSQL at {place_of(engine.url)} does not answer: {_first_line(error)}",
            hint="Check MEDSERVE_DATABASE, and that the server runs and lets this user in.",
        ) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def alone(db: sa.Connection, lock: int) -> None:
    """Wait until no other transaction holds this lock; SQLite's own lock does it there."""
    if db.dialect.name == "postgresql":
        db.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})


def place_of(url: URL) -> str:
    """Host, port and name of a database, without user or password."""
    return f"{url.host or url.query.get('host') or 'the local socket'}:{url.port or 5432}/{url.database or ''}"


def check_url(text: str) -> URL:
    """Raises: Usage "database-url", "database-without-tls"."""
    try:
        url = make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() != "postgresql":
        raise Usage(
            "database-url",
            "MEDSERVE_DATABASE is not the address of a PostgreSQL database.",
            hint="For instance postgresql+psycopg://medserve@db.clinic/medserve?sslmode=verify-full "
            "(the password in ~/.pgpass); without it SQLite is used.",
        )
    host = str(url.host or url.query.get("host") or "")
    local = not host or host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")
    if not local and url.query.get("sslmode") not in _ENCRYPTED:
        raise Usage(
            "database-without-tls",
            f"The database at {place_of(url)} is on another machine, and its address does not ask for TLS.",
            hint="Add ?sslmode=verify-full&sslrootcert=FILE to MEDSERVE_DATABASE.",
        )
    return url.set(drivername="postgresql+psycopg")


def _sqlite(settings: Settings) -> sa.Engine:
    path = settings.home / FILE
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten in the file

    # Its log files take its mode. A file that is there is not opened here: on closing any descriptor of a file POSIX
    # drops all locks that the process has on it, SQLite's too; the next process to close its connections would then
    # take the write-ahead log away from under this one, with all that is committed to it afterwards.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    path.chmod(0o600)
    return engine


def _postgres(text: str) -> sa.Engine:
    url = check_url(text)
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    except ModuleNotFoundError as error:
        raise Fault(
            "database-driver", "PostgreSQL needs the driver psycopg.", hint="pip install 'medserve[postgres]'"
        ) from error

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET synchronous_commit = on; SET lock_timeout = '{LOCK_S}s'")
            cursor.execute("SET idle_in_transaction_session_timeout = '5min'")
        connection.commit()

    return engine


@contextlib.contextmanager
def one_process(settings: Settings) -> Iterator[None]:
    """Two processes of this machine on a new home: one makes the tables."""
    settings.folder()
    with open(settings.home / ".tables.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _first_line(error: sa.exc.OperationalError) -> str:
    return str(error.orig).strip().splitlines()[0][:200]
