"""Our own service as a contestant, with the audit log where the lane says.

    python medserve_server.py HOME PORT THREADS durable|memory PACKAGE...

durable is the product as it is. memory swaps the writing thread for a list, here and nowhere in the product, to measure
what durability costs: authentication, policy and quota stay.
"""

import asyncio
import collections
import sys
from pathlib import Path

from medserve import app
from medserve.access.audit import Event
from medserve.access.recorder import Recorder
from medserve.serving.server import Address
from medserve.settings import Settings
from medserve.types import Waiter


class InMemory(Recorder):
    """The last events, acknowledged at once."""

    kept: collections.deque[Event] = collections.deque(maxlen=1000)

    def put(self, event: Event, waiter: Waiter, loop: asyncio.AbstractEventLoop) -> None:
        self.kept.append(event)
        waiter.set_result(None)


def main() -> None:
    home, port, threads, audit, *packages = sys.argv[1:]
    if audit == "memory":
        app.Recorder = InMemory  # type: ignore[misc]
    app.serve(
        Settings(home=Path(home)), [Path(p) for p in packages], Address("127.0.0.1", int(port)), threads=int(threads),
        warn=lambda text: None,
    )  # fmt: skip


if __name__ == "__main__":
    main()
