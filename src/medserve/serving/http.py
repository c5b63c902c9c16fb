"""HTTP/1.1 on one connection: uvicorn's parser, with bounds that it does not set, and answers in one write.

    class Protocol(BoundedProtocol): ...        # for `uvicorn.Config(http=Protocol)`
    transport.write(answer_of(body, trace, timing))

This leans on uvicorn's own classes; `tests/serving/test_server.py` holds it to what they write.
"""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from medserve.runtime.naming import new_id
from medserve.serving.wire import HSTS, JSON, SAFE, Message

HEAD_S = 10.0  # for a request line and its headers to arrive; before them, for a TLS handshake
REST_S = 10.0  # for the rest of a body that was refused unread
MAX_HEAD_BYTES = 32 * 1024
MAX_CONNECTIONS = 2048
_NAME, _CONTROL = re.compile(rb"[a-z0-9-]+"), re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LINES = {pair: b"%s: %s\r\n" % pair for pair in ((b"content-type", JSON), *SAFE, HSTS)}  # known to be fit to send


_ANSWER = b"".join(
    (STATUS_LINE[200], b"content-type: %b\r\ncontent-length: %%d\r\nx-trace-id: %%b\r\n" % JSON,
     *(b"%b: %b\r\n" % pair for pair in SAFE), b"server-timing: %b\r\n")
)  # fmt: skip


def answer_of(body: bytes, trace: bytes, timing: bytes, *, secure: bool, last: bool) -> bytes:
    """Head and body of an answered prediction, in the order in which `send_body` gives its headers.

    Args:
        secure: over TLS. last: of this connection.
    """
    more = (_LINES[HSTS] if secure else b"") + (b"connection: close\r\n" if last else b"")
    return b"%b%b\r\n%b" % (_ANSWER % (len(body), trace, timing), more, body)


class OneWrite(RequestResponseCycle):
    """An answer of known length goes to the socket in one piece, head and body: half the system calls.

    Only what is the rule goes this way: GET or POST, the whole body in one message, over a connection that stays open
    and takes it. Everything else takes uvicorn's.
    """

    _held: Message | None = None
    _left: Callable[[], None] | None = None

    def tell_left(self, left: Callable[[], None] | None) -> None:
        """left: called once the client has left, also where it has already; None: nobody any more. To wait in `receive`
        would take a task of its own."""
        self._left = left
        if left is not None:
            self.flow.resume_reading()  # who does not read does not see the end
            if self.disconnected:
                left()

    def lost(self) -> None:
        left, self._left = self._left, None
        if left is not None:
            left()

    async def send(self, message: Message) -> None:  # type: ignore[override]
        start, self._held = self._held, None
        if start is None:
            if message["type"] == "http.response.start" and not self.response_started and self._may(message):
                self._held = message
                return
            await super().send(message)  # type: ignore[arg-type]
            return
        body = message.get("body", b"")
        if (
            message["type"] != "http.response.body"
            or message.get("more_body")
            or not self.keep_alive
            or self.disconnected
            or self.flow.write_paused
            or (head := _head_of(start, len(body))) is None
        ):
            await super().send(start)  # type: ignore[arg-type]
            await super().send(message)  # type: ignore[arg-type]
            return
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(head + body)
        self.message_event.set()
        self.on_response()

    def _may(self, message: Message) -> bool:
        return self.keep_alive and self.scope["method"] in ("POST", "GET") and message["status"] not in (204, 304)


def _head_of(start: Message, size: int) -> bytes | None:
    """Status line and headers; None where anything is not the rule."""
    parts, length = [STATUS_LINE[start["status"]]], -1
    for pair in start["headers"]:
        line = _LINES.get(pair)
        if line is None:
            name, value = pair
            if name in (b"connection", b"transfer-encoding") or not _NAME.fullmatch(name) or _CONTROL.search(value):
                return None
            if name == b"content-length":
                length = int(value)
            line = b"%s: %s\r\n" % (name, value)
        parts.append(line)
    parts.append(b"\r\n")
    return b"".join(parts) if length == size else None


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 parser with bounds it does not set: bytes and seconds of a request's head, and of a refused
    body's rest; the number of connections. What breaks one is told so in JSON and disconnected.

    refused: told the trace, code and status of each such end. leaving: whether answers close their connections.
    """

    refused: Callable[[str, str, int], None] = staticmethod(lambda trace, code, status: None)
    leaving: Callable[[], bool] = staticmethod(lambda: False)
    _head_bytes = 0  # as they came
    _parsed_bytes = 0  # of the request line and headers
    _in_head = True
    _timer: asyncio.TimerHandle | None = None
    _resting: float | None = None  # since when nothing is under way; time of the loop

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(
                503, "service-full", "Too many connections.", "capacity", "Close idle ones, or try again in a moment."
            )
            return
        self._start(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)
        super()._unset_keepalive_if_required()
        if isinstance(self.cycle, OneWrite):
            self.cycle.lost()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes and self._timer is None and not self.transport.is_closing():
            self._start(HEAD_S)  # the rest is on its way; most requests come whole, and need no alarm
        # A chunk may hold the whole head and a part of the body: then the head is over by now.
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_url(self, url: bytes) -> None:
        self._parsed_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._parsed_bytes += len(name) + len(value)
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._stop()
        if self._parsed_bytes > MAX_HEAD_BYTES:  # the whole of it came in one chunk
            self._refuse_head()
            raise ValueError  # ends the parsing; the connection is closing
        self._in_head, self._head_bytes, self._parsed_bytes = False, 0, 0
        self.begin()

    def begin(self) -> None:
        """The head is good: a task for its request."""
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.__class__ = OneWrite  # before its task has run
        if self.leaving():
            self.close_after()

    def close_after(self) -> None:
        """The answer under way, if it has not begun, is the last one of this connection."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._in_head = True
        self._stop()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._resting = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._ring_after(self.timeout_keep_alive)
        if not self._in_head:  # refused before its body was read
            self._start(REST_S)

    # One alarm of an idle connection stands for long; setting and stopping one for every request costs more.

    def _ring_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        self._resting = None

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._resting is None:
            return  # set again when what is under way is answered
        left = self._resting + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._ring_after(left)
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        self._refuse(
            400,
            "http-invalid",
            "This is not a valid HTTP/1.1 request.",
            "usage",
            "Send it with a client of HTTP/1.1; HTTP/2 is not spoken here.",
        )

    def _refuse_head(self) -> None:
        hint = f"Send at most {MAX_HEAD_BYTES // 1024} KiB of them."
        self._refuse(431, "headers-too-large", "The request's headers are too large.", "usage", hint)

    def _start(self, seconds: float) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, self._expired)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        self._timer = None
        if self._in_head and self._head_bytes:
            self._refuse(408, "request-slow", "The request came too slowly.", "usage", "Send its headers at once.")
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str, kind: str, hint: str) -> None:
        if self.transport.is_closing():
            return
        trace = new_id()
        error = {"code": code, "message": message, "hint": hint, "kind": kind}
        body = json.dumps({"error": error, "trace": trace}).encode()
        secured = (HSTS,) if self.transport.get_extra_info("ssl_object") is not None else ()
        safe = b"".join(name + b": " + value + b"\r\n" for name, value in (*SAFE, *secured))
        head = (
            f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-trace-id: {trace}\r\nconnection: close\r\n"
        )
        self.refused(trace, code, status)
        self.transport.write(head.encode() + safe + b"\r\n" + body)
        self.transport.close()
