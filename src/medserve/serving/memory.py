"""How many engines are in memory at once: a budget in bytes, and who leaves when another one needs room.

    memory = Memory(2 * 2**30)
    await memory.reserve(service, deadline)    # idle models leave, the one that was longest unused first
    memory.release(service)

Bytes are those of `Loader.bytes_of`, so that the answer is known before anything is loaded. A pinned model never
leaves. Where every other model is at work, one that waits for room takes that of the longest unused after `PATIENCE_S`:
its requests under way are finished first. One event loop; not for several threads.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Protocol

from medserve.errors import Busy, Usage

PATIENCE_S = 2.0
_LOOK_S = 0.02  # between two looks for one that has become idle


class DoesNotFit(Usage):
    """It needs more memory than this service may ever give it."""

    status = 507


class Tenant(Protocol):
    """What holds memory: a service."""

    bytes: int
    pinned: bool
    used_at: float  # time.monotonic()

    @property
    def title(self) -> str: ...
    @property
    def resident(self) -> bool: ...
    @property
    def users(self) -> int: ...
    async def unload(self) -> None: ...


class Memory:
    """budget: bytes; None: as much as there is."""

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self._held: dict[Tenant, int] = {}

    @property
    def held(self) -> int:
        return sum(self._held.values())

    def check(self, wanted: Tenant, known: Iterable[Tenant]) -> None:
        """Whether it could ever be loaded beside what is pinned.

        Raises: DoesNotFit "model-does-not-fit".
        """
        if self.budget is None:
            return
        pinned = sum(one.bytes for one in known if one.pinned and one is not wanted)
        if wanted.bytes + pinned > self.budget:
            raise DoesNotFit(
                "model-does-not-fit",
                f"{wanted.title} takes about {_mib(wanted.bytes)} of memory; {_mib(self.budget - pinned)} of "
                f"{_mib(self.budget)} are not pinned.",
                hint="Raise --memory-budget, or pin less.",
            )

    def take(self, wanted: Tenant) -> bool:
        """Room without anybody leaving; False where there is none."""
        if self.budget is not None and wanted not in self._held and self.held + wanted.bytes > self.budget:
            return False
        self._held[wanted] = wanted.bytes
        return True

    def release(self, held: Tenant) -> None:
        self._held.pop(held, None)

    async def reserve(self, wanted: Tenant, deadline: float) -> None:
        """Room for one more, once those have left that it needs to leave.

        Args:
            deadline: `time.monotonic()`.

        Raises: Busy "memory-full" (503): it passed while all others were at work or on their way.
        """
        began = time.monotonic()
        while not self.take(wanted):
            now = time.monotonic()
            if now > deadline:
                raise Busy(
                    "memory-full",
                    f"{wanted.title} is not in memory, and every model that is there is at work.",
                    hint="Try again after the time in Retry-After.",
                    retry_after_s=PATIENCE_S,
                )
            found = sorted((one for one in self._held if one.resident and not one.pinned), key=lambda one: one.used_at)
            idle = [one for one in found if not one.users]
            victims = idle or (found if now - began > PATIENCE_S else [])
            if victims:
                await victims[0].unload()
            else:
                await asyncio.sleep(_LOOK_S)


def _mib(count: int) -> str:
    return f"{max(0, count) / 2**20:,.0f} MiB"
