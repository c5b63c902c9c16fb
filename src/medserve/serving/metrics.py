"""Counts and times of one process, for Prometheus: `GET /metrics` (doors/metrics.py).

    metrics.request("models.predict", 200, 0.0031)
    metrics.stage("infer", 0.0018)
    text = metrics.text()

Labels are words of this program (actions, statuses, stages, error codes) and names of the models served; nothing that a
client wrote, and nothing of a patient, can become one.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from medserve import __version__

if TYPE_CHECKING:
    from medserve.serving.admission import Admission
    from medserve.serving.registry import Registry

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_APART = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


class Metrics:
    """What is counted. Safe to use from several threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        more: Any = {"registry": self.registry}
        self._requests = Counter("medserve_requests", "Requests answered.", ["action", "status"], **more)
        self._seconds = Histogram("medserve_request_seconds", "From request line to answer.", ["action"],
                                  buckets=_SECONDS, **more)  # fmt: skip
        self._stages = Histogram("medserve_stage_seconds", "Parts of a prediction; infer: with its wait in the queue.",
                                 ["stage"], buckets=_SECONDS, **more)  # fmt: skip
        self._turned_away = Counter("medserve_turned_away", "Requests refused for want of room or quota.", ["code"],
                                    **more)  # fmt: skip
        self._commits = Histogram("medserve_audit_commit_seconds", "Durable commits of the audit log.",
                                  buckets=_SECONDS, **more)  # fmt: skip
        self._events = Counter("medserve_audit_events", "Events in these commits.", **more)
        self._shadowed = Counter("medserve_shadow", "Comparisons of a shadow with the answer.",
                                 ["model", "version", "outcome"], **more)  # fmt: skip
        self._apart = Histogram("medserve_shadow_difference", "Largest difference of a probability of one answer.",
                                ["model", "version"], buckets=_APART, **more)  # fmt: skip
        ProcessCollector(registry=self.registry)
        # What a label stands for is looked up once.
        self._answered: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._stage = {name: self._stages.labels(name) for name in ("read", "decode", "infer", "explain")}

    def request(self, action: str, status: int, seconds: float) -> None:
        """status: of HTTP; 0: nothing was answered."""
        found = self._answered.get((action, status))
        if found is None:
            found = self._requests.labels(action, str(status)), self._seconds.labels(action)
            self._answered[action, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """name: read, decode, infer or explain."""
        self._stage[name].observe(seconds)

    def turned_away(self, code: str) -> None:
        """code: of an error whose kind is capacity."""
        self._turned_away.labels(code).inc()

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
        return generate_latest(self.registry)


class _State:
    """Gauges that are read, not kept."""

    def __init__(self, registry: "Registry", admission: "Admission") -> None:
        self._registry, self._admission = registry, admission

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

    def describe(self) -> Iterable[Metric]:
        return ()
