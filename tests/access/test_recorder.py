"""Events of many requests share a commit, and none is acknowledged before it is on disk."""

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest

from medserve.access.audit import AuditFault, Event, Ledger
from medserve.access.recorder import Recorder
from medserve.settings import Settings
from medserve.store import swift


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger.open(Settings(home=tmp_path))
    yield ledger
    ledger.close()


def _event(i):
    return Event(action="models.predict", outcome="allow", trace=f"t{i}")


def test_what_waits_goes_down_together_and_is_there_when_acknowledged(ledger, monkeypatch):
    commits, commit, gate = [], ledger.commit, threading.Event()

    def gated(events, more):
        gate.wait(5)
        commit(events, more)

    monkeypatch.setattr(ledger, "commit", gated)
    recorder = Recorder(ledger, lambda events, seconds: commits.append(events))

    async def run():
        async def one(i):
            await recorder.record(_event(i))
            assert f"t{i}" in {event.trace for _, event in ledger.read()}

        tasks = [asyncio.create_task(one(i)) for i in range(60)]
        await asyncio.sleep(0.05)
        assert ledger.count() == 0 and not any(task.done() for task in tasks)
        gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    recorder.close()
    assert sum(commits) == 60 and len(commits) <= 3
    assert ledger.verify().sound and ledger.verify().epochs == 1  # closing signs what is open


def test_what_comes_while_another_writer_has_the_log_joins_the_commit(ledger):
    """Two processes that write in turns then commit as seldom as one: what waits for the log goes down as soon as it is
    free, all of it together."""
    commits = []
    recorder = Recorder(ledger, lambda events, seconds: commits.append(events))

    async def run():
        with ledger._alone():
            tasks = [asyncio.create_task(recorder.record(_event(0)))]
            await asyncio.sleep(0.05)  # the first one waits for the log
            tasks += [asyncio.create_task(recorder.record(_event(i))) for i in range(1, 20)]
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in tasks)
        await asyncio.gather(*tasks)

    asyncio.run(run())
    recorder.close()
    assert commits == [20] and ledger.count() == 20


def test_a_writer_that_is_kept_out_loses_nobody(ledger, monkeypatch):
    """Whoever waited is told; who came later is written once the log is free."""
    monkeypatch.setattr("medserve.access.audit.LOCK_S", 0.05)
    recorder = Recorder(ledger)

    async def run():
        with ledger._alone():
            with pytest.raises(AuditFault) as caught:
                await recorder.record(_event(0))
        assert caught.value.code == "audit-busy" and not recorder.sound
        await recorder.record(_event(1))
        assert recorder.sound

    asyncio.run(run())
    recorder.close()
    assert [event.trace for _, event in ledger.read()] == ["t1"]


def test_two_commits_are_on_their_way_to_the_disk_at_once(ledger, monkeypatch):
    """The second one sets out once it carries as many as the first, which has not arrived; nobody is told before."""
    syncing, sync, gate = [], ledger.sync, threading.Event()

    def gated():
        syncing.append(ledger.count())
        gate.wait(10)
        sync()

    monkeypatch.setattr(ledger, "sync", gated)
    recorder = Recorder(ledger)

    async def run():
        async def reached(count):
            while len(syncing) < count:
                await asyncio.sleep(0.005)

        with ledger._alone():  # two wait for the log, and go down together
            tasks = [asyncio.create_task(recorder.record(_event(i))) for i in range(2)]
            await asyncio.sleep(0.05)
        await asyncio.wait_for(reached(1), 5)
        tasks.append(asyncio.create_task(recorder.record(_event(2))))
        await asyncio.sleep(0.05)
        assert syncing == [2] and ledger.count() == 2  # one is fewer than two
        tasks.append(asyncio.create_task(recorder.record(_event(3))))
        await asyncio.wait_for(reached(2), 5)
        assert syncing == [2, 4] and not any(task.done() for task in tasks)
        gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    recorder.close()
    assert ledger.count() == 4 and ledger.verify().sound


def test_a_disk_that_fails_is_told_and_then_written_to_in_another_way(ledger, tmp_path, monkeypatch):
    """What was told to have failed may stand there; what is told to be there does, whatever became of that."""
    recorder, to_disk = Recorder(ledger), swift._to_disk
    log, told = tmp_path / "medserve.db-wal", []

    def fails(handle):
        raise OSError(5, "Input/output error")

    async def run():
        await recorder.record(_event(0))
        monkeypatch.setattr(swift, "_to_disk", fails)
        with pytest.raises(AuditFault, match="cannot be written"):
            await recorder.record(_event(1))
        assert not recorder.sound and log.stat().st_size
        monkeypatch.setattr(swift, "_to_disk", lambda handle: (told.append(log.stat().st_size), to_disk(handle)))
        await recorder.record(_event(2))
        assert recorder.sound

    before = log.stat().st_size
    asyncio.run(run())
    assert 0 < told[0] < before  # it began anew: all before it stands in the database
    recorder.close()
    assert [event.trace for _, event in ledger.read()] == ["t0", "t1", "t2"] and ledger.verify().sound


def test_what_was_acknowledged_is_in_what_was_written_out_by_then(ledger, tmp_path, monkeypatch):
    """As if the power had gone at any moment after: the log as it was written out last, and nothing else."""
    written, to_disk, log = [], swift._to_disk, tmp_path / "medserve.db-wal"
    monkeypatch.setattr(swift, "_to_disk", lambda handle: (written.append(log.read_bytes()), to_disk(handle)))
    recorder, seen = Recorder(ledger), []

    async def run():
        for i in range(20):
            await recorder.record(_event(i))
            seen.append((i, written[-1]))

    base = (tmp_path / "medserve.db").read_bytes()
    asyncio.run(run())
    assert (tmp_path / "medserve.db").read_bytes() == base  # no checkpoint meanwhile
    for i, kept in seen[::5]:
        found = tmp_path / f"after-{i}.db"
        found.write_bytes(base)
        Path(f"{found}-wal").write_bytes(kept)
        with contextlib.closing(sqlite3.connect(found)) as db:
            assert db.execute("SELECT max(seq) FROM audit_events").fetchone() == (i + 1,)
    recorder.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_ends_lets_nobody_wait(ledger, monkeypatch):
    """Whatever ended it; who comes later is refused at once."""
    recorder = Recorder(ledger)

    def ended(events, more):
        raise SystemExit

    async def run():
        monkeypatch.setattr(ledger, "commit", ended)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(recorder.record(_event(0)), 0.2)
        while all(thread.is_alive() for thread in recorder._threads):
            await asyncio.sleep(0.01)
        with pytest.raises(AuditFault) as caught:
            await recorder.record(_event(1))
        assert caught.value.code == "audit-closed"

    asyncio.run(run())
    monkeypatch.undo()
    recorder.close()


def test_a_failure_reaches_every_request_that_waits(ledger, monkeypatch):
    recorder = Recorder(ledger)

    def broken(events, more):
        more()
        raise AuditFault("audit-unwritable", "No.")

    async def run():
        monkeypatch.setattr(ledger, "commit", broken)
        found = await asyncio.gather(*(recorder.record(_event(i)) for i in range(5)), return_exceptions=True)
        assert [type(error) for error in found] == [AuditFault] * 5
        monkeypatch.undo()
        await recorder.record(_event(9))

    asyncio.run(run())
    recorder.close()
    assert ledger.count() == 1
