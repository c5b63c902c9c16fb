"""A real server on a loopback port, with one tiny package behind it."""

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx2
from tiny_package import spec, write_package

from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.serving.asgi import Application, Limits
from medserve.serving.bodies import BodyTiming
from medserve.serving.logs import make_log
from medserve.serving.server import Address, Server, listen
from medserve.settings import Settings

SMALL = Limits(max_upload_bytes=2 * 2**20, deadline_s=20, timing=BodyTiming(stall_s=0.5))


@dataclass
class Running:
    url: str
    port: int
    key: str
    settings: Settings
    application: Application
    log: StringIO

    def http(self, **more: object) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=20, **more)

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@contextlib.contextmanager
def serving(application: Application) -> Iterator[int]:
    """The application on a free loopback port, in a thread."""
    sock = listen(Address(port=0))
    ready = threading.Event()
    server = Server(application, "", lambda url: ready.set())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        assert ready.wait(20)
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    """Two versions of `tiny` and the model `other`, which takes no DICOM."""
    root = tmp_path_factory.mktemp("service")
    settings = Settings(home=root / "home")
    folders = [
        write_package(root / "one", settings, spec(version="1")),
        write_package(root / "two", settings, spec(version="2")),
    ]
    keys = KeyRing.open(settings)
    key = keys.create("tests").key
    application = build(settings, folders, keys=keys, limits=SMALL, threads=1)
    log = StringIO()
    application._log = make_log(log)
    with serving(application) as port:
        yield Running(f"http://127.0.0.1:{port}", port, key, settings, application, log)
    keys.close()


@pytest.fixture
def http(running: Running) -> Iterator[httpx2.Client]:
    with running.http() as client:
        yield client


def raw(port: int, data: bytes, *, timeout: float = 10) -> bytes:
    """What the server answers to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(data)
        answer = b""
        with contextlib.suppress(OSError):
            while chunk := sock.recv(65536):
                answer += chunk
        return answer
