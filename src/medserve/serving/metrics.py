"""Counts and times of one process, for Prometheus: `GET /metrics` (doors/metrics.py).

    metrics.request("models.predict", 200, 0.0031)
    metrics.stage("infer", 0.0018)
    text = metrics.text()

Labels are words of this program (actions, statuses, stages, error codes) and names of the models served; nothing that a
client wrote, and nothing of a patient, can become one.
"""

import collections
import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from medserve import __version__
from medserve.types import Array

if TYPE_CHECKING:
    from medserve.serving.admission import Admission
    from medserve.serving.live import Stages
    from medserve.serving.registry import Registry

STAGES = ("read", "decode", "queue", "batch", "infer", "encode", "explain")
_QUICK = STAGES[:-1]  # of an answer without an explanation
_FINE = (50e-6, 100e-6, 250e-6, 500e-6)  # of a light model
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_TIMING = b'read;dur=%.3f, decode;dur=%.3f, queue;dur=%.3f, batch;dur=%.3f;desc="%d", infer;dur=%.3f, encode;dur=%.3f'
TOGETHER = 512  # values that are counted at once
IDLE_S = 15.0  # the idle ratio looks back at least so far
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_APART = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


class _Durations:
    """A histogram by one label, a tenth of the cost of the library's: values wait, and are counted many at a time."""

    def __init__(self, name: str, said: str, label: str, edges: Sequence[float]) -> None:
        self._name, self._said, self._label, self._edges = name, said, label, edges
        self._texts = [*(floatToGoString(edge) for edge in edges), "+Inf"]
        self._kept: dict[str, tuple[Array, float]] = {}  # label -> counts by bucket, and the sum
        self._waiting: dict[str, list[float]] = {}
        self._rows: dict[tuple[str, ...], list[tuple[float, ...]]] = {}
        self._lock = threading.Lock()

    def observe(self, value: str, seconds: float) -> None:
        self.observe_all(((value, seconds),))

    def observe_all(self, pairs: Iterable[tuple[str, float]]) -> None:
        with self._lock:
            for value, seconds in pairs:
                self._add(value, (seconds,))

    def observe_row(self, values: tuple[str, ...], seconds: tuple[float, ...]) -> None:
        """One of each, again and again the same ones."""
        with self._lock:
            rows = self._rows.get(values)
            if rows is None:
                rows = self._rows[values] = []
            rows.append(seconds)
            if len(rows) >= TOGETHER:
                self._apart(values, rows)

    def _apart(self, values: tuple[str, ...], rows: list[tuple[float, ...]]) -> None:
        """Held lock."""
        for value, column in zip(values, zip(*rows, strict=True), strict=bool(rows)):
            self._add(value, column)
        rows.clear()

    def _add(self, value: str, seconds: Iterable[float]) -> None:
        """Held lock."""
        waiting = self._waiting.get(value)
        if waiting is None:
            waiting = self._waiting[value] = []
        waiting.extend(seconds)
        if len(waiting) >= TOGETHER:
            self._count(value, waiting)

    def _count(self, value: str, waiting: list[float]) -> None:
        """Held lock."""
        buckets = np.bincount(np.searchsorted(self._edges, waiting), minlength=len(self._edges) + 1)
        counts, total = self._kept.get(value, (0, 0.0))
        self._kept[value] = counts + buckets, total + sum(waiting)
        waiting.clear()

    def collect(self) -> Iterator[Metric]:
        found = HistogramMetricFamily(self._name, self._said, labels=[self._label])
        with self._lock:
            for values, lines in self._rows.items():
                self._apart(values, lines)
            for value, waiting in self._waiting.items():
                self._count(value, waiting)
            rows = dict(self._kept)
        for value, (counts, total) in rows.items():
            found.add_metric([value], list(zip(self._texts, counts.cumsum().tolist(), strict=True)), total)
        yield found

    def describe(self) -> Iterable[Metric]:
        return ()


class Metrics:
    """What is counted. Safe to use from several threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        more: Any = {"registry": self.registry}
        self._requests = Counter("medserve_requests", "Requests answered.", ["action", "status"], **more)
        self._seconds = _Durations(
            "medserve_request_seconds", "From request line to answer.", "action", (*_FINE, *_SECONDS)
        )
        self._stages = _Durations("medserve_stage_seconds", "Parts of a prediction.", "stage", (*_FINE, *_SECONDS))
        self._turned_away = Counter("medserve_turned_away", "Requests refused for want of room or quota.", ["code"],
                                    **more)  # fmt: skip
        self._late = Counter("medserve_deadline_missed", "Predictions whose deadline passed before the answer.", **more)
        self._commits = Histogram("medserve_audit_commit_seconds", "Durable commits of the audit log.",
                                  buckets=_SECONDS, **more)  # fmt: skip
        self._events = Counter("medserve_audit_events", "Events in these commits.", **more)
        self._shadowed = Counter("medserve_shadow", "Comparisons of a shadow with the answer.",
                                 ["model", "version", "outcome"], **more)  # fmt: skip
        self._apart = Histogram("medserve_shadow_difference", "Largest difference of a probability of one answer.",
                                ["model", "version"], buckets=_APART, **more)  # fmt: skip
        ProcessCollector(registry=self.registry)
        # What a label stands for is looked up once.
        self._answered: dict[tuple[str, int], Counter] = {}
        self._done: list[tuple[str, int, float]] = []  # not yet counted
        self.registry.register(self._seconds)
        self.registry.register(self._stages)

    def request(self, action: str, status: int, seconds: float) -> None:
        """status: of HTTP; 0: nothing was answered."""
        self._done.append((action, status, seconds))
        if len(self._done) >= TOGETHER:
            self._count()

    def _count(self) -> None:
        done: list[tuple[str, int, float]] = []
        with contextlib.suppress(IndexError):
            while True:
                done.append(self._done.pop())  # another thread may add meanwhile
        self._seconds.observe_all((action, seconds) for action, _, seconds in done)
        for (action, status), times in collections.Counter((action, status) for action, status, _ in done).items():
            found = self._answered.get((action, status))
            if found is None:
                found = self._answered[action, status] = self._requests.labels(action, str(status))
            found.inc(times)

    def stage(self, name: str, seconds: float) -> None:
        """name: one of `STAGES`."""
        self._stages.observe(name, seconds)

    def answered(self, read: float, cases: "Sequence[Stages]", writing: float) -> bytes:
        """Count the stages of an answer. A request of many cases: of each stage the longest, they pass side by side.

        Args:
            read, writing: seconds, of the body and of the answer's bytes.

        Returns: the header `Server-Timing`, milliseconds.
        """
        longest = cases[0] if len(cases) == 1 else [max(column) for column in zip(*cases, strict=True)]
        decode, queue, batch, infer, encode, explain, _, size = longest or (0.0,) * 7 + (0,)
        spent = (read, decode, queue, batch, infer, encode + writing, explain)
        if explain:
            self._stages.observe_row(STAGES, spent)
        else:
            self._stages.observe_row(_QUICK, spent[:-1])
        said = _TIMING % (*(1e3 * seconds for seconds in spent[:4]), size, 1e3 * infer, 1e3 * spent[5])
        return said + b", explain;dur=%.3f" % (1e3 * explain) if explain else said

    def turned_away(self, code: str) -> None:
        """code: of an error whose kind is capacity."""
        self._turned_away.labels(code).inc()
        if code == "deadline-missed":
            self._late.inc()

    def committed(self, events: int, seconds: float) -> None:
        self._commits.observe(seconds)
        self._events.inc(events)

    def shadowed(self, model: str, version: str, outcome: str) -> None:
        """outcome: agreed, differed, refused, failed or dropped."""
        self._shadowed.labels(model, version, outcome).inc()

    def shadow_difference(self, model: str, version: str, difference: float) -> None:
        self._apart.labels(model, version).observe(difference)

    def watch(self, registry: "Registry", admission: "Admission") -> None:
        """Read what is under way whenever somebody asks."""
        self.registry.register(_State(registry, admission))

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        self._count()
        return generate_latest(self.registry)


class _State:
    """Gauges that are read, not kept."""

    def __init__(self, registry: "Registry", admission: "Admission") -> None:
        self._registry, self._admission = registry, admission
        # when, busy seconds; the first scrape looks back to the start
        self._seen: deque[tuple[float, dict[tuple[str, str], float]]] = deque([(time.monotonic(), {})])

    def collect(self) -> Iterator[Metric]:
        info = InfoMetricFamily("medserve_build", "The version that runs.")
        info.add_metric([], {"version": __version__})
        yield info
        yield GaugeMetricFamily("medserve_requests_under_way", "Predictions admitted.", value=self._admission.requests)
        yield GaugeMetricFamily("medserve_bytes_under_way", "Set aside for bodies.", value=self._admission.bytes)
        promised = GaugeMetricFamily("medserve_promised_seconds", "Work waiting.", labels=["model", "version"])
        for service in self._registry.services:
            promised.add_metric([service.model.name, service.model.version], service.promised_s)
        yield promised
        loaded = GaugeMetricFamily("medserve_model_loaded_bytes", "Of engines in memory, estimated; 0: not loaded.",
                                   labels=["model", "version"])  # fmt: skip
        answered = CounterMetricFamily("medserve_answers", "Predictions answered.", labels=["model", "version"])
        for service in self._registry.services:
            labels = [service.model.name, service.model.version]
            loaded.add_metric(labels, service.bytes if service.resident else 0)
            answered.add_metric(labels, service.answered)
        yield loaded
        yield answered
        yield from self._engines()

    def _engines(self) -> Iterator[Metric]:
        busy = CounterMetricFamily(
            "medserve_engine_busy_seconds", "Of all engine threads.", labels=["model", "version"]
        )
        idle = GaugeMetricFamily("medserve_engine_idle_ratio", "Share of the last seconds without work for a thread.",
                                 labels=["model", "version"])  # fmt: skip
        sizes = HistogramMetricFamily("medserve_batch_size", "Cases of one pass.", labels=["model", "version"])
        now, spent = time.monotonic(), {}
        for service in self._registry.services:
            if (batcher := service.batcher) is None:
                continue
            label = (service.model.name, service.model.version)
            spent[label] = batcher.busy_s / batcher.threads
            busy.add_metric(label, batcher.busy_s)
            counts = batcher.sizes
            edges = [(str(edge), sum(n for size, n in counts.items() if size <= edge)) for edge in _SIZES]
            edges.append(("+Inf", sum(counts.values())))
            sizes.add_metric(label, edges, sum(size * n for size, n in counts.items()))
        while len(self._seen) > 1 and self._seen[1][0] <= now - IDLE_S:
            self._seen.popleft()
        since, before = self._seen[0]
        if now > since:
            for label, seconds in spent.items():
                worked = max(0.0, seconds - before.get(label, 0.0)) / (now - since)
                idle.add_metric(label, max(0.0, 1.0 - worked))
        if now - self._seen[-1][0] >= 1.0:
            self._seen.append((now, spent))
        yield busy
        yield idle
        yield sizes

    def describe(self) -> Iterable[Metric]:
        return ()
