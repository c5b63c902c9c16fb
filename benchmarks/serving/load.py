"""Load on a loopback port: wrk in a closed loop, and our own open loop at Poisson times.

    closed(asks, port, seconds=8, connections=32)      # {"per_s", "p50_ms", "p99_ms", "errors", ...}
    steady(asks, port, seconds=8, connections=8, settle_s=1)
    opened(asks, port, rate=120, seconds=10)           # latency from the *intended* send time

wrk is the lightest generator here, but it waits for an answer before it asks again, so that a slow server is asked less
often. The open loop does not wait: what queues up is seen.
"""

import asyncio
import json
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

KEPT_S = 2.0
MOST_CONNECTIONS = 512
FEWEST_ANSWERS = 3  # of one connection
LUA = """
local requests, at = {}, 0
function init(args)
  for n = 1, tonumber(args[2]) do
    local file = io.open(args[1] .. "/" .. n, "rb")
    requests[n] = file:read("*a")
    file:close()
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency, requests)
  local e = summary.errors
  local form = 'JSON{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "worst_ms": %f, '
    .. '"statuses": %d, "broken": %d}\\n'
  io.write(string.format(form, summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3, e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True)
class Ask:
    """One request, and whether an answer to it is right. check: body -> largest difference from the reference."""

    path: str
    media: str
    body: bytes
    check: Callable[[bytes], float]
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def bytes(self) -> bytes:
        more = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {self.media}\r\n{more}"
            f"Content-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


def closed(asks: Sequence[Ask], port: int, *, seconds: int, connections: int) -> dict[str, float]:
    """wrk with one thread."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "script.lua").write_text(LUA)
        for at, ask in enumerate(asks, 1):
            (folder / str(at)).write_bytes(ask.bytes)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
        command += ["-s", str(folder / "script.lua"), f"http://127.0.0.1:{port}/", "--", str(folder), str(len(asks))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.partition("JSON")[2])
    found["per_s"] = (found["requests"] - found["statuses"]) / found["seconds"]
    return found


def steady(asks: Sequence[Ask], port: int, *, settle_s: float, seconds: float, connections: int) -> dict[str, float]:
    """A closed loop of our own, for servers that answer some dozens a second: from one answer to another, so that what
    is under way at either end is not lost. wrk would miss half a batch of some hundred answers."""
    import uvloop

    return uvloop.run(_steady(asks, port, settle_s, seconds, connections))


async def _steady(
    asks: Sequence[Ask], port: int, settle_s: float, seconds: float, connections: int
) -> dict[str, float]:
    """Each connection has its own rate, from its first answer after the settling to its last: answers come in batches,
    and a common window would cut one. Only good answers count: a server that sheds is quick, and no better for it."""
    line, requests = Line(port, connections), [ask.bytes for ask in asks]
    begin = time.perf_counter() + settle_s
    bad, rates, took = 0, [], []

    async def client(at: int) -> None:
        nonlocal bad
        done: list[float] = []
        good = 0  # after the first
        while len(done) < FEWEST_ANSWERS or done[-1] < begin + seconds:
            sent = time.perf_counter()
            status, _ = await line.ask(requests[at % len(requests)])
            now = time.perf_counter()
            at += connections
            bad += status != 200
            if now > begin:
                good += status == 200 and bool(done)
                done.append(now)
                took.append(now - sent)
        rates.append(good / (done[-1] - done[0]))

    await asyncio.gather(*(client(at) for at in range(connections)))
    line.close()
    took.sort()
    pick = [1e3 * took[min(len(took) - 1, int(q * len(took)))] for q in (0.5, 0.99)]
    return {"requests": len(took), "seconds": seconds, "p50_ms": pick[0], "p99_ms": pick[1], "statuses": bad,
            "broken": 0, "per_s": sum(rates)}  # fmt: skip


@dataclass
class Tally:
    """Of an open loop: (status, seconds from the intended time, intended second of the run)."""

    rows: list[tuple[int, float, float]] = field(default_factory=list)
    service: list[float] = field(default_factory=list)  # of refusals: seconds from the send to the answer

    def summary(self) -> dict[str, float | int | None]:
        good = sorted(t for status, t, _ in self.rows if status == 200)

        def pick(values: list[float], q: float) -> float | None:
            return round(1e3 * values[min(len(values) - 1, int(q * len(values)))], 3) if values else None

        refused = sorted(self.service)
        return {
            "sent": len(self.rows),
            "ok": len(good),
            "refused": sum(status in (429, 503) for status, _, _ in self.rows),
            "failed": sum(status not in (200, 429, 503, 504) for status, _, _ in self.rows),
            "late": sum(status == 504 for status, _, _ in self.rows),
            "p50_ms": pick(good, 0.5),
            "p95_ms": pick(good, 0.95),
            "p99_ms": pick(good, 0.99),
            "refusal_p50_ms": pick(refused, 0.5),
            "refusal_p99_ms": pick(refused, 0.99),
        }


class Line:
    """Kept connections to one server; each carries one request at a time."""

    def __init__(self, port: int, most: int = MOST_CONNECTIONS) -> None:
        self.port, self._room = port, asyncio.Semaphore(most)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = []

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        async with self._room:
            reader, writer = await self._connection()
            try:
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                status = int(head.split(b" ", 2)[1])
                if b"transfer-encoding: chunked" in head:
                    body = b""
                    while size := int(await reader.readline(), 16):
                        body += (await reader.readexactly(size + 2))[:-2]
                    await reader.readline()
                else:
                    body = await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
            except BaseException:
                writer.close()
                raise
            if b"connection: close" in head:
                writer.close()
            else:
                self._idle.append((reader, writer, time.monotonic()))
            return status, body

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that was used within the last seconds, else a new one: servers close those that wait for long."""
        while self._idle:
            reader, writer, used = self._idle.pop()
            if not reader.at_eof() and time.monotonic() - used < KEPT_S:
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self.port)

    def close(self) -> None:
        for _, writer, _ in self._idle:
            writer.close()
        self._idle.clear()


async def poisson(asks: Sequence[Ask], port: int, *, rate: float, seconds: float, seed: int = 0) -> Tally:
    line, tally, running = Line(port), Tally(), set()
    rng, requests, room = random.Random(seed), [ask.bytes for ask in asks], asyncio.Semaphore(MOST_CONNECTIONS)

    async def fire(due: float, request: bytes, at: float) -> None:
        sent = due
        try:
            async with room:  # no more connections than that; a refusal is timed from here, an answer from `due`
                sent = time.perf_counter()
                status, _ = await line.ask(request)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            status = 0
        now = time.perf_counter()
        tally.rows.append((status, now - due, at))
        if status in (429, 503):
            tally.service.append(now - sent)

    begin = due = time.perf_counter()
    count = 0
    while due < begin + seconds:
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(fire(due, requests[count % len(requests)], due - begin))
        running.add(task)
        task.add_done_callback(running.discard)
        due += rng.expovariate(rate)
        count += 1
    if running:
        await asyncio.wait(running, timeout=60)
    line.close()
    return tally


def opened(asks: Sequence[Ask], port: int, *, rate: float, seconds: float, seed: int = 0) -> Tally:
    import uvloop

    return uvloop.run(poisson(asks, port, rate=rate, seconds=seconds, seed=seed))


def worst_gap(asks: Sequence[Ask], port: int, *, times: int = 1) -> float:
    """Every request in turn over one connection; the largest difference from the reference.

    Raises: AssertionError: a status other than 200.
    """

    async def turn() -> float:
        line, worst = Line(port), 0.0
        for ask in [*asks] * times:
            status, body = await asyncio.wait_for(line.ask(ask.bytes), 30)
            assert status == 200, f"{status}: {body[:300]!r}"
            worst = max(worst, ask.check(body))
        line.close()
        return worst

    return asyncio.run(turn())
