"""A load generator: requests whose times nobody's answer delays.

    found = asyncio.run(closed_loop(address, requests, clients=32, seconds=5))      # as fast as it answers
    found = asyncio.run(open_loop(address, requests, rate=200.0, seconds=9, seed=1))   # Poisson arrivals

Open loop: the times of sending are drawn beforehand, and each latency counts from the time that was intended. A slow
answer therefore makes all that wait behind it slow too, as it is for those who ask; a loop that waits for each answer
would not notice. Only loopback addresses are spoken to, in plain HTTP/1.1 over kept connections.
"""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Sequence
from typing import NamedTuple

LINES = 256  # connections at once; a request that finds none free waits, and its wait counts
GRACE_S = 10.0  # for answers that are under way at the end
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HOST = "127.0.0.1"


class Answered(NamedTuple):
    """One request. status: of HTTP; 0: no answer. seconds: from the intended moment to the last byte."""

    status: int
    seconds: float


class Line(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int) -> "Line":
        _, line = await asyncio.get_running_loop().create_connection(cls, _HOST, port)
        return line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        length = _LENGTH.search(self._buffer, 0, head + 2) if head >= 0 else None
        if length is None or len(self._buffer) < head + 4 + int(length[1]):
            return
        status = int(self._buffer[9:12])
        self._buffer.clear()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    async def ask(self, request: bytes) -> int:
        """Returns: the status. Raises: ConnectionError."""
        if self._transport is None:
            raise ConnectionResetError
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def request_of(path: str, body: bytes, media: str, key: str) -> bytes:
    """The bytes of one POST."""
    head = f"POST {path} HTTP/1.1\r\nhost: {_HOST}\r\nauthorization: Bearer {key}\r\ncontent-type: {media}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def closed_loop(port: int, requests: Sequence[bytes], *, clients: int, seconds: float) -> list[Answered]:
    """Each client asks again as soon as it is answered."""
    found: list[Answered] = []
    end = time.perf_counter() + seconds

    async def client(at: int) -> None:
        line = await Line.open(port)
        while (began := time.perf_counter()) < end:
            at += 1
            status = await line.ask(requests[at % len(requests)])
            found.append(Answered(status, time.perf_counter() - began))
        line.close()

    await asyncio.gather(*(client(k) for k in range(clients)))
    return found


async def open_loop(
    port: int, requests: Sequence[bytes], *, rate: float, seconds: float, seed: int
) -> tuple[list[Answered], float]:
    """Poisson arrivals.

    Args:
        rate: requests a second, on average.

    Returns: every request, and the seconds from the first one to the last answer.
    """
    found: list[Answered] = []
    free: list[Line] = []
    opened: list[Line] = []
    room, rng, under_way = asyncio.Semaphore(LINES), random.Random(seed), set()

    async def fire(due: float, request: bytes) -> None:
        status = 0
        async with room:
            with contextlib.suppress(ConnectionError, OSError):
                if free:
                    line = free.pop()
                else:
                    opened.append(line := await Line.open(port))
                status = await line.ask(request)
                free.append(line)
        found.append(Answered(status, time.perf_counter() - due))

    began = due = time.perf_counter()
    count = 0
    while (due := due + rng.expovariate(rate)) < began + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(fire(due, requests[count % len(requests)]))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        count += 1
    if under_way:
        _, lost = await asyncio.wait(under_way, timeout=GRACE_S)
        for task in lost:
            task.cancel()
        await asyncio.gather(*lost, return_exceptions=True)
    found += [Answered(0, GRACE_S)] * (count - len(found))
    for line in opened:
        line.close()
    took = time.perf_counter() - began
    await asyncio.sleep(0)  # the lines close in the next turn of the loop
    return found, took
