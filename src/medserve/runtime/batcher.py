"""Batches without a clock: an idle engine thread takes whatever waits, now; the next batch grows while it runs.

    batcher = Batcher(run, max_batch=16)          # run: list of items -> list of results, on an engine thread
    result = await batcher.submit(item, deadline=time.monotonic() + 5)

A lone request never waits. Which requests share a batch is decided only when a thread is free (late binding). Work
whose client left or whose deadline passed is dropped when it is taken, before it costs anything. When a batch fails,
each of its items is tried alone, so that one bad item cannot fail its neighbours. One wake-up of the event loop per
batch. Work is admitted in seconds of promised work, from the measured cost of an item; past `horizon_s` the caller is
told when to come back. Cases of unlike length (short and long texts, small and large molecules) share no batch, since
the longest would hold the others up, and have costs of their own. Three classes wait apart, STAT, ROUTINE and BATCH: a
class goes before the next one unless that has waited longer by `AGEING_S`, so that nothing starves.

Going to another thread and back costs more than a light model itself. While a pass takes less than `inline_s`, what
arrives in one turn of the event loop is therefore computed at its end, on the loop: batches grow by themselves, and
nothing is locked out for longer than that. The threads take over as soon as passes get longer.
Source: the dynamic batcher of NVIDIA Triton, without its queue delay.
"""

import asyncio
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from medserve.errors import Busy, Fault, MedServeError
from medserve.runtime.niceness import give_way
from medserve.types import Waiter

I = TypeVar("I")
R = TypeVar("R")
SMOOTHING = 0.2  # weight of the newest batch in the cost of an item
STAT, ROUTINE, BATCH = range(3)
PRIORITIES = ("stat", "routine", "batch")
AGEING_S = (0.0, 1.0, 10.0)  # by class: counts as having come so much later
STALL_S = 0.005  # a pass this long on the event loop is the last one there for a while


class Late(Busy):
    """Accepted, but the deadline passed before the work could start."""

    status = 504


@dataclass(slots=True)
class Spent:
    """Seconds of one item: in the queue, then in the pass that it shared with `size` items: putting the batch
    together, computing."""

    queue: float = 0.0
    batch: float = 0.0
    infer: float = 0.0
    size: int = 0


@dataclass(slots=True)
class _Job(Generic[I, R]):
    item: I
    deadline: float  # time.monotonic()
    answer: Waiter
    loop: asyncio.AbstractEventLoop
    came: float  # time.monotonic()
    spent: Spent
    bucket: int


_Outcome = tuple[Waiter, Any, Exception | None]


class Batcher(Generic[I, R]):
    """Engine threads behind one queue.

    Args:
        run: computes a batch; the results stand in the order of the items. Called on an engine thread.
        gather: makes of a list of items what `run` takes. On an engine thread, too.
        max_batch: most items of one call.
        threads: engine threads.
        horizon_s: seconds of promised work above which new work is refused.
        max_waiting: most items that wait, whatever they cost; bounds the memory.
        item_s: first guess of the cost of one item, from the load-time self-check.
        inline_s: longest pass of one item that may run on the event loop, and a tenth of it more for each further
            one; 0.0: none may.
        clock: of that. `time.thread_time` where `run` computes on the thread that calls it: then what other threads
            and processes took meanwhile does not count.
        bucket: of an item; only items of one bucket share a call.
    """

    def __init__(
        self,
        run: Callable[[Any], Sequence[R]],
        *,
        gather: Callable[[list[I]], Any] = list,
        max_batch: int = 16,
        threads: int = 1,
        horizon_s: float = 10.0,
        max_waiting: int = 1024,
        item_s: float = 0.0,
        inline_s: float = 0.0,
        bucket: Callable[[I], int] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        name: str = "engine",
    ) -> None:
        self._run, self._gather, self._max_batch = run, gather, max_batch
        self._horizon_s, self._max_waiting = horizon_s, max_waiting
        self._waiting: tuple[dict[int, deque[_Job[I, R]]], ...] = tuple({0: deque()} for _ in PRIORITIES)  # by bucket
        self._running: dict[int, int] = {0: 0}
        self._bucket = bucket
        self._costs: dict[int, float] = {}  # by bucket, where there are several
        self._busy_s = 0.0
        self._sizes: dict[int, int] = {}
        self._item_s = self._pass_s = item_s
        self._inline_s, self._clock = inline_s, clock
        self._turning: asyncio.AbstractEventLoop | None = None  # the loop on which a turn will end with a pass
        self._ready = threading.Condition()
        self._open = True
        self._threads = [threading.Thread(target=self._engine, name=f"{name}-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def promised_s(self) -> float:
        """Seconds until work of the last class handed in now would start."""
        return self._promised(BATCH)

    def _promised(self, priority: int) -> float:
        costs, any_s, ahead = self._costs, self._item_s, 0.0
        for bucket, count in self._running.items():  # plain loops: asked for every request, mostly over nothing
            if count:
                ahead += count * costs.get(bucket, any_s)
        for waiting in self._waiting[: priority + 1]:
            for bucket, jobs in waiting.items():
                if jobs:
                    ahead += len(jobs) * costs.get(bucket, any_s)
        return ahead / len(self._threads)

    @property
    def busy_s(self) -> float:
        """Seconds that the engine threads have computed so far, together."""
        return self._busy_s

    @property
    def sizes(self) -> dict[int, int]:
        """Items of a batch -> batches of that size so far."""
        return dict(self._sizes)

    @property
    def threads(self) -> int:
        return len(self._threads)

    @property
    def waiting(self) -> int:
        return sum(self._count(priority) for priority in range(len(PRIORITIES)))

    def _count(self, priority: int) -> int:
        return sum(map(len, self._waiting[priority].values()))

    @property
    def item_s(self) -> float:
        """Measured cost of one item: seconds of its batch, shared, smoothed over batches."""
        return self._item_s

    @property
    def inline(self) -> bool:
        """Whether passes run on the event loop now."""
        return 0.0 < self._pass_s <= self._inline_s

    @property
    def alive(self) -> bool:
        return self._open and all(thread.is_alive() for thread in self._threads)

    async def submit(self, item: I, *, deadline: float, priority: int = ROUTINE, spent: Spent | None = None) -> R:
        """The result of one item.

        Args:
            deadline: `time.monotonic()`. priority: STAT, ROUTINE or BATCH.
            spent: is filled in before the result is there.

        Raises: Busy "service-full" (503) at once when too much is promised; Late "deadline-missed" (504); or what `run`
            raised for this item alone.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self.put(item, answer, loop, deadline=deadline, priority=priority, spent=spent or Spent())
        return await answer

    def put(
        self, item: I, answer: Waiter, loop: asyncio.AbstractEventLoop, *, deadline: float, priority: int, spent: Spent
    ) -> None:
        """The same for one who waits in another way. loop: the running one, on which `answer` is told.

        Raises: Busy, Late, at once.
        """
        bucket = self._bucket(item) if self._bucket else 0
        with self._ready:
            self.check(deadline=deadline, priority=priority)
            job: _Job[I, R] = _Job(item, deadline, answer, loop, time.monotonic(), spent, bucket)
            self._waiting[priority].setdefault(bucket, deque()).append(job)
            if not self.inline:
                self._ready.notify()
            elif self._turning is not loop:
                self._turning = loop
                loop.call_soon(self._turn)

    def check(self, *, deadline: float, priority: int = ROUTINE) -> None:
        """Whether one more item would be taken now; what is said before a body is read need not be read in vain.

        Raises: as `submit`, before anything is computed.
        """
        if not self._open:
            raise Busy("service-stopping", "The service is shutting down.", hint="Try again in a moment.")
        promised = self._promised(priority)
        if self._count(priority) >= self._max_waiting or promised > self._horizon_s:
            raise Busy(
                "service-full",
                "More work is waiting than this service can promise to answer in time.",
                hint="Try again after the time in Retry-After.",
                retry_after_s=max(1.0, promised / 2) * random.uniform(1.0, 1.5),  # not all of them at once
            )
        if promised > deadline - time.monotonic():
            raise _late()

    def close(self) -> None:
        """Finish what was accepted, then let the threads end."""
        with self._ready:
            self._open = False
            self._ready.notify_all()
        for thread in self._threads:
            thread.join(timeout=30)

    def _engine(self) -> None:
        give_way()
        while jobs := self._take():
            _deliver(jobs, self._pass(jobs))

    def _turn(self) -> None:
        """On the event loop: a pass over what arrived in one turn of it; what is left waits for the next turn."""
        loop = asyncio.get_running_loop()
        with self._ready:
            self._turning = None
            jobs, late = self._next()
            if self.waiting:
                self._turning = loop
                loop.call_soon(self._turn)
        outcomes = self._pass(jobs) if jobs else []
        _deliver(late + jobs, [(job.answer, None, _late()) for job in late] + outcomes, loop)

    def _pass(self, jobs: list[_Job[I, R]]) -> list[_Outcome]:
        """One pass, and what it cost."""
        started, began = time.perf_counter(), self._clock()
        outcomes = self._compute(jobs)
        took, cost = time.perf_counter() - started, self._clock() - began
        with self._ready:
            self._running[jobs[0].bucket] -= len(jobs)
            self._busy_s += took
            self._sizes[len(jobs)] = self._sizes.get(len(jobs), 0) + 1
            item_s = took / len(jobs)
            self._item_s += (item_s - self._item_s) * (SMOOTHING if self._item_s else 1.0)
            if self._bucket:
                before = self._costs.setdefault(jobs[0].bucket, item_s)
                self._costs[jobs[0].bucket] += (item_s - before) * SMOOTHING
            if cost >= STALL_S or not self._pass_s:
                self._pass_s = cost
            else:  # by a share of itself at most: one pass that the machine interrupted says little
                most, alone = SMOOTHING * self._pass_s, cost / (1 + (len(jobs) - 1) / 10)
                self._pass_s += min(most, max(-most, alone - self._pass_s))
        return outcomes

    def _take(self) -> list[_Job[I, R]]:
        """What waits, up to one batch; empty only when the batcher is closed and nothing waits."""
        while True:
            with self._ready:
                while not self.waiting and self._open:
                    self._ready.wait()
                jobs, late = self._next()
                finished = not self._open and not self.waiting
            if late:
                _deliver(late, [(job.answer, None, _late()) for job in late])
            if jobs or finished:
                return jobs

    def _next(self) -> tuple[list[_Job[I, R]], list[_Job[I, R]]]:
        """The next batch, and those that came to be too late. Held lock."""
        jobs: list[_Job[I, R]] = []
        late: list[_Job[I, R]] = []
        now = time.monotonic()
        while len(jobs) < self._max_batch and (job := self._first(jobs[0].bucket if jobs else None)):
            if job.answer.done():  # its request was cancelled
                continue
            job.spent.queue = now - job.came
            (late if job.deadline < now else jobs).append(job)
        if jobs:
            self._running[jobs[0].bucket] = self._running.get(jobs[0].bucket, 0) + len(jobs)
        return jobs, late

    def _first(self, bucket: int | None) -> _Job[I, R] | None:
        """Takes the one that is due first, of the bucket where one is named. Held lock."""
        best, found = math.inf, None
        for ageing_s, waiting in zip(AGEING_S, self._waiting, strict=True):
            for of, jobs in waiting.items():
                if jobs and (bucket is None or of == bucket) and jobs[0].came + ageing_s < best:
                    best, found = jobs[0].came + ageing_s, jobs
        return found.popleft() if found else None

    def _compute(self, jobs: list[_Job[I, R]]) -> list[_Outcome]:
        try:
            began = time.perf_counter()
            batch = self._gather([job.item for job in jobs])
            gathered = time.perf_counter()
            results = self._run(batch)
            took = time.perf_counter() - gathered
            for job in jobs:
                job.spent.batch, job.spent.infer, job.spent.size = gathered - began, took, len(jobs)
            return [(job.answer, result, None) for job, result in zip(jobs, results, strict=True)]
        except Exception as error:
            if len(jobs) == 1:  # no name here holds the error, which holds this frame, and so the case
                return [(jobs[0].answer, None, error if isinstance(error, MedServeError) else _failed(error))]
        return [outcome for job in jobs for outcome in self._compute([job])]


def _deliver(jobs: list[_Job[I, R]], outcomes: list[_Outcome], here: asyncio.AbstractEventLoop | None = None) -> None:
    """Wake each event loop once for all of its answers. here: the loop that this runs on."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        by_loop.setdefault(job.loop, []).append(outcome)
    for loop, some in by_loop.items():
        if loop is here:
            _settle(some)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(_settle, some)


def _settle(outcomes: list[_Outcome]) -> None:
    for answer, result, error in outcomes:
        if answer.done():
            continue
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)


def check_time(deadline: float) -> None:
    """Expired work is not begun. Raises: Late "deadline-missed"."""
    if deadline < time.monotonic():
        raise _late()


def _late() -> Late:
    return Late(
        "deadline-missed", "The deadline passed before the work could start.", hint="Allow more time, or try again."
    )


def _failed(error: Exception) -> Fault:
    return Fault(
        "engine-failed",
        f"The engine could not run the model ({type(error).__name__}).",
        hint="Try again; else report the trace.",
    )
