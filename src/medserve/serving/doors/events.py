"""Progress as server-sent events: what a browser reads with `EventSource`.

    streams = Streams(identity.gone)
    return await streams.answer(request, look)        # look() -> (mark, what stands now, whether that is the end)

A stream tells how things stand at once, again whenever that has changed, and ends with `event: end`; between, a comment
shows that it lives. Who reconnects with `Last-Event-ID` is not told again what he knows. What is sent is always the
newest: a slow reader misses steps, never the end. A stream does not outlive its caller's key, account or session.
Source: WHATWG HTML, section 9.2 (server-sent events).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from fastapi import Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from medserve.access.policy import Principal
from medserve.serving.doors import caller
from medserve.serving.gate import Quota
from medserve.serving.wire import SAFE, header

Look = Callable[[], Awaitable[tuple[str, dict[str, Any], bool]]]
MOST_STREAMS = 8  # of one principal
LOOK_S, CHECK_S, BEAT_S, LONGEST_S = 0.5, 1.0, 15.0, 3600.0


class Streams:
    """Those that are open; of one event loop. gone: whether he is no longer known by what he showed."""

    def __init__(self, gone: Callable[[Principal], bool]) -> None:
        self._gone = gone
        self._open: dict[str, int] = {}

    async def answer(self, request: Request, look: Look) -> Response:
        """Raises: Quota "streams-full"."""
        him, known = caller(request), header(request.scope, b"last-event-id")
        who = him.id
        safe = {name.decode(): value.decode() for name, value in SAFE}
        if self._open.get(who, 0) >= MOST_STREAMS:
            raise Quota("streams-full", f"{MOST_STREAMS} streams are open.", hint="Close one.", retry_after_s=5)
        self._open[who] = self._open.get(who, 0) + 1  # before anything is awaited: many may come at once
        try:
            mark, _, ended = await look()
        except BaseException:
            self._left(who)
            raise
        if ended and mark == known:
            self._left(who)
            return Response(status_code=204, headers=safe)  # tells an EventSource to stop asking
        draining = lambda: bool(request.app.state.admission.draining)  # noqa: E731
        told = self._told(him, known, look, draining)
        return _Stream(told, lambda: self._left(who), headers=safe, media_type="text/event-stream")

    def _left(self, who: str) -> None:
        self._open[who] -= 1
        if not self._open[who]:
            del self._open[who]

    async def _told(self, who: Principal, known: str, look: Look, draining: Callable[[], bool]) -> AsyncIterator[bytes]:
        began = said = checked = time.monotonic()
        yield b"retry: 2000\n\n"
        while time.monotonic() - began < LONGEST_S and not draining():
            if time.monotonic() - checked > CHECK_S:
                checked = time.monotonic()
                if await asyncio.to_thread(self._gone, who):
                    return  # who asks again is told why
            mark, now, ended = await look()
            if mark != known:
                known, said = mark, time.monotonic()
                kind = b"end" if ended else b"progress"
                yield b"id: %s\nevent: %s\ndata: %s\n\n" % (mark.encode(), kind, msgspec.json.encode(now))
            elif time.monotonic() - said > BEAT_S:
                said = time.monotonic()
                yield b": alive\n\n"
            if ended:
                return
            await asyncio.sleep(LOOK_S)


class _Stream(StreamingResponse):
    """Says when it is over, also where its reader left before the first byte."""

    def __init__(self, content: AsyncIterator[bytes], over: Callable[[], None], **more: Any) -> None:
        super().__init__(content, **more)
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()
