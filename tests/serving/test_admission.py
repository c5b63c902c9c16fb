"""A service that is full, or too late, says so before a byte of the body is read."""

import time

import pytest
from tiny_package import png, ramp, raw

from medserve.errors import Busy


def _head(running, more: str) -> bytes:
    """A request that announces a body and never sends it."""
    lines = [
        "POST /v1/models/tiny/predict HTTP/1.1", "host: here", f"authorization: Bearer {running.key}",
        "content-type: image/png", "content-length: 5000", "connection: close", more,
    ]  # fmt: skip
    return "\r\n".join(line for line in lines if line).encode() + b"\r\n\r\n"


def test_a_full_service_refuses_before_the_body(running, monkeypatch):
    """503 with a Retry-After that is no less than half the work that waits, while the client has sent a head only."""
    batcher = running.application.registry.find("tiny", None).batcher
    monkeypatch.setattr(batcher, "_promised", lambda priority: 14.0)
    waits = set()
    for _ in range(12):
        with pytest.raises(Busy) as told:
            batcher.check(deadline=time.monotonic() + 60)
        waits.add(told.value.retry_after_s)
    assert len(waits) > 1 and all(7 <= wait <= 10.5 for wait in waits)
    said = raw(running.port, _head(running, ""), timeout=1)
    assert said.startswith(b"HTTP/1.1 503") and b'"service-full"' in said
    assert any(f"retry-after: {seconds}".encode() in said for seconds in range(7, 12))


def test_a_deadline_shorter_than_the_queue_is_told_before_the_body(running, monkeypatch):
    batcher = running.application.registry.find("tiny", None).batcher
    monkeypatch.setattr(batcher, "_promised", lambda priority: 2.0)
    said = raw(running.port, _head(running, "x-request-deadline-ms: 500"), timeout=1)
    assert said.startswith(b"HTTP/1.1 504") and b'"deadline-missed"' in said


def test_work_that_is_late_when_its_turn_comes_is_not_decoded(running, http, monkeypatch):
    """The time in which it waited for a decoding thread counts."""
    service = running.application.registry.find("tiny", None)
    begun = []
    monkeypatch.setattr(type(service.model), "load", lambda *a, **k: begun.append(1))
    pools = running.application.registry.pools
    for _ in range(8):
        pools._decode.submit(time.sleep, 0.15)
    headers = {"content-type": "image/png", "x-request-deadline-ms": "60"}
    late = http.post("/v1/models/tiny/predict", content=png(ramp()), headers=headers)
    assert late.status_code == 504
    time.sleep(0.9)
    assert not begun
