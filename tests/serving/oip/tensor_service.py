"""A service with both of its ways in, HTTP and gRPC, in a thread."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from tiny_package import SMALL, Running, serving

from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.serving.address import Address
from medserve.serving.logs import make_log
from medserve.serving.oip.door import GrpcDoor
from medserve.settings import Settings


@dataclass
class Tensors(Running):
    """grpc: address."""

    grpc: str = ""


@contextlib.contextmanager
def tensors(settings: Settings, packages: list[Path], **more) -> Iterator[Tensors]:
    """HTTP and gRPC, plain or with `tls`."""
    keys, tls = KeyRing.open(settings), more.get("tls")
    key = keys.create("tests").key
    application = build(settings, packages, keys=keys, limits=SMALL, threads=1)
    log = StringIO()
    application._log = make_log(log)
    door = GrpcDoor(application, Address(port=0), tls=tls)
    with serving(application, tls, door) as port:
        scheme = "http" if tls is None else "https"
        yield Tensors(f"{scheme}://127.0.0.1:{port}", port, key, settings, application, log, door.url)
    keys.close()
