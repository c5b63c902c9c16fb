"""Kills a real server while clients upload cases, and judges what is left by the clients' own journal.

    python tests/serving/upload_kills.py ROOT KILLS SEED          prints one JSON object

Each round some clients upload at once, and note what was acknowledged; after a number of acknowledgements, and some
milliseconds more, the server's process group gets SIGKILL. After the next start every acknowledged case must be there
with its bytes; one that was not acknowledged is there whole, with its event in the audit log, or not at all.
"""

import hashlib
import json
import random
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx2
import sqlalchemy as sa
from real_server import RealServer
from tiny_package import write_package

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing
from medserve.settings import Settings
from medserve.store.cases import case_objects
from medserve.store.vault import Vault

TENANT = "ward"
CLIENTS = 3
SIZES = (50, 5_000, 300_000, 2_000_000)


def payload(word: str, size: int) -> bytes:
    """The word, then bytes that follow from it."""
    text = f"{word}\n".encode()
    return (text + hashlib.shake_256(text).digest(size))[:size]


class Uploads:
    """The clients of one life of the server."""

    def __init__(self, url: str, key: str, seed: int) -> None:
        self.acknowledged: dict[str, tuple[str, int]] = {}
        self.wrong = 0
        self._url, self._key, self._seed = url, {"authorization": f"Bearer {key}", "content-type": "text/plain"}, seed
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _client(self, number: int) -> None:
        rng = random.Random(self._seed * 100 + number)
        with httpx2.Client(base_url=self._url, headers=self._key, timeout=20) as http:
            for step in range(10**6):
                word, size = f"{self._seed}-{number}-{step}", rng.choice(SIZES)
                patient = {"x-patient": f"patient-{self._seed % 50}-{step % 5}"}
                try:
                    answer = http.post("/v1/cases", content=payload(word, size), headers=patient)
                except httpx2.TransportError:
                    return  # killed
                if answer.status_code == 201:
                    self.acknowledged[answer.json()["case"]] = (word, size)
                else:
                    self.wrong += 1
                if self._ended.is_set():
                    return

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.acknowledged) < count and time.monotonic() < deadline:
            time.sleep(0.002)

    def join(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)


class Judge:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stored: dict[str, tuple[str, int]] = {}
        self.lost = self.half = self.unwritten = 0

    def look(self, url: str, key: str, cases: list[str]) -> None:
        """Over the network, then in the vault."""
        with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=20) as http:
            for case in cases:
                page = http.get(f"/v1/cases/{case}")
                self.lost += page.status_code != 200 or page.json()["bytes"] != self.stored[case][1]
        vault = Vault.open(self.settings)
        for case in cases:
            self.lost += vault.get(TENANT, case) != payload(*self.stored[case])
        vault.close()

    def look_at_everything(self) -> int:
        """Every row opens whole and has one event, every event and file has its row. Returns: how many."""
        vault = Vault.open(self.settings)
        with vault.engine.connect() as db:
            rows = set(db.scalars(sa.select(case_objects.c.object)))
        for case in rows:
            data = vault.get(TENANT, case)
            word = data.partition(b"\n")[0].decode()
            self.half += data != payload(word, len(data)) or len(data) not in SIZES
        files = {path.name for path in vault.files.folder.rglob("*") if path.is_file()}
        self.half += len(files ^ {f"{case}.1" for case in rows})
        self.lost += len(set(self.stored) - rows)
        vault.close()
        ledger = Ledger.open(self.settings)
        events = [e.resource for _, e in ledger.read() if e.action == "cases.create" and e.status == 201]
        self.unwritten = len(rows ^ set(events)) + len(events) - len(set(events)) + (not ledger.verify().sound)
        ledger.close()
        return len(rows)


def run(root: Path, kills: int, seed: int) -> dict[str, object]:
    root.mkdir(parents=True, exist_ok=True)
    settings, rng = Settings(home=root / "home"), random.Random(seed)
    ring = KeyRing.open(settings)
    key = ring.create("uploads", tenant=TENANT).key
    ring.close()
    server, judge = RealServer(root, [write_package(root / "package", settings)]), Judge(settings)
    slowest, busiest, swept, wrong, fresh = 0.0, 0.0, 0, 0, list[str]()
    try:
        server.start()
        for number in range(kills):
            uploads = Uploads(server.url, key, seed * 10**6 + number)
            uploads.wait_for(rng.randrange(1, 20))
            time.sleep(rng.uniform(0, 0.03))
            server.kill()
            uploads.join()
            wrong += uploads.wrong
            judge.stored |= uploads.acknowledged
            fresh = list(uploads.acknowledged)
            swept += len(list((settings.home / "objects" / "incoming").iterdir()))
            slowest, busiest = max(slowest, server.start()), max(busiest, server.cpu_s)
            judge.look(server.url, key, fresh)
            if number % 10 == 9:
                so_far = {"kills": number + 1, "acknowledged": len(judge.stored), "lost": judge.lost}
                sys.stderr.write(json.dumps(so_far | {"slowest_restart_s": round(slowest, 2)}) + "\n")
        in_order = server.stop() == 0
    finally:
        server.close()
    rows = judge.look_at_everything()
    return {
        "kills": kills, "acknowledged": len(judge.stored), "visible": rows, "lost": judge.lost,
        "half_visible": judge.half, "rows_without_their_event": judge.unwritten, "other_answers": wrong,
        "files_of_dead_writers": swept, "slowest_restart_s": round(slowest, 2),
        "restart_cpu_s": round(busiest, 2), "ended_in_order": in_order,
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))) + "\n")
