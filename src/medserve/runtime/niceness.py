"""Threads that compute give way to those that read, decide and answer.

    at_once()                        # this thread asks for the processor often, and never for long
    give_way()                       # this thread, and every thread that it starts from now on
    model = giving_way(load)         # the result of `load`; threads that an engine starts in it give way too

Both kinds share the processor. A computing thread holds it for milliseconds at a time, so that a refusal of a full
service, which takes a quarter of one, would wait behind several of them. Niceness says how the processor is shared out;
who comes next follows from the slice that a thread asks for, from Linux 6.12 on. Beyond Linux nothing is changed.
"""

import contextlib
import ctypes
import os
import platform
import struct
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
COMPUTE, ASIDE = 5, 10  # of what is computed for an answer; of an explanation, which gives way to that
SHORT_NS = 100_000  # the shortest slice that Linux grants; 0 is its own choice, some 3 ms
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the system call, which no module of Python's offers


def at_once() -> None:
    """With a short slice a thread that wakes comes before those that compute; its share stays as it was."""
    _slice(SHORT_NS)


def give_way(niceness: int = COMPUTE) -> None:
    """Only ever upwards: lowering it again takes a privilege."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(niceness, os.getpriority(os.PRIO_PROCESS, thread)))
        _slice(0)  # a thread inherits that of the one that starts it


def _slice(ns: int) -> None:
    """Of this thread, at the niceness that it has; whoever was started with another policy keeps to that."""
    call = SCHED_SETATTR.get(platform.machine()) if sys.platform == "linux" else None
    if call is not None and os.sched_getscheduler(0) == os.SCHED_OTHER:
        niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        # struct sched_attr of sched_setattr(2): size, policy, flags, niceness, priority, runtime, deadline, period
        said = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, niceness, 0, ns, 0, 0)
        ctypes.CDLL(None).syscall(ctypes.c_long(call), ctypes.c_long(0), said, ctypes.c_long(0))


def giving_way(work: Callable[[], T]) -> T:
    """On a thread of its own. Raises: what `work` raises."""
    with ThreadPoolExecutor(1, thread_name_prefix="load", initializer=give_way) as pool:
        return pool.submit(work).result()
