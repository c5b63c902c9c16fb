"""Versions that are asked what was asked, after the answer has left, and never answer.

    shadows = Shadows(registry, admission, metrics, log)
    shadows.after(service, data, media, answer, trace)     # returns at once

What a shadow says is compared with the answer and counted: the same label or another, and how far the probabilities
are apart. It is not kept, not logged and not returned. A shadow is the first to go without when there is much to do: it
decodes on a thread of its own, waits behind every request, and is dropped where others wait.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from medserve.errors import Busy, MedServeError
from medserve.runtime.batcher import BATCH
from medserve.serving.admission import Admission
from medserve.serving.metrics import Metrics
from medserve.serving.registry import Registry
from medserve.serving.service import Service
from medserve.types import Array

MOST = 8  # comparisons that wait or run
MOST_BYTES = 64 * 2**20  # of their inputs
BUSY_SHARE = 8  # of the requests that may be under way: from an eighth on nothing is compared
WAIT_S = 10.0  # for a comparison


class Shadows:
    """One event loop; not for several threads."""

    def __init__(self, registry: Registry, admission: Admission, metrics: Metrics, log: Callable[..., object]) -> None:
        self._registry, self._admission, self._metrics, self._log = registry, admission, metrics, log
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0

    def after(self, answered: Service, data: bytes | Array, media: str, answer: dict[str, Any], trace: str) -> None:
        """Compare, if there is nothing better to do. data: a body, or a picture prepared for the version that answered:
        a shadow is shown that only where it prepares its own in the same way."""
        size = len(data) if isinstance(data, bytes) else data.nbytes
        name = answered.model.name
        split = self._registry.split_of(name)
        for version in () if split is None else split.shadow:
            with contextlib.suppress(MedServeError):  # it is not served here any more
                shadow = self._registry.find(name, version)
                if shadow is answered or (not isinstance(data, bytes) and not _alike(shadow, answered)):
                    continue
                if self._busy(shadow, size):
                    self._count(shadow, "dropped")
                    continue
                self._bytes += size
                task = asyncio.ensure_future(self._compare(shadow, data, media, answer, trace, size))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _busy(self, shadow: Service, size: int) -> bool:
        full = len(self._tasks) >= MOST or self._bytes + size > MOST_BYTES
        others = any(one.waiting for one in self._registry.services)
        crowded = self._admission.requests * BUSY_SHARE > self._admission.max_requests
        return full or others or crowded or self._admission.draining or not shadow.resident

    async def _compare(
        self, shadow: Service, data: bytes | Array, media: str, answer: dict[str, Any], trace: str, size: int
    ) -> None:
        try:
            with shadow.claimed():
                other = await shadow.aside(data, media=media, deadline=time.monotonic() + WAIT_S, priority=BATCH)
        except Busy:
            outcome = "dropped"
        except MedServeError as error:
            outcome = "refused" if error.kind == "refusal" else "failed"
        except Exception:
            outcome = "failed"
        else:
            outcome = "agreed" if label_of(answer) == label_of(other) else "differed"
            found, apart = self._registry.compared(shadow.model.name, shadow.model.version), difference(answer, other)
            if apart is not None:
                found.measured += 1
                found.sum_difference += apart
                found.most_difference = max(found.most_difference, apart)
                self._metrics.shadow_difference(shadow.model.name, shadow.model.version, apart)
        finally:
            self._bytes -= size
        self._count(shadow, outcome)
        self._log(
            "shadow", trace=trace, model=shadow.model.name, version=answer["model"]["version"],
            shadow=shadow.model.version, outcome=outcome,
        )  # fmt: skip

    def _count(self, shadow: Service, outcome: str) -> None:
        found = self._registry.compared(shadow.model.name, shadow.model.version)
        setattr(found, outcome, getattr(found, outcome) + 1)
        self._metrics.shadowed(shadow.model.name, shadow.model.version, outcome)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _alike(one: Service, other: Service) -> bool:
    """Whether a picture that was prepared for one is prepared for the other."""
    mine, theirs = one.model.spec, other.model.spec
    return mine.transforms == theirs.transforms and mine.inputs == theirs.inputs


def label_of(answer: dict[str, Any]) -> str | None:
    """What an answer says: the label decided on, else the most probable one; None for a number."""
    if answer["decision"]:
        return str(answer["decision"].get("label"))
    scored = [(out["probability"], out["label"]) for out in answer["outputs"] if out.get("probability") is not None]
    return max(scored)[1] if scored else None


def difference(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    """The largest absolute difference of two probabilities of one label; None where there are none to compare."""
    mine = {out["label"]: out.get("probability") for out in one["outputs"]}
    apart = [abs(mine[out["label"]] - out["probability"]) for out in other["outputs"]
             if mine.get(out["label"]) is not None and out.get("probability") is not None]  # fmt: skip
    return max(apart, default=None)
