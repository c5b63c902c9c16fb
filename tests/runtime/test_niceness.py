"""Threads that compute give way; nothing else of the process does."""

import asyncio
import os
import sys
import threading
import time

import pytest

from medserve.runtime.batcher import Batcher
from medserve.runtime.niceness import ASIDE, COMPUTE, give_way, giving_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a thread has a niceness of its own on Linux alone")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def on_a_thread(work):
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_gives_way_with_those_it_starts_and_with_no_other():
    before = niceness()

    def way() -> int:
        give_way()
        return on_a_thread(niceness)

    assert on_a_thread(way) == max(before, COMPUTE)
    assert niceness() == before and on_a_thread(niceness) == before


def test_who_gives_way_more_already_keeps_to_it():
    def way() -> int:
        give_way(ASIDE)
        give_way(COMPUTE)
        return niceness()

    assert on_a_thread(way) == max(niceness(), ASIDE)


def test_what_is_made_on_such_a_thread_comes_back_or_its_error_does():
    assert giving_way(niceness) == max(niceness(), COMPUTE)
    with pytest.raises(ZeroDivisionError):
        giving_way(lambda: 1 // 0)


def test_engine_threads_compute_below_the_event_loop():
    async def scored() -> int:
        return await batcher.submit(1, deadline=time.monotonic() + 5)

    batcher: Batcher[int, int] = Batcher(lambda items: [niceness() for _ in items])
    try:
        assert asyncio.run(scored()) == max(niceness(), COMPUTE)
    finally:
        batcher.close()
