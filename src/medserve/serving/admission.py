"""How much may be under way at once, decided before a body is read.

    promise = promises.take(ROUTINE, wait_s=0.4, item_s=0.002)     # one model: Busy where too much waits already
    with admission.admit(bytes_expected):                          # the process
        body = await read_body(...)
        promise.read()
    ...                                                            # decoded, computed, recorded, answered
    promise.kept()

Two bounds hold the memory of the process: requests under way, and the bytes set aside for their bodies. A bound for
each model holds the time: who is let in waits behind `wait_s` of work at most, counted over all stages, and who is not
is told at once. What a request takes of a busy service is measured by how fast they leave it.
"""

import random
import time

from medserve.errors import Busy
from medserve.runtime.batcher import BATCH, PRIORITIES

FEW, MANY = 16, 128  # requests of a model that are let in whatever they cost; and never more than these
FAIR = 64  # as many clients of a light model are never turned away, however busy the machine is with other things
CROWD = 8  # from so many on, the time between two answers is what one costs
SMOOTHING = 32  # answers
SLOW_S = 0.25  # a body that takes longer is no work yet


class Promise:
    """One request that was let in."""

    __slots__ = ("_open", "_promises", "came", "priority")

    def __init__(self, promises: "Promises", priority: int) -> None:
        self._promises, self.priority, self.came, self._open = promises, priority, time.monotonic(), True

    def read(self) -> None:
        """Its body is here."""
        self._promises.reading.pop(self, None)

    def kept(self) -> None:
        """Its answer has left, or there will be none. May be called again."""
        if self._open:
            self._open = False
            self._promises.leave(self)


class Promises:
    """Requests of one model on their way, from their head to their answer in the audit log; of one event loop."""

    def __init__(self) -> None:
        self.reading: dict[Promise, None] = {}  # in the order in which they came
        self._ahead = [0] * len(PRIORITIES)
        self._each_s, self._seen, self._last = 0.0, 0, 0.0

    def take(self, priority: int, *, wait_s: float, item_s: float) -> Promise:
        """
        Args:
            wait_s: of work that may be ahead. item_s: what a case costs the engine at least. Work of the class BATCH
                waits for as long as the batcher lets it.

        Raises: Busy "service-full" (503), with the time until what is ahead is done.
        """
        ahead, each_s = sum(self._ahead[: priority + 1]), max(self._each_s, item_s)
        least = min(FAIR, max(FEW, wait_s / item_s)) if item_s else FAIR
        most = min(MANY, max(least, wait_s / each_s)) if each_s else MANY
        if priority != BATCH and ahead >= most and ahead - self._slow(priority) >= most:
            raise Busy(
                "service-full",
                "More work is waiting than this service can promise to answer in time.",
                hint="Try again after the time in Retry-After.",
                retry_after_s=max(1.0, ahead * each_s) * random.uniform(1.0, 1.5),  # not all of them at once
            )
        promise = Promise(self, priority)
        self._ahead[priority] += 1
        self.reading[promise] = None
        return promise

    def leave(self, promise: Promise) -> None:
        now = time.monotonic()
        if sum(self._ahead) - len(self.reading) >= CROWD:
            if self._last:
                self._seen = min(SMOOTHING, self._seen + 1)
                self._each_s += (now - self._last - self._each_s) / self._seen
            self._last = now
        else:
            self._last = 0.0
        self.reading.pop(promise, None)
        self._ahead[promise.priority] -= 1

    @property
    def promised_s(self) -> float:
        """Seconds until all that was let in is answered; 0.0 until a crowd was measured."""
        return sum(self._ahead) * self._each_s

    def _slow(self, priority: int) -> int:
        """Requests whose bodies are long in coming: they hold nobody up."""
        count, since = 0, time.monotonic() - SLOW_S
        for promise in self.reading:
            if promise.came > since:
                break
            count += promise.priority <= priority
        return count


class Admission:
    """Counts of one event loop; not for several threads."""

    def __init__(self, *, max_requests: int = 256, max_bytes: int = 512 * 2**20) -> None:
        self.max_requests, self._max_bytes = max_requests, max_bytes
        self.requests = 0
        self.bytes = 0
        self.leaving = False  # the process ends: not ready, and still answering
        self.draining = False  # nothing new is let in

    def admit(self, size: int) -> "_Room":
        """Hold room for one request with a body of `size` bytes, until the end of a `with` block.

        Raises, as the block begins: Busy "service-stopping", "service-full" (503). A lone request is never too large.
        """
        return _Room(self, size)

    def enter(self, size: int) -> None:
        """What `admit` does as its block begins; `leave` is its end."""
        if self.draining:
            raise Busy("service-stopping", "The service is shutting down.", hint="Try again in a moment.")
        if self.requests and (self.requests >= self.max_requests or self.bytes + size > self._max_bytes):
            raise Busy(
                "service-full",
                "Too many requests are under way.",
                hint="Try again after the time in Retry-After.",
                retry_after_s=1,
            )
        self.requests += 1
        self.bytes += size

    def leave(self, size: int) -> None:
        self.requests -= 1
        self.bytes -= size


class _Room:
    """A class, because a generator costs several times as much."""

    __slots__ = ("_admission", "_size")

    def __init__(self, admission: Admission, size: int) -> None:
        self._admission, self._size = admission, size

    def __enter__(self) -> None:
        self._admission.enter(self._size)

    def __exit__(self, *_: object) -> None:
        self._admission.leave(self._size)
