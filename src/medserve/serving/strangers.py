"""Those who have not said who they are: so many a second, and no more events than that.

    strangers = Strangers(StrangerLimits())
    strangers.spend("192.0.2.7")              # Quota "quota-strangers" (429)
    turned_away = Tally(record, event)
    await turned_away.add()                   # counted; written down once a second, with the count

Without this, whoever can reach the service could fill its audit log with 401s. Who shows a valid key is never counted.
"""

import asyncio
import contextlib
import ipaddress
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from medserve.access.audit import Event
from medserve.errors import MedServeError
from medserve.serving.gate import Buckets, Quota

WRITE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StrangerLimits:
    """Unidentified requests a second: of one client address, and of all together; and how many at once."""

    per_s: float = 2.0
    burst: float = 100.0
    all_per_s: float = 10.0
    all_burst: float = 500.0


class Strangers:
    """Of one process and event loop."""

    def __init__(self, limits: StrangerLimits) -> None:
        self.limits = limits
        self._buckets = Buckets()
        self._all = Buckets()

    def spend(self, address: str) -> None:
        """One request. Raises: Quota "quota-strangers"."""
        said, name = self.limits, _network(address)
        wait = self._buckets.take(name, said.per_s, said.burst)
        if not wait:
            wait = self._all.take("", said.all_per_s, said.all_burst)
        if wait:
            raise Quota(
                "quota-strangers",
                "Too many requests without a valid key or token.",
                hint="Try again after the time in Retry-After, with a valid one.",
                retry_after_s=wait,
            )

    def back(self, address: str) -> None:
        """It was no stranger after all."""
        said, name = self.limits, _network(address)
        self._buckets.charge(name, said.per_s, said.burst, -1.0)
        self._all.charge("", said.all_per_s, said.all_burst, -1.0)


class Tally:
    """Requests of one kind that may come as a flood; of one process and event loop.

    Args:
        record: writes an event durably. event: makes the one for a count of requests.
    """

    def __init__(self, record: Callable[[Event], Awaitable[None]], event: Callable[[int], Event]) -> None:
        self._record, self._event = record, event
        self._count, self._written = 0, -math.inf
        self._later: asyncio.Task[None] | None = None

    async def add(self) -> None:
        """One more. Raises: what `record` raises."""
        self._count += 1
        if time.monotonic() - self._written >= WRITE_S:
            await self.flush()
        elif self._later is None or self._later.done():
            self._later = asyncio.create_task(self._soon())

    def count(self) -> None:
        """One more, and no waiting: it is written within `WRITE_S`."""
        self._count += 1
        if self._later is None or self._later.done():
            self._later = asyncio.create_task(self._soon())

    async def flush(self) -> None:
        """Write down what was counted."""
        count, self._count, self._written = self._count, 0, time.monotonic()
        if not count:
            return
        try:
            await self._record(self._event(count))
        except BaseException:
            self._count += count
            raise

    async def _soon(self) -> None:
        while self._count:
            await asyncio.sleep(max(0.0, self._written + WRITE_S - time.monotonic()))
            with contextlib.suppress(MedServeError):  # the next one is told
                await self.flush()


def _network(address: str) -> str:
    """The address; of IPv6 the /64 that one client owns."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))
