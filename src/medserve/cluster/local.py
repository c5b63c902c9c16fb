"""Several processes of the very same service on one port of this machine.

    serve_local(settings, [Path("out/chest")], Address(), replicas=2)        # medserve serve --replicas 2

One process answers with one event loop, which is one core: a light model leaves the others idle. Each replica is the
whole service with a socket of its own on the common address (SO_REUSEPORT), among which the system deals connections
out; no request passes a second process. This one opens the sockets, starts the replicas, hands signals on, and starts
one that died again on its socket, where whoever came meanwhile waits. Jobs and gRPC are the first one's alone.

Source: socket(7), SO_REUSEPORT; https://lwn.net/Articles/542629/
"""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from medserve.access.keys import KeyRing
from medserve.cluster.one import Order
from medserve.errors import Denied, Fault, MedServeError, Refusal, Usage
from medserve.serving.address import Address, check_address, listen, url_of
from medserve.serving.safety import check_settings
from medserve.serving.tls import Tls
from medserve.settings import Settings

MOST = 64
CHILD = (sys.executable, "-m", "medserve.cluster.one")
PAUSES_S = (0.1, 30.0)  # before one that died is started again: the first, and the longest
CALM_S = 60.0  # who lived so long died of something new
_KINDS: dict[str, type[MedServeError]] = {"refusal": Refusal, "usage": Usage, "access": Denied}


class _Said(msgspec.Struct):
    """A replica's one line."""

    url: str = ""
    grpc: str = ""
    error: dict[str, str] | None = None


def count_of(replicas: str) -> int:
    """Raises: Usage "replicas"."""
    if not re.fullmatch(r"[0-9]{1,4}", replicas) or not 1 <= int(replicas) <= MOST:
        raise Usage(
            "replicas", f"--replicas {replicas[:20]!r} is no number from 1 to {MOST}.",
            hint="For instance --replicas 2. MIN..MAX is for --engine ray.",
        )  # fmt: skip
    return int(replicas)


def serve_local(
    settings: Settings,
    folders: Sequence[Path],
    address: Address,
    *,
    replicas: int,
    threads: int = 0,
    budget: int | None = None,
    pinned: Sequence[str] = (),
    tls: Tls | None = None,
    behind_proxy: bool = False,
    jobs: int = 1,
    grpc_port: int | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
    on_grpc: Callable[[str], None] = lambda address: None,
    warn: Callable[[str], None] = lambda text: None,
    child: Sequence[str] = CHILD,
) -> None:
    """Serve from `replicas` processes until SIGTERM or Ctrl-C; what each has accepted is answered first.

    Args:
        threads: of one replica; 0 means its share of the cores. budget: bytes of engines, of all replicas together.
        on_ready: gets the URL once all of them answer; the rest as of `app.serve`.
        child: a command that becomes a replica.

    Raises: Usage "replicas-unsupported", and what `app.serve` raises.
    """
    check_settings(settings, os.environ)
    ring = KeyRing.open(settings)  # also makes what a new home lacks, before several look for it
    try:
        check_address(address, ring, tls=tls is not None, behind_proxy=behind_proxy)
    finally:
        ring.close()
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(sock) for sock in listen_together(address, replicas)]
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="medserve-"))
        order = Order(
            parent=os.getpid(), number=0, count=replicas, sock=-1, folder=folder, home=str(settings.home),
            models=[str(path) for path in folders], host=address.host, port=address.port,
            threads=threads or max(1, (os.cpu_count() or 1) // replicas),
            budget=None if budget is None else max(1, budget // replicas), pinned=list(pinned), tls=_told(tls),
            behind_proxy=behind_proxy, jobs=jobs, grpc_port=grpc_port, quiet=False,
        )  # fmt: skip

        def ready(grpc: str) -> None:
            if grpc:
                on_grpc(grpc)
            on_ready(url_of(address.host, socks[0], tls))

        asyncio.run(_Group(order, socks, child, warn).run(ready))


def listen_together(address: Address, count: int) -> list[socket.socket]:
    """So many sockets on one address; port 0: one that is free. Raises: Usage "replicas-unsupported", "port-taken",
    "host-unusable"."""
    if sys.platform != "linux":
        raise Usage(
            "replicas-unsupported", "Several replicas on one port need Linux.",
            hint="Leave --replicas out, or put a load balancer in front of several services.",
        )  # fmt: skip
    if address.port:
        listen(address).close()  # otherwise another service of this user would quietly share the port with this one
    socks = [listen(address, shared=True)]
    try:
        while len(socks) < count:
            socks.append(listen(Address(address.host, socks[0].getsockname()[1]), shared=True))
    except BaseException:
        for sock in socks:
            sock.close()
        raise
    return socks


def _told(tls: Tls | None) -> tuple[str, str, str, str] | None:
    """The child's working folder is this one's."""
    return None if tls is None else (str(tls.certificate), str(tls.key), str(tls.clients or ""), tls.warning)


class _Group:
    """The replicas and what keeps them."""

    def __init__(
        self, order: Order, socks: list[socket.socket], child: Sequence[str], warn: Callable[[str], None]
    ) -> None:
        self._order, self._socks, self._child, self._warn = order, socks, child, warn
        self._alive: dict[int, asyncio.subprocess.Process] = {}
        self._ready: set[int] = set()
        self._stop = asyncio.Event()

    async def run(self, ready: Callable[[str], None]) -> None:
        """ready: gets gRPC's address or "". Raises: what a replica failed with before it was ready."""
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, self._end, one)
        loop.add_signal_handler(signal.SIGHUP, self._look_again)
        lives: list[asyncio.Task[None]] = []
        try:
            # The first one alone: what a new home lacks is made once, and what is wrong is said once.
            first = await self._begin(0)
            lives.append(asyncio.ensure_future(self._keep(0)))
            if first.grpc:
                self._order = msgspec.structs.replace(self._order, grpc_port=int(first.grpc.rpartition(":")[2]))
            others = range(1, self._order.count)
            await asyncio.gather(*map(self._begin, others))
            lives += [asyncio.ensure_future(self._keep(number)) for number in others]
            if not self._stop.is_set():
                ready(first.grpc)
            await asyncio.gather(*lives)
        finally:
            self._end(signal.SIGTERM)
            await asyncio.gather(*(process.wait() for process in self._alive.values()), *lives, return_exceptions=True)

    def _end(self, how: signal.Signals) -> None:
        """A second time makes haste, as with one process."""
        self._stop.set()
        for sock in self._socks:  # who comes once the replicas have closed theirs is refused, and does not wait
            sock.close()
        self._pass(how)

    def _look_again(self) -> None:
        """Those that serve; whoever is just starting looks by itself, and would die of the signal."""
        for number in self._ready:
            self._signal(self._alive[number], signal.SIGHUP)

    def _pass(self, what: signal.Signals) -> None:
        for process in self._alive.values():
            self._signal(process, what)

    @staticmethod
    def _signal(process: asyncio.subprocess.Process, what: signal.Signals) -> None:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(what)

    async def _begin(self, number: int, *, again: bool = False) -> _Said:
        """Until it is ready. Raises: what it failed with; Fault "replica-ended"."""
        if self._stop.is_set():
            return _Said()
        sock, first = self._socks[number].fileno(), number == 0
        order = msgspec.structs.replace(
            self._order, number=number, sock=sock, jobs=self._order.jobs if first else 0,
            grpc_port=self._order.grpc_port if first else None, quiet=again or not first,
        )  # fmt: skip
        process = self._alive[number] = await asyncio.create_subprocess_exec(
            *self._child, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=[sock],
            start_new_session=True,  # Ctrl-C reaches it through this process alone
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):  # it has ended, which its silence says
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            await process.stdin.drain()
        process.stdin.close()
        if self._stop.is_set():
            self._pass(signal.SIGTERM)
        line = await process.stdout.readline()
        said = msgspec.json.decode(line, type=_Said) if line.endswith(b"\n") else _Said()
        if said.url:
            self._ready.add(number)
        if said.url or self._stop.is_set():
            return said
        await process.wait()
        if said.error is None:
            raise Fault("replica-ended", f"Replica {number} ended before it was ready.", hint="See the lines above.")
        kind = _KINDS.get(said.error["kind"], Fault)
        raise kind(said.error["code"], said.error["message"], hint=said.error["hint"])

    async def _keep(self, number: int) -> None:
        """Starts it again whenever it ends, until all are to end."""
        pause, began = PAUSES_S[0], time.monotonic()
        while True:
            status = await self._alive[number].wait()
            self._ready.discard(number)
            if self._stop.is_set():
                return
            if time.monotonic() - began > CALM_S:
                pause = PAUSES_S[0]
            self._warn(f"warning replica-ended: replica {number} ended ({status}) and is started again.")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)
            pause, began = min(2 * pause, PAUSES_S[1]), time.monotonic()
            try:
                await self._begin(number, again=True)
            except MedServeError as error:
                self._warn(f"warning {error.code}: replica {number} does not start: {error.message}")
