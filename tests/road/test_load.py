"""The load page: requests that no answer delays, a service of its own, and figures that add up."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from medserve.access.keys import KeyRing
from medserve.errors import Fault, Usage
from medserve.evaluation.load_page import write_load_page
from medserve.models.package import open_package
from medserve.models.signing import Trust
from medserve.road.collect import list_data
from medserve.road.load import _batches, _inside, load_test, service_versions
from medserve.road.poisson import closed_loop, open_loop, request_of
from medserve.road.sample import bodies
from medserve.road.tune import tune_package
from medserve.runtime.tuned import processor

REQUEST = request_of("/", b"{}", "application/json", "key")


async def _server(answer):
    """A server on a loopback port that does one thing with each request."""

    async def handle(reader, writer):
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                said = await answer()
                writer.write(f"HTTP/1.1 {said} X\r\ncontent-length: 2\r\n\r\n{{}}".encode() if said else b"")
                if not said:
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    return await asyncio.start_server(handle, "127.0.0.1", 0)


def test_a_latency_counts_from_the_intended_moment():
    """One at a time, 20 ms each, and 100 a second: the last of a second's hundred waits about a second, which a client
    that waits for each answer would never see."""

    async def run():
        lock = asyncio.Lock()

        async def slow():
            async with lock:
                await asyncio.sleep(0.02)
                return 200

        async with await _server(slow) as server:
            port = server.sockets[0].getsockname()[1]
            honest, took = await open_loop(port, [REQUEST], rate=100, seconds=1, seed=0)
            closed = await closed_loop(port, [REQUEST], clients=1, seconds=0.5)
            await asyncio.sleep(0.1)  # the server sees that its clients went
        return honest, took, closed

    honest, took, closed = asyncio.run(run())
    assert 70 < len(honest) < 130 and {one.status for one in honest} == {200}
    assert max(one.seconds for one in honest) > 0.5 and took > 1.4
    usual = sorted(one.seconds for one in closed)[len(closed) // 2]
    assert usual < max(one.seconds for one in honest) / 3  # the same server, asked as if nobody else were there


def test_a_line_that_breaks_is_a_failure_and_not_the_end():
    """Status 0; the next request opens another line."""
    said = iter([200, 0, 503] + [200] * 500)

    async def run():
        async def answer():
            return next(said)

        async with await _server(answer) as server:
            found = await open_loop(server.sockets[0].getsockname()[1], [REQUEST], rate=50, seconds=0.5, seed=1)
            await asyncio.sleep(0.1)
            return found

    found, _ = asyncio.run(run())
    statuses = [one.status for one in found]
    assert statuses.count(0) == 1 and statuses.count(503) == 1 and statuses.count(200) == len(found) - 2 > 5


def test_what_the_service_counts_is_read_as_differences():
    """Sums by hand: 3 decodes in 6 ms are 2 ms each; two passes of eight cases; half of the second was busy."""

    def seen(count, total):
        stage = (("stage", "decode"),)
        return {
            ("medserve_stage_seconds_count", stage): count,
            ("medserve_stage_seconds_sum", stage): total,
            ("medserve_batch_size_count", ()): count - 1,
            ("medserve_batch_size_sum", ()): 8 * (count - 1),
            ("medserve_engine_busy_seconds_total", ()): count / 6,
            ("medserve_batch_size_bucket", (("le", "8.0"),)): 2.0,
            ("medserve_batch_size_bucket", (("le", "+Inf"),)): 2.0,
        }

    found = _inside({}, seen(3, 0.006), 1.0, 1)
    assert found["stages_ms"] == {"decode": pytest.approx(2.0)} and found["batch"] == 8.0
    assert found["idle"] == pytest.approx(0.5) and _inside({}, seen(3, 0.006), 1.0, 2)["idle"] == pytest.approx(0.75)
    assert _batches(seen(3, 0.006)) == {"8": 2.0}


def test_a_served_model_is_measured_and_the_real_home_stays_as_it_was(run, tmp_path):
    """Every request is accounted for, nothing fails, and neither keys nor the audit log of the installation grow."""
    ids = {item.id for item in list_data(run.data, run.settings).items}
    sent = bodies(list_data(run.data, run.settings), ids, 4)
    assert len(sent) == 4 and {media for _, media in sent} == {"application/dicom"}
    ring = KeyRing.open(run.settings)
    keys = [row.id for row in ring.rows()]
    ring.close()
    package = open_package(run.package, Trust.load(run.settings))
    found = load_test(
        package, sent, settings=run.settings, record=tmp_path / "none.json", threads=1, seconds=4, shares=(0.3, 0.7)
    )
    ring = KeyRing.open(run.settings)
    assert [row.id for row in ring.rows()] == keys and not list((run.settings.home / "work").iterdir())
    ring.close()
    assert found["capacity_per_s"] > 5 and found["lone"]["p50_ms"] > 0
    for level in found["levels"]:
        assert level["sent"] == sum(level[k] for k in ("answered", "refused", "late", "failed")) and not level["failed"]
        assert level["p50_ms"] <= level["p95_ms"] <= level["p99_ms"] <= level["max_ms"]
        assert {"decode", "infer"} <= set(level["stages_ms"]) and level["batch"] >= 1 and 0 <= level["idle"] < 1
        assert 0 < level["service_cpu"] <= 1.2
    page = page_of(tmp_path / "load.html", found)
    assert f"{found['levels'][1]['answered']}</td>" in page and "ONNX Runtime fp32" in page


def test_a_service_that_does_not_start_is_told_with_its_last_words(run, tmp_path):
    """Here its package was damaged after it was opened."""
    import shutil

    folder = tmp_path / "package"
    shutil.copytree(run.package, folder)
    package = open_package(folder, Trust.load(run.settings))
    (folder / "graph.onnx").write_bytes(b"broken")
    with pytest.raises(Fault, match="did not start") as caught:
        load_test(package, [(b"", "image/png")], settings=run.settings, record=tmp_path / "none.json", seconds=1)
    assert caught.value.code == "load-service"


def test_load_needs_data(run):
    """There would be nothing to send."""
    with pytest.raises(Usage) as caught:
        tune_package(run.package, settings=run.settings, load=True)
    assert caught.value.code == "load-needs-data"


def page_of(path: Path, load: dict) -> str:
    row = {"title": "ONNX Runtime fp32", "shape": "1 x 64", "per_s": 10.0, "lone_ms": 1.0, "flipped": None,
           "rank_drop": None, "ece_rise": None, "code": "", "chosen": True}  # fmt: skip
    verdict = {"processor": processor(), "cores": 2, "at": "2026-01-01T00:00:00Z", "note": "", "cases": 0}
    model = {"name": "phantoms <b>", "version": "1", "digest": "sha256:" + "0" * 64}
    write_load_page(path, model=model, verdict=verdict, engines=[row], load=load, versions=service_versions(),
                    front=None)  # fmt: skip
    page = path.read_text()
    assert "phantoms <b>" not in page and "http" not in page.replace("http://www.w3.org", "")
    return page


def load_of(answered: int) -> dict:
    """A load test in which each level answered so many of 100 requests, and the rest was refused."""
    waits = dict(
        zip(("p50_ms", "p95_ms", "p99_ms", "max_ms"), (1.0, 2.5, 4.0, 9.0) if answered else [None] * 4, strict=True)
    )
    stages = {"decode": 0.5, "infer": 1.5} if answered else {}
    level = waits | {"sent": 100, "answered": answered, "answered_per_s": answered / 2, "took_s": 2.0, "late": 0,
                     "refused": 100 - answered, "refused_ms": 0.4, "failed": 0, "offered_per_s": 50.0, "idle": None,
                     "batch": None, "stages_ms": stages, "service_cpu": 0.1}  # fmt: skip
    levels = [level | {"share": share} for share in (0.3, 0.5, 0.7, 0.9, 1.1)]
    return {"capacity_per_s": 60.0, "clients": 32, "lone": level, "levels": levels, "generator_cpu": 0.1,
            "batches": {"1": 30.0, "8": 12.0} if answered else {}, "seconds": 60.0}  # fmt: skip


def test_a_page_is_made_where_a_level_answered_nothing(tmp_path):
    """No percentile, no batch sizes, no stages: said, not drawn."""
    page = page_of(tmp_path / "load.html", load_of(answered=0))
    assert "100.0 %" in page and "not told" in page
