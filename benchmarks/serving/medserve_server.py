"""Our own service as a contestant, with the audit log where the lane says.

    python medserve_server.py HOME PORT THREADS durable|memory REPLICAS PACKAGE...

durable is the product as it is. memory swaps the writing thread for a list, here and nowhere in the product, to measure
what durability costs: authentication, policy and quota stay.
"""

import asyncio
import collections
import sys
from pathlib import Path
from typing import Any

from medserve.access.audit import Event
from medserve.access.recorder import Recorder
from medserve.cluster import one
from medserve.cluster.local import serve_local
from medserve.serving.address import Address
from medserve.settings import Settings
from medserve.types import Waiter


class InMemory(Recorder):
    """The last events, acknowledged at once."""

    kept: collections.deque[Event] = collections.deque(maxlen=1000)

    def put(self, event: Event, waiter: Waiter, loop: asyncio.AbstractEventLoop) -> None:
        self.kept.append(event)
        waiter.set_result(None)


def main() -> None:
    if sys.argv[1] == "replica":
        keep_in(sys.argv[2])
        one.main()
        return
    home, port, threads, audit, replicas, *packages = sys.argv[1:]
    given = Settings(home=Path(home)), [Path(p) for p in packages], Address("127.0.0.1", int(port))
    if replicas == "1":
        keep_in(audit).serve(*given, threads=int(threads), warn=_not_as_declared)
        return
    child = [sys.executable, __file__, "replica", audit]
    serve_local(*given, replicas=int(replicas), threads=int(threads), child=child)


def _not_as_declared(text: str) -> None:
    """A verdict that is not followed: another engine than the one that is to be measured."""
    if text.startswith("warning "):
        raise SystemExit(text)


def keep_in(audit: str) -> Any:
    """The application, which the process that starts replicas does without."""
    from medserve import app

    if audit == "memory":
        app.Recorder = InMemory  # type: ignore[misc]
    return app


if __name__ == "__main__":
    main()
