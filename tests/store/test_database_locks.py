"""What one process committed stays, whatever another process opens and closes meanwhile."""

import subprocess
import sys

import pytest
import sqlalchemy as sa

from medserve.store.database import database, test_openings
from medserve.store.erasure import holds
from medserve.store.vault import Vault

CHILD = """
import sys
from pathlib import Path
from medserve.settings import Settings
from medserve.store.database import database, test_openings
from medserve.store.vault import Vault

settings = Settings(home=Path(sys.argv[1]))
first = database(settings)
with first.begin() as db:
    db.execute(test_openings.insert().values(digest="a", at=1.0, model="m"))
if sys.argv[2] == "erase":
    vault = Vault.open(settings)
    vault.put("t", "p", b"x")
    vault.erase("t", "p")
else:
    database(settings)
print("ready", flush=True)
sys.stdin.readline()
with first.begin() as db:
    db.execute(test_openings.insert().values(digest="b", at=1.0, model="m"))
print("committed", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("meanwhile", ["open", "erase"])
def test_a_second_engine_or_an_erasure_takes_no_lock_away(settings, meanwhile):
    """SQLite's locks are of the process: opening the database's file beside SQLite, and closing it, drops them all.
    Another process that ends then removes the write-ahead log into which this one goes on committing."""
    settings.folder()
    command = [sys.executable, "-c", CHILD, str(settings.home), meanwhile]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        _count(settings)  # another process: opens, reads, closes
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.stdout.readline() == "committed\n"
        child.kill()
    assert _count(settings) == 2


def test_a_search_of_the_file_is_done_elsewhere(settings):
    """Still finds what stands there, and only that."""
    vault = Vault.open(settings)
    vault.put("t", "p", b"x")
    with vault.engine.connect() as db:
        db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert holds(settings.home / "medserve.db", b"vault_objects")
    assert not holds(settings.home / "medserve.db", b"vault_objects_of_nobody")
    vault.close()


def _count(settings) -> int:
    engine = database(settings)
    with engine.connect() as db:
        found = db.scalar(sa.select(sa.func.count()).select_from(test_openings))
    engine.dispose()
    return found
