"""Where a request stands among others: W3C trace context, and spans for a collector that the operator names.

    tracing = open_tracing(os.environ)                    # UNTRACED unless an OTLP endpoint is configured
    place = tracing.begin(scope, trace)                   # None: nobody asked
    tracing.end(place, note, status, spent)

An answer to a request with a `traceparent` carries one too: the same trace, and a span of ours that is the second half
of the answer's `x-trace-id`; a valid `tracestate` comes back as it was. What is not valid is ignored, as the standard
says. Spans leave in a thread of the SDK, from a queue with a bound; no request waits for them or fails with them. They
hold words of ours alone: action, status, code, model, sizes and times; of a client, the two ids of its trace.
Source: W3C Trace Context, 2 and 3; OpenTelemetry Protocol over HTTP. The SDK is imported only where it is used.
"""

import logging
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import medserve
from medserve.errors import Usage
from medserve.serving.logs import Log, make_log
from medserve.serving.wire import Header, Scope

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

STAGES = ("decode", "queue", "batch", "infer", "encode", "explain")  # one after the other, behind `read`
FLUSH_S = 5.0  # for what is not sent yet when the service ends
QUIET_S = 60.0  # between two log lines about a collector that does not answer
MOST_STATE = 512  # characters of a tracestate that is passed on
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_KEY = r"[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_MEMBER = re.compile(rf"({_KEY})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_MOST_MEMBERS = 32
_SAMPLED, _KNOWN_FLAGS = 1, 3  # the second: the trace id is random


@dataclass(frozen=True, slots=True)
class Place:
    """Of one request. parent, caller: a client's trace and span, None without; trace, span: those of the request."""

    trace: str
    span: str
    flags: int
    parent: str | None = None
    caller: str | None = None
    state: str = ""

    @property
    def headers(self) -> tuple[Header, ...]:
        own = (b"traceparent", f"00-{self.trace}-{self.span}-{self.flags:02x}".encode())
        return (own, (b"tracestate", self.state.encode())) if self.state else (own,)


class Told(NamedTuple):
    """What a prediction measured. began: of `read`, by time.perf_counter; stages: `service.Stages`, one a case."""

    began: float
    read: float
    stages: Sequence[Any]


class Tracing(Protocol):
    def begin(self, scope: Scope, trace: str) -> Place | None: ...

    def end(self, place: Place, note: Mapping[str, Any], status: int, spent: float) -> None: ...

    def close(self) -> None: ...


class Untraced:
    """Passes a client's context on and keeps nothing."""

    def begin(self, scope: Scope, trace: str) -> Place | None:
        return place_of(scope, trace)

    def end(self, place: Place, note: Mapping[str, Any], status: int, spent: float) -> None:
        pass

    def close(self) -> None:
        pass


UNTRACED = Untraced()


def place_of(scope: Scope, trace: str) -> Place | None:
    """By a valid `traceparent`; None without one, or with more than one."""
    said = None
    for name, value in scope["headers"]:
        if name == b"traceparent":
            if said is not None:
                return None
            said = value
    found = None if said is None else _PARENT.fullmatch(said)
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5] is not None):
        return None
    parent, caller = found[2].decode(), found[3].decode()
    if not int(parent, 16) or not int(caller, 16):
        return None
    return Place(parent, trace[16:], int(found[4], 16) & _KNOWN_FLAGS, parent, caller, _state_of(scope))


def _state_of(scope: Scope) -> str:
    """The whole `tracestate` of a request in one line; "" where any of it is not valid, or it is too long."""
    said = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"tracestate")
    if len(said) > MOST_STATE:
        return ""
    members = [member.strip(" \t") for member in said.split(",")]
    members = [member for member in members if member]
    found = [_MEMBER.fullmatch(member) for member in members]
    keys = {one[1] for one in found if one is not None}
    return ",".join(members) if len(keys) == len(members) <= _MOST_MEMBERS else ""


def endpoint_of(environ: Mapping[str, str]) -> str | None:
    """Where spans go; None: nowhere.

    Raises: Usage "otel-protocol": a protocol or an exporter that is not here.
    """
    named = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if not named or exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if exporter != "otlp" or protocol not in (None, "", "http/protobuf"):
        raise Usage(
            "otel-protocol",
            "Spans leave by OTLP over HTTP alone.",
            hint="Set OTEL_TRACES_EXPORTER=otlp and OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or unset both.",
        )
    return named


def open_tracing(environ: Mapping[str, str], log: Log | None = None) -> Tracing:
    """Args: environ: `os.environ`, which the SDK reads too.

    Raises: Usage "otel-protocol"; "otel-missing": an endpoint is named, and the extra is not installed.
    """
    if endpoint_of(environ) is None:
        return UNTRACED
    try:
        return Spans(make_log() if log is None else log)
    except ImportError as error:
        raise Usage(
            "otel-missing",
            "An OTLP endpoint is configured, but OpenTelemetry is not installed.",
            hint="Install it: pip install 'medserve[otel]'. Or set OTEL_SDK_DISABLED=true.",
        ) from error


class Spans:
    """Each request as a span, its stages below it. Sampler, resource, queue and exporter are set by OTEL_* variables.

    A request is put into the queue as one span; its stages become spans in the thread that sends them.
    """

    def __init__(self, log: Log) -> None:
        import requests
        from opentelemetry import trace as api
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        _quieten(log)
        provider = TracerProvider(shutdown_on_exit=False)
        resource = provider.resource
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "medserve"}))
        version = Resource({"service.version": medserve.__version__})
        self._resource, self._sampler = version.merge(resource), provider.sampler
        self._scope = InstrumentationScope("medserve", medserve.__version__)
        self._api = api
        session = requests.Session()
        session.trust_env = False  # no proxy and no password that the environment names: to the endpoint, or nowhere
        sender = OTLPSpanExporter(session=session)
        spread = self._stages

        class Request(ReadableSpan):
            told: Told | None = None
            now = 0.0  # by time.perf_counter

        class Spread(SpanExporter):
            def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
                whole = [part for span in spans for part in (span, *spread(span))]
                return sender.export(whole)

            def shutdown(self) -> None:
                sender.shutdown()

        self._made, self._part, self._sender = Request, ReadableSpan, sender
        self._out: SpanProcessor = BatchSpanProcessor(Spread())

    def begin(self, scope: Scope, trace: str) -> Place:
        place = place_of(scope, trace) or Place(trace, trace[16:], _KNOWN_FLAGS - _SAMPLED)
        around = None
        if place.caller is not None:
            api = self._api
            remote = api.SpanContext(
                int(place.trace, 16), int(place.caller, 16), True, api.TraceFlags(place.flags & _SAMPLED)
            )
            around = api.set_span_in_context(api.NonRecordingSpan(remote))
        verdict = self._sampler.should_sample(around, int(place.trace, 16), "request", self._api.SpanKind.SERVER)
        flags = place.flags & ~_SAMPLED | (_SAMPLED if verdict.decision.is_sampled() else 0)
        return Place(place.trace, place.span, flags, place.parent, place.caller, place.state)

    def end(self, place: Place, note: Mapping[str, Any], status: int, spent: float) -> None:
        if not place.flags & _SAMPLED:
            return
        api, now, ended = self._api, time.perf_counter(), time.time_ns()
        trace, told = int(place.trace, 16), note.get("told")
        known = {
            "http.response.status_code": status, "medserve.action": note.get("route"),
            "medserve.code": note.get("code") or None, "medserve.model.name": note.get("model"),
            "medserve.model.version": note.get("version"), "medserve.model.digest": note.get("digest"),
        }  # fmt: skip
        if told is not None:
            known["medserve.cases"] = len(told.stages)
            known["medserve.batch.size"] = max((stages.size for stages in told.stages), default=0)
        span = self._made(
            note.get("route") or "unknown",
            api.SpanContext(trace, int(place.span, 16), False, api.TraceFlags(_SAMPLED)),
            None if place.caller is None else api.SpanContext(trace, int(place.caller, 16), True),
            self._resource,
            {name: value for name, value in known.items() if value is not None},
            kind=api.SpanKind.SERVER,
            status=api.Status(api.StatusCode.ERROR if status >= 500 else api.StatusCode.UNSET),
            start_time=ended - int(spent * 1e9),
            end_time=ended,
            instrumentation_scope=self._scope,
        )
        span.told, span.now = told, now
        self._out.on_end(span)

    def _stages(self, span: "ReadableSpan") -> list["ReadableSpan"]:
        """Of the case that took longest, laid one after the other from the moment at which reading began."""
        told: Told | None = getattr(span, "told", None)
        if told is None or span.end_time is None:
            return []
        longest = max(told.stages, key=lambda stages: sum(getattr(stages, name) for name in STAGES), default=None)
        taken = [("read", told.read), *((name, getattr(longest, name, 0.0)) for name in STAGES)]
        at = span.end_time - int((span.now - told.began) * 1e9)  # type: ignore[attr-defined]
        parts = []
        for name, seconds in taken:
            if not seconds:
                continue
            until = min(at + int(seconds * 1e9), span.end_time)
            assert span.context is not None
            own = self._api.SpanContext(
                span.context.trace_id, random.getrandbits(64) or 1, False, self._api.TraceFlags(_SAMPLED)
            )
            parts.append(
                self._part(
                    name, own, span.context, self._resource, start_time=at, end_time=until,
                    instrumentation_scope=self._scope,
                )
            )  # fmt: skip
            at = until
        return parts

    def close(self) -> None:
        """Send what waits, for at most `FLUSH_S`. Blocks."""
        last = threading.Thread(target=self._out.shutdown, name="spans-last", daemon=True)
        last.start()
        last.join(FLUSH_S)
        if last.is_alive():
            self._sender.shutdown()  # ends its waiting for a collector that does not answer


class _Quiet(logging.Handler):
    """What the SDK would say to stderr in words of its own, as one line of our log in `QUIET_S`."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log, self._next = log, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + QUIET_S
            self._log.warning("tracing", code="spans-unsent")


def _quieten(log: Log) -> None:
    theirs = logging.getLogger("opentelemetry")
    theirs.handlers, theirs.propagate = [_Quiet(log)], False
