"""The suites of the vault, its rotation and erasure, the audit log and the keys, over a real PostgreSQL."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FunctionType

import psycopg
import pytest
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "access"))

import test_audit_log
import test_erasure
import test_keys
import test_masters
import test_rotation
import test_vault
import test_vault_segments
from throwaway_postgres import cluster, new_database, run_sql

from medserve.errors import Fault, Gone
from medserve.settings import Settings
from medserve.store.engines import AUDIT
from medserve.store.vault_tables import vault_keys, vault_objects

SUITES = (test_keys, test_audit_log, test_vault, test_rotation, test_erasure, test_masters, test_vault_segments)
FAST = {  # of the others each runs in `make test-all`
    "test_a_key_opens_the_door_and_nothing_near_it_does",
    "test_revocation_by_another_process_takes_effect_within_a_second",
    "test_an_untouched_log_is_sound",
    "test_a_change_and_its_event_are_one",
    "test_an_epochs_secrets_go_with_its_signature",
}
SQLITE = {  # about SQLite's files themselves, or written in its words
    "test_the_home_folder_never_holds_the_key",
    "test_the_stored_hash_is_keyed",
    "test_every_change_shows",
    "test_an_older_database_under_newer_keys_is_refused",
    "test_a_rollback_of_everything_shows_in_the_mirror",
    "test_a_log_of_other_types_is_told_in_words",
    "test_several_processes_may_start_at_once_on_a_new_home",
    "test_an_erased_patient_is_gone_and_the_others_are_not",
    "test_a_copy_of_the_disk_with_the_master_key_opens_nothing",
    "test_no_old_wrapping_stays_in_the_slack_of_the_file",
    "test_a_reader_that_holds_the_log_is_named",
}
for suite in SUITES:
    for name, test in vars(suite).items():
        if name.startswith("test_") and name not in SQLITE and callable(test):
            again = FunctionType(test.__code__, test.__globals__, name, test.__defaults__, test.__closure__)
            again.pytestmark = [*getattr(test, "pytestmark", []), *([] if name in FAST else [pytest.mark.slow.mark])]
            globals()[name] = again
del suite, name, test, again


ring, log, short = test_keys.ring, test_audit_log.log, test_audit_log.short


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch) -> Iterator[Settings]:
    """A home over a new database; also where a test makes its own settings."""
    with new_database() as url:
        for suite in SUITES:
            if hasattr(suite, "Settings"):
                monkeypatch.setattr(suite, "Settings", partial(Settings, database=url))
        yield Settings(home=tmp_path / "home", database=url)


CHANGES = {
    "edit": "UPDATE audit_events SET body = replace(encode(body, 'escape'), 'chest', 'brain')::bytea WHERE seq = {k}",
    "delete": "DELETE FROM audit_events WHERE seq = {k}",
    "cut tail": "DELETE FROM audit_events WHERE seq >= {k}",
    "signature": "UPDATE audit_checkpoints SET signature = decode(repeat('00', 64), 'hex') WHERE epoch = 2",
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("k", [3, 10, 37])
def test_a_change_of_the_log_shows(log, what, k):
    assert log.verify().sound
    with log._engine.begin() as db:
        assert db.execute(sa.text(CHANGES[what].format(k=k))).rowcount
    assert not log.verify().sound


def test_a_server_that_went_away_is_a_refusal_and_no_more(log):
    """Its connections are cut; the one that was busy is told, the next one writes again."""
    log.write([test_audit_log._event(1)])
    with psycopg.connect(host=str(cluster()), user="medserve", dbname="postgres", autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [log._engine.url.database]
        )
    log.write([test_audit_log._event(2)])
    assert log.verify().sound


def test_a_log_that_another_node_holds_is_named(log, monkeypatch):
    with log._engine.connect() as db:
        db.execute(sa.text("SET lock_timeout = '50ms'"))
        db.commit()
    with psycopg.connect(host=str(cluster()), user="medserve", dbname=log._engine.url.database) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [AUDIT])
        with pytest.raises(Fault) as caught:
            log.write([test_audit_log._event(1)])
        assert caught.value.code == "audit-unwritable" and caught.value.status == 503
    log.write([test_audit_log._event(1)])


def test_a_destroyed_key_leaves_the_servers_table(vault, settings):
    """The wrapped key stands in the server's files before, and nowhere outside of its write-ahead log afterwards."""
    ref = vault.put("ward", "p-1", b"x" * 100)
    other = vault.put("ward", "p-2", b"y" * 100)
    with vault.engine.connect() as db:
        key = db.scalar(sa.select(vault_objects.c.patient).where(vault_objects.c.object == ref.object))
        old = db.scalar(sa.select(vault_keys.c.wrapped).where(vault_keys.c.id == key))
        own = db.scalar(sa.text("SELECT oid FROM pg_database WHERE datname = current_database()"))
    run_sql("CHECKPOINT")
    tables = cluster() / "data" / "base" / str(own)

    def in_files() -> bool:
        return any(old in path.read_bytes() for path in tables.iterdir() if path.is_file())

    assert in_files()
    vault.erase("ward", "p-1")
    run_sql("CHECKPOINT")
    assert not in_files()
    with pytest.raises(Gone):
        vault.get("ward", ref.object)
    assert vault.get("ward", other.object) == b"y" * 100
    assert vault.status()["erased"] == 1


def test_a_reader_of_an_older_state_is_named(vault, monkeypatch):
    """A dump that runs holds the table; the key is destroyed at once, the rest is finished at the next start."""
    vault.put("ward", "p-1", b"x")
    monkeypatch.setattr(test_erasure.erasure, "PATIENCE_S", 0.3)
    with psycopg.connect(host=str(cluster()), user="medserve", dbname=vault.engine.url.database) as other:
        other.execute("SELECT count(*) FROM vault_keys")
        with pytest.raises(Fault) as caught:
            vault.erase("ward", "p-1")
        assert caught.value.code == "erase-unfinished"
        assert vault.status()["erasures_unfinished"] == 1
    vault.repair()
    assert vault.status()["erasures_unfinished"] == 0
