"""A process that answers for months keeps the size that it had after its first hour.

    few_arenas()             # before there are threads
    settle()                 # once everything stands: what is here will stay
    await trimmed()          # while it serves

Three things make a server in Python creep where nothing leaks. Each thread gets a heap of its own from glibc, and each
of them keeps its peak. Objects in cycles wait for a full collection, which comes only when a quarter as many objects as
ever survived have gathered: with the 250,000 of a loaded service that is megabytes of exceptions, and the collection
itself a pause. And freed pages within a heap stay with the process until somebody asks for them.
Source: mallopt(3), malloc_trim(3); CPython's `gc.freeze` (documentation of the module gc).
"""

import asyncio
import contextlib
import ctypes
import gc
import os

ARENAS = 2
TRIM_S = 60.0
_ARENA_MAX = -8  # malloc.h


def few_arenas(count: int = ARENAS) -> None:
    """Heaps that all threads share; where the C library is glibc, and MALLOC_ARENA_MAX does not say otherwise."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).mallopt(_ARENA_MAX, count)


def settle() -> None:
    """What exists now is left out of every later collection, which makes these short and frequent. It is still freed
    with its last reference; a cycle among it never is."""
    gc.collect()
    gc.freeze()
    gc.collect()  # the collector counts anew, from nothing


def give_back() -> None:
    """To the system, what was freed: glibc keeps about a hundred MiB of an engine that has left. Elsewhere: nothing."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


async def trimmed(every_s: float = TRIM_S) -> None:
    """Give back again and again, on a thread beside; until it is cancelled."""
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(give_back)
