"""A home of an earlier version opens with this one, and what the revisions make is what the code names.

python tests/store/test_migrations.py "add the table of jobs"      writes the next revision (`make revision`)
"""

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[1]))

from throwaway_postgres import new_database

import medserve
from medserve.access.audit import Event, Ledger
from medserve.access.keys import KeyRing
from medserve.errors import Fault, Usage
from medserve.settings import Settings
from medserve.store import migrations
from medserve.store.database import database, tables
from medserve.store.engines import check_url, one_process, open_engine
from medserve.store.vault import Vault

SRC = Path(medserve.__file__).parent
STORES = ("sqlite", "postgresql")


@pytest.fixture(params=STORES)
def stored(request, tmp_path) -> Iterator[Settings]:
    """A new home over each of the two stores."""
    with nullcontext("") if request.param == "sqlite" else new_database() as url:
        yield Settings(home=tmp_path / "home", database=url)


def every_table() -> sa.MetaData:
    """With the tables of all modules that add one."""
    for path in sorted(SRC.rglob("*.py")):
        if re.search(r"^from medserve\.store\.database import .*\btables\b", path.read_text(), re.MULTILINE):
            import_module(".".join(("medserve", *path.relative_to(SRC).with_suffix("").parts)))
    return tables


def test_the_revisions_make_what_the_code_names(stored):
    """If this fails after a table was changed: `make revision WORDS="what changed"`, read the file, keep it."""
    with one_process(stored):
        engine = open_engine(stored)
    with engine.connect() as db:
        assert migrations.differences(db, every_table()) == []
        more = sa.MetaData()
        for table in tables.tables.values():
            table.to_metadata(more)
        sa.Table("surplus", more, sa.Column("x", sa.Integer))
        assert len(migrations.differences(db, more)) == 1  # the benign twin: a difference would be seen
    engine.dispose()


@pytest.mark.parametrize("without", ["", "vault_", "key_grants"])
def test_a_home_of_the_first_version_opens_in_place(tmp_path, without):
    """With all of its tables, or before the vault or the grants were there; what was in it stays."""
    settings = Settings(home=tmp_path / "home")
    settings.folder()
    script = (Path(__file__).parent / "home_0001.sql").read_text()
    with closing(sqlite3.connect(settings.home / "medserve.db")) as db:
        db.executescript(";".join(s for s in script.split(";") if not without or without not in s))
        db.execute("INSERT INTO api_keys VALUES ('k-1', 'old', x'00', 1.0, NULL, NULL)")
        db.commit()
    ring = KeyRing.open(settings)
    assert [row.name for row in ring.rows()] == ["old"]
    ring.create("new")
    vault = Vault.open(settings)
    assert vault.get("t", vault.put("t", "p", b"x").object) == b"x"
    with vault.engine.connect() as db:
        assert migrations.found(db) == migrations.HEAD
    vault.close()
    ring.close()


def test_a_database_of_a_later_version_is_refused(stored):
    engine = database(stored)
    with engine.begin() as db:
        db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(Fault) as caught:
        database(stored)
    assert caught.value.code == "database-newer"


def test_a_step_that_fails_leaves_the_database_as_it_was(stored, monkeypatch):
    """All steps are one transaction; afterwards the version before still opens it."""
    done = migrations.upgrade

    def broken(db):
        done(db)
        db.execute(sa.text("CREATE TABLE half (x INTEGER)"))
        db.execute(sa.text("SELECT nothing FROM nowhere"))

    monkeypatch.setattr(migrations, "upgrade", broken)
    with pytest.raises((Fault, sa.exc.SQLAlchemyError)):
        database(stored)
    monkeypatch.undo()
    with one_process(stored):
        engine = open_engine(stored)
    assert not sa.inspect(engine).has_table("half") and sa.inspect(engine).has_table("audit_events")
    engine.dispose()


def test_alembic_is_imported_only_where_a_step_is_due(tmp_path):
    """An up-to-date home opens without it: it costs a third of a second."""
    settings = Settings(home=tmp_path / "home")
    database(settings).dispose()
    code = "import sys; from pathlib import Path; from medserve.app import build\n"
    code += "from medserve.store.database import database; from medserve.settings import Settings\n"
    code += "database(Settings(home=Path(sys.argv[1]))).dispose()\nsys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, settings.home]).returncode == 0
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "new"]).returncode == 1


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("mysql://db/x", "database-url"),
        ("nonsense", "database-url"),
        ("postgresql://u:secret-word@db.clinic/m", "database-without-tls"),
        ("postgresql://u:secret-word@db.clinic/m?sslmode=prefer", "database-without-tls"),
        ("postgresql://u:secret-word@db.clinic/m?sslmode=verify-full", ""),
        ("postgresql://localhost/m", ""),
        ("postgresql+psycopg:///m?host=/run/postgresql", ""),
    ],
)
def test_an_address_of_a_database_is_checked(url, code):
    """Beyond this machine it asks for TLS; no message shows a password."""
    if not code:
        assert check_url(url).drivername == "postgresql+psycopg"
        return
    with pytest.raises(Usage) as caught:
        check_url(url)
    assert caught.value.code == code and "secret-word" not in str(caught.value)
    assert "secret-word" not in repr(Settings(home=Path("/x"), database=url))


def test_a_server_that_does_not_answer_is_named(tmp_path):
    url = f"postgresql://medserve:secret-word@/none?host={tmp_path}"
    with pytest.raises(Fault) as caught:
        database(Settings(home=tmp_path / "home", database=url))
    assert caught.value.code == "database-unreachable" and "secret-word" not in str(caught.value)


@pytest.fixture
def postgres() -> Iterator[str]:
    with new_database() as url:
        yield url


def test_two_nodes_write_one_log_and_a_node_without_its_keys_none(tmp_path, postgres):
    """Both over one PostgreSQL: with one MEDSERVE_HOME on shared storage, and with a home of its own."""
    home, other = Settings(home=tmp_path / "a", database=postgres), tmp_path / "b"
    code = "import sys\nfrom pathlib import Path\nfrom medserve.access.audit import Event, Ledger\n"
    code += "from medserve.settings import Settings\n"
    code += "ledger = Ledger.open(Settings(home=Path(sys.argv[1]), database=sys.argv[2]))\n"
    code += "for i in range(20):\n    ledger.write([Event(action='a', outcome='allow')])\nledger.close()"
    run = [sys.executable, "-c", code, str(home.home), home.database]
    assert [process.wait(60) for process in [subprocess.Popen(run) for _ in range(2)]] == [0, 0]
    ledger = Ledger.open(home)
    assert ledger.verify().sound and ledger.count() == 40
    with pytest.raises(Fault) as caught:
        Ledger.open(Settings(home=other, database=home.database)).write([Event(action="a", outcome="allow")])
    assert caught.value.code == "audit-state-missing"
    ledger.close()


if __name__ == "__main__":
    in_memory = sa.create_engine("sqlite://")
    with in_memory.begin() as connection:
        migrations.upgrade(connection)
        sys.stdout.write(f"{migrations.revise(connection, every_table(), sys.argv[1])}\n")
