"""Threads that all services of a process share.

pools = Pools()
tensor = await pools.decode(model.load, data)
heat = await pools.explain(model.explain, "occlusion", tensor)      # a lane of its own, which yields to predictions
"""

import asyncio
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from medserve.errors import Busy
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

    async def decode(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decode, functools.partial(work, *args))

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
