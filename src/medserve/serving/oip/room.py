"""Room for the messages of calls, taken before they are read.

    room = Room(budget=512 * 2**20, most=64 * 2**20)
    async with room.held("k-1f", wait_s=2.0) as held:      # Busy "service-full", Quota "quota-calls"
        data = await anext(messages)
        held.is_now(len(data))
        ...                                                # until the answer has left

What gRPC says of a message before it is read is nothing: it may be as long as the longest one. So each call that reads
holds room for that, and gives back what it did not need. A call without room is not read; HTTP/2 then keeps back what
its client sends, but for one window (64 KiB). Nobody holds more than half of it, so that one slow client does not keep
out the others. One event loop; not for several threads.
"""

import asyncio
from collections import Counter, deque

from medserve.errors import Busy
from medserve.serving.gate import Quota

MOST_CALLS = 128  # of one principal that wait, read or are answered


class Room:
    """budget: bytes of all messages together. most: of one."""

    def __init__(self, budget: int, most: int) -> None:
        self._budget, self._most = max(budget, most), most
        self._share = max(most, self._budget // 2)
        self.bytes = 0
        self._by: Counter[str] = Counter()  # bytes by principal
        self._calls: Counter[str] = Counter()
        self._waiting: deque[Held] = deque()

    def held(self, who: str, *, wait_s: float) -> "Held":
        """See the module. Raises, as the block begins: Quota "quota-calls" (429); Busy "service-full" (503)."""
        return Held(self, who, wait_s)

    def _fits(self, who: str) -> bool:
        return self.bytes + self._most <= self._budget and self._by[who] + self._most <= self._share

    def _take(self, who: str, size: int) -> None:
        self.bytes += size
        self._by[who] += size
        if not self._by[who]:
            del self._by[who]

    def _give(self, who: str, size: int) -> None:
        """Whoever waits and fits now has it, in the order in which they came."""
        self._take(who, -size)
        for one in [one for one in self._waiting if self._fits(one.who)]:
            if self._fits(one.who):
                self._waiting.remove(one)
                one.enter()


class Held:
    """Room of one call."""

    def __init__(self, room: Room, who: str, wait_s: float) -> None:
        self._room, self.who, self._wait_s = room, who, wait_s
        self._size = 0
        self._turn: asyncio.Future[None] | None = None

    def enter(self) -> None:
        self._size = self._room._most
        self._room._take(self.who, self._size)
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def __aenter__(self) -> "Held":
        room = self._room
        if room._calls[self.who] >= MOST_CALLS:
            raise Quota("quota-calls", f"{MOST_CALLS} calls are under way.", hint="Wait for one.", retry_after_s=1)
        room._calls[self.who] += 1
        try:
            if room._fits(self.who):  # whoever waits does not fit
                self.enter()
            else:
                await self._wait()
        except BaseException:
            self._leave()
            raise
        return self

    async def _wait(self) -> None:
        self._turn = asyncio.get_running_loop().create_future()
        self._room._waiting.append(self)
        try:
            async with asyncio.timeout(self._wait_s):
                await self._turn
        except TimeoutError:
            if not self._size:
                why = "Too many messages are under way."
                raise Busy("service-full", why, hint="Try again in a moment.", retry_after_s=1) from None

    def is_now(self, size: int) -> None:
        """It is read: so long, and no longer."""
        less, self._size = self._size - size, size
        self._room._give(self.who, less)

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        room = self._room
        if self in room._waiting:
            room._waiting.remove(self)
        room._calls[self.who] -= 1
        if not room._calls[self.who]:
            del room._calls[self.who]
        size, self._size = self._size, 0
        room._give(self.who, size)
