"""A service that is full, or too late, says so before a byte of the body is read."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_package import png, ramp, raw

from medserve.errors import Busy
from medserve.runtime.batcher import BATCH, ROUTINE, STAT
from medserve.serving import admission
from medserve.serving.admission import Promises


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


def test_what_is_let_in_is_bounded_by_time():
    """A dear model lets few in, a cheap one many; urgent work passes routine work, and slow bodies are no work."""
    dear = Promises()
    held = [dear.take(ROUTINE, wait_s=0.4, item_s=0.2) for _ in range(admission.FEW)]
    with pytest.raises(Busy) as told:
        dear.take(ROUTINE, wait_s=0.4, item_s=0.2)
    ahead_s = admission.FEW * 0.2
    assert told.value.code == "service-full" and ahead_s <= told.value.retry_after_s <= 1.5 * ahead_s
    dear.take(STAT, wait_s=0.4, item_s=0.2)
    dear.take(BATCH, wait_s=0.4, item_s=0.2)  # its bound is the batcher's
    for slow in held[:2]:
        slow.came -= 1  # its body does not come
    late = dear.take(ROUTINE, wait_s=0.4, item_s=0.2)
    for promise in (*held, late, late):
        promise.kept()
    dear.take(ROUTINE, wait_s=0.4, item_s=0.2)
    assert not [promise for promise in dear.reading if promise in held]
    cheap = Promises()
    for _ in range(admission.MANY):
        cheap.take(ROUTINE, wait_s=0.4, item_s=1e-5)
    with pytest.raises(Busy):
        cheap.take(ROUTINE, wait_s=0.4, item_s=1e-5)


def test_the_pace_is_measured_where_it_is_crowded(monkeypatch):
    """A request costs what lies between two answers, all stages together; one that is alone tells nothing of that."""
    now = [0.0]
    monkeypatch.setattr(admission.time, "monotonic", lambda: now[0])
    promises = Promises()
    for _ in range(3):
        lone = promises.take(ROUTINE, wait_s=0.4, item_s=0.0)
        lone.read()
        now[0] += 5
        lone.kept()
    assert promises.promised_s == 0
    crowd = [promises.take(ROUTINE, wait_s=0.4, item_s=0.0) for _ in range(90)]
    for promise in crowd:
        promise.read()
    for promise in crowd[:30]:
        now[0] += 0.02
        promise.kept()
    assert promises.promised_s == pytest.approx(60 * 0.02)
    for _ in range(4):  # as many clients as a light model takes at any pace
        promises.take(ROUTINE, wait_s=0.4, item_s=0.0)
    with pytest.raises(Busy):  # 64 of 20 ms are more than 0.4 s
        promises.take(ROUTINE, wait_s=0.4, item_s=0.0)


def test_refusals_for_want_of_room_do_not_wait_for_the_log(running, monkeypatch):
    """An engine that stands still: those let in are answered later, the others refused at once, and counted."""
    monkeypatch.setattr(admission, "MANY", 4)
    service, ledger = running.application.registry.find("tiny", None), running.application._ledger
    before, gate, begun, score = ledger.count(), threading.Event(), threading.Event(), type(service.model).score

    def gated(*given, **more):
        begun.set()
        assert gate.wait(10)
        return score(*given, **more)

    monkeypatch.setattr(type(service.model), "score", gated)
    monkeypatch.setattr(service.batcher, "_inline_s", 0.0)  # the engine may stand still, the event loop not
    with ThreadPoolExecutor(4) as pool, running.http() as http:
        headers = {"content-type": "image/png"}
        held = [pool.submit(http.post, "/v1/models/tiny/predict", content=png(ramp()), headers=headers)
                for _ in range(4)]  # fmt: skip
        until(lambda: sum(service._promises._ahead) == 4 and begun.is_set())
        with monkeypatch.context() as stuck:
            writing = threading.Event()
            commit = ledger.commit
            stuck.setattr(ledger, "commit", lambda *given: (writing.wait(10), commit(*given)))
            said = [raw(running.port, _head(running, ""), timeout=2) for _ in range(5)]
            assert all(one.startswith(b"HTTP/1.1 503") and b'"service-full"' in one for one in said)
            assert ledger.count() == before
            writing.set()
        gate.set()
        assert [one.result(20).status_code for one in held] == [200] * 4
    until(lambda: sum(max(1, event.count) for _, event in ledger.read(after=before)) == 9)
    refused = [event for _, event in ledger.read(after=before) if event.code == "service-full"]
    assert sum(event.count for event in refused) == 5 and len(refused) <= 3
    assert {(event.action, event.resource, event.status, event.outcome) for event in refused} == {
        ("models.predict", "tiny", 503, "allow")
    }
    assert all(event.principal.startswith("k-") and event.tenant for event in refused)
    until(lambda: not sum(service._promises._ahead))


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
