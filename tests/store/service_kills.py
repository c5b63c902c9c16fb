"""A process that kills writers of keys and of the audit log, and judges by the acknowledgements.

    python service_kills.py HOME KILLS SEED          prints one JSON object

Each round forks a writer that makes and revokes keys, writes events and ends epochs, telling a pipe what was
acknowledged; after some steps it is killed with SIGKILL. Then everything is opened again. `vault_kills.py` does the
same for the vault.
"""

import json
import random
import sys
import time
from functools import partial
from pathlib import Path

from killed_writer import one_life, say

from medserve.access import audit
from medserve.access.audit import Event, Ledger
from medserve.access.keys import KeyRing
from medserve.errors import Denied
from medserve.settings import Settings

audit.EPOCH_EVENTS = 7  # an epoch's end is the delicate moment: let there be many


def live(settings: Settings, seed: int, tell: int) -> None:
    rng = random.Random(seed)
    ring, ledger = KeyRing.open(settings), Ledger.open(settings)
    say(tell, "open")
    made: list[tuple[str, str]] = []
    for step in range(10**6):
        what = rng.choices(["create", "revoke", "event", "batch", "epoch"], [4, 2, 6, 2, 1])[0]
        if what == "create" or (what == "revoke" and not made):
            new = ring.create(f"k {seed} {step}")
            made.append((new.row.id, new.key))
            say(tell, "created", new.row.id, new.key)
        elif what == "revoke":
            id, key = made.pop(rng.randrange(len(made)))
            say(tell, "revoking", id, key)
            ring.revoke(id)
            say(tell, "revoked", id, key)
        elif what == "epoch":
            ledger.end_epoch()
            say(tell, "epoch")
        else:
            traces = [f"{seed}-{step}-{i}" for i in range(1 if what == "event" else 5)]
            ledger.write([Event(action="a", outcome="allow", trace=trace) for trace in traces])
            say(tell, "written", *traces)


def main(home: str, kills: int, seed: int) -> dict[str, object]:
    settings, rng = Settings(home=Path(home)), random.Random(seed)
    created: dict[str, str] = {}
    revoked: dict[str, str] = {}
    asked: set[str] = set()
    written: set[str] = set()
    lost = unsound = half = 0
    slowest = 0.0
    for number in range(kills):
        for what, *words in one_life(
            partial(live, settings, seed * 10**6 + number), rng.randrange(10), rng.uniform(0, 0.01)
        ):
            if what == "created":
                created[words[0]] = words[1]
            elif what == "revoking":
                asked.add(words[0])
            elif what == "revoked":
                revoked[words[0]] = words[1]
            elif what == "written":
                written.update(words)
        start = time.monotonic()
        ring, ledger = KeyRing.open(settings), Ledger.open(settings)
        ledger.write([Event(action="start", outcome="allow")])
        slowest = max(slowest, time.monotonic() - start)
        if number % 25 == 24 or number == kills - 1:
            unsound += not ledger.verify().sound
            events = [event for _, event in ledger.read()]
            lost += len(written - {event.trace for event in events})
            noted = {(event.resource, event.code) for event in events if event.action == "keys.manage"}
            rows = {row.id for row in ring.rows()}
            lost += len(set(created) - rows)
            half += len({(id, "created") for id in rows} ^ {one for one in noted if one[1] == "created"})
            for id, key in created.items():
                try:
                    ring.verify(key)
                    lost += id in revoked
                except Denied:
                    lost += id not in asked
                half += (id in revoked) and (id, "revoked") not in noted
        ring.close()
        ledger.close()
    return {
        "kills": kills, "keys": len(created), "revoked": len(revoked), "events": len(written), "lost": lost,
        "half_visible": half, "unsound_logs": unsound, "slowest_start_s": round(slowest, 3),
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))) + "\n")
