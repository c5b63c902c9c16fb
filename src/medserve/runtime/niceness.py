"""Threads that compute give way to those that read, decide and answer.

    give_way()                       # this thread, and every thread that it starts from now on
    model = giving_way(load)         # the result of `load`; threads that an engine starts in it give way too

Both kinds share the processor. A computing thread holds it for milliseconds at a time, so that a refusal of a full
service, which takes a quarter of one, would wait behind several of them. Where a thread has no niceness of its own
(beyond Linux) nothing is changed.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
COMPUTE, ASIDE = 10, 15  # of what is computed for an answer; of an explanation, which gives way to that


def give_way(niceness: int = COMPUTE) -> None:
    """Only ever upwards: lowering it again takes a privilege."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(niceness, os.getpriority(os.PRIO_PROCESS, thread)))


def giving_way(work: Callable[[], T]) -> T:
    """On a thread of its own. Raises: what `work` raises."""
    with ThreadPoolExecutor(1, thread_name_prefix="load", initializer=give_way) as pool:
        return pool.submit(work).result()
