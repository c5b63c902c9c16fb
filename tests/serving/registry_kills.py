"""Kills a real server while packages are uploaded and published, jobs entered and ended, cases stored, keys rotated and
patients erased, all at once; judges what is left by the journals of those who were answered.

    python tests/serving/registry_kills.py ROOT KILLS SEED          prints one JSON object

In each life one client does each of these, and a `medserve vault` process rotates or erases beside the server; after
a random time both get SIGKILL. After the next start what was acknowledged must hold: a package is there, a published
one answers, a job is there or ended, a case has its bytes, an erased patient is gone. The rest is there whole, with its
event in the audit log, or not at all. A new home every `LIVES` kills keeps starts comparable.
"""

import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx2
from real_server import RealServer
from tiny_package import png, ramp, spec, write_package
from upload_kills import payload

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing
from medserve.jobs.table import Jobs
from medserve.models.archive import pack
from medserve.settings import Settings
from medserve.store.packages import Shelf
from medserve.store.vault import Vault

TENANT, LIVES, PACKAGES = "ward", 10, 4
WHO = {
    "engineer": {"role": "ml-engineer"},
    "approver": {"role": "data-scientist", "duties": ["approver"]},
    "clinician": {"role": "clinician"},
    "service": {"role": "service"},
}


class Journal:
    """What was acknowledged in one home, by kind: id -> what belongs to it."""

    def __init__(self) -> None:
        self.uploaded: dict[str, str] = {}  # digest: name
        self.published: dict[str, str] = {}
        self.jobs: dict[str, bool] = {}  # id: ended
        self.cases: dict[str, tuple[str, str]] = {}  # id: word, patient
        self.erasing: set[str] = set()  # asked for; done or not
        self.erased: set[str] = set()
        self.rotations = 0
        self.wrong: Counter[str] = Counter()

    def count(self) -> int:
        ended = sum(self.jobs.values())
        done = (self.uploaded, self.published, self.jobs, self.cases, self.erased)
        return sum(map(len, done)) + ended + self.rotations


class Life:
    """The clients of one life of the server, each until it is killed."""

    def __init__(self, url: str, keys: dict[str, str], journal: Journal, zips: list[Path], number: int) -> None:
        self.url, self.keys, self.journal, self.number = url, keys, journal, number
        self._zips, self._waiting = iter(zips), list[str]()
        steps: list[tuple[str, Callable[[httpx2.Client, int], bool]]] = [
            ("engineer", self.upload), ("approver", self.publish), ("engineer", self.job), ("service", self.case)
        ]  # fmt: skip
        self._threads = [threading.Thread(target=self._client, args=step) for step in steps]
        for thread in self._threads:
            thread.start()

    def _client(self, who: str, step: Callable[[httpx2.Client, int], bool]) -> None:
        headers = {"authorization": f"Bearer {self.keys[who]}"}
        with httpx2.Client(base_url=self.url, headers=headers, timeout=30) as http:
            for number in itertools.count():
                try:
                    if not step(http, number):
                        return
                except (httpx2.TransportError, ValueError):
                    return  # killed; perhaps in the middle of an answer
                time.sleep(0.03)

    def _told(self, answer: httpx2.Response, *good: int) -> bool:
        if answer.status_code >= 500:
            self.journal.wrong[answer.json()["error"]["code"]] += 1
        return answer.status_code in good

    def upload(self, http: httpx2.Client, number: int) -> bool:
        path = next(self._zips, None)
        if path is None:
            return False
        answer = http.post("/v1/packages", content=path.read_bytes(), headers={"content-type": "application/zip"})
        if self._told(answer, 200, 201):
            self.journal.uploaded[answer.json()["digest"]] = path.stem
        return True

    def publish(self, http: httpx2.Client, number: int) -> bool:
        for row in http.get("/v1/packages").json()["packages"]:
            if row["state"] == "uploaded" and self._told(http.post(f"/v1/packages/{row['digest']}/publish"), 200):
                self.journal.published[row["digest"]] = row["name"]
        return True

    def job(self, http: httpx2.Client, number: int) -> bool:
        """Enters two, ends one of them; never more than a few wait."""
        if number % 3 < 2:
            answer = http.post("/v1/jobs", json={"kind": "train", "data": "x.npz"})
            if self._told(answer, 201):
                self._waiting.append(answer.json()["id"])
                self.journal.jobs[self._waiting[-1]] = False
        while len(self._waiting) > 1:
            if self._told(http.delete(f"/v1/jobs/{self._waiting[0]}"), 200):
                self.journal.jobs[self._waiting[0]] = True
            self._waiting.pop(0)
        return True

    def case(self, http: httpx2.Client, number: int) -> bool:
        word, patient = f"{self.number}-{number}", f"p-{self.number}-{number % 3}"
        headers = {"content-type": "text/plain", "x-patient": patient}
        answer = http.post("/v1/cases", content=payload(word, 5_000), headers=headers)
        if self._told(answer, 201):
            self.journal.cases[answer.json()["case"]] = (word, patient)
        return True

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)


class Keeper:
    """A `medserve vault` process beside the server: turns keys, or erases a patient of the life before."""

    def __init__(self, home: Path, journal: Journal, number: int, what: str) -> None:
        self._journal, self._what, self._patient = journal, what, f"p-{number - 1}-0"
        more = {"erase": ["erase", "--patient", self._patient, "--tenant", TENANT],
                "tenant": ["rotate", "--tenant", TENANT], "master": ["rotate", "--master"]}[what]  # fmt: skip
        if what == "erase":
            journal.erasing.add(self._patient)
        command = [sys.executable, "-m", "medserve.cli", "vault", *more, "--home", str(home), "--json"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        done = self._process.poll() == 0
        self._process.kill()
        self._process.wait()
        if done and self._what == "erase":
            self._journal.erased.add(self._patient)
        elif done:
            self._journal.rotations += 1


class Judge:
    """lost: acknowledged and not so. half: visible and not whole."""

    def __init__(self, settings: Settings, keys: dict[str, str]) -> None:
        self._settings, self._keys = settings, keys
        self.lost: Counter[str] = Counter()
        self.half: Counter[str] = Counter()

    def look(self, url: str, journal: Journal) -> None:
        """Over the network, at everything of this home."""
        heads = {who: {"authorization": f"Bearer {key}"} for who, key in self._keys.items()}
        with httpx2.Client(base_url=url, timeout=60) as http:

            def get(who: str, path: str) -> httpx2.Response:
                while (answer := http.get(path, headers=heads[who])).status_code == 429:
                    time.sleep(0.05)
                return answer

            rows = {row["digest"]: row for row in get("engineer", "/v1/packages").json()["packages"]}
            self.lost["packages"] += len(set(journal.uploaded) - set(rows))
            for digest, row in rows.items():
                self.half["packages"] += get("engineer", f"/v1/packages/{digest}").status_code != 200
                if digest in journal.published:
                    self.lost["publications"] += row["state"] != "published"
                if row["state"] == "published":
                    head = heads["clinician"] | {"content-type": "image/png"}
                    path = f"/v1/models/{row['name']}/predict"
                    while (answer := http.post(path, content=png(ramp()), headers=head)).status_code == 429:
                        time.sleep(0.05)
                    self.half["publications"] += answer.status_code != 200
            for id, ended in journal.jobs.items():
                page = get("engineer", f"/v1/jobs/{id}")
                self.lost["jobs"] += page.status_code != 200 or (ended and page.json()["job"]["state"] != "cancelled")
            for case, (_, patient) in journal.cases.items():
                status = get("service", f"/v1/cases/{case}").status_code
                if patient in journal.erased:
                    self.lost["erasures"] += status != 410
                else:
                    self.lost["cases"] += status not in ({200, 410} if patient in journal.erasing else {200})

    def look_inside(self, journal: Journal) -> None:
        """Bytes, and whether every effect has its event, and every event its effect."""
        vault = Vault.open(self._settings)
        for case, (word, patient) in journal.cases.items():
            if patient not in journal.erasing:
                self.lost["cases"] += vault.get(TENANT, case) != payload(word, 5_000)
        vault.close()
        ledger, shelf, jobs = Ledger.open(self._settings), Shelf(self._settings), Jobs(self._settings)
        events = [event for _, event in ledger.read()]

        def told(action: str, status: int, what: str) -> set[str]:
            return {getattr(e, what) for e in events if (e.action, e.status) == (action, status)}

        rows = shelf.rows(TENANT)
        self.half["events"] += len({r.digest for r in rows} ^ told("packages.upload", 201, "model"))
        out = {r.digest for r in rows if r.state == "published"}
        self.half["events"] += len(out ^ told("packages.publish", 200, "model"))
        self.half["events"] += len({r.id for r in jobs.rows(TENANT, 10**6)} ^ told("jobs.create", 201, "resource"))
        self.half["log"] += not ledger.verify().sound
        for opened in (ledger, shelf, jobs):
            opened.close()


def run(root: Path, kills: int, seed: int) -> dict[str, object]:
    rng, said = random.Random(seed), Counter[str]()
    lost, half, wrong = Counter[str](), Counter[str](), Counter[str]()
    slowest = busiest = 0.0
    for house in range(-(-kills // LIVES)):
        place = root / f"home-{house}"
        (place / "data" / TENANT).mkdir(parents=True)
        (place / "data" / TENANT / "x.npz").write_bytes(b"x")
        settings = Settings(home=place / "home")
        ring = KeyRing.open(settings)
        keys = {who: ring.create(who, tenant=TENANT, **grant).key for who, grant in WHO.items()}
        ring.close()
        lives = min(LIVES, kills - house * LIVES)
        zips = []
        for name in (f"m{life}n{n}" for life in range(lives) for n in range(PACKAGES)):
            zips.append(pack(write_package(place / name, settings, spec(name)), place / f"{name}.zip"))
        server = RealServer(place, [write_package(place / "first", settings)], jobs=0, data_root=place / "data")
        judge, journal = Judge(settings, keys), Journal()
        try:
            server.start()
            for life in range(lives):
                clients = Life(server.url, keys, journal, zips[life * PACKAGES : (life + 1) * PACKAGES], life)
                keeper = Keeper(settings.home, journal, life, rng.choice(("erase", "tenant", "master")))
                time.sleep(rng.uniform(0.2, 5.0))
                server.kill()
                keeper.kill()
                clients.join()
                slowest, busiest = max(slowest, server.start()), max(busiest, server.cpu_s)
                judge.look(server.url, journal)
            server.stop()
        finally:
            server.close()
        judge.look_inside(journal)
        said += Counter({name: len(getattr(journal, name)) for name in ("uploaded", "published", "cases", "erased")})
        said += Counter(jobs=len(journal.jobs), ended=sum(journal.jobs.values()), rotations=journal.rotations)
        lost, half, wrong = lost + judge.lost, half + judge.half, wrong + journal.wrong
        sys.stderr.write(json.dumps({"homes": house + 1, **said, "lost": lost, "half_visible": half}) + "\n")
    return {
        "kills": kills, "acknowledged": dict(said), "lost": dict(lost), "half_visible": dict(half),
        "answers_of_500_or_more": dict(wrong), "slowest_restart_s": round(slowest, 2),
        "restart_cpu_s": round(busiest, 2),
    }  # fmt: skip


if __name__ == "__main__":
    found = run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(found["lost"] or found["half_visible"] or found["answers_of_500_or_more"]))
