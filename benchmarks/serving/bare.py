"""The limits that no server can pass: the same engine in a bare loop, and decoding before it in a bare pipeline.

    python bare.py HOME PACKAGE THREADS          then a line of JSON for each answer on stdin:
    {"what": "engine", "seconds": 3}             ready-made batches of the best size: the limit of the model
    {"what": "files", "seconds": 3, "folder": F} decode ahead in threads, run behind: the limit of a request
    {"what": "lone", "seconds": 3}               one case at a time: milliseconds, median

No network, no queue, no checks of scope. It waits for the next line without using a core.
"""

import collections
import itertools
import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from medserve.models.package import SELFCHECK
from medserve.models.signing import Trust
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings

DECODERS = 2
AHEAD = 4  # batches decoded before they are wanted


class Bare:
    def __init__(self, home: Path, package: Path, threads: int) -> None:
        self._model = LoadedModel.open(package, Trust.load(Settings(home=home)), threads=threads, tuned=home / "tuned")
        stored = np.asarray(self._model.package.tensors(SELFCHECK)[self._model.engine.input])
        sizes = [b for b in (1, 2, 4, 5, 8, 16, 32, 64) if b <= self._model.engine.max_batch]
        self._batches = {b: np.ascontiguousarray(np.resize(stored, (b, *stored.shape[1:]))) for b in sizes}
        self._streams = self._model.engine.choice.streams
        rates = {b: self._loop(b, 0.4) for b in sizes}
        rates = {b: self._loop(b, 0.6) for b in sizes}  # the first ones warmed up
        self.best = max(rates, key=lambda b: rates[b])
        self._pool = ThreadPoolExecutor(DECODERS)

    def _loop(self, size: int, seconds: float) -> float:
        """Cases a second, all streams at work."""
        batch, end = self._batches[size], time.perf_counter() + seconds

        def work(_: int) -> int:
            done = 0
            while time.perf_counter() < end:
                self._model.score(batch)
                done += size
            return done

        began = time.perf_counter()
        with ThreadPoolExecutor(self._streams) as pool:
            done = sum(pool.map(work, range(self._streams)))
        return done / (time.perf_counter() - began)

    def engine(self, seconds: float) -> dict[str, Any]:
        return {"per_s": self._loop(self.best, seconds), "batch": self.best}

    def files(self, seconds: float, folder: str) -> dict[str, Any]:
        bodies = itertools.cycle([path.read_bytes() for path in sorted(Path(folder).iterdir())])
        batches, taking = self._decoded(bodies, time.perf_counter() + seconds), threading.Lock()
        done, began = -AHEAD * self.best, 0.0  # until as much is decoded ahead as at the end

        def work(_: int) -> None:
            nonlocal done, began
            while True:
                with taking:
                    batch = next(batches, None)
                if batch is None:
                    return
                self._model.score(batch)
                with taking:
                    done += len(batch)
                    if done >= 0 and not began:
                        done, began = 0, time.perf_counter()

        with ThreadPoolExecutor(self._streams) as pool:
            list(pool.map(work, range(self._streams)))
        return {"per_s": done / (time.perf_counter() - began), "batch": self.best}

    def _decoded(self, bodies: Iterator[bytes], end: float) -> Iterator[np.ndarray]:
        waiting: collections.deque[Future[np.ndarray]] = collections.deque()
        while time.perf_counter() < end:
            while len(waiting) < AHEAD * self.best:
                waiting.append(self._pool.submit(self._model.load, next(bodies)))
            yield np.stack([waiting.popleft().result() for _ in range(self.best)])
        for future in waiting:
            future.cancel()

    def lone(self, seconds: float) -> dict[str, Any]:
        one, end, took = self._batches[1], time.perf_counter() + seconds, []
        while (began := time.perf_counter()) < end:
            self._model.score(one)
            took.append((time.perf_counter() - began) * 1e3)
        return {"p50_ms": statistics.median(took), "p99_ms": statistics.quantiles(took, n=100)[-1]}


def main() -> None:
    home, package, threads = sys.argv[1:]
    bare = Bare(Path(home), Path(package), int(threads))
    sys.stdout.write(json.dumps({"best_batch": bare.best, "engine": str(bare._model.engine.choice)}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        said = json.loads(line)
        what = said.pop("what")
        sys.stdout.write(json.dumps(getattr(bare, what)(**said)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
