"""The process: a socket, uvicorn with our limits on what a client may send, and an orderly end.

    run(application, Address("127.0.0.1", 8000), on_ready=lambda url: ...)

SIGHUP looks for packages again.

SIGTERM and Ctrl-C end in three steps, so that no request is lost: for `LINGER_S` everything is answered still, not
ready, each answer closing its connection; then nothing new is accepted, and open connections have as long again for a
request that is on its way; what was accepted is finished within `GRACE_S`. The exit code is 0.
"""

import asyncio
import logging
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import uvicorn
import uvloop

from medserve.errors import Fault
from medserve.serving.address import Address, listen, url_of
from medserve.serving.asgi import Application
from medserve.serving.http import HEAD_S, BoundedProtocol
from medserve.serving.lane import Lane, LaneProtocol
from medserve.serving.tls import Tls

GRACE_S = 30
LINGER_S = 1.0


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


class Server(uvicorn.Server):
    """uvicorn's server that says when it is ready and refuses new work while it drains."""

    speaks: type[BoundedProtocol] = LaneProtocol

    def __init__(
        self,
        application: Application,
        url: str,
        on_ready: Callable[[str], None],
        tls: Tls | None = None,
        beside: Beside | None = None,
    ) -> None:

        class Protocol(self.speaks):  # type: ignore[name-defined]
            refused = staticmethod(application.refused)
            leaving = staticmethod(lambda: application.admission.leaving)
            lane = Lane(application)

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
        waiting = select.poll()  # unlike select.select, also for a process that holds more than a thousand files
        for sock in sockets:
            waiting.register(sock, select.POLLIN)
        while waiting.poll(0) and time.monotonic() < until:
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
    sock: socket.socket | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until a signal says stop. Port 0 takes a free one; `on_ready` gets the address as a URL. sock: listens
    there already.

    Raises: Usage when the address cannot be opened.
    """
    sock = listen(address) if sock is None else sock
    server = Server(application, url_of(address.host, sock, tls), on_ready, tls, beside)
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
