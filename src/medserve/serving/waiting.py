"""How long an answer is worked on: until its deadline, and while its client waits; and how urgent it is.

priority = priority_of(scope)
deadline = time.monotonic() + deadline_of(scope, limits.deadline_s)
answer = await while_client_waits(work, receive, deadline)
"""

import asyncio
import time
from collections.abc import Coroutine
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
        raise Usage("deadline-invalid", "X-Request-Deadline-Ms is a whole number of milliseconds.")
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
        raise Usage("priority-unknown", "X-Priority is stat, routine or batch.")
    return PRIORITIES.index(text)


async def while_client_waits(work: Coroutine[Any, Any, T], receive: Receive, deadline: float) -> T:
    """The result of `work`, unless the client leaves or the deadline passes first; then the work is cancelled.

    The client is watched from `WATCH_S` on: what is answered sooner needs no second task.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    ended: list[MedServeError] = []
    watching: list[asyncio.Task[None]] = []

    def end(error: MedServeError) -> None:
        if not ended:
            ended.append(error)
            task.cancel()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        end(ClientLeft("client-left", "The client closed the connection before the answer."))

    late = Late("deadline-missed", "The deadline passed before the answer.", hint="Allow more time, or try again.")
    cancelling = task.cancelling()
    alarms = (
        loop.call_later(max(0.0, deadline - time.monotonic()), end, late),
        loop.call_later(WATCH_S, lambda: watching.append(loop.create_task(watch()))),
    )
    try:
        return await work
    except asyncio.CancelledError:
        if ended and task.uncancel() <= cancelling:
            raise ended[0] from None
        raise
    finally:
        for alarm in alarms:
            alarm.cancel()
        for watcher in watching:
            watcher.cancel()
            await asyncio.wait({watcher})
