"""How long an answer is worked on: until its deadline, and while its client waits; and how urgent it is.

priority = priority_of(scope)
deadline = time.monotonic() + deadline_of(scope, limits.deadline_s)
answer = await while_client_waits(work, receive, deadline)
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from medserve.errors import MedServeError, Usage
from medserve.runtime.batcher import PRIORITIES, ROUTINE, Late
from medserve.serving.wire import ClientLeft, Receive, Scope, header

T = TypeVar("T")
WATCH_S = 0.01


def deadline_of(scope: Scope, longest: float) -> float:
    """Seconds, from `X-Request-Deadline-Ms`."""
    text = header(scope, b"x-request-deadline-ms")
    if not text:
        return longest
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10):
        raise Usage(
            "deadline-invalid",
            "X-Request-Deadline-Ms is a whole number of milliseconds.",
            hint="For instance: X-Request-Deadline-Ms: 500",
        )
    return min(longest, int(text) / 1000)


def due_of(scope: Scope, longest: float) -> float:
    """When the answer is due, `time.monotonic()`, by what the client allows from the head of its request on."""
    return time.monotonic() + deadline_of(scope, longest)


def priority_of(scope: Scope) -> int:
    """From `X-Priority`: stat, routine or batch. Everybody may say any of them; ROUTINE where nothing is said."""
    text = header(scope, b"x-priority").strip().lower()
    if not text:
        return ROUTINE
    if text not in PRIORITIES:
        raise Usage("priority-unknown", "X-Priority is stat, routine or batch.", hint="Left out, a request is routine.")
    return PRIORITIES.index(text)


async def while_client_waits(work: Coroutine[Any, Any, T], receive: Receive, deadline: float) -> T:
    """The result of `work`, unless the client leaves or the deadline passes first; then the work is cancelled.

    Our own server tells when the client leaves. Of another one `receive` is asked, from `WATCH_S` on: what is answered
    sooner needs no second task.
    """
    task = asyncio.current_task()
    assert task is not None
    waiting = _Waiting(task, receive, deadline)
    cancelling = task.cancelling()
    try:
        return await work
    except asyncio.CancelledError:
        ended, waiting.ended = waiting.ended, None
        try:
            if ended is not None and task.uncancel() <= cancelling:
                raise ended from None
            raise
        finally:
            del ended  # it holds this frame
    finally:
        waiting.stop()


class _Waiting:
    """One alarm: at the deadline, or for the watch and then the deadline. ended: why the task was cancelled."""

    __slots__ = ("_alarm", "_deadline", "_loop", "_receive", "_task", "_tell", "_watcher", "ended")

    def __init__(self, task: "asyncio.Task[Any]", receive: Receive, deadline: float) -> None:
        self._task, self._receive, self._deadline = task, receive, deadline
        self._loop = task.get_loop()
        self._watcher: asyncio.Task[None] | None = None
        self.ended: MedServeError | None = None
        left = max(0.0, deadline - time.monotonic())
        self._tell: Callable[[Callable[[], None] | None], None] | None = getattr(
            getattr(receive, "__self__", None), "tell_left", None
        )
        self._alarm = self._loop.call_later(left if self._tell else min(left, WATCH_S), self._ring)
        if self._tell:
            self._tell(self._gone)

    def _ring(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            hint = "Allow more time, or try again."
            self._end(Late("deadline-missed", "The deadline passed before the answer.", hint=hint))
            return
        if self._watcher is None and self._tell is None:
            self._watcher = self._loop.create_task(self._watch())
        self._alarm = self._loop.call_later(left, self._ring)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone()

    def _gone(self) -> None:
        self._end(ClientLeft("client-left", "The client closed the connection before the answer."))

    def _end(self, error: MedServeError) -> None:
        if self.ended is None:
            self.ended = error
            self._task.cancel()

    def stop(self) -> None:
        """No more alarms, and nobody who watches: he ends in the next turn of the loop, for which nobody waits."""
        self._alarm.cancel()
        if self._tell:
            self._tell(None)
        watcher, self._watcher = self._watcher, None  # as it ends it holds the frame that holds this
        if watcher is not None:
            watcher.cancel()
