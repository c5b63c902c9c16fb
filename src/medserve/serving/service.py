"""One version of one model on the network: known from the start, in memory while it is asked.

    service = Service(known, pools, load, bytes_=loader.bytes_of(known), memory=memory)
    answer, stages = await service.predict(data, explain=None, deadline=..., trace=...)
    await service.unload()                          # what is under way is finished; the next request loads it again

    unloaded -> loading -> loaded -> (unload) -> unloaded         failed: tried again after `AGAIN_S`
    any of them -> withdrawn                                      for good

However many ask for a model that is not there, one load runs, on a thread of its own; they wait within their deadlines.
One event loop; not for several threads.
"""

import asyncio
import functools
import math
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from medserve.errors import Busy, Fault, MedServeError
from medserve.runtime.batcher import ROUTINE, Batcher, Spent, check_time
from medserve.runtime.known import KnownModel
from medserve.runtime.model import LoadedModel, Scored
from medserve.serving.admission import Promise, Promises
from medserve.serving.footprint import give_back
from medserve.serving.live import Live, Stages, Wanted
from medserve.serving.memory import PATIENCE_S, Memory
from medserve.serving.pools import Pools
from medserve.types import Array

T = TypeVar("T")
State = Literal["unloaded", "loading", "loaded", "failed", "withdrawn"]
QUICK_BYTES = 4096
AGAIN_S = 30.0  # after a load that failed
FIRST_LOAD_S = 5.0  # a guess, until one was measured
MARGIN_S = 0.02  # before its deadline a request is told when the load will be done


class Service:
    """See the module.

    Args:
        known: what answers. If it is a `LoadedModel` it is in memory from the start.
        load: makes a `LoadedModel` of it; runs on a thread. bytes_: what that takes in memory.
        pinned: it is never unloaded to make room.
    """

    def __init__(
        self,
        known: KnownModel,
        pools: Pools,
        load: Callable[[KnownModel], LoadedModel],
        *,
        memory: Memory,
        bytes_: int = 0,
        pinned: bool = False,
        horizon_s: float = 10.0,
    ) -> None:
        self._known, self._pools, self._open, self._memory = known, pools, load, memory
        self.bytes, self.pinned, self._horizon_s = bytes_, pinned, horizon_s
        self.used_at = time.monotonic()
        self.failure: MedServeError | None = None
        self._failed_at = -math.inf
        self._load_s, self._began = FIRST_LOAD_S, 0.0
        self._live: Live | None = None
        self._loading: asyncio.Task[None] | None = None
        self._withdrawn = False
        self.answered = 0  # predictions since the process started
        self._claims = 0
        self._unclaimed = asyncio.Event()
        self._promises = Promises()

    def load_now(self, model: LoadedModel | None = None) -> None:
        """Before the event loop runs. model: what was loaded already.

        Raises: what loading raises; its room must have been taken.
        """
        self._live = Live(self._open(self._known) if model is None else model, self._horizon_s)

    @property
    def model(self) -> KnownModel:
        """What it is; a `LoadedModel` while it is in memory."""
        return self._known if self._live is None else self._live.model

    @property
    def title(self) -> str:
        return f"{self._known.name} {self._known.version}"

    @property
    def state(self) -> State:
        if self._withdrawn:
            return "withdrawn"
        if self._live is not None:
            return "loaded"
        if self._loading is not None:
            return "loading"
        return "unloaded" if self.failure is None else "failed"

    @property
    def resident(self) -> bool:
        return self._live is not None

    @property
    def users(self) -> int:
        return 0 if self._live is None else self._live.users

    @property
    def batcher(self) -> Batcher[Wanted, Scored] | None:
        """While it is in memory."""
        return None if self._live is None else self._live.batcher

    @property
    def promised_s(self) -> float:
        return 0.0 if self._live is None else max(self._live.batcher.promised_s, self._promises.promised_s)

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return 0 if self._live is None else self._live.batcher.waiting

    # -- in and out of memory --------------------------------------------------------------------------------------

    def use(self, deadline: float) -> "_Use":
        """The model in memory, held there until the end of the block: `async with service.use(deadline) as live`.

        Args:
            deadline: `time.monotonic()`.

        Raises: Busy "model-loading", "model-failed", "memory-full", "model-withdrawn" (503).
        """
        return _Use(self, deadline)

    async def _hold(self, deadline: float) -> Live:
        live = self._live or await self._arrived(deadline)
        live.users += 1
        self.used_at = time.monotonic()
        return live

    def light(self) -> Live | None:
        """What is in memory, where a small case is computed on the event loop now: see `hold`."""
        live = self._live
        return live if live is not None and live.model.quick and live.batcher.inline else None

    def hold(self, live: Live) -> None:
        """What `claimed` and `use` do, until `let_go`."""
        self._claim(1)
        live.users += 1
        self.used_at = time.monotonic()

    def let_go(self, live: Live) -> None:
        live.let_go()
        self._claim(-1)

    def claimed(self) -> "_Claim":
        """What was told that this version answers: it is not withdrawn before the end of the block."""
        return _Claim(self)

    def _claim(self, more: int) -> None:
        self._claims += more
        if not self._claims:
            self._unclaimed.set()

    async def load(self) -> None:
        """Raises: BadPackage, Fault, Busy; then it is `failed`, and says why."""
        if self._live is None:
            await asyncio.shield(self._load(math.inf))

    async def unload(self) -> None:
        """Leave the memory once what is under way is finished; the next request loads it again."""
        live, self._live = self._live, None
        if live is not None:
            await live.drained()
            await asyncio.to_thread(live.batcher.close)
            del live
            await asyncio.to_thread(give_back)
            if self._live is None and self._loading is None:
                self._memory.release(self)

    async def withdraw(self) -> None:
        """Never again, once those that were told of it have their answers; the names must not lead here any more."""
        while self._claims:
            self._unclaimed.clear()
            await self._unclaimed.wait()
        self._withdrawn = True
        if self._loading is not None:
            await asyncio.wait({self._loading})
        await self.unload()

    def _load(self, deadline: float) -> "asyncio.Task[None]":
        """The one load that is under way. deadline: for room in the memory."""
        if self._loading is None:
            self._began = time.monotonic()
            self._loading = asyncio.ensure_future(self._bring(deadline))
            self._loading.add_done_callback(_seen)
        return self._loading

    async def _bring(self, deadline: float) -> None:
        try:
            await self._memory.reserve(self, deadline)
            began = time.monotonic()
            box: list[LoadedModel] = []  # a future would hold its result in a cycle, and so an engine that has left
            await self._pools.load(lambda: box.append(self._open(self._known)))
            self._live, self.failure = Live(box.pop(), self._horizon_s), None
            self._load_s = time.monotonic() - began
        except Busy:
            raise
        except Exception as error:
            fault = Fault(
                "model-failed",
                f"{self.title} cannot be loaded ({type(error).__name__}).",
                hint=f"It is tried again after {AGAIN_S:.0f} s.",
            )
            self.failure, self._failed_at = error if isinstance(error, MedServeError) else fault, time.monotonic()
            raise self.failure from error
        finally:
            self._loading = None
            if self._live is None:
                self._memory.release(self)

    async def _arrived(self, deadline: float) -> Live:
        if self._withdrawn:
            raise Busy("model-withdrawn", f"{self.title} was withdrawn.", hint="Ask the model by its name alone.")
        again = self._failed_at + AGAIN_S - time.monotonic()
        if self.failure is not None and again > 0:
            raise self._not_loaded(again)
        while self._live is None:  # it may have left again before this one is told
            task = self._load(max(deadline, time.monotonic() + 2 * PATIENCE_S))
            await asyncio.wait({task}, timeout=max(0.0, deadline - MARGIN_S - time.monotonic()))
            if not task.done():
                left = self._load_s - (time.monotonic() - self._began)
                raise Busy(
                    "model-loading",
                    f"{self.title} is being loaded.",
                    hint="Try again after the time in Retry-After.",
                    retry_after_s=max(1.0, left),
                )
            try:
                task.result()
            except Busy:
                raise
            except MedServeError as error:
                raise self._not_loaded(AGAIN_S) from error
        return self._live

    def _not_loaded(self, again_s: float) -> Busy:
        code = "" if self.failure is None else f" ({self.failure.code})"
        return Busy(
            "model-failed",
            f"{self.title} could not be loaded{code}.",
            hint="Report this to whoever runs this service.",
            retry_after_s=again_s,
        )

    def promise(self, deadline: float | None, priority: int, wait_s: float) -> Promise:
        """Before a body is read: room for its request, until `kept`.

        Args:
            deadline: None asks no more of the batcher, for who hands his case in at once. wait_s: of work that may be
                ahead of it.

        Raises: Busy "service-full", Late "deadline-missed".
        """
        item_s = 0.0
        if self._live is not None:
            batcher = self._live.batcher
            if deadline is not None:
                batcher.check(deadline=deadline, priority=priority)
            item_s = batcher.item_s / batcher.threads
        return self._promises.take(priority, wait_s=wait_s, item_s=item_s)

    # -- answers ---------------------------------------------------------------------------------------------------

    async def predict(
        self,
        data: bytes,
        *,
        media: str = "",
        explain: str | None,
        deadline: float,
        trace: str,
        priority: int = ROUTINE,
    ) -> tuple[dict[str, Any], Stages]:
        """The answer for one file; `LoadedModel.predict` with the scoring batched.

        Raises: Refusal, Busy, Late: see `LoadedModel`, `Batcher` and `use`.
        """
        async with self.use(deadline) as live:
            model, batcher, began = live.model, live.batcher, time.perf_counter()
            if model.quick and len(data) <= QUICK_BYTES:  # going to another thread and back costs more
                tensor, about = model.take(data, media=media)
                compute = time.perf_counter() - began
            else:
                work = functools.partial(_in_time, deadline, model.take, media=media)
                (tensor, about), compute = await self._pools.decode(_timed, work, data, priority=priority)
            decoded, spent = time.perf_counter(), Spent()
            scored = await batcher.submit(
                Wanted(tensor, model.draws_in_pass(explain)), deadline=deadline, priority=priority, spent=spent
            )
            computed = time.perf_counter()
            text = model.text_of(data, media=media)
            if about is None:
                answer = model.answer(scored, case=tensor, text=text, trace=trace)
            else:  # of a long record, a review takes its time
                review = functools.partial(model.answer, case=tensor, text=text, trace=trace, about=about)
                answer, worked = await self._pools.decode(_timed, review, scored, priority=priority)
                compute += worked
            answered, explained = time.perf_counter(), 0.0
            if explain is not None:
                model.check_explain(explain)
                lane = (
                    self._pools.decode if scored.scores.cam is not None else self._pools.explain
                )  # drawn already, or not
                asked = (explain, tensor, scored.scores, answer["safety"])
                told, worked = await lane(_timed, _in_time, deadline, model.explain, *asked)
                answer["explanation"], explained = told, time.perf_counter() - answered
                compute += worked
            self.answered += 1
            return answer, Stages(
                decode=decoded - began,
                queue=spent.queue,
                batch=spent.batch,
                infer=spent.infer,
                encode=answered - computed,
                explain=explained,
                compute=compute + batcher.item_s,
                size=spent.size,
            )

    async def predict_prepared(
        self, image: Array, *, deadline: float, trace: str, priority: int = ROUTINE
    ) -> tuple[dict[str, Any], Stages]:
        """The answer for a picture as it enters the graph, (C, H, W) or (C, D, H, W) uint8: no decoding, no transforms.

        Raises: as `predict`; of the model's scope only what the scores tell.
        """
        async with self.use(deadline) as live:
            spent = Spent()
            scores = await live.batcher.submit(Wanted(image), deadline=deadline, priority=priority, spent=spent)
            scored = time.perf_counter()
            answer = live.model.answer(scores, case=image, trace=trace)
            self.answered += 1
            return answer, Stages(
                queue=spent.queue,
                batch=spent.batch,
                infer=spent.infer,
                encode=time.perf_counter() - scored,
                compute=live.batcher.item_s,
                size=spent.size,
            )

    async def aside(self, data: bytes | Array, *, media: str, deadline: float, priority: int) -> dict[str, Any]:
        """An answer that nobody waits for: decoded on one thread beside those of the requests. data: a body, or what
        `predict_prepared` takes.

        Raises: what `predict` raises.
        """
        async with self.use(deadline) as live:
            take = functools.partial(live.model.take, media=media)
            tensor, about = await self._pools.aside(take, data) if isinstance(data, bytes) else (data, None)
            scores = await live.batcher.submit(Wanted(tensor), deadline=deadline, priority=priority)
            return live.model.answer(scores, case=tensor, about=about)

    async def ready(self) -> bool:
        """Whether it answers, as far as it is in memory."""
        live = self._live
        return live is None or await live.ready() or self._live is not live

    def summary(self) -> dict[str, Any]:
        """What a client needs to choose and to call; no figures (they are in the card)."""
        model, spec = self.model, self.model.spec
        engine = model.engine.choice if isinstance(model, LoadedModel) else None
        inputs = [
            {
                "name": want.name,
                "kind": want.kind,
                "colour": want.colour,
                "modalities": want.modalities,
                "unit": want.unit,
                "range": want.range,
                "words": want.words,
                "media_types": want.media_types,
            }
            for want in spec.inputs
        ]
        return {
            "name": model.name,
            "version": model.version,
            "digest": model.digest,
            "question": spec.question,
            "task": spec.output.task,
            "labels": list(spec.output.labels),
            "input": inputs[0],
            "inputs": inputs,
            "medicines": model.medicines,
            "calibrated": spec.calibration.method != "none",
            "engine": None if engine is None else {"name": engine.engine, "precision": engine.precision},
            "explanations": [{"name": name, "verdict": verdict} for name, verdict in model.offered.items()],
            "state": self.state,
            "bytes": self.bytes,
            "pinned": self.pinned,
        }

    def close(self) -> None:
        """When the process ends: no loop waits for anything here."""
        if self._live is not None:
            self._live.batcher.close()


class _Use:
    """See `Service.use`; a class, because a generator costs several times as much."""

    __slots__ = ("_deadline", "_live", "_service")

    def __init__(self, service: Service, deadline: float) -> None:
        self._service, self._deadline = service, deadline

    async def __aenter__(self) -> Live:
        self._live = await self._service._hold(self._deadline)
        return self._live

    async def __aexit__(self, *_: object) -> None:
        self._live.let_go()


class _Claim:
    """See `Service.claimed`."""

    __slots__ = ("_service",)

    def __init__(self, service: Service) -> None:
        self._service = service

    def __enter__(self) -> None:
        self._service._claim(1)

    def __exit__(self, *_: object) -> None:
        self._service._claim(-1)


def _seen(task: "asyncio.Task[None]") -> None:
    """An error that nobody waited for any more is no error of the loop."""
    if not task.cancelled():
        task.exception()


def _in_time(deadline: float, work: Callable[..., T], *args: Any, **more: Any) -> T:
    """The time that it waited for a thread counts. Raises: Late."""
    check_time(deadline)
    return work(*args, **more)


def _timed(work: Callable[..., T], *args: Any) -> tuple[T, float]:
    """A result, and the seconds it took on its thread."""
    began = time.perf_counter()
    return work(*args), time.perf_counter() - began
