"""Threads that all services of a process share.

pools = Pools()
tensor = await pools.decode(model.load, data, priority=STAT)        # the most urgent first, as the batcher has them
heat = await pools.explain(model.explain, "occlusion", tensor)      # a lane of its own, which yields to predictions
"""

import asyncio
import contextlib
import functools
import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from medserve.errors import Busy
from medserve.runtime.batcher import AGEING_S, ROUTINE
from medserve.runtime.niceness import ASIDE, give_way

T = TypeVar("T")
MAX_EXPLAINING = 8  # explanations that wait or run; each costs hundreds of passes
LOADERS = 2  # loads at once


class Pools:
    """For decoding, loading, and the slow work of explanations."""

    def __init__(self, decoders: int = 0) -> None:
        count = decoders or max(2, os.cpu_count() or 1)
        self._decode = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._explain = ThreadPoolExecutor(1, thread_name_prefix="explain", initializer=give_way, initargs=(ASIDE,))
        self._load = ThreadPoolExecutor(LOADERS, thread_name_prefix="load")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._explaining = 0
        self._waiting: list[tuple[float, int, asyncio.Future[Any], Callable[[], Any]]] = []  # for a decoder; a heap
        self._count, self._lock = itertools.count(), threading.Lock()

    async def decode(self, work: Callable[..., T], *args: Any, priority: int = ROUTINE) -> T:
        """priority: STAT, ROUTINE or BATCH: who waits for a thread goes by it and by when he came."""
        return await self._queued(functools.partial(work, *args), priority)

    def _queued(self, work: Callable[[], T], priority: int) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        told: asyncio.Future[T] = loop.create_future()
        with self._lock:
            heapq.heappush(self._waiting, (time.monotonic() + AGEING_S[priority], next(self._count), told, work))
        self._decode.submit(self._take)  # of what waits, not necessarily this
        return told

    def _take(self) -> None:
        tell: Callable[[asyncio.Future[Any], Any], None]
        said: Any
        with self._lock:
            _, _, told, work = heapq.heappop(self._waiting)
        if not told.done():  # who waited may have left
            try:
                tell, said = _tell, work()
            except BaseException as error:
                tell, said = _fail, error
            with contextlib.suppress(RuntimeError):  # its loop is closed
                told.get_loop().call_soon_threadsafe(tell, told, said)
        del told, work  # an error holds this frame, and the future the error
        said = None

    async def load(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._load, functools.partial(work, *args))

    async def aside(self, work: Callable[..., T], *args: Any) -> T:
        """What nobody waits for, one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, functools.partial(work, *args))

    async def explain(self, work: Callable[..., T], *args: Any) -> T:
        """Raises: Busy "explanations-full" (503): enough of them wait already."""
        if self._explaining >= MAX_EXPLAINING:
            raise Busy(
                "explanations-full",
                "Too many explanations are waiting.",
                hint="Ask for the prediction without one, or try again later.",
                retry_after_s=5,
            )
        self._explaining += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._explain, functools.partial(work, *args))
        finally:
            self._explaining -= 1

    def close(self) -> None:
        for pool in (self._load, self._aside, self._decode, self._explain):
            pool.shutdown(wait=True, cancel_futures=True)
        for _, _, told, _ in self._waiting:
            with contextlib.suppress(RuntimeError):
                told.get_loop().call_soon_threadsafe(told.cancel)
        self._waiting.clear()


def _tell(told: "asyncio.Future[T]", result: T) -> None:
    if not told.done():
        told.set_result(result)


def _fail(told: "asyncio.Future[Any]", error: BaseException) -> None:
    if not told.done():
        told.set_exception(error)
