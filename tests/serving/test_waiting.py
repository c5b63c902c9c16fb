"""Work goes on while its client waits and its deadline lasts, and not a moment longer."""

import asyncio
import socket
import time

import pytest
import uvloop

from medserve.data.fields import Records
from medserve.data.fields.category import Category
from medserve.data.fields.number import Number
from medserve.runtime.batcher import Late
from medserve.serving.bodies import BodyTiming, read_body
from medserve.serving.waiting import while_client_waits
from medserve.serving.wire import ClientLeft, SlowBody


async def waits() -> dict:
    await asyncio.sleep(30)
    raise AssertionError("nobody watches so long")


def test_work_ends_with_the_client_or_the_deadline_and_outside_cancellation_passes():
    ended = []

    async def work() -> int:
        try:
            await asyncio.sleep(20)
            return 1
        finally:
            ended.append(True)

    async def leaves() -> dict:
        await asyncio.sleep(0.03)
        return {"type": "http.disconnect"}

    async def quick() -> int:
        return 7

    async def ask():
        assert await while_client_waits(quick(), waits, time.monotonic() + 5) == 7
        with pytest.raises(ClientLeft):
            await while_client_waits(work(), leaves, time.monotonic() + 5)
        with pytest.raises(Late):
            await while_client_waits(work(), waits, time.monotonic() + 0.03)
        assert not asyncio.current_task().cancelling()
        outer = asyncio.ensure_future(while_client_waits(work(), waits, time.monotonic() + 5))
        await asyncio.sleep(0.02)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert len(ended) == 3 and len(asyncio.all_tasks()) == 1

    asyncio.run(ask())


def test_a_plain_record_is_what_its_fields_say_one_by_one():
    """The short way for numbers and categories gives the same bytes as each field's own array, end to end."""
    fields = (Number("age", "a", 0, 120), Category("sex", ("F", "M")), Category("ward", ("a", "b"), open=True))
    records = Records(fields)
    assert records.plain
    for values in ({"age": 0.1, "sex": "M", "ward": "z"}, {"age": None, "sex": None}, {"age": 63, "ward": "b"}):
        said = b"".join(field.encode(values.get(field.name)).tobytes() for field in fields)
        assert records.encode(values).tobytes() == said


def test_a_service_that_stood_still_does_not_blame_the_client():
    """A body that came while the loop was held up, for longer than a body may stall, is read; none is given up."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def ask(held: float) -> bytes:
        loop = asyncio.get_running_loop()

        async def receive() -> dict:
            return {"type": "http.request", "body": await loop.sock_recv(ours, 100), "more_body": False}

        async def hold() -> None:
            await asyncio.sleep(0.01)
            time.sleep(held)
            loop.call_later(0.05, theirs.send, b"late") if held else None

        task = asyncio.create_task(hold())
        try:
            return await read_body(receive, 100, BodyTiming(stall_s=0.2))
        finally:
            await task

    with ours, theirs:
        assert uvloop.run(ask(0.5)) == b"late"
        with pytest.raises(SlowBody):
            uvloop.run(ask(0.0))
