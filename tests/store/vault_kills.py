"""A process that kills the vault's writers and judges what is left by its own journal of acknowledgements.

    python vault_kills.py HOME KILLS SEED          prints one JSON object

Each round forks a writer that stores objects and versions, rotates both kinds of keys and erases patients, telling a
pipe of its steps; after some of them, and some milliseconds more, it is killed with SIGKILL. Then the vault is opened
again. Counting steps, not time, keeps a busy machine from killing writers that have done nothing.
"""

import hashlib
import json
import random
import sys
import time
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from killed_writer import one_life, say

from medserve.errors import Gone
from medserve.settings import Settings
from medserve.store.rotation import finish, rotate_master, rotate_tenant
from medserve.store.segments import SMALLEST
from medserve.store.vault import Vault
from medserve.store.vault_tables import vault_objects

TENANT = "ward"


def payload(word: str, size: int) -> bytes:
    """Canary, then bytes that follow from it."""
    text = f"canary-{word}-Müller王".encode()
    return (text + hashlib.shake_256(text).digest(size))[:size]


def live(settings: Settings, seed: int, tell: int) -> None:
    """The writer: runs until it is killed."""
    rng = random.Random(seed)
    vault = Vault.open(settings, segment_bytes=SMALLEST)
    say(tell, "open")
    known: list[tuple[str, str]] = []
    for step in range(10**6):
        word, size = f"{seed}-{step}", rng.choice([0, 50, SMALLEST, 3 * SMALLEST + 9])
        what = rng.choices(["put", "version", "tenant", "master", "erase"], [12, 4, 1, 1, 3])[0]
        if what == "put" or not known:
            patient = f"patient-{seed}-{rng.randrange(4)}-{step // 20}"
            ref = vault.put(TENANT, patient, payload(word, size))
            known.append((patient, ref.object))
            say(tell, "put", patient, ref.object, 1, word, size)
        elif what == "version":
            patient, object = rng.choice(known)
            ref = vault.put(TENANT, patient, payload(word, size), object=object)
            say(tell, "put", patient, object, ref.version, word, size)
        elif what == "tenant":
            rotate_tenant(vault, TENANT, batch=3)
        elif what == "master":
            rotate_master(vault)
        else:
            patient = rng.choice(known)[0]
            say(tell, "erasing", patient)
            vault.erase(TENANT, patient)
            known = [entry for entry in known if entry[0] != patient]
            say(tell, "erased", patient)


class Judge:
    """What was acknowledged, and whether it is so. A patient who comes back after his erasure begins a new life."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, int], tuple[str, str, int]] = {}
        self.lives: dict[str, int] = {}
        self.asked: set[str] = set()
        self.erased: set[str] = set()
        self.lost = self.half = 0

    def note(self, journal: list[list]) -> None:
        for what, patient, *rest in journal:
            life = self.lives.setdefault(patient, 0)
            if what == "put":
                object, version, word, size = rest
                self.stored[object, version] = (f"{patient}, life {life}", word, size)
            elif what == "erasing":
                self.asked.add(f"{patient}, life {life}")
                self.lives[patient] = life + 1
            else:
                self.erased.add(f"{patient}, life {life - 1}")

    def look(self, vault: Vault, keys: list[tuple[str, int]]) -> None:
        """Acknowledged and not erased: readable. Erased: gone. Asked only: all or nothing of the patient."""
        states: dict[str, set[str]] = {}
        for object, version in keys:
            patient, word, size = self.stored[object, version]
            try:
                state = "read" if vault.get(TENANT, object, version) == payload(word, size) else "wrong"
            except Gone:
                state = "gone"
            states.setdefault(patient, set()).add(state)
            if state != ("gone" if patient in self.erased else "read") and patient not in self.asked - self.erased:
                self.lost += 1
        self.half += sum(len(found) > 1 or found == {"wrong"} for found in states.values())

    def look_at_disk(self, vault: Vault) -> None:
        """Every row opens or is erased, every file has a row, nothing waits in `incoming`."""
        live = set()
        with vault.engine.connect() as db:
            rows = list(db.execute(sa.select(vault_objects.c.object, vault_objects.c.version)))
        for object, version in rows:
            try:
                vault.get(TENANT, object, version)
                live.add(f"{object}.{version}")
            except Gone:
                pass
        files = {path.name for path in vault.files.folder.rglob("*") if path.is_file()}
        self.half += len(files ^ live)


def main(home: str, kills: int, seed: int) -> dict[str, object]:
    settings, rng, judge = Settings(home=Path(home)), random.Random(seed), Judge()
    slowest, swept, resumed = 0.0, 0, 0
    for number in range(kills):
        journal = one_life(partial(live, settings, seed * 10**6 + number), rng.randrange(13), rng.uniform(0, 0.01))
        judge.note(journal)
        swept += len(list((settings.home / "objects" / "incoming").iterdir()))
        start = time.monotonic()
        vault = Vault.open(settings, segment_bytes=SMALLEST)
        slowest = max(slowest, time.monotonic() - start)
        fresh = {(entry[2], entry[3]) for entry in journal if entry[0] == "put"}
        judge.look(vault, sorted(fresh))
        if number % 50 == 49 or number == kills - 1:
            resumed += len(finish(vault))
            judge.look(vault, sorted(judge.stored))
            judge.look_at_disk(vault)
        vault.close()
    return {
        "kills": kills, "acknowledged": len(judge.stored), "erased": len(judge.erased), "lost": judge.lost,
        "half_visible": judge.half, "files_of_dead_writers": swept, "rotations_finished": resumed,
        "slowest_open_s": round(slowest, 3),
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))) + "\n")
