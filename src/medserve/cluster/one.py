"""One of the processes that `cluster.local` starts: the whole service, on a socket that it was born with.

python -m medserve.cluster.one          # its order, one line of JSON, on stdin; on stdout one line: ready, or an error

It reads the settings of the environment by itself, so that no secret is handed on, and ends with its parent.
"""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from medserve import guard
from medserve.errors import Fault, MedServeError
from medserve.jobs.child import die_with


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """parent: its process. sock: number of the open file. folder: see `siblings.Place`. tls: certificate, key,
    authority of clients or "", warning; None: plain. quiet: what there is to warn of has been said."""

    parent: int
    number: int
    count: int
    sock: int
    folder: str
    home: str
    models: list[str]
    host: str
    port: int
    threads: int
    budget: int | None
    pinned: list[str]
    tls: tuple[str, str, str, str] | None
    behind_proxy: bool
    jobs: int
    grpc_port: int | None
    quiet: bool


def main() -> None:
    guard.install()
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    die_with(order.parent)
    parent = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints is no word to the parent

    def say(said: dict[str, Any]) -> None:
        parent.write(msgspec.json.encode(said) + b"\n")

    try:
        _serve(order, say)
    except MedServeError as error:
        say(error.as_dict())
        sys.exit(error.exit_code)
    except OSError as error:
        say(Fault("system", f"{error.strerror or error}.", hint="See the lines above.").as_dict())
        raise


def _serve(order: Order, say: Callable[[dict[str, Any]], None]) -> None:
    from medserve.app import Keep, serve
    from medserve.progress import Progress
    from medserve.serving.address import Address
    from medserve.serving.siblings import Place
    from medserve.serving.tls import Tls
    from medserve.settings import Settings

    tls = None
    if order.tls is not None:
        certificate, key, clients, warning = order.tls
        tls = Tls(Path(certificate), Path(key), Path(clients) if clients else None, warning)
    grpc: dict[str, str] = {}
    serve(
        Settings.from_environment(Path(order.home)), [Path(folder) for folder in order.models],
        Address(order.host, order.port), threads=order.threads, memory=Keep(order.budget, tuple(order.pinned)), tls=tls,
        behind_proxy=order.behind_proxy, jobs=order.jobs, grpc_port=order.grpc_port,
        place=Place(order.number, order.count, Path(order.folder), socket.socket(fileno=order.sock)),
        on_grpc=lambda address: grpc.update(grpc=address), on_ready=lambda url: say({"url": url, **grpc}),
        warn=Progress(quiet=order.quiet).say,
    )  # fmt: skip


if __name__ == "__main__":
    main()
