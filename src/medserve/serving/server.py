"""The process: a socket, uvicorn with our limits on what a client may send, and an orderly end.

    run(application, Address("127.0.0.1", 8000), on_ready=lambda url: ...)

Loopback unless told otherwise; another address needs at least one active key, and TLS. SIGHUP looks for packages again.

SIGTERM and Ctrl-C end in three steps, so that no request is lost: for `LINGER_S` everything is answered still, not
ready, each answer closing its connection; then nothing new is accepted, and open connections have as long again for a
request that is on its way; what was accepted is finished within `GRACE_S`. The exit code is 0.
"""

import asyncio
import ipaddress
import json
import logging
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from medserve.access.keys import KeyRing
from medserve.errors import Fault, Usage
from medserve.runtime.model import new_id
from medserve.serving.asgi import Application
from medserve.serving.tls import Tls
from medserve.serving.wire import HSTS, JSON, SAFE, Message

HEAD_S = 10.0  # for a request line and its headers to arrive; before them, for a TLS handshake
REST_S = 10.0  # for the rest of a body that was refused unread
MAX_HEAD_BYTES = 32 * 1024
MAX_CONNECTIONS = 2048
GRACE_S = 30
LINGER_S = 1.0
_NAME, _CONTROL = re.compile(rb"[a-z0-9-]+"), re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Address(NamedTuple):
    host: str = "127.0.0.1"
    port: int = 8000


class Beside(Protocol):
    """A second way in, on the same event loop: opened before the service is ready, closed before HTTP is."""

    async def open(self) -> None: ...

    async def close(self, grace_s: float) -> None: ...


class BoundedLoop(uvloop.Loop):
    """An event loop whose servers wait no longer for a TLS handshake than for a request's head."""

    async def create_server(self, *given: Any, **more: Any) -> Any:
        if more.get("ssl") is not None:
            more.setdefault("ssl_handshake_timeout", HEAD_S)
        return await super().create_server(*given, **more)


class BoundedConfig(uvicorn.Config):
    def get_loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop]:
        return BoundedLoop


_LINES = {pair: b"%s: %s\r\n" % pair for pair in ((b"content-type", JSON), *SAFE, HSTS)}  # known to be fit to send


class OneWrite(RequestResponseCycle):
    """An answer of known length goes to the socket in one piece, head and body: half the system calls.

    Only what is the rule goes this way: GET or POST, the whole body in one message, over a connection that stays open
    and takes it. Everything else takes uvicorn's.
    """

    _held: Message | None = None

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

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "service-full", "Too many connections.", "capacity")
            return
        self._start(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

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
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop()
        if self._parsed_bytes > MAX_HEAD_BYTES:  # the whole of it came in one chunk
            self._refuse_head()
            raise ValueError  # ends the parsing; the connection is closing
        self._in_head, self._head_bytes, self._parsed_bytes = False, 0, 0
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
        super().on_response_complete()
        if not self._in_head and not self.transport.is_closing():  # refused before its body was read
            self._start(REST_S)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "http-invalid", "This is not a valid HTTP/1.1 request.", "usage")

    def _refuse_head(self) -> None:
        self._refuse(431, "headers-too-large", "The request's headers are too large.", "usage")

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
            self._refuse(408, "request-slow", "The request came too slowly.", "usage")
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str, kind: str) -> None:
        if self.transport.is_closing():
            return
        trace = new_id()
        error = {"code": code, "message": message, "hint": "", "kind": kind}
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


def check_address(address: Address, keys: KeyRing, *, tls: bool = False, behind_proxy: bool = False) -> str | None:
    """Whether this address may be opened.

    Args:
        behind_proxy: a reverse proxy with TLS stands in front, by the operator's word.

    Returns: a warning to print, or None.
    Raises: Usage "host-without-keys": an address beyond this machine, and nobody to let in; "host-without-tls".
    """
    if is_loopback(address.host):
        return None
    if not keys.active():
        raise Usage(
            "host-without-keys",
            f"{address.host} can be reached from other machines, but there is no active API key.",
            hint="Make one first: medserve keys create --name NAME. Or serve on 127.0.0.1.",
        )
    if not tls and not behind_proxy:
        raise Usage(
            "host-without-tls",
            f"{address.host} can be reached from other machines: without TLS keys and images travel readable.",
            hint="Add --tls-cert FILE --tls-key FILE, or --tls self-signed; or --behind-proxy where a reverse proxy "
            "with TLS stands in front.",
        )
    return None if tls else f"{address.host} speaks plain HTTP: only the proxy in front of it may reach it."


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(address: Address) -> socket.socket:
    """Raises: Usage "port-taken", "host-unusable"."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        sock.listen(1024)
    except (OSError, OverflowError) as error:
        sock.close()
        code = "port-taken" if isinstance(error, OSError) and error.errno == 98 else "host-unusable"
        raise Usage(
            code,
            f"Cannot listen on {address.host}, port {address.port}.",
            hint="Choose another --port or --host.",
        ) from error
    sock.setblocking(False)
    return sock


class Server(uvicorn.Server):
    """uvicorn's server that says when it is ready and refuses new work while it drains."""

    def __init__(
        self,
        application: Application,
        url: str,
        on_ready: Callable[[str], None],
        tls: Tls | None = None,
        beside: Beside | None = None,
    ) -> None:

        class Protocol(BoundedProtocol):
            refused = staticmethod(application.refused)
            leaving = staticmethod(lambda: application.admission.leaving)

        config = BoundedConfig(
            application,  # type: ignore[arg-type]
            http=Protocol,
            ws="none",
            lifespan="on",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=GRACE_S,
        )
        config.load()
        if tls is not None:
            config.ssl = tls.context()
        super().__init__(config)
        self._application, self._url, self._on_ready, self._beside = application, url, on_ready, beside
        self.failure: Exception | None = None
        self._reloading: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._application.reload is not None and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        try:
            if self._beside is not None and self.started:
                await self._beside.open()
            self._on_ready(self._url)
        except Exception as error:  # whoever waits for the address is gone: end in order, then say so
            self.failure, self.should_exit = error, True

    def _reload(self) -> None:
        assert self._application.reload is not None
        task = asyncio.ensure_future(self._application.reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._application.admission.leaving = True
        for connection in self.server_state.connections:
            if isinstance(connection, BoundedProtocol):
                connection.close_after()
        await self._linger()
        for sock in sockets or ():
            sock.listen(0)  # who comes now waits outside, and is refused when this closes
        await self._let_in(sockets or ())
        for server in self.servers:
            server.close()
        await self._linger()
        if self._beside is not None:
            await self._beside.close(GRACE_S)
        self._application.admission.draining = True
        await super().shutdown(sockets)

    async def _let_in(self, sockets: Sequence[socket.socket]) -> None:
        """Who had come before; a socket that can be read has somebody waiting, whom closing it would throw out."""
        until = time.monotonic() + LINGER_S
        await asyncio.sleep(0.02)
        while sockets and select.select(sockets, (), (), 0)[0] and time.monotonic() < until:
            await asyncio.sleep(0)

    async def _linger(self) -> None:
        """As long as somebody is connected, and no longer than `LINGER_S`."""
        until = time.monotonic() + LINGER_S
        while self.server_state.connections and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(0.02)


def run(
    application: Application,
    address: Address,
    *,
    tls: Tls | None = None,
    beside: Beside | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until a signal says stop. Port 0 takes a free one; `on_ready` gets the address as a URL.

    Raises: Usage when the address cannot be opened.
    """
    sock = listen(address)
    host = f"[{address.host}]" if ":" in address.host else address.host
    scheme = "http" if tls is None else "https"
    server = Server(application, f"{scheme}://{host}:{sock.getsockname()[1]}", on_ready, tls, beside)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    before = []
    if threading.current_thread() is threading.main_thread():  # uvicorn raises what it caught again when it is done
        before = [(sig, signal.signal(sig, _ignore)) for sig in (signal.SIGINT, signal.SIGTERM)]
    try:
        server.run(sockets=[sock])
        if server.failure is not None:
            raise server.failure
    except SystemExit as error:  # uvicorn's way to say that it could not start
        raise Fault("server-start", "The server could not start.", hint="See the lines above.") from error
    finally:
        sock.close()
        for sig, handler in before:
            signal.signal(sig, handler)


def _ignore(_signal: int, _frame: object) -> None:
    """A stop was asked for and has been carried out."""
