"""Trace context is read as W3C says; spans reach the collector that is named, hold our words alone, cost no answer."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from real_server import RealServer
from tiny_package import Running, noise, png, ramp, serving, spec, write_package

from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.errors import Usage
from medserve.serving.logs import make_log
from medserve.serving.safety import check_settings
from medserve.serving.tracing import UNTRACED, open_tracing, place_of
from medserve.settings import Settings

PARENT, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"  # the standard's own example
SENT = f"00-{PARENT}-{CALLER}-01"
OURS = "0193a1b2c3d4e5f60718293a4b5c6d7e"


def scope(*headers: tuple[str, str]) -> dict:
    return {"headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]}


@pytest.mark.parametrize(
    "bad",
    [
        "", "00", SENT.upper(), SENT[:-1], SENT + "-", SENT + "-more", " " + SENT, SENT + "\n", "ff" + SENT[2:],
        f"00-{'0' * 32}-{CALLER}-01", f"00-{PARENT}-{'0' * 16}-01", f"00-{PARENT}-{CALLER}-0g", "cc" + SENT[2:] + "x",
    ],
)  # fmt: skip
def test_a_traceparent_that_is_not_valid_is_ignored(bad):
    """W3C Trace Context 3.2.2: lower-case hex, no zero ids, version ff forbidden, version 00 exactly 55 characters."""
    assert place_of(scope(("traceparent", bad), ("tracestate", "a=1")), OURS) is None


def test_a_traceparent_is_answered_in_the_same_trace():
    """A span of ours, the flags that are known, and version 00 also where a later version was sent."""
    for version, more in (("00", ""), ("cc", ""), ("cc", "-what-the-future-will-be-like")):
        place = place_of(scope(("traceparent", f"{version}-{PARENT}-{CALLER}-09{more}")), OURS)
        assert place is not None and (place.parent, place.caller) == (PARENT, CALLER)
        assert place.headers == ((b"traceparent", f"00-{PARENT}-{OURS[16:]}-01".encode()),)
    assert place_of(scope(("traceparent", SENT), ("traceparent", SENT)), OURS) is None
    assert place_of(scope(("host", "x")), OURS) is None


@pytest.mark.parametrize(
    ("said", "passed"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["rojo=1", "congo=2"], "rojo=1,congo=2"),
        (["a=1 ,\t b@c=2,,"], "a=1,b@c=2"),
        (["9tenant@sys=x y"], "9tenant@sys=x y"),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["a=1=2"], ""),
        (["a="], ""),
        (["a=\x7f"], ""),
        (["a=1\r\nset-cookie: x"], ""),
        ([",".join(f"k{i}=1" for i in range(33))], ""),
        (["a=" + "x" * 257], ""),
        ([f"{'k' * 200}=1,{'j' * 200}=1,{'i' * 200}=1"], ""),
    ],
)
def test_a_tracestate_is_passed_on_whole_or_not_at_all(said, passed):
    place = place_of(scope(("traceparent", SENT), *(("tracestate", one) for one in said)), OURS)
    assert place is not None and place.state == passed
    assert (b"tracestate", passed.encode()) in place.headers or not passed


def test_a_request_without_a_trace_costs_nothing_that_counts():
    """A microsecond with ten headers; twice that here, on a machine that does other work too."""
    asked = scope(*((f"x-header-{i}", "value") for i in range(10)))
    best = float("inf")
    for _ in range(20):
        began = time.process_time()
        for _ in range(2000):
            UNTRACED.begin(asked, OURS)
        best = min(best, (time.process_time() - began) / 2000)
    assert best < 2e-6


class Collector(ThreadingHTTPServer):
    """Stands in for an OpenTelemetry collector: OTLP over HTTP, protobuf."""

    daemon_threads = True

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.heads: list[str] = []
        self.came = threading.Event()
        super().__init__(("127.0.0.1", 0), _Taking)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self) -> list:
        found = []
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for within in resource.scope_spans:
                    found += within.spans
        return found


class _Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.heads.append(f"{self.path} {self.headers}")
        self.server.bodies.append(body)
        self.server.came.set()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector():
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def clean(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    theirs = logging.getLogger("opentelemetry")
    before = theirs.handlers, theirs.propagate
    yield monkeypatch
    theirs.handlers, theirs.propagate = before


@contextlib.contextmanager
def traced(root, log):
    """A real server whose spans go where the OTEL_* variables say."""
    settings = Settings(home=root / "home")
    keys = KeyRing.open(settings)
    key = keys.create("tests").key
    tracing = open_tracing(os.environ, make_log(log))
    application = build(
        settings, [write_package(root / "one", settings, spec())], keys=keys, threads=1, tracing=tracing
    )
    application._log = make_log(log)
    with serving(application) as port:
        yield Running(f"http://127.0.0.1:{port}", port, key, settings, application, log)
    keys.close()


def test_a_prediction_reaches_the_collector_below_the_span_that_asked(tmp_path, collector, clean):
    """The request under the caller's span, its measured stages inside it in order, and nothing that a client wrote.
    What waits when the service ends is sent first."""
    clean.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    clean.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=ward-7")
    clean.setenv("http_proxy", "http://127.0.0.1:9")  # never asked, except by a client that believes it
    clean.setenv("no_proxy", "")
    clean.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    with (
        traced(tmp_path, StringIO()) as running,
        httpx2.Client(
            base_url=running.url, headers={"authorization": f"Bearer {running.key}"}, trust_env=False
        ) as http,
    ):
        canaries = ["CANARY-FILE", "CANARY-AGENT", "CANARY-QUERY", "canary-state", "CANARY-PATH", running.key]
        sent = {
            "traceparent": SENT,
            "tracestate": "canary-state=1",
            "user-agent": "CANARY-AGENT",
            "content-type": "image/png",
        }
        body = png(ramp()) + b"CANARY-FILE"
        good = http.post("/v1/models/tiny/predict?explain=cam", content=body, headers=sent)
        assert good.status_code == 200
        assert good.headers["tracestate"] == "canary-state=1"
        version, trace, span, flags = good.headers["traceparent"].split("-")
        assert (version, trace, flags) == ("00", PARENT, "01") and good.headers["x-trace-id"].endswith(span)
        bad = http.post(
            "/v1/models/tiny/predict?explain=CANARY-QUERY", content=png(noise()), headers={"content-type": "image/png"}
        )
        lost = http.get("/v1/models/CANARY-PATH/CANARY-PATH")
        assert bad.status_code == 400 and lost.status_code == 404
        own = bad.headers["traceparent"].split("-")
        assert own[1] == bad.headers["x-trace-id"] and not collector.bodies
    assert all(head.startswith("/v1/traces ") for head in collector.heads)
    spans = collector.spans
    requests = [one for one in spans if one.kind == 2]
    assert len(requests) == 3
    asked = next(one for one in requests if one.trace_id.hex() == PARENT)
    assert asked.span_id.hex() == span and asked.parent_span_id.hex() == CALLER
    said = {one.key: one.value.string_value or one.value.int_value for one in asked.attributes}
    assert said["medserve.model.name"] == "tiny" and said["medserve.model.version"] == "1"
    assert said["http.response.status_code"] == 200 and said["medserve.batch.size"] == 1
    assert said["medserve.action"] == asked.name == "models.explain" and len(said["medserve.model.digest"]) >= 64
    stages = [one for one in spans if one.parent_span_id == asked.span_id]
    names = [one.name for one in stages]
    assert names[0] == "read" and {"decode", "queue", "infer", "encode"} <= set(names) and len(set(names)) == len(names)
    edges = [asked.start_time_unix_nano]
    for one in stages:
        assert one.trace_id == asked.trace_id
        edges += [one.start_time_unix_nano, one.end_time_unix_nano]
    assert edges == sorted(edges) and edges[-1] <= asked.end_time_unix_nano
    failed = next(one for one in requests if one.trace_id.hex() == own[1])
    assert not failed.parent_span_id
    assert "medserve.code" in {one.key for one in failed.attributes}
    whole = b"".join(collector.bodies) + "".join(collector.heads).encode()
    assert b"ward-7" in whole and b"medserve" in whole
    assert not [canary for canary in canaries if canary.encode() in whole]
    assert b"127.0.0.1" not in b"".join(collector.bodies)


def test_sigterm_sends_what_waits(tmp_path, collector, clean):
    """`medserve serve` as a process: its environment names the collector; two cases of one request are one span."""
    clean.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    clean.setenv("OTEL_SERVICE_NAME", "ward-service")
    clean.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    settings = Settings(home=tmp_path / "home")
    package = write_package(tmp_path / "one", settings, spec())
    with contextlib.closing(KeyRing.open(settings)) as keys:
        key = keys.create("tests").key
    server = RealServer(tmp_path, [package])
    server.start()
    try:
        cases = {"name": "image", "shape": [2, 1, 28, 28], "datatype": "UINT8", "data": ramp().flatten().tolist() * 2}
        head = {"authorization": f"Bearer {key}", "traceparent": SENT}
        answer = httpx2.post(f"{server.url}/v2/models/tiny/infer", json={"inputs": [cases]}, headers=head, timeout=20)
        assert answer.status_code == 200 and not collector.bodies, answer.text
    finally:
        server.stop()
    asked = [one for one in collector.spans if one.trace_id.hex() == PARENT and one.kind == 2]
    assert len(asked) == 1 and b"ward-service" in collector.bodies[0]
    assert {one.key: one.value.int_value for one in asked[0].attributes}["medserve.cases"] == 2
    assert "infer" in {one.name for one in collector.spans if one.parent_span_id == asked[0].span_id}


def test_a_caller_who_does_not_sample_is_followed(tmp_path, collector, clean):
    """parentbased_always_on, the standard's default: no span, and the flag stays down."""
    clean.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.url + "/own/path")
    with traced(tmp_path, StringIO()) as running, running.http() as http:
        for flags in ("00", "01"):
            answer = http.get("/v1/models", headers={"traceparent": SENT[:-2] + flags})
            assert answer.headers["traceparent"].endswith("-" + flags)
    assert len(collector.spans) == 1 and collector.heads[0].startswith("/own/path ")


def test_a_collector_that_is_away_costs_no_answer(tmp_path, clean):
    """Answers as ever, one line in our log, none of anybody else's; the end does not wait for it long."""
    clean.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    clean.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    clean.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    clean.setattr("medserve.serving.tracing.FLUSH_S", 0.5)
    clean.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    log = StringIO()
    with traced(tmp_path, log) as running, running.http() as http:
        for _ in range(12):
            answer = http.post("/v1/models/tiny/predict", content=png(ramp()), headers={"content-type": "image/png"})
            assert answer.status_code == 200 and "traceparent" in answer.headers
        time.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 4
    assert log.getvalue().count("spans-unsent") == 1 and "127.0.0.1:9" not in log.getvalue()


def test_without_an_endpoint_nothing_is_traced_and_nothing_imported(clean):
    """FastAPI brings OpenTelemetry's API with it, which does nothing by itself; neither SDK nor exporter come along."""
    code = """
import os, sys, medserve.app
from medserve.serving.tracing import UNTRACED, open_tracing
endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
for said in ({}, endpoint | {"OTEL_SDK_DISABLED": "true"}, endpoint | {"OTEL_TRACES_EXPORTER": "none"}):
    assert open_tracing(said) is UNTRACED
theirs = ("opentelemetry.sdk", "opentelemetry.exporter", "requests")
found = [name for name in sys.modules if name.startswith(theirs)]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_endpoint_without_the_extra_says_what_to_install(clean):
    clean.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    clean.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(Usage) as caught:
        open_tracing(os.environ)
    assert caught.value.code == "otel-missing" and "medserve[otel]" in caught.value.hint


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.clinic:4318"}, "otel-plain"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://10.0.0.7:4318/v1/traces"}, "otel-plain"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "otel-endpoint"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, "otel-endpoint"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otel-protocol"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "zipkin"}, "otel-protocol"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.clinic:4318"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_EXPORTER_OTLP_INSECURE": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_SDK_DISABLED": "true"}, None),
        ({}, None),
    ],
)
def test_spans_do_not_leave_the_machine_readable(tmp_path, said, code):
    settings = Settings(home=tmp_path / "home")
    settings.folder("keys")
    if code is None:
        check_settings(settings, said)
        return
    with pytest.raises(Usage) as caught:
        check_settings(settings, said)
    assert caught.value.code == code and caught.value.hint
