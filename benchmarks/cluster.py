"""What Ray costs: the local server and one replica on Ray in turns, the same tiny package, key and bytes.

python benchmarks/cluster.py            # one JSON object: seconds to start, ratio of requests/s, lone latency
"""

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import httpx2
from real_ray import free_port
from tiny_package import png, ramp, write_package

from medserve.access.keys import KeyRing
from medserve.settings import Settings

CONNECTIONS, SECONDS, PAIRS = 8, 4.0, 3
PATH, BODY = "/v1/models/tiny/predict", png(ramp())


def start(home: Path, folder: Path, *more: str) -> tuple[subprocess.Popen[bytes], str, float]:
    """The process, its address, and the seconds until it answered."""
    began = time.monotonic()
    command = [sys.executable, "-m", "medserve.cli", "serve", "--json", "--threads", "1", "--home", str(home),
               "--models", str(folder), *more]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["url"], time.monotonic() - began


def rate(url: str, headers: dict[str, str]) -> float:
    """Answers a second; any other answer than 200 ends the measurement."""
    end, done = time.monotonic() + SECONDS, []

    def ask() -> None:
        with httpx2.Client(base_url=url, headers=headers, timeout=30) as http:
            while time.monotonic() < end:
                done.append(http.post(PATH, content=BODY).status_code)

    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(done) == {200}, set(done)
    return len(done) / SECONDS


def lone_ms(url: str, headers: dict[str, str]) -> float:
    spent = []
    with httpx2.Client(base_url=url, headers=headers, timeout=30) as http:
        for _ in range(60):
            began = time.perf_counter()
            http.post(PATH, content=BODY)
            spent.append(time.perf_counter() - began)
    return round(statistics.median(spent) * 1000, 2)


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        settings = Settings(home=Path(root) / "home")
        folder = write_package(Path(root) / "package", settings)
        ring = KeyRing.open(settings)
        headers = {"authorization": f"Bearer {ring.create('bench').key}", "content-type": "image/png"}
        ring.close()
        local, here, here_s = start(settings.home, folder, "--port", "0")
        cluster, there, there_s = start(settings.home, folder, "--engine", "ray", "--port", str(free_port()))
        try:
            pairs = [(rate(here, headers), rate(there, headers)) for _ in range(PAIRS)]
            said = {
                "start_s": {"local": round(here_s, 1), "ray": round(there_s, 1)},
                "requests_per_s": pairs,
                "ratio": round(statistics.median(ray / plain for plain, ray in pairs), 3),
                "lone_ms": {"local": lone_ms(here, headers), "ray": lone_ms(there, headers)},
            }
            print(json.dumps(said))
        finally:
            for process in (local, cluster):
                process.send_signal(signal.SIGTERM)
                process.wait(60)


if __name__ == "__main__":
    main()
