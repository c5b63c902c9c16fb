"""Threads that compute give way; nothing else of the process does."""

import asyncio
import ctypes
import os
import platform
import struct
import sys
import threading
import time

import pytest
from tiny_package import live_server

from medserve.runtime.batcher import Batcher
from medserve.runtime.niceness import ASIDE, COMPUTE, SHORT_NS, at_once, give_way, giving_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a thread has a niceness of its own on Linux alone")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def slice_ns(thread: int = 0) -> int:
    """What the kernel says of a thread, of this one as 0; it says 0 before 6.12."""
    said = ctypes.create_string_buffer(56)
    call = {"x86_64": 315, "aarch64": 275}[platform.machine()]
    assert ctypes.CDLL(None).syscall(call, thread, said, 56, 0) == 0
    return struct.unpack("=IIQiIQQQ", said.raw[:48])[5]


sliced = pytest.mark.skipif(
    sys.platform != "linux"
    or platform.machine() not in ("x86_64", "aarch64")
    or tuple(map(int, platform.release().split(".")[:2])) < (6, 12),
    reason="Linux grants slices from 6.12 on",
)


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


@sliced
def test_who_answers_at_once_has_a_short_slice_and_who_computes_for_him_has_not():
    usual, before = slice_ns(), niceness()

    def loop() -> tuple[int, int, int, int]:
        at_once()
        own = slice_ns()

        def compute() -> int:
            give_way()
            return slice_ns()

        return own, niceness(), on_a_thread(slice_ns), on_a_thread(compute)

    own, nice, other, computing = on_a_thread(loop)
    assert own == other == SHORT_NS < usual
    assert nice == before
    assert computing > SHORT_NS
    assert slice_ns() == usual


@sliced
def test_the_thread_of_a_service_that_answers_has_a_short_slice(tmp_path):
    def threads() -> set[int]:
        return {int(name) for name in os.listdir("/proc/self/task")}

    before = threads()
    with live_server(tmp_path):
        assert any(slice_ns(thread) == SHORT_NS for thread in threads() - before)


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
