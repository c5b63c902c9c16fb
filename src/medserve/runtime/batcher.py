"""Batches without a clock: an idle engine thread takes whatever waits, now; the next batch grows while it runs.

    batcher = Batcher(run, max_batch=16)          # run: list of items -> list of results, on an engine thread
    result = await batcher.submit(item, deadline=time.monotonic() + 5)

A lone request never waits. Which requests share a batch is decided only when a thread is free (late binding). Work
whose client left or whose deadline passed is dropped when it is taken, before it costs anything. When a batch fails,
each of its items is tried alone, so that one bad item cannot fail its neighbours. One wake-up of the event loop per
batch. Work is admitted in seconds of promised work, from the measured cost of an item; past `horizon_s` the caller is
told when to come back.
Source: the dynamic batcher of NVIDIA Triton, without its queue delay.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from medserve.errors import Busy, Fault, MedServeError

I = TypeVar("I")
R = TypeVar("R")
SMOOTHING = 0.2  # weight of the newest batch in the cost of an item


class Late(Busy):
    """Accepted, but the deadline passed before the work could start."""

    status = 504


@dataclass(slots=True)
class _Job(Generic[I, R]):
    item: I
    deadline: float  # time.monotonic()
    answer: "asyncio.Future[R]"
    loop: asyncio.AbstractEventLoop


_Outcome = tuple["asyncio.Future[Any]", Any, Exception | None]


class Batcher(Generic[I, R]):
    """Engine threads behind one queue.

    Args:
        run: computes a batch; the results stand in the order of the items. Called on an engine thread.
        max_batch: most items of one call.
        threads: engine threads.
        horizon_s: seconds of promised work above which new work is refused.
        max_waiting: most items that wait, whatever they cost; bounds the memory.
        item_s: first guess of the cost of one item, from the load-time self-check.
    """

    def __init__(
        self,
        run: Callable[[list[I]], Sequence[R]],
        *,
        max_batch: int = 16,
        threads: int = 1,
        horizon_s: float = 10.0,
        max_waiting: int = 1024,
        item_s: float = 0.0,
        name: str = "engine",
    ) -> None:
        self._run, self._max_batch, self._horizon_s, self._max_waiting = run, max_batch, horizon_s, max_waiting
        self._waiting: deque[_Job[I, R]] = deque()
        self._running = 0
        self._item_s = item_s
        self._ready = threading.Condition()
        self._open = True
        self._threads = [threading.Thread(target=self._engine, name=f"{name}-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def promised_s(self) -> float:
        """Seconds until work handed in now would start."""
        return (len(self._waiting) + self._running) * self._item_s / len(self._threads)

    @property
    def item_s(self) -> float:
        """Measured cost of one item: seconds of its batch, shared, smoothed over batches."""
        return self._item_s

    @property
    def alive(self) -> bool:
        return self._open and all(thread.is_alive() for thread in self._threads)

    async def submit(self, item: I, *, deadline: float) -> R:
        """The result of one item.

        Raises: Busy "service-full" (503) at once when too much is promised; Late "deadline-missed" (504); or what `run`
            raised for this item alone.
        """
        loop = asyncio.get_running_loop()
        with self._ready:
            if not self._open:
                raise Busy("service-stopping", "The service is shutting down.", hint="Try again in a moment.")
            promised = self.promised_s
            if len(self._waiting) >= self._max_waiting or promised > self._horizon_s:
                raise Busy(
                    "service-full",
                    "More work is waiting than this service can promise to answer in time.",
                    hint="Try again after the time in Retry-After.",
                    retry_after_s=max(1.0, promised / 2),
                )
            if promised > deadline - time.monotonic():
                raise _late()
            answer: asyncio.Future[R] = loop.create_future()
            self._waiting.append(_Job(item, deadline, answer, loop))
            self._ready.notify()
        return await answer

    def close(self) -> None:
        """Finish what was accepted, then let the threads end."""
        with self._ready:
            self._open = False
            self._ready.notify_all()
        for thread in self._threads:
            thread.join(timeout=30)

    def _engine(self) -> None:
        while jobs := self._take():
            started = time.perf_counter()
            outcomes = self._compute(jobs)
            cost = (time.perf_counter() - started) / len(jobs)
            with self._ready:
                self._running -= len(jobs)
                self._item_s += (cost - self._item_s) * (SMOOTHING if self._item_s else 1.0)
            _deliver(jobs, outcomes)

    def _take(self) -> list[_Job[I, R]]:
        """What waits, up to one batch; empty only when the batcher is closed and nothing waits."""
        while True:
            late: list[_Job[I, R]] = []
            jobs: list[_Job[I, R]] = []
            with self._ready:
                while not self._waiting and self._open:
                    self._ready.wait()
                now = time.monotonic()
                while self._waiting and len(jobs) < self._max_batch:
                    job = self._waiting.popleft()
                    if job.answer.cancelled():
                        continue
                    (late if job.deadline < now else jobs).append(job)
                self._running += len(jobs)
                finished = not self._open and not self._waiting
            if late:
                _deliver(late, [(job.answer, None, _late()) for job in late])
            if jobs or finished:
                return jobs

    def _compute(self, jobs: list[_Job[I, R]]) -> list[_Outcome]:
        try:
            results = self._run([job.item for job in jobs])
            return [(job.answer, result, None) for job, result in zip(jobs, results, strict=True)]
        except Exception as error:
            if len(jobs) == 1:
                known = error if isinstance(error, MedServeError) else _failed(error)
                return [(jobs[0].answer, None, known)]
        return [outcome for job in jobs for outcome in self._compute([job])]


def _deliver(jobs: list[_Job[I, R]], outcomes: list[_Outcome]) -> None:
    """Wake each event loop once for all of its answers."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        by_loop.setdefault(job.loop, []).append(outcome)
    for loop, some in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, some)


def _settle(outcomes: list[_Outcome]) -> None:
    for answer, result, error in outcomes:
        if answer.done():
            continue
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)


def _late() -> Late:
    return Late(
        "deadline-missed", "The deadline passed before the work could start.", hint="Allow more time, or try again."
    )


def _failed(error: Exception) -> Fault:
    return Fault("engine-failed", f"The engine could not run the model ({type(error).__name__}).")
