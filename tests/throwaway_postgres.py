"""A PostgreSQL server of the tests' own: a new cluster in a temporary folder, on a Unix socket, gone at the end.

with new_database() as url:          # "postgresql+psycopg://...", empty; skips where no server is installed
    ...                              # engines over it are let go at the end, also those a test forgot
"""

import atexit
import contextlib
import glob
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

USER = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


@cache
def binaries() -> Path | None:
    """The folder of initdb and pg_ctl."""
    own = shutil.which("initdb")
    places = sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True) + ([os.path.dirname(own)] if own else [])
    return next((Path(place) for place in places if os.access(f"{place}/initdb", os.X_OK)), None)


@cache
def cluster() -> Path:
    """The folder of a running server; its socket stands in it. One for each process of the tests."""
    found = binaries()
    assert found is not None
    root = Path(tempfile.mkdtemp(prefix="medserve-pg-"))
    if USER:
        shutil.chown(root, "postgres", "postgres")
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **USER}
    initdb = [found / "initdb", "-D", root / "data", "-U", "medserve", "-A", "trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(initdb, **quiet)
    options = f"-c listen_addresses='' -c unix_socket_directories='{root}' -c fsync=off -c max_connections=60"
    control = [found / "pg_ctl", "-D", root / "data", "-w"]
    subprocess.run([*control, "-o", options, "-l", root / "log", "start"], **quiet)

    @atexit.register
    def stop() -> None:
        subprocess.run([*control, "-m", "immediate", "stop"], **(quiet | {"check": False}))
        shutil.rmtree(root, ignore_errors=True)

    return root


def run_sql(statement: str, database: str = "postgres") -> None:
    import psycopg

    with psycopg.connect(host=str(cluster()), user="medserve", dbname=database, autocommit=True) as db:
        db.execute(statement)


@contextlib.contextmanager
def new_database() -> Iterator[str]:
    """The address of an empty database; skips where no server is installed."""
    if binaries() is None:
        pytest.skip("no PostgreSQL server is installed here (initdb)")
    name = "t" + secrets.token_hex(6)
    run_sql(f"CREATE DATABASE {name}")
    made: list[sa.Engine] = []
    make = sa.create_engine

    def noted(*args: Any, **more: Any) -> sa.Engine:
        made.append(make(*args, **more))
        return made[-1]

    sa.create_engine = noted
    try:
        yield f"postgresql+psycopg://medserve@/{name}?host={cluster()}"
    finally:
        sa.create_engine = make
        for engine in made:
            engine.dispose()
