"""A lane of changes under load: another version, the way back, and the end, without one failed request.

Two versions of the table's model are served. While requests arrive at Poisson times, all traffic goes to version 2 and
is rolled back, again and again; then the service gets SIGTERM. What was sent before that has to be answered.
"""

import asyncio
import json
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from medserve.access.keys import KeyRing
from medserve.models.package import MODEL, seal
from medserve.models.signing import Signer
from medserve.models.spec import ModelSpec
from medserve.settings import Settings

from .lanes import Arena, Plan, single
from .load import Line
from .servers import Ours

RATE, QUIET_S = 100.0, 1.0
ROLLBACK_S = 2.0


@dataclass(frozen=True)
class Answered:
    sent: float
    status: int
    version: str


class TwoVersions(Ours):
    def __init__(self, plan: Plan, second: Path) -> None:
        super().__init__(plan.table, name="two versions", home=plan.home("durable"))
        self._second = second

    def command(self) -> list[str]:
        return [*super().command(), str(self._second)]


def second_version(plan: Plan) -> Path:
    """The same model as version 2."""
    first, folder = plan.table.made.folder, plan.work / "table-2"
    if not folder.exists():
        shutil.copytree(first, folder)
        spec = ModelSpec.from_json((folder / MODEL).read_bytes())
        spec.version = "2"
        (folder / MODEL).write_bytes(spec.to_json())
        seal(folder, Signer.load(plan.settings), lineage={"code": "benchmark"})
    return folder


def life(plan: Plan) -> dict[str, Any]:
    """Swap, rollback and SIGTERM under Poisson load of 100 requests a second."""
    server = TwoVersions(plan, second_version(plan))
    ring = KeyRing.open(Settings(home=server.home))
    boss = ring.create("benchmark", days=1, role="administrator").key
    ring.close()
    with Arena(plan, 1) as arena:
        arena.add(server, warm=2)
        server.wake()
        seen = uvloop.run(_drive(server, boss, plan.rounds))
    failed = [a for a in seen["before"] if a.status != 200]
    strange = [a for a in seen["after"] if a.status not in (200, 503, 0)]
    plan.tell(f"{len(seen['before'])} before SIGTERM, {len(failed)} failed; rollbacks {seen['rollbacks']}")
    goals = [
        single("failed requests through swaps and rollbacks", len(failed), 0, most=True),
        single("rollback effective, s (the slowest)", max(seen["rollbacks"]), ROLLBACK_S, most=True),
        single("after SIGTERM: neither answered nor turned away", len(strange), 0, most=True),
        single("accepted before SIGTERM and not answered", seen["cut"], 0, most=True),
        single("exit code after SIGTERM", seen["exit"], 0, most=True),
    ]
    counts = {"before": len(seen["before"]), "after": len(seen["after"]), "swaps": plan.rounds}
    return {"title": life.__doc__ or "", "levels": {}, "goals": goals, "counts": counts,
            "rollbacks_s": seen["rollbacks"], "swaps_s": seen["swaps"]}  # fmt: skip


async def _drive(server: TwoVersions, boss: str, rounds: int) -> dict[str, Any]:
    line, control, answers, tasks = Line(server.port), Line(server.port), [], set()
    stopped = asyncio.Event()

    async def fire(request: bytes) -> None:
        sent, version = time.perf_counter(), ""
        try:
            status, body = await line.ask(request)
            version = json.loads(body).get("model", {}).get("version", "")
        except (OSError, asyncio.IncompleteReadError, ValueError):
            status = 0
        answers.append(Answered(sent, status, version))

    async def load() -> None:
        rng, at = random.Random(5), 0
        while not stopped.is_set():
            await asyncio.sleep(rng.expovariate(RATE))
            task = asyncio.create_task(fire(server.asks[at % len(server.asks)].bytes))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            at += 1

    async def say(verb: str, path: str, body: bytes = b"") -> float:
        began = time.perf_counter()
        head = (f"{verb} /v1/models/table/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {boss}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")  # fmt: skip
        status, told = await control.ask(head.encode() + body)
        assert status == 200, told
        return began

    loading = asyncio.create_task(load())
    await say("PUT", "traffic", b'{"versions": {"1": 100}}')
    await asyncio.sleep(QUIET_S)
    swaps, rollbacks = [], []
    for _ in range(rounds):
        began = await say("PUT", "traffic", b'{"versions": {"2": 100}}')
        await asyncio.sleep(QUIET_S)
        swaps.append(_effective(answers, began, "1"))
        began = await say("POST", "rollback")
        await asyncio.sleep(QUIET_S)
        rollbacks.append(_effective(answers, began, "2"))
    ended = time.perf_counter()
    assert server.pid is not None
    server._process.send_signal(signal.SIGTERM)
    await asyncio.sleep(2 * QUIET_S)
    stopped.set()
    await loading
    if tasks:
        await asyncio.wait(tasks, timeout=30)
    loop = asyncio.get_running_loop()
    code = await loop.run_in_executor(None, server._process.wait, 60)
    before = [a for a in answers if a.sent < ended]
    return {"before": before, "after": [a for a in answers if a.sent >= ended], "swaps": swaps,
            "rollbacks": rollbacks, "exit": code, "cut": sum(a.status == 0 for a in before)}  # fmt: skip


def _effective(answers: list[Answered], began: float, old: str) -> float:
    """Seconds after `began` at which the last request was sent that the old version answered."""
    late = [a.sent - began for a in answers if a.version == old and a.sent >= began]
    return round(max(late, default=0.0), 4)
