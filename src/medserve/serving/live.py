"""A model in memory, with the engine threads that work for it.

    live = Live(model, horizon_s=10.0)
    scored = await live.batcher.submit(Wanted(tensor), deadline=..., spent=spent)
    await live.ready()                      # a real inference passed within the last seconds

`Service` brings it into memory and lets it go; while `users` hold it, it stays.
"""

import asyncio
import functools
import math
import time
from typing import NamedTuple

import numpy as np

from medserve.errors import Busy
from medserve.models.package import SELFCHECK
from medserve.runtime.batcher import Batcher
from medserve.runtime.lengths import bucket_of
from medserve.runtime.model import LoadedModel, Scored
from medserve.types import Array

PROBE_FRESH_S = 5.0
INLINE_S = 0.0003  # a pass this short runs on the event loop; a thread costs as much, there and back, and a tenth of
# it for each case of a batch: they are told one by one


class Stages(NamedTuple):
    """Seconds of one request, for `Server-Timing`.

    queue: until an engine thread was free. batch, infer: of the pass that it shared with `size` cases: putting them
    together, computing. encode: from scores to an answer. compute: of a processor, without the waiting.
    """

    decode: float = 0.0
    queue: float = 0.0
    batch: float = 0.0
    infer: float = 0.0
    encode: float = 0.0
    explain: float = 0.0
    compute: float = 0.0
    size: int = 0


class Wanted(NamedTuple):
    """A case as it enters the graph. cam: its class activation map too, out of the same pass."""

    tensor: Array
    cam: bool = False


class Live:
    """A model in memory, with the threads that work for it. users: requests that hold it."""

    def __init__(self, model: LoadedModel, horizon_s: float) -> None:
        self.model, self.users = model, 0
        self.idle = asyncio.Event()
        of = None if model.records is None else bucket_of(model.spec, model.records.blocks)
        self.batcher: Batcher[Wanted, Scored] = Batcher(
            functools.partial(_run, model),
            gather=_together,
            max_batch=model.engine.max_batch,
            threads=model.engine.choice.streams,
            horizon_s=horizon_s,
            item_s=model.item_s,
            inline_s=INLINE_S,
            bucket=None if of is None else lambda wanted: of(wanted.tensor),
            clock=time.thread_time if model.engine.on_caller else time.perf_counter,
            name=f"engine-{model.name}",
        )
        self._probe_image = np.asarray(model.package.tensors(SELFCHECK)[model.engine.input])[0]
        self._probed_at, self._probe_ok = -math.inf, False
        self._probing = asyncio.Lock()

    def let_go(self) -> None:
        self.users -= 1
        if not self.users:
            self.idle.set()

    async def drained(self) -> None:
        """Nobody holds it any more; nobody new may by then."""
        while self.users:
            self.idle.clear()
            await self.idle.wait()

    async def ready(self) -> bool:
        """A real inference passed through the engine within the last seconds; however many ask, one runs."""
        async with self._probing:
            if time.monotonic() - self._probed_at < PROBE_FRESH_S:
                return self._probe_ok and self.batcher.alive
            try:
                await self.batcher.submit(Wanted(self._probe_image), deadline=time.monotonic() + 5)
                self._probe_ok = True
            except Busy:  # full of accepted work is not broken
                self._probe_ok = self.batcher.alive
            except Exception:
                self._probe_ok = False
            self._probed_at = time.monotonic()
            return self._probe_ok


def _together(cases: list[Wanted]) -> tuple[Array, bool]:
    end_to_end = np.concatenate([case.tensor for case in cases])  # `np.stack` costs several times as much
    return end_to_end.reshape(len(cases), *cases[0].tensor.shape), any(case.cam for case in cases)


def _run(model: LoadedModel, batch: tuple[Array, bool]) -> list[Scored]:
    """For the engine threads, which hold the model and not its `Live`: what is unloaded is freed at once."""
    images, drawn = batch
    scores = model.score(images, cam=True) if drawn else model.score(images)
    return model.read_scores(scores, images)
