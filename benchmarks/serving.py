"""What the network costs: one prediction over HTTP beside the same prediction by a bare function call.

    python benchmarks/serving.py PACKAGE --input FILE [--home DIR] [--rounds 300] [--clients 16]

The service runs in a process of its own on a loopback port; both ways answer in turn for the same file (read, decoded,
transformed, scored, answered), so that a noisy machine hurts both alike. Printed as one JSON object: milliseconds of
both at one client (median and 95th percentile), the difference, and predictions a second with many clients.
"""

import argparse
import http.client
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

from medserve.access.keys import KeyRing
from medserve.client import _media_type
from medserve.models.signing import Trust
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings


class Caller:
    """One connection that asks again and again."""

    def __init__(self, url: str, key: str, model: str, data: bytes) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)
        self._path, self._data = f"/v1/models/{quote(model)}/predict", data
        self._headers = {"authorization": f"Bearer {key}", "content-type": _media_type(data)}

    def ask(self) -> None:
        self._connection.request("POST", self._path, self._data, self._headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise SystemExit(body.decode())


def timed(work) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def together(callers: list[Caller], rounds: int) -> float:
    """Predictions a second, all callers at once."""

    def loop(caller: Caller) -> None:
        for _ in range(rounds):
            caller.ask()

    threads = [threading.Thread(target=loop, args=(caller,)) for caller in callers]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(callers) * rounds / (time.perf_counter() - began)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "p95": round(statistics.quantiles(values, n=20)[-1], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--clients", type=int, default=16)
    args = parser.parse_args()
    settings, data = Settings.from_environment(args.home), args.input.read_bytes()
    ring = KeyRing.open(settings)
    new = ring.create("benchmark", days=1)
    model = LoadedModel.open(args.package, Trust.load(settings))
    command = [sys.executable, "-m", "medserve.cli", "serve", "--models", args.package, "--port", 0, "--json"]
    command += ["--home", settings.home]
    server = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        url = json.loads(server.stdout.readline())["url"]
        callers = [Caller(url, new.key, model.name, data) for _ in range(args.clients)]
        for _ in range(20):
            callers[0].ask()
            model.predict(data)
        pairs = [(timed(lambda: model.predict(data)), timed(callers[0].ask)) for _ in range(args.rounds)]
        bare, wire = ([pair[i] for pair in pairs] for i in (0, 1))
        result = {
            "model": model.name,
            "bytes": len(data),
            "bare_ms": spread(bare),
            "http_ms": spread(wire),
            "http_minus_bare_ms": round(statistics.median(w - b for b, w in pairs), 3),
            "bare_per_s": round(1e3 / statistics.mean(bare), 1),
            f"http_per_s_{args.clients}_clients": round(together(callers, max(1, args.rounds // args.clients)), 1),
        }
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        ring.revoke(new.row.id)
        ring.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
