"""The audit log: whatever is done to it afterwards shows, and nothing is shown where nothing was done."""

import shutil
import sqlite3
import threading
import time
from contextlib import closing

import msgspec
import pytest
import sqlalchemy as sa

from medserve.access import audit
from medserve.access.audit import Event, Ledger
from medserve.access.chain import State, chain
from medserve.errors import Fault
from medserve.settings import Settings
from medserve.store.database import audit_events

ROWS = 50


def _event(i: int) -> Event:
    return Event(action="model.predict", outcome="allow", principal=f"k-{i % 3}", resource="chest", trace=f"t{i}")


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(audit, "EPOCH_EVENTS", 10)


@pytest.fixture
def log(tmp_path, short) -> Ledger:
    """50 events in epochs of 10, and 4 in the open one."""
    ledger = Ledger.open(Settings(home=tmp_path), tmp_path / "mirror.jsonl")
    for i in range(ROWS + 4):
        ledger.write([_event(i)])
    yield ledger
    ledger.close()


def _change(ledger: Ledger, *statements: str) -> None:
    with closing(sqlite3.connect(ledger._engine.url.database)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def test_an_untouched_log_is_sound(log):
    verdict = log.verify()
    assert verdict.sound and (verdict.events, verdict.epochs) == (ROWS + 4, 5)
    assert [event.trace for _, event in log.read()] == [f"t{i}" for i in range(ROWS + 4)]
    assert log.verify(log.anchor).sound
    reopened = Ledger.open(Settings(home=log._folder.parent))
    reopened.write([_event(99)])
    assert reopened.verify().events == ROWS + 5


MUTATIONS = {
    "edit": (
        "UPDATE audit_events SET body = CAST(replace(CAST(body AS TEXT), 'chest', 'brain') AS BLOB) WHERE seq = {k}",
    ),
    "delete": ("DELETE FROM audit_events WHERE seq = {k}",),
    "insert": (
        "UPDATE audit_events SET seq = seq + 100000 WHERE seq >= {k}",
        "UPDATE audit_events SET seq = seq - 99999 WHERE seq >= 100000",
        "INSERT INTO audit_events SELECT {k}, epoch, body, hash, mac FROM audit_events WHERE seq = {k} + 1",
    ),
    "swap": (
        "UPDATE audit_events SET seq = 100000 WHERE seq = {k}",
        "UPDATE audit_events SET seq = {k} WHERE seq = {k} - 1",
        "UPDATE audit_events SET seq = {k} - 1 WHERE seq = 100000",
    ),
    "hash and body": ("UPDATE audit_events SET body = '{{}}', hash = randomblob(32) WHERE seq = {k}",),
    "cut tail": ("DELETE FROM audit_events WHERE seq >= {k}",),
    "cut tail and its signatures": (
        "DELETE FROM audit_events WHERE seq >= {k}",
        "DELETE FROM audit_checkpoints WHERE seq >= {k}",
    ),
    "cut all": ("DELETE FROM audit_events", "DELETE FROM audit_checkpoints"),
    "signature": ("UPDATE audit_checkpoints SET signature = randomblob(64) WHERE epoch = {e}",),
    "no signature": ("DELETE FROM audit_checkpoints WHERE epoch = {e}",),
}


@pytest.mark.parametrize("k", [3, 10, 11, 37, 50])
@pytest.mark.parametrize("what", MUTATIONS)
def test_every_change_shows(log, what, k):
    log.end_epoch()
    assert log.verify().sound
    _change(log, *(s.format(k=k, e=min(5, 1 + k // 10)) for s in MUTATIONS[what]))
    assert not log.verify().sound


def test_a_rewritten_log_does_not_bear_the_old_signatures(log, tmp_path):
    """A thief with the database and every secret of today rewrites from row 20 on, hashes and all."""
    log.end_epoch()
    rows = [row for row in log._rows(0)]
    head = rows[19].hash
    with log._engine.begin() as db:
        for row in rows[20:]:
            body = row.body.replace(b"chest", b"brain")
            head = chain(head, body)
            db.execute(sa.update(audit_events).where(audit_events.c.seq == row.seq).values(body=body, hash=head))
    verdict = log.verify()
    assert (verdict.problem, verdict.seq) == ("checkpoint-differs", 31)


def test_the_open_epoch_is_under_its_key(log):
    """Without today's secrets even the unsigned rows cannot be rewritten."""
    row = list(log._rows(0))[-1]
    body = row.body.replace(b"chest", b"brain")
    with log._engine.begin() as db:
        before = db.execute(sa.select(audit_events.c.hash).where(audit_events.c.seq == row.seq - 1)).scalar()
        changed = sa.update(audit_events).where(audit_events.c.seq == row.seq)
        db.execute(changed.values(body=body, hash=chain(before, body)))
    assert log.verify().problem == "row-forged"


def test_an_older_database_under_newer_keys_is_refused(log, tmp_path):
    copy = tmp_path / "older.db"
    with closing(sqlite3.connect(log._engine.url.database)) as db, closing(sqlite3.connect(copy)) as other:
        db.backup(other)
    for i in range(20):
        log.write([_event(i)])
    log.close()
    shutil.copy(copy, tmp_path / "medserve.db")
    for left in tmp_path.glob("medserve.db-*"):
        left.unlink()
    with pytest.raises(Fault, match="older than its keys"):
        Ledger.open(Settings(home=tmp_path))


def test_a_rollback_of_everything_shows_in_the_mirror(tmp_path, short):
    home, mirror = tmp_path / "home", tmp_path / "mirror.jsonl"
    ledger = Ledger.open(Settings(home=home), mirror)
    for i in range(15):
        ledger.write([_event(i)])
    ledger.close()
    shutil.copytree(home, tmp_path / "old")
    ledger = Ledger.open(Settings(home=home), mirror)
    for i in range(15):
        ledger.write([_event(i)])
    assert ledger.verify().sound
    ledger.close()
    old = Settings(home=tmp_path / "old")
    assert Ledger.open(old).verify().sound  # in itself it is a sound log
    assert Ledger.open(old, mirror).verify().problem == "mirror-differs"


def test_secrets_of_signed_epochs_are_gone(log):
    """The state holds the open epoch's secrets alone, and no one else may read them."""
    state = log._path.read_bytes()
    keys = {state}
    for i in range(12):
        log.write([_event(i)])
    assert log._path.read_bytes() not in keys
    assert log._path.stat().st_mode & 0o077 == 0
    log._path.chmod(0o644)
    with pytest.raises(Fault, match="chmod 600"):
        log.write([_event(0)])


def test_a_change_and_its_event_are_one(log):
    """An error in the change leaves no event, and an audit that fails leaves no change."""
    before = log.verify().events
    with pytest.raises(RuntimeError), log.with_effect(_event(1)) as db:
        db.execute(sa.text("CREATE TABLE made (x INTEGER)"))
        raise RuntimeError
    assert log.verify().events == before
    with log.with_effect(_event(1)) as db:
        db.execute(sa.text("CREATE TABLE kept (x INTEGER)"))
    assert log.verify().events == before + 1
    assert sa.inspect(log._engine).has_table("kept")


def test_what_cannot_be_written_is_refused(log, monkeypatch):
    """As a disk without space would: the insert fails, and so does the request."""

    def full(*_args, **_more):
        raise sa.exc.OperationalError("insert", {}, Exception("database or disk is full"))

    monkeypatch.setattr(log, "append", full)
    with pytest.raises(Fault) as caught:
        log.write([_event(1)])
    assert caught.value.code == "audit-unwritable"


@pytest.mark.parametrize("lost", ["state", "commit"])
def test_a_stop_between_signature_and_new_secrets(log, lost):
    """kill -9 after the state was prepared, before or after the checkpoint was committed."""
    state = msgspec.json.decode(log._path.read_bytes(), type=State)
    with log._alone(), log._engine.begin() as db:
        last = audit._ends(db)
        log._end(db, state, last.seq, last.hash, 1.0)
        if lost == "commit":
            db.rollback()
    assert log.verify().sound
    log.write([_event(5)])
    assert log.verify().sound and log.verify().events == ROWS + 5


def test_an_epochs_secrets_go_with_its_signature(tmp_path, short):
    """At once, and not with the next event, which may come hours later; the mirror hears of it at once, too."""
    mirror = tmp_path / "mirror.jsonl"
    ledger = Ledger.open(Settings(home=tmp_path / "home"), mirror)
    before = msgspec.json.decode(ledger._path.read_bytes(), type=State)
    ledger.write([_event(i) for i in range(10)])
    after = msgspec.json.decode(ledger._path.read_bytes(), type=State)
    assert after.epoch == before.epoch + 1 and {after.key, after.signing}.isdisjoint({before.key, before.signing})
    assert len(mirror.read_bytes().splitlines()) == 1
    ledger.close()


@pytest.mark.parametrize("left", [None, b"", b"{}\n", b'{"epoch": 1, "ha'])
def test_a_mirror_that_is_missing_or_short_is_named(log, left):
    assert log.verify().sound
    if left is None:
        log._mirror.unlink()
    else:
        log._mirror.write_bytes(left)
    assert log.verify().problem == "mirror-short"


@pytest.mark.parametrize("left", [b"", b"{}", b"\xff" * 100])
def test_damaged_keys_are_told_in_words(log, left):
    log._path.write_bytes(left)
    assert log.verify().problem == "audit-state-damaged"
    with pytest.raises(Fault) as caught:
        log.write([_event(0)])
    assert caught.value.code == "audit-state-damaged" and caught.value.status == 503


def test_a_log_of_other_types_is_told_in_words(log):
    _change(log, "UPDATE audit_checkpoints SET signature = 'text', seq = 'x' WHERE epoch = 2")
    assert not log.verify().sound
    assert Ledger.unchecked(Settings(home=log._folder.parent)).verify("abc").problem == "log-unreadable"


def test_a_stuck_holder_of_the_lock_is_named(log, monkeypatch):
    monkeypatch.setattr(audit, "LOCK_S", 0.05)
    with log._alone(), pytest.raises(Fault) as caught:
        log.write([_event(0)])
    assert caught.value.code == "audit-busy"
    log.write([_event(0)])


def test_who_waits_comes_before_who_has_just_let_go(log):
    """A writer that never pauses keeps nobody out: a second one has the log after the commit under way, or the next."""
    ended, commits = threading.Event(), 0

    def busy() -> None:
        nonlocal commits
        while not ended.is_set():
            with log._alone():
                commits += 1
                time.sleep(0.003)

    writer = threading.Thread(target=busy)
    writer.start()
    try:
        waited = []
        for _ in range(10):
            time.sleep(0.004)
            before = commits
            with log._alone():
                waited.append(commits - before)
    finally:
        ended.set()
        writer.join()
    assert max(waited) <= 2, waited


START_UP = """
import sys, time
from pathlib import Path
from medserve.access.audit import Event, Ledger
from medserve.settings import Settings
time.sleep(max(0, float(sys.argv[2]) - time.time()))
ledger = Ledger.open(Settings(home=Path(sys.argv[1])))
for i in range(5):
    ledger.write([Event(action="a", outcome="allow")])
"""


def test_several_processes_may_start_at_once_on_a_new_home(tmp_path):
    import subprocess
    import sys
    import time

    home, at = tmp_path / "home", str(time.time() + 2)
    started = [subprocess.Popen([sys.executable, "-c", START_UP, str(home), at]) for _ in range(3)]
    assert [one.wait(60) for one in started] == [0, 0, 0]
    ledger = Ledger.open(Settings(home=home))
    assert ledger.verify().sound and ledger.count() == 15
    ledger.close()
    assert all(path.stat().st_mode & 0o077 == 0 for path in home.glob("medserve.db*"))
