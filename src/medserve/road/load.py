"""A model under load, as it will be served: the real service in a process of its own, on a loopback port.

    found = load_test(package, bodies, settings=settings, record=verdict_path, threads=0, progress=progress)
    found["capacity_per_s"], found["levels"][2]["p99_ms"]

The service gets a home of its own for the while: trusted signers and the tuner's verdict are copied there, keys, quota
and audit log are made there and go away with it. So nothing of it reaches the real keys or the real log, and what is
measured includes both. First its capacity is taken with many clients that ask again at once, then Poisson arrivals at
shares of it (`poisson`). Generator and service share the machine; the generator's share of it is reported.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from medserve.access.keys import KeyRing
from medserve.errors import Fault
from medserve.models.package import Package
from medserve.models.signing import Trust
from medserve.progress import SILENT, Progress
from medserve.road.poisson import Answered, closed_loop, open_loop, request_of
from medserve.settings import Settings

SHARES = (0.3, 0.5, 0.7, 0.9, 1.1)  # of the capacity
CLIENTS = 32
TRIES = 5  # to see an answer at full load
SECONDS = (
    60.0  # in all: a tenth for warming up and lone requests each, a fifth for the capacity, the rest for the levels
)
READY_S = 180.0
_REFUSED, _LATE = (429, 503), 504

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def load_test(
    package: Package,
    bodies: Sequence[tuple[bytes, str]],
    *,
    settings: Settings,
    record: Path,
    threads: int = 0,
    streams: int = 1,
    seconds: float = SECONDS,
    shares: Sequence[float] = SHARES,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Serve `package` and send it load.

    Args:
        bodies: (body, media type) of each request, in turn.
        record: the tuner's verdict; what lies beside it under the same name is copied too.
        threads: as `serve --threads`.
        streams: of the engine, for how idle it is.
        seconds: in all, without the start of the service.

    Returns: "capacity_per_s", "lone" and "levels" (see `_told`), "batches": size -> passes, "generator_cpu".
    Raises: Fault "load-service": it did not start, or answered nothing.
    """
    with tempfile.TemporaryDirectory(dir=settings.folder("work")) as home:
        private = Settings(home=Path(home), max_pixels=settings.max_pixels, max_upload_bytes=settings.max_upload_bytes)
        keys = _prepare(private, Trust.load(settings), record)
        with _service(package.folder, private, threads) as port:
            path = f"/v1/models/{quote(package.spec.name)}/predict"
            requests = [request_of(path, body, media, keys[0]) for body, media in bodies]
            return asyncio.run(_measure(port, requests, keys[1], streams, seconds, shares, progress))


async def _measure(
    port: int,
    requests: Sequence[bytes],
    admin: str,
    streams: int,
    seconds: float,
    shares: Sequence[float],
    progress: Progress,
) -> dict[str, Any]:
    began, cpu = time.perf_counter(), time.process_time()
    bar = progress.start("Load", round(seconds))
    ticking = asyncio.create_task(_tick(progress, bar, round(seconds)))
    try:
        await closed_loop(port, requests, clients=4, seconds=seconds * 0.1)
        lone = await closed_loop(port, requests, clients=1, seconds=seconds * 0.1)
        for _ in range(TRIES):  # a busy machine may answer nothing in a short while
            spent = time.perf_counter()
            full = await closed_loop(port, requests, clients=CLIENTS, seconds=seconds * 0.2)
            capacity = sum(_answered(one) for one in full) / (time.perf_counter() - spent)
            if capacity:
                break
        if not capacity:
            seen = sorted({one.status for one in full})
            raise Fault("load-service", f"The service answered no request of the load (statuses {seen}).")
        levels = []
        for at, share in enumerate(shares):
            before = await asyncio.to_thread(_scrape, port, admin)
            found, took = await open_loop(
                port, requests, rate=share * capacity, seconds=seconds * 0.6 / len(shares), seed=at
            )
            after = await asyncio.to_thread(_scrape, port, admin)
            told = _told(found, took) | _inside(before, after, took, streams)
            levels.append({"share": share, "offered_per_s": share * capacity, **told})
    finally:
        ticking.cancel()
        progress.end(bar)
    wall = time.perf_counter() - began
    return {
        "capacity_per_s": capacity,
        "clients": CLIENTS,
        "lone": _told(lone, seconds * 0.1),
        "levels": levels,
        "batches": _batches(after),
        "generator_cpu": (time.process_time() - cpu) / wall / (os.cpu_count() or 1),
        "seconds": wall,
    }


async def _tick(progress: Progress, bar: Any, most: int) -> None:
    for _ in range(most):
        await asyncio.sleep(1)
        progress.step(bar)


def _answered(one: Answered) -> bool:
    """A prediction, or the model's own refusal of a case (422): the work was done."""
    return one.status in (200, 422)


def _told(found: Sequence[Answered], took: float) -> dict[str, Any]:
    """sent, answered, refused (429, 503), late (504), failed; answered_per_s over took_s, from the first request to the
    last answer; p50_ms to max_ms of what was answered, refused_ms: the median of what was refused."""
    good = np.array([one.seconds for one in found if _answered(one)]) * 1e3
    turned = [one.seconds * 1e3 for one in found if one.status in _REFUSED]
    late = sum(one.status == _LATE for one in found)
    p50, p95, p99, top = np.percentile(good, [50, 95, 99, 100]).tolist() if len(good) else [None] * 4
    return {
        "sent": len(found),
        "answered": len(good),
        "answered_per_s": len(good) / took,
        "took_s": took,
        "refused": len(turned),
        "late": late,
        "failed": len(found) - len(good) - len(turned) - late,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": top,
        "refused_ms": float(np.median(turned)) if turned else None,
    }


# -- what the service says of itself -----------------------------------------------------------------------------------


def _scrape(port: int, key: str) -> Samples:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def _inside(before: Samples, after: Samples, took: float, streams: int) -> dict[str, Any]:
    """stages_ms: mean of each part of an answer. service_cpu: share of the machine. idle: of the engine, where told."""
    change = {key: value - before.get(key, 0.0) for key, value in after.items()}
    stages = {}
    for (name, labels), seconds in change.items():
        if name == "medserve_stage_seconds_sum":
            count = change[("medserve_stage_seconds_count", labels)]
            if count:
                stages[dict(labels)["stage"]] = 1e3 * seconds / count
    cpu = change.get(("process_cpu_seconds_total", ()), 0.0) / took / (os.cpu_count() or 1)
    busy = sum(value for (name, _), value in change.items() if name == "medserve_engine_busy_seconds_total")
    idle = max(0.0, 1 - busy / took / streams) if busy else None
    passes, cases = (
        sum(value for (name, _), value in change.items() if name == f"medserve_batch_size_{what}")
        for what in ("count", "sum")
    )
    batch = cases / passes if passes else None
    return {"stages_ms": stages, "service_cpu": cpu, "idle": idle, "batch": batch}


def _batches(after: Samples) -> dict[str, float]:
    """Most cases of a pass -> passes, where the service counts them."""
    edges: dict[float, float] = {}
    for (name, labels), value in after.items():
        if name == "medserve_batch_size_bucket":
            edge = float(dict(labels)["le"])
            edges[edge] = edges.get(edge, 0.0) + value
    found, below = {}, 0.0
    for edge in sorted(edges):
        if edges[edge] > below:
            found["more" if edge == float("inf") else f"{edge:g}"] = edges[edge] - below
        below = edges[edge]
    return found


# -- the service -------------------------------------------------------------------------------------------------------


def _prepare(private: Settings, trust: Trust, record: Path) -> tuple[str, str]:
    """The home of the service: who is trusted, what was tuned, no quota.

    Returns: a key to ask with, a key for the metrics.
    """
    for at, public in enumerate(trust.signers):
        (private.folder("trusted") / f"{at}.pub").write_text(public)
    for path in (record, record.with_suffix(".int8")):
        if path.is_file():
            shutil.copy(path, private.folder("tuned"))
    policy = files("medserve.access").joinpath("policy.yaml").read_text(encoding="utf-8")
    (private.home / "policy.yaml").write_text(policy.replace("requests_per_s: 2000", "requests_per_s: 1000000"))
    ring = KeyRing.open(private)
    try:
        return ring.create("load", days=1).key, ring.create("metrics", days=1, role="administrator").key
    finally:
        ring.close()


@contextlib.contextmanager
def _service(folder: Path, private: Settings, threads: int) -> Iterator[int]:
    """Its port, while it runs."""
    command = [sys.executable, "-m", "medserve.cli", "serve", "--models", folder, "--port", 0, "--jobs", 0,
               "--threads", threads, "--home", private.home, "--json"]  # fmt: skip
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MEDSERVE_")}
    log = private.home / "service.log"
    with open(log, "wb") as said:
        child = subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said,
                                 env=environ)  # fmt: skip
    try:
        yield _port(child, log)
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _port(child: "subprocess.Popen[bytes]", log: Path) -> int:
    import select

    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], READY_S)
    line = child.stdout.readline() if ready else b""
    try:
        port = urlsplit(json.loads(line)["url"]).port
    except (ValueError, KeyError, TypeError):
        port = None
    if port is None:
        said = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise Fault("load-service", f"The service did not start: {said[-1][:300]}")
    return port


def service_versions() -> Mapping[str, str]:
    """What the figures depend on."""
    import platform

    from medserve import __version__
    from medserve.runtime.engine import versions

    engines = {name: found for name, found in versions().items() if name in ("onnxruntime", "openvino", "torch")}
    return {"MedServe": __version__, "Python": platform.python_version(), **engines, "system": platform.platform()}
