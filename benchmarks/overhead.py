"""What the service itself costs: processor time of one prediction over HTTP, beside the bare engine's.

    python benchmarks/overhead.py [--work DIR] [--seconds 6] [--connections 32] [--rounds 3]

A light model (a table of 30 numbers, JSON rows) answers `wrk` on loopback, with authentication, policy, quota and
metrics. Processor seconds of the server process, all threads, divided by answers: a figure that a busy machine hardly
changes. `durable` writes the audit log as the product does; `memory` keeps its events in a list, here and nowhere in
the product. `engine` is the same graph in a loop, in batches of the size that the server made. One JSON object.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.serving.models import make_table
from medserve.access.keys import KeyRing
from medserve.models.package import SELFCHECK
from medserve.settings import Settings

SERVER = Path(__file__).parent / "serving" / "medserve_server.py"
PORT = 18471
TICK = os.sysconf("SC_CLK_TCK")
LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer KEY"
local rows = { ROWS }
local at = 0
request = function() at = at % #rows + 1; return wrk.format(nil, "/v1/models/table/predict", nil, rows[at]) end
local bad = 0
response = function(status) if status ~= 200 then bad = bad + 1 end end
done = function(summary, latency)
  io.write(string.format('{"answers":%d,"errors":%d,"p50_ms":%.3f,"p99_ms":%.3f,"seconds":%.4f}\\n', summary.requests,
    summary.errors.status + summary.errors.read + summary.errors.timeout, latency:percentile(50) / 1000,
    latency:percentile(99) / 1000, summary.duration / 1e6))
end
"""


def rows_of(data: Path, count: int = 16) -> list[str]:
    """JSON bodies of different cases."""
    import csv

    with open(next(data.glob("*.csv")), newline="") as file:
        table = list(csv.DictReader(file))
    names = [n for n in table[0] if _number(table[0][n]) and n not in ("id", "patient", "subject_id", "part")]
    return [json.dumps({"inputs": {n: float(row[n]) for n in names}}) for row in table[:count]]


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def cpu_of(pid: int) -> float:
    """Seconds of user and system time of a process, all its threads."""
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / TICK


def scraped(key: str) -> dict[str, float]:
    asked = urllib.request.Request(f"http://127.0.0.1:{PORT}/metrics", headers={"authorization": f"Bearer {key}"})
    lines = urllib.request.urlopen(asked, timeout=10).read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def ask(script: Path, connections: int, seconds: float) -> dict[str, Any]:
    url = f"http://127.0.0.1:{PORT}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(said.strip().splitlines()[-1])


def served(home: Path, package: Path, audit: str, script: Path, reader: str, args: argparse.Namespace) -> list[dict]:
    """One server, `rounds` times asked."""
    command = [sys.executable, str(SERVER), str(home), str(PORT), "1", audit, "1", str(package)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v2/health/live", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        ask(script, args.connections, 1)
        found = []
        for _ in range(args.rounds):
            before, cpu = scraped(reader), cpu_of(server.pid)
            one = ask(script, args.connections, args.seconds)
            spent, after = cpu_of(server.pid) - cpu, scraped(reader)
            label = '{model="table",version="1"}'
            names = [f"medserve_batch_size_{what}{label}" for what in ("sum", "count")]
            sums = [after[name] - before.get(name, 0.0) for name in names]
            one |= {"cpu_us": 1e6 * spent / one["answers"], "batch": sums[0] / max(1.0, sums[1])}
            one["per_s"] = one["answers"] / one.pop("seconds")
            found.append(one)
        lone = ask(script, 1, min(2.0, args.seconds))
        found[-1]["lone_p50_ms"] = lone["p50_ms"]
        return found
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(40)


def engine_us(made: Any, settings: Settings, batch: float) -> dict[str, float]:
    """Processor time of a case in the bare engine, in batches of the size that was served; and one alone, in ms."""
    model = made.open(settings, threads=1)
    stored = np.asarray(model.package.tensors(SELFCHECK)[model.engine.input])
    found = {}
    for name, size in (("engine_us", max(1, round(batch))), ("engine_alone_ms", 1)):
        images = np.ascontiguousarray(np.resize(stored, (size, *stored.shape[1:])))
        for _ in range(50):
            model.engine.score(images)
        count, began, wall = 1000, time.process_time(), []
        for _ in range(count):
            at = time.perf_counter()
            model.engine.score(images)
            wall.append(time.perf_counter() - at)
        spent = time.process_time() - began
        found[name] = 1e3 * statistics.median(wall) if name.endswith("ms") else 1e6 * spent / count / size
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--audit", nargs="*", default=["memory", "durable"], choices=["memory", "durable"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        settings = Settings(home=work / "home")
        made = make_table(work, settings)
        policy = (Path(__file__).parents[1] / "src/medserve/access/policy.yaml").read_text()
        settings.home.joinpath("policy.yaml").write_text(
            policy.replace("requests_per_s: 2000", "requests_per_s: 100000")
        )
        ring = KeyRing.open(settings)
        key, reader = ring.create("overhead").key, ring.create("reader", role="administrator").key
        ring.close()
        script = work / "ask.lua"
        rows = ", ".join("[[" + row + "]]" for row in rows_of(made.data))
        script.write_text(LUA.replace("KEY", key).replace("ROWS", rows))
        result: dict[str, Any] = {"connections": args.connections, "cores": os.cpu_count()}
        for audit in args.audit:
            rounds = served(settings.home, made.folder, audit, script, reader, args)
            middle = {name: statistics.median(one[name] for one in rounds if name in one) for name in rounds[-1]}
            bare = engine_us(made, settings, middle["batch"])
            middle |= bare | {"overhead_us": middle["cpu_us"] - bare["engine_us"]}
            result[audit] = {name: round(value, 3) for name, value in middle.items()}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
