"""Hours of steady load on a real service: does its memory grow, and does it ever fail?

    python benchmarks/soak.py [--hours 2] [--rate 20] [--out dist/soak.json] [--work FOLDER]

Trains two small models (a table, generated films), starts `medserve serve` on a loopback port with keys and the durable
audit log, and sends a mix at Poisson times: JSON rows, PNG, uncompressed and compressed DICOM, explanations, and inputs
that must be refused with the 4xx written beside them. Every 10 s the resident memory of the server and of its decode
workers is read. After a warm-up (15 min) a straight line is fitted; its interval is a bootstrap over stretches of
5 min, since neighbouring readings are alike. The result is written every minute, so that a run that is stopped says how
far it came. Where the machine itself stood still (a virtual machine that was paused: this process, which does next to
nothing, slept for seconds too long), requests that were under way and not answered as they should be are counted apart,
as `paused`, and each pause is written down. Exit code 1 when memory grows by more than 1 MiB an hour, when anything
answered 5xx, or otherwise than expected.
"""

import argparse
import asyncio
import csv
import io
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from medserve.access.keys import KeyRing
from medserve.data.phantoms import dicom_bytes, draw_phantoms, make_phantoms
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.settings import Settings
from medserve.store.files import write_bytes

MOST_MIB_PER_HOUR = 1.0
WARM_S = 900.0
READING_S = 10.0
STRETCH_S = 300.0
KEPT_S = 3.0
PAUSE_S = 20.0  # no load makes a sleep of half a second so long
SIDE = 64
YAML = """
name: ward
table: visits.csv
patient: person
inputs:
  age: {kind: number, unit: a, range: [0, 120]}
  protein: {kind: number, unit: g/L, range: [0, 200]}
  ward: {kind: category}
target: {column: sepsis, kind: binary, classes: ["no", "yes"]}
"""


@dataclass(frozen=True)
class Ask:
    """One kind of request: how often (a weight), and the status that is right."""

    name: str
    weight: float
    path: str
    media: str
    body: bytes
    wanted: int = 200


@dataclass
class Seen:
    """Answers so far, memory so far."""

    answers: Counter[str] = field(default_factory=Counter)  # "kind status"
    unexpected: Counter[str] = field(default_factory=Counter)
    failed: int = 0  # 5xx and broken connections
    seconds: list[float] = field(default_factory=list)  # since the start
    server: list[int] = field(default_factory=list)  # bytes
    workers: list[int] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)  # a sample
    pauses: list[tuple[float, float]] = field(default_factory=list)  # of the machine: from, until (monotonic)
    paused: Counter[str] = field(default_factory=Counter)  # "kind status", under way in one and not as it was wanted


# -- the models -------------------------------------------------------------------------------------------------------


def train(work: Path, settings: Settings) -> list[Path]:
    """A table and films, by the product's own road; what an earlier run left in `work` is taken as it is."""
    packages = [work / "ward", work / "film"]
    if all(package.exists() for package in packages):
        return packages
    table, films = work / "table", work / "films"
    table.mkdir()
    rng = np.random.default_rng(5)
    with open(table / "visits.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["person", "age", "protein", "ward", "sepsis"])
        for i in range(240):
            age, protein, ward = rng.integers(20, 90), rng.normal(70, 8), ["icu", "general", "surgery"][i % 3]
            ill = rng.random() < 1 / (1 + np.exp(-0.1 * (age - 55) + 0.15 * (protein - 70) - (ward == "icu")))
            out.writerow([f"p{i}", age, round(protein, 1) if i % 6 else "", ward, "yes" if ill else "no"])
    (table / "dataset.yaml").write_text(YAML)
    make_phantoms(films, 240, SIDE)
    options = {"audit": "quick", "keep": "recipe", "seed": 2}
    ward = Options(recipe="boosting", name="ward", **options)
    lesion = Options(recipe="residual-quick", name="film", max_train_s=20, **options)
    for data, chosen in ((table, ward), (films, lesion)):
        train_package(data, work / chosen.name, settings=settings, options=chosen)
    return packages


def requests() -> list[Ask]:
    """The mix; what is refused was chosen to reach the readers, the fields and the router."""
    film = next(draw_phantoms(1, size=SIDE, seed=11))
    plain = dicom_bytes(film, "2.25.4711")
    grey = np.clip(film.stored / 16, 0, 255).astype(np.uint8)
    row = {"age": 71, "protein": 60.5, "ward": "icu"}

    def png(values: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(values).save(out, "PNG")
        return out.getvalue()

    def rows(inputs: object) -> bytes:
        return json.dumps({"inputs": inputs}).encode()

    ward, films = "/v1/models/ward/predict", "/v1/models/film/predict"
    image, dicom, text = "image/png", "application/dicom", "application/json"
    return [
        Ask("row", 10, ward, text, rows(row)),
        Ask("png", 4, films, image, png(grey)),
        Ask("dicom", 3, films, dicom, plain),
        Ask("dicom, compressed", 1, films, dicom, compressed(plain)),
        Ask("row, explained", 0.2, f"{ward}?explain=shapley", text, rows(row)),
        Ask("png, explained", 0.2, f"{films}?explain=occlusion", image, png(grey)),
        Ask("unknown word", 0.4, ward, text, rows(row | {"ward": "morgue"}), 422),
        Ask("not JSON", 0.4, ward, text, b'{"inputs": ', 400),
        Ask("colour", 0.2, films, image, png(np.stack([grey, 255 - grey, grey], axis=2)), 422),
        Ask("half a PNG", 0.2, films, image, png(grey)[:700], 422),
        Ask("half a DICOM", 0.2, films, dicom, plain[: len(plain) // 2], 422),
        Ask("no such model", 0.2, "/v1/models/nobody/predict", text, rows(row), 404),
    ]


def compressed(plain: bytes) -> bytes:
    """The same film in RLE: what a worker behind walls decodes."""
    import pydicom

    data, out = pydicom.dcmread(io.BytesIO(plain)), io.BytesIO()
    data.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()


# -- the load ---------------------------------------------------------------------------------------------------------


async def load(asks: list[Ask], port: int, key: str, rate: float, until: float, seen: Seen) -> None:
    """Open loop at Poisson times over kept connections, one request a connection at a time."""
    rng, idle, running = random.Random(7), [], set()
    weights = [ask.weight for ask in asks]
    due = time.monotonic()
    while due < until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        ask = rng.choices(asks, weights)[0]
        task = asyncio.create_task(_one(ask, port, key, idle, seen))
        running.add(task)
        task.add_done_callback(running.discard)
        due += rng.expovariate(rate)
    if running:
        await asyncio.wait(running, timeout=60)


async def _one(ask: Ask, port: int, key: str, idle: list, seen: Seen) -> None:
    head = (
        f"POST {ask.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: {ask.media}\r\n"
        f"Content-Length: {len(ask.body)}\r\n\r\n"
    )
    since = time.monotonic()
    try:
        reader, writer = await _connection(port, idle)
        writer.write(head.encode() + ask.body)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        status, headers = int(answer.split(b" ", 2)[1]), answer.lower()
        await reader.readexactly(int(headers.partition(b"content-length:")[2].split(b"\r\n")[0]))
        if b"connection: close" in headers:
            writer.close()
        else:
            idle.append((reader, writer, time.monotonic()))
    except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
        status = 0
    until = time.monotonic()
    if status != ask.wanted:
        await asyncio.sleep(1.0)  # by then a pause has been seen
        if any(began < until and ended > since for began, ended in seen.pauses):
            seen.paused[f"{ask.name} {status}"] += 1
            return
    seen.answers[f"{ask.name} {status}"] += 1
    if status == 0 or status >= 500:
        seen.failed += 1
    if status != ask.wanted:
        seen.unexpected[f"{ask.name} {status}"] += 1
    if len(seen.latency) < 20_000:
        seen.latency.append(until - since)


async def _connection(port: int, idle: list) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """One that was used within the last seconds, else a new one: the server closes those that wait for long."""
    while idle:
        reader, writer, used = idle.pop()
        if not reader.at_eof() and time.monotonic() - used < KEPT_S:
            return reader, writer
        writer.close()
    return await asyncio.open_connection("127.0.0.1", port)


async def heed(until: float, seen: Seen) -> None:
    """Notice when the machine stands still."""
    while (before := time.monotonic()) < until:
        await asyncio.sleep(0.5)
        if (now := time.monotonic()) - before > PAUSE_S:
            seen.pauses.append((before, now))


async def watch(process: psutil.Process, began: float, until: float, seen: Seen, save) -> None:  # type: ignore[no-untyped-def]
    """A reading every 10 s; the result so far every minute."""
    while time.monotonic() < until:
        await asyncio.sleep(min(READING_S, max(0.0, until - time.monotonic())))
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise SystemExit("the server has died")
        below = []
        for child in process.children(recursive=True):
            try:
                below.append(child.memory_info().rss)
            except psutil.Error:
                continue
        seen.seconds.append(time.monotonic() - began)
        seen.server.append(process.memory_info().rss)
        seen.workers.append(sum(below))
        seen.processes.append(1 + len(below))
        if len(seen.seconds) % 6 == 0:
            save()


# -- the verdict ------------------------------------------------------------------------------------------------------


def slope(seconds: np.ndarray, size: np.ndarray, draws: int = 2000) -> dict[str, float] | None:
    """MiB an hour of a straight line, with a 95 % interval from whole stretches drawn again; None: too short a run."""
    stretch = ((seconds - seconds[0]) // STRETCH_S).astype(int) if len(seconds) else np.zeros(0, int)
    groups = [np.flatnonzero(stretch == s) for s in np.unique(stretch)]
    if len(groups) < 4:
        return None
    hours, mib = seconds / 3600, size / 2**20
    rng, found = np.random.default_rng(3), []
    level, rise = np.polynomial.polynomial.polyfit(hours, mib, 1)
    rest = mib - level - rise * hours
    for _ in range(draws):  # residuals, by stretches of equal length, put back on the line
        drawn = np.concatenate([rest[groups[g]] for g in rng.integers(0, len(groups), len(groups) + 1)])
        drawn = np.resize(drawn, len(hours))
        found.append(np.polynomial.polynomial.polyfit(hours, level + rise * hours + drawn, 1)[1])
    low, high = np.quantile(found, (0.025, 0.975))
    return {"mib_per_hour": round(float(rise), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def result_of(seen: Seen, about: dict, cpu_s: float, wall_s: float, warm_s: float) -> dict:
    seconds = np.array(seen.seconds)
    late = seconds >= warm_s
    server, workers = np.array(seen.server, float), np.array(seen.workers, float)
    found = {
        "server": slope(seconds[late], server[late]),
        "workers": slope(seconds[late], workers[late]),
        "together": slope(seconds[late], (server + workers)[late]),
    }
    whole = found["together"]
    passed = bool(whole) and whole["mib_per_hour"] <= MOST_MIB_PER_HOUR and not seen.failed and not seen.unexpected
    latency = np.array(seen.latency or [np.nan]) * 1e3
    return about | {
        "hours": round(wall_s / 3600, 4),
        "passed": passed,
        "slope": found,
        "limit_mib_per_hour": MOST_MIB_PER_HOUR,
        "failed": seen.failed,
        "unexpected": dict(seen.unexpected),
        "paused": {"seconds": [round(b - a, 1) for a, b in seen.pauses], "requests": dict(seen.paused)},
        "answers": dict(sorted(seen.answers.items())),
        "ms": {"p50": round(float(np.median(latency)), 2), "p99": round(float(np.quantile(latency, 0.99)), 2)},
        "server_cpu_share": round(cpu_s / max(wall_s, 1e-9), 4),
        "readings": {
            "seconds": [round(s, 1) for s in seen.seconds],
            "server_mib": [round(b / 2**20, 2) for b in seen.server],
            "workers_mib": [round(b / 2**20, 2) for b in seen.workers],
            "processes": seen.processes,
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--warm-s", type=float, default=WARM_S, help="seconds before the line begins")
    parser.add_argument("--out", type=Path, default=Path("dist/soak.json"))
    parser.add_argument(
        "--work", type=Path, help="folder for models (used again), keys and the audit log; default: a temporary one"
    )
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # the server ends with it
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        result = soak(work, args)
    line = result["slope"]["together"]
    said = "too short to say" if line is None else "{mib_per_hour} MiB/h [{low}, {high}]".format(**line)
    verdict = "PASS" if result["passed"] else "FAIL"
    sys.stdout.write(
        f"{verdict}: {result['hours']} h, memory after warm-up {said}, {result['failed']} failed, "
        f"{sum(result['unexpected'].values())} unexpected of {sum(result['answers'].values())}; {args.out}\n"
    )
    return 0 if result["passed"] else 1


def soak(work: Path, args: argparse.Namespace) -> dict:
    settings = Settings(home=work / "home")
    packages = train(work, settings)
    ring = KeyRing.open(settings)
    key = ring.create("soak", days=7).key
    ring.close()
    command = [sys.executable, "-m", "medserve.cli", "serve", "--port", "0", "--threads", "1", "--json"]
    command += ["--home", str(settings.home), "--models", *map(str, packages)]
    with open(work / "server.log", "wb") as log:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=dict(os.environ, OMP_NUM_THREADS="1")
        )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise SystemExit((work / "server.log").read_text()[-2000:])
        port = int(json.loads(line)["url"].rpartition(":")[2])
        process, seen, began = psutil.Process(server.pid), Seen(), time.monotonic()
        until = began + 3600 * args.hours
        about = {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "rate_per_s": args.rate,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }

        def save() -> dict:
            times = process.cpu_times()
            found = result_of(seen, about, times.user + times.system, time.monotonic() - began, args.warm_s)
            write_bytes(args.out, json.dumps(found, indent=1).encode())
            return found

        async def both() -> None:
            asks = requests()
            await asyncio.gather(load(asks, port, key, args.rate, until, seen),
                                 watch(process, began, until, seen, save), heed(until, seen))  # fmt: skip

        asyncio.run(both())
        return save()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


if __name__ == "__main__":
    sys.exit(main())
