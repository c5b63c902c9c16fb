"""What storing a case costs: time of an upload by size, memory of the server, and a prediction of a stored case.

    python benchmarks/cases.py [--json]

A real server in a process of its own, one client, medians; every upload is on disk, with its audit event, when it is
answered. `server_grew_mib`: peak resident memory after all uploads, beyond the peak after the first small ones.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import httpx2
from real_server import RealServer
from tiny_package import png, ramp, write_package

from medserve.access.keys import KeyRing
from medserve.settings import Settings

SIZES = {"1 KiB": (2**10, 60), "1 MiB": (2**20, 20), "60 MiB": (60 * 2**20, 3)}


def peak_mib(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def timed(work, count: int) -> float:
    """Median, milliseconds."""
    spent = []
    for _ in range(count):
        began = time.perf_counter()
        answer = work()
        spent.append((time.perf_counter() - began) * 1000)
        assert answer.status_code in (200, 201), answer.text
    return round(statistics.median(spent), 2)


def main() -> None:
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        settings = Settings(home=root / "home")
        ring = KeyRing.open(settings)
        key = ring.create("benchmark").key
        ring.close()
        server = RealServer(root, [write_package(root / "package", settings)])
        server.start()
        try:
            with httpx2.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=60) as http:
                head = {"x-patient": "p-1", "content-type": "text/plain"}
                picture = {"content-type": "image/png"}
                timed(lambda: http.post("/v1/cases", content=b"warm", headers=head), 5)
                case = http.post("/v1/cases", content=png(ramp()), headers=head | picture).json()["case"]
                ask = "/v1/models/tiny/predict"
                found["prediction of a body, ms"] = timed(
                    lambda: http.post(ask, content=png(ramp()), headers=picture), 60
                )
                found["prediction of a stored case, ms"] = timed(lambda: http.post(ask, json={"case": case}), 60)
                before = peak_mib(server._process.pid)
                for name, (size, count) in SIZES.items():
                    body = bytes(size)
                    upload = timed(lambda body=body: http.post("/v1/cases", content=body, headers=head), count)
                    found[f"upload of {name}, ms"] = upload
                found["server_grew_mib"] = round(peak_mib(server._process.pid) - before, 1)
            server.stop()
        finally:
            server.close()
    if "--json" in sys.argv:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:34} {value:10.2f}")


if __name__ == "__main__":
    main()
