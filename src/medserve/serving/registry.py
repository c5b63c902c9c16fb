"""The services of one process: a name, one or more versions behind it, and the threads that work for them.

registry = Registry([LoadedModel.open(folder, trust), ...])
service  = registry.find("chest", None)         # the version loaded last
registry.add(model, tenant="cardiology")        # while it serves; that tenant alone sees the name
answer   = await service.predict(data, explain=None, deadline=..., trace=...)
"""

import asyncio
import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from medserve.errors import Busy, NotFound, Usage
from medserve.models.package import SELFCHECK
from medserve.runtime.batcher import Batcher
from medserve.runtime.model import LoadedModel
from medserve.types import Array, Scores

T = TypeVar("T")
MAX_EXPLAINING = 8  # explanations that wait or run; each costs hundreds of passes
PROBE_FRESH_S = 5.0


class Stages(NamedTuple):
    """Seconds of one request, for `Server-Timing`. compute: of a processor, without the waiting."""

    decode: float
    infer: float
    explain: float
    compute: float


class Pools:
    """Threads that all services share: decoding, and the slow work of explanations."""

    def __init__(self, decoders: int = 0) -> None:
        count = decoders or max(2, os.cpu_count() or 1)
        self._decode = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._explain = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._explaining = 0

    async def decode(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decode, functools.partial(work, *args))

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
        self._decode.shutdown(wait=True, cancel_futures=True)
        self._explain.shutdown(wait=True, cancel_futures=True)


class Service:
    """One version of one model on the network."""

    def __init__(self, model: LoadedModel, pools: Pools, *, horizon_s: float = 10.0) -> None:
        self.model, self._pools = model, pools
        self._batcher: Batcher[Array, Scores] = Batcher(
            self._run,
            max_batch=model.engine.max_batch,
            threads=model.engine.choice.streams,
            horizon_s=horizon_s,
            item_s=model.item_s,
            name=f"engine-{model.name}",
        )
        self._probe_image = np.asarray(model.package.tensors(SELFCHECK)[model.engine.input])[0]
        self._probed_at, self._probe_ok = -math.inf, False
        self._probing = asyncio.Lock()

    @property
    def promised_s(self) -> float:
        return self._batcher.promised_s

    def _run(self, images: list[Array]) -> list[Scores]:
        scores = self.model.score(np.stack(images))
        return [scores[row : row + 1] for row in range(len(images))]

    async def predict(
        self, data: bytes, *, media: str = "", explain: str | None, deadline: float, trace: str
    ) -> tuple[dict[str, Any], Stages]:
        """The answer for one file; `LoadedModel.predict` with the scoring batched.

        Raises: Refusal, Busy, Late: see `LoadedModel` and `Batcher`.
        """
        began = time.perf_counter()
        tensor, compute = await self._pools.decode(_timed, functools.partial(self.model.load, media=media), data)
        decoded = time.perf_counter()
        scores = await self._batcher.submit(tensor, deadline=deadline)
        text = self.model.text_of(data, media=media)
        answer = self.model.answer(scores, case=tensor, text=text, trace=trace)
        scored = time.perf_counter()
        if explain is not None:
            answer["explanation"], spent = await self._pools.explain(
                _timed, self.model.explain, explain, tensor, scores
            )
            compute += spent
        compute += self._batcher.item_s
        return answer, Stages(decoded - began, scored - decoded, time.perf_counter() - scored, compute)

    async def ready(self) -> bool:
        """A real inference passed through the engine within the last seconds; however many ask, one runs."""
        async with self._probing:
            if time.monotonic() - self._probed_at < PROBE_FRESH_S:
                return self._probe_ok and self._batcher.alive
            try:
                await self._batcher.submit(self._probe_image, deadline=time.monotonic() + 5)
                self._probe_ok = True
            except Busy:  # full of accepted work is not broken
                self._probe_ok = self._batcher.alive
            except Exception:
                self._probe_ok = False
            self._probed_at = time.monotonic()
            return self._probe_ok

    def summary(self) -> dict[str, Any]:
        """What a client needs to choose and to call; no figures (they are in the card)."""
        model, spec = self.model, self.model.spec
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
            "calibrated": spec.calibration.method != "none",
            "engine": {"name": model.engine.choice.engine, "precision": model.engine.choice.precision},
            "explanations": [{"name": name, "verdict": verdict} for name, verdict in model.offered.items()],
        }

    def close(self) -> None:
        self._batcher.close()


class Taken(Usage):
    """It is there already."""

    status = 409


class Registry:
    """Services by name and version. Of several versions, the one given last answers under the bare name.

    changes: how many services were added; whoever remembers something of them remembers this too.

    Raises: Usage "service-taken": two packages have one name and version.
    """

    def __init__(self, models: Sequence[LoadedModel], *, horizon_s: float = 10.0) -> None:
        self.pools, self._horizon_s, self.changes = Pools(), horizon_s, 0
        self._services: dict[str, dict[str, Service]] = {}
        self._tenants: dict[str, str] = {}
        try:
            for model in models:
                self.add(model)
        except Usage:
            self.close()
            raise

    def add(self, model: LoadedModel, *, tenant: str | None = None) -> None:
        """Serve it from the next request on; what is under way goes on with the version that it began with.

        Args:
            tenant: whose it is; None: of whoever the policy lets see it.

        Raises: Usage "service-taken": the name and version are served, or the name is somebody else's.
        """
        self.check(model.name, model.version, tenant)
        service = Service(model, self.pools, horizon_s=self._horizon_s)
        if tenant is not None:
            self._tenants = self._tenants | {model.name: tenant}  # hidden before it is there
        versions = self._services.get(model.name, {}) | {model.version: service}
        self._services = self._services | {model.name: versions}  # replaced whole: readers never see half of it
        self.changes += 1

    def check(self, name: str, version: str, tenant: str | None) -> None:
        """Whether `add` would take it."""
        if name in self._services and self.tenant_of(name) != tenant:
            raise Taken(
                "service-taken",
                f"The name {name!r} is taken.",
                hint="Give the model another name when it is trained: --name NAME",
            )
        if version in self._services.get(name, {}):
            raise Taken(
                "service-taken",
                f"Two packages are named {name!r}, version {version!r}.",
                hint="Give one of them another name or version when it is trained.",
            )

    def tenant_of(self, name: str) -> str | None:
        """Whose model this is alone; None: nobody's in particular."""
        return self._tenants.get(name)

    @property
    def services(self) -> list[Service]:
        return [service for versions in self._services.values() for service in versions.values()]

    def find(self, name: str, version: str | None) -> Service:
        """Raises: NotFound (404)."""
        if name not in self._services:
            raise NotFound("model", name, self._services, hint="List them with GET /v1/models.")
        versions = self._services[name]
        if version is None:
            return next(reversed(versions.values()))
        if version not in versions:
            raise NotFound("version", version, versions, hint=f"List them with GET /v1/models/{name}.")
        return versions[version]

    def versions(self, name: str) -> list[Service]:
        self.find(name, None)
        return list(self._services[name].values())

    async def ready(self) -> bool:
        checks = [await service.ready() for service in self.services]
        return bool(checks) and all(checks)

    def close(self) -> None:
        for service in self.services:
            service.close()
        self.pools.close()


def _timed(work: Callable[..., T], *args: Any) -> tuple[T, float]:
    """A result, and the seconds it took on its thread."""
    began = time.perf_counter()
    return work(*args), time.perf_counter() - began
