"""How many events a second the audit log takes, each durable before it is acknowledged.

    python benchmarks/audit.py [--events 20000] [--clients 64] [--home FOLDER]

`--clients` requests wait for their event at any time, as those of a busy service do; beside it, in the same run, one
SQLite transaction an event with `synchronous=FULL`, the plain way. Prints one JSON object: events a second of both, the
ratio, the processor's microseconds an event, the 99th percentile of the wait, and rows verified a second.
"""

import argparse
import asyncio
import json
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from medserve.access.audit import Event, Ledger
from medserve.access.recorder import Recorder
from medserve.settings import Settings


def event(i: int) -> Event:
    return Event(
        action="models.predict", outcome="allow", trace=f"{i:032x}", principal="k-0123456789ab", tenant="default",
        role="service", purpose="treatment", resource="chest", model="sha256:" + "0" * 64, status=200, policy="0" * 64,
    )  # fmt: skip


def ours(home: Path, events: int, clients: int) -> dict[str, Any]:
    ledger = Ledger.open(Settings(home=home))
    recorder = Recorder(ledger)
    waits: list[float] = []

    async def client(share: int) -> None:
        for i in range(share):
            began = time.perf_counter()
            await recorder.record(event(i))
            waits.append(time.perf_counter() - began)

    async def run() -> None:
        await asyncio.gather(*(client(events // clients) for _ in range(clients)))

    began, spent = time.perf_counter(), time.process_time()
    asyncio.run(run())
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    recorder.close()
    began = time.perf_counter()
    verdict = ledger.verify()
    checked = time.perf_counter() - began
    ledger.close()
    assert verdict.sound and verdict.events == len(waits)
    return {
        "events_per_s": round(len(waits) / seconds),
        "cpu_us_per_event": round(spent / len(waits) * 1e6, 1),
        "wait_p99_ms": round(float(np.percentile(waits, 99)) * 1e3, 2),
        "verified_rows_per_s": round(len(waits) / checked),
    }


def plain(path: Path, events: int) -> float:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE t (seq INTEGER PRIMARY KEY, body BLOB)")
        body = b"x" * 400
        began = time.perf_counter()
        for i in range(events):
            db.execute("INSERT INTO t VALUES (?, ?)", (i, body))
        return events / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--home", type=Path, help="on the disk that is to be measured; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.home) as work:
        found = ours(Path(work) / "home", given.events, given.clients)
        alone = plain(Path(work) / "plain.db", max(500, given.events // 10))
    ratio = round(found["events_per_s"] / alone, 2)
    print(json.dumps(found | {"one_transaction_each_per_s": round(alone), "ratio": ratio, "clients": given.clients}))


if __name__ == "__main__":
    main()
