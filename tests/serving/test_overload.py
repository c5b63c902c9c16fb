"""Four times as much as a service can do, from clients that do not wait: who is let in is answered about as soon as
before, all others hear so at once, and it is over when the load is."""

import asyncio
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_package import png, ramp, write_package

from medserve.access.keys import KeyRing
from medserve.settings import Settings

EACH_S = 0.02
POLICY = Path(__file__).parents[2] / "src" / "medserve" / "access" / "policy.yaml"


@dataclass(frozen=True)
class Got:
    at: float
    status: int
    wait_s: float
    retry: bool


def quantile(waits: list[float], share: float) -> float:
    return sorted(waits)[min(len(waits) - 1, int(len(waits) * share))] if waits else 0.0


class Clients:
    """Requests over kept connections; each has one to itself."""

    def __init__(self, port: int, key: str) -> None:
        body = png(ramp())
        head = (
            f"POST /v1/models/tiny/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._port, self._request = port, head.encode() + body
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self) -> Got:
        began = time.monotonic()
        while self._idle and self._idle[-1][0].at_eof():
            self._idle.pop()[1].close()
        pair = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        pair[1].write(self._request)
        head = (await asyncio.wait_for(pair[0].readuntil(b"\r\n\r\n"), 60)).lower()
        await pair[0].readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
        self._idle.append(pair)
        return Got(began, int(head.split(b" ", 2)[1]), time.monotonic() - began, b"retry-after:" in head)

    async def capacity(self, clients: int, seconds: float) -> float:
        """Answers a second to clients that wait for them."""
        until, found = time.monotonic() + seconds, []

        async def one() -> None:
            while time.monotonic() < until:
                found.append(await self.ask())

        await asyncio.gather(*(one() for _ in range(clients)))
        return len(found) / seconds

    async def arrive(self, rate: float, seconds: float, seed: int) -> list[Got]:
        """At Poisson times, whatever becomes of those before."""
        rng, due, tasks = random.Random(seed), time.monotonic(), []
        until = due + seconds
        while due < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.ensure_future(self.ask()))
            due += rng.expovariate(rate)
        return list(await asyncio.gather(*tasks))

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


@pytest.mark.slow
def test_four_times_too_much_is_refused_and_the_rest_answered_as_before(tmp_path):
    """Shares of what this very machine did before, with room for what else it does; the figures are in
    docs/benchmarks.md. An engine of 20 ms a case."""
    settings = Settings(home=tmp_path / "home")
    settings.folder()
    (settings.home / "policy.yaml").write_text(POLICY.read_text().replace("per_s: 2000", "per_s: 9000"))
    ring = KeyRing.open(settings)
    key = ring.create("load").key
    ring.close()
    package = write_package(tmp_path / "m", settings)
    command = [sys.executable, str(Path(__file__).with_name("slow_engine.py")), str(settings.home), str(package)]
    with subprocess.Popen(
        [*command, str(EACH_S)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        clients = Clients(json.loads(server.stdout.readline())["port"], key)

        async def story() -> tuple[list[Got], list[Got], list[Got], float]:
            capacity = await clients.capacity(8, 4)
            normal = await clients.arrive(0.9 * capacity, 10, 1)
            over = await clients.arrive(4 * capacity, 8, 2)
            moment = time.monotonic()
            after = await clients.arrive(0.3 * capacity, 8, 3)
            clients.close()
            return normal, over, [one for one in after if one.at > moment + 3], capacity

        normal, over, after, capacity = asyncio.run(story())
        server.stdin.close()
    waits = {
        name: [one.wait_s for one in some if one.status == status]
        for name, some, status in (
            ("normal", normal, 200),
            ("in", over, 200),
            ("out", over, 503),
            ("after", after, 200),
        )
    }
    said = {name: [round(1e3 * quantile(some, share)) for share in (0.5, 0.99)] for name, some in waits.items()}
    assert {one.status for one in (*normal, *over)} <= {200, 503}, said
    assert all(one.retry for one in over if one.status == 503)
    assert len(waits["in"]) > 0.5 * capacity * 8, said  # it goes on working
    assert len(waits["out"]) > len(waits["in"]), said
    assert quantile(waits["in"], 0.99) < 3 * max(quantile(waits["normal"], 0.99), 5 * EACH_S), said
    assert quantile(waits["out"], 0.99) < quantile(waits["in"], 0.5), said
    assert [one.status for one in after] == [200] * len(after), said
    assert quantile(waits["after"], 0.5) < quantile(waits["normal"], 0.99) + EACH_S, said
