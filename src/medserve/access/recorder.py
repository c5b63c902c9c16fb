"""Events of a running service, written by one thread: all that wait go down in one durable commit.

    recorder = Recorder(ledger)
    await recorder.record(event)           # returns once the event is on disk; raises what `Ledger.write` raises
    recorder.put(event, waiter, loop)      # the same for one who waits in another way than a coroutine
    recorder.close()                       # signs the open epoch

A lone event never waits for others; while one commit runs, here or in another process, the next one gathers. Nothing is
acknowledged early.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from medserve.access.audit import EPOCH_S, AuditFault, Event, Ledger
from medserve.errors import MedServeError
from medserve.types import Waiter

MOST = 1000  # events of one commit
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
        self._closing = self._ended = False
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="audit", daemon=True)
        self._thread.start()

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
        if self._closing or not self._thread.is_alive():
            raise AuditFault(
                "audit-closed",
                "The audit log is closed, so nothing is done.",
                hint="The service is stopping; try again in a moment.",
            )
        self._queue.put(_Waiting(event, loop, waiter))

    def close(self) -> None:
        """Write what waits, and sign it."""
        self._closing = True
        self._queue.put(None)
        self._thread.join(CLOSING_S)

    def _work(self) -> None:
        while not self._ended:
            try:
                first = self._queue.get(timeout=EPOCH_S)
            except queue.Empty:  # nobody asks: sign what stands there
                self._sign()
                continue
            if first is None:
                break
            self._commit([first])
            del first  # nothing of a request is kept until the next one comes
        self._sign()

    def _commit(self, waiting: list[_Waiting]) -> None:
        """Write them, and those who join them until the log is free."""

        def more() -> list[Event]:
            joined: list[_Waiting] = []
            while len(joined) < MOST and not self._ended and not self._queue.empty():
                one = self._queue.get()
                if one is None:
                    self._ended = True
                else:
                    joined.append(one)
            waiting.extend(joined)
            return [one.event for one in joined]

        error: BaseException | None = None
        began = time.perf_counter()
        try:
            self._ledger.write([one.event for one in waiting], more)
            self._told(len(waiting), time.perf_counter() - began)
        except Exception as caught:  # told to every request that waits
            error = caught
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
