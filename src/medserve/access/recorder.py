"""Events of a running service, written by threads of its own: all that wait go down in one durable commit.

    recorder = Recorder(ledger)
    await recorder.record(event)           # returns once the event is on disk; raises what `Ledger.write` raises
    recorder.put(event, waiter, loop)      # the same for one who waits in another way than a coroutine
    recorder.close()                       # signs the open epoch

A lone event never waits for others. While one commit is on its way to the disk, the next one gathers, and sets out
before the first has arrived where it carries as many: disks write two at once. Nothing is acknowledged early.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from medserve.access.audit import EPOCH_S, AuditFault, Event, Ledger
from medserve.errors import MedServeError
from medserve.types import Waiter

MOST = 1000  # events of one commit
WRITERS = 2
CLOSING_S = 20.0


class _Waiting(NamedTuple):
    event: Event
    loop: asyncio.AbstractEventLoop
    done: Waiter


class Recorder:
    """Events of one process. told: gets the number of events of a commit, and its seconds.

    sound: the last commit went well.
    """

    sound = True

    def __init__(self, ledger: Ledger, told: Callable[[int, float], None] = lambda events, seconds: None) -> None:
        self._ledger, self._told = ledger, told
        self._ready = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._called = self._committing = self._closing = False
        self._syncing = 0  # events that are committed, and on their way to the disk
        self._threads = [threading.Thread(target=self._work, name=f"audit-{i}", daemon=True) for i in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    async def record(self, event: Event) -> None:
        """Raises: Fault "audit-unwritable", and those of `Ledger.append`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self.put(event, done, loop)
        await done

    def put(self, event: Event, waiter: Waiter, loop: asyncio.AbstractEventLoop) -> None:
        """Tell the waiter, on its loop, once the event is on disk, or why it is not.

        Raises: AuditFault "audit-closed".
        """
        with self._ready:
            if self._closing:
                raise AuditFault(
                    "audit-closed",
                    "The audit log is closed, so nothing is done.",
                    hint="The service is stopping; try again in a moment.",
                )
            self._waiting.append(_Waiting(event, loop, waiter))
            self._call()

    def close(self) -> None:
        """Write what waits, and sign it."""
        with self._ready:
            self._closing = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join(CLOSING_S)
        self._sign()

    def _call(self) -> None:
        """A thread for what waits: where nothing is on its way to the disk, or no more than that. Held lock."""
        if self._waiting and not (self._called or self._committing) and len(self._waiting) >= self._syncing:
            self._called = True
            self._ready.notify()

    def _work(self) -> None:
        try:
            while (waiting := self._next()) is not None:
                if waiting:
                    self._write(waiting)
                else:  # nobody asks: sign what stands there
                    self._sign()
                del waiting  # nothing of a request is kept until the next one comes
        finally:
            with self._ready:
                self._closing = True  # also where it broke: nobody more may come to wait

    def _next(self) -> list[_Waiting] | None:
        """What is to be committed now, nothing where nobody asks for long; None: the log is closed."""
        with self._ready:
            while not self._called:
                if self._closing and not self._waiting:
                    return None
                if not self._ready.wait(EPOCH_S) and not (self._waiting or self._syncing):
                    return []
            self._called, self._committing = False, True
            return self._joined()

    def _joined(self) -> list[_Waiting]:
        """Held lock."""
        joined, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        return joined

    def _write(self, waiting: list[_Waiting]) -> None:
        """Commit them, and those who join them until the log is free; then write it out, while others commit."""

        def more() -> list[Event]:
            with self._ready:
                joined = self._joined()
            waiting.extend(joined)
            return [one.event for one in joined]

        error: BaseException | None = None
        began = time.perf_counter()
        try:
            self._ledger.commit([one.event for one in waiting], more)
        except Exception as caught:  # told to every request that waits
            error = caught
        with self._ready:
            self._committing = False
            self._syncing += len(waiting)
            self._call()
        try:
            if error is None:
                self._ledger.sync()
                self._told(len(waiting), time.perf_counter() - began)
        except Exception as caught:
            error = caught
        with self._ready:
            self._syncing -= len(waiting)
            self._call()
        self.sound = error is None
        for loop in {one.loop for one in waiting}:
            mine = [one.done for one in waiting if one.loop is loop]
            with contextlib.suppress(RuntimeError):  # its loop is gone, and nobody waits
                loop.call_soon_threadsafe(_settle, mine, error)
        del error  # it holds this frame, and so the requests

    def _sign(self) -> None:
        with contextlib.suppress(MedServeError, OSError, SQLAlchemyError):  # the next request says so
            self._ledger.end_epoch()


def _settle(waiters: list[Waiter], error: BaseException | None) -> None:
    for done in waiters:
        if done.done():  # its request was cancelled
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
