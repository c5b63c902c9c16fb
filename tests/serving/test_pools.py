"""Who waits for a decoder: the most urgent first, nobody for ever, and what nobody waits for is not begun."""

import asyncio
import gc
import threading
import time
import weakref
from contextlib import asynccontextmanager

import pytest

from medserve.runtime.batcher import BATCH, ROUTINE, STAT
from medserve.serving.pools import Pools


@pytest.fixture
def pools():
    pools = Pools(1)
    yield pools
    pools.close()


@asynccontextmanager
async def at_work(pools):
    """The one decoder has something to do until the end of the block."""
    begun, end = threading.Event(), threading.Event()
    task = asyncio.ensure_future(pools.decode(lambda: begun.set() or end.wait(10)))
    await asyncio.to_thread(begun.wait, 10)
    try:
        yield
    finally:
        end.set()
        await task


async def queued(pools, *priorities, between_s=0.0):
    """The order in which they were begun."""
    order, tasks = [], []
    async with at_work(pools):
        for priority in priorities:
            tasks.append(asyncio.ensure_future(pools.decode(order.append, priority, priority=priority)))
            await asyncio.sleep(between_s)
    await asyncio.gather(*tasks)
    return order


def test_the_most_urgent_is_decoded_first(pools):
    """Of what waits, whenever it came; within a class the first that came."""
    found = asyncio.run(queued(pools, BATCH, ROUTINE, STAT, BATCH, STAT, ROUTINE))
    assert found == [STAT, STAT, ROUTINE, ROUTINE, BATCH, BATCH]


def test_nobody_waits_for_ever(pools, monkeypatch):
    """Who has waited longer by the time of his class goes before who is more urgent."""
    monkeypatch.setattr("medserve.serving.pools.AGEING_S", (0.0, 0.01, 0.1))
    assert asyncio.run(queued(pools, BATCH, ROUTINE, STAT, between_s=0.2)) == [BATCH, ROUTINE, STAT]


def test_what_nobody_waits_for_is_not_begun(pools):
    """Its client has left; what came behind it is decoded."""
    seen = []

    async def left():
        async with at_work(pools):
            gone = asyncio.ensure_future(pools.decode(seen.append, "gone"))
            stays = asyncio.ensure_future(pools.decode(seen.append, "stays"))
            await asyncio.sleep(0)
            gone.cancel()
        await stays
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(left())
    assert seen == ["stays"]


def test_an_error_reaches_who_waits_and_frees_what_he_sent(pools):
    """Not only at the next collection: a refused body may be large."""

    class Body:
        pass

    def refuse(body):
        raise ValueError("refused")

    async def refused():
        body = Body()
        here = weakref.ref(body)
        with pytest.raises(ValueError, match="refused"):
            await pools.decode(refuse, body)
        del body
        for _ in range(100):  # its thread ends its turn
            if here() is None:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("something holds it")

    gc.disable()
    try:
        asyncio.run(refused())
    finally:
        gc.enable()


def test_who_waits_at_the_end_is_let_go():
    """As the pool closes, and not after the longest deadline."""

    async def ended():
        pools, begun = Pools(1), threading.Event()
        first = asyncio.ensure_future(pools.decode(lambda: begun.set() or time.sleep(0.1)))
        await asyncio.to_thread(begun.wait, 10)
        second = asyncio.ensure_future(pools.decode(print))
        await asyncio.sleep(0)
        await asyncio.to_thread(pools.close)
        await first
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(second, 5)

    asyncio.run(ended())
