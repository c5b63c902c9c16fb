"""Events of many requests share a commit, and none is acknowledged before it is on disk."""

import asyncio
import threading

import pytest

from medserve.access.audit import AuditFault, Event, Ledger
from medserve.access.recorder import Recorder
from medserve.settings import Settings


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger.open(Settings(home=tmp_path))
    yield ledger
    ledger.close()


def _event(i):
    return Event(action="models.predict", outcome="allow", trace=f"t{i}")


def test_what_waits_goes_down_together_and_is_there_when_acknowledged(ledger, monkeypatch):
    commits, write, gate = [], ledger.write, threading.Event()

    def gated(events, more):
        gate.wait(5)
        write(events, more)

    monkeypatch.setattr(ledger, "write", gated)
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


def test_a_failure_reaches_every_request_that_waits(ledger, monkeypatch):
    recorder = Recorder(ledger)

    def broken(events, more):
        more()
        raise AuditFault("audit-unwritable", "No.")

    async def run():
        monkeypatch.setattr(ledger, "write", broken)
        found = await asyncio.gather(*(recorder.record(_event(i)) for i in range(5)), return_exceptions=True)
        assert [type(error) for error in found] == [AuditFault] * 5
        monkeypatch.undo()
        await recorder.record(_event(9))

    asyncio.run(run())
    recorder.close()
    assert ledger.count() == 1
