"""An idle connection is closed in time, a busy one never; watching it costs one alarm, however many requests come."""

import asyncio
import gc
import time
import weakref

import pytest
import uvicorn
from uvicorn.server import ServerState

from medserve.serving.http import BoundedProtocol
from medserve.serving.waiting import while_client_waits
from medserve.serving.wire import ClientLeft

IDLE_S = 0.3
ASK = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


left: list[str] = []


async def app(scope, receive, send) -> None:
    if scope["path"] == "/work":
        while (await receive())["more_body"]:
            pass
        try:
            await while_client_waits(asyncio.sleep(5), receive, time.monotonic() + 10)
        except ClientLeft:
            left.append("told")
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(2 * IDLE_S)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def played(play, idle_s: float = IDLE_S):
    """What `play(reader, writer, protocols)` gives, on one connection to a server of its own."""

    async def run():
        config = uvicorn.Config(app, ws="none", lifespan="off", timeout_keep_alive=idle_s, server_header=False,
                                date_header=False, access_log=False, log_config=None)  # fmt: skip
        config.load()
        state, protocols = ServerState(), []

        def made() -> BoundedProtocol:
            protocols.append(BoundedProtocol(config=config, server_state=state, app_state={}))
            return protocols[-1]

        server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            return await play(reader, writer, protocols)
        finally:
            writer.close()
            server.close()
            await server.wait_closed()

    return asyncio.run(run())


async def ask(reader, writer, path: bytes = b"") -> None:
    writer.write(ASK % path)
    assert await asyncio.wait_for(reader.readexactly(len(ANSWER)), 5) == ANSWER


def test_it_ends_so_long_after_its_last_answer():
    """Requests that come in time keep it open for longer than that."""

    async def play(reader, writer, protocols):
        for _ in range(8):
            await ask(reader, writer)
            await asyncio.sleep(IDLE_S / 3)
        await ask(reader, writer)
        last = time.monotonic()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        return time.monotonic() - last

    assert IDLE_S * 0.9 <= played(play) < IDLE_S * 5


def test_a_slow_answer_is_no_idleness():
    """It may take longer than an idle connection may live; afterwards the connection has its whole time again."""

    async def play(reader, writer, protocols):
        await ask(reader, writer)
        await ask(reader, writer, b"slow")
        await asyncio.sleep(IDLE_S / 2)
        await ask(reader, writer)
        return await asyncio.wait_for(reader.read(), 5)

    assert played(play) == b""


def test_many_requests_set_one_alarm():
    async def play(reader, writer, protocols):
        await ask(reader, writer)
        (protocol,) = protocols
        alarm = protocol.timeout_keep_alive_task
        for _ in range(50):
            await ask(reader, writer)
        return alarm is protocol.timeout_keep_alive_task and not alarm.cancelled()

    assert played(play, idle_s=30)


def test_a_connection_that_is_gone_is_let_go():
    """Its alarm would hold it for as long as an idle one may live."""

    async def play(reader, writer, protocols):
        await ask(reader, writer)
        gone = weakref.ref(protocols.pop())
        writer.close()
        await writer.wait_closed()
        for _ in range(50):
            await asyncio.sleep(0.01)
            gc.collect()
            if gone() is None:
                return True
        return False

    assert played(play, idle_s=30)


@pytest.mark.parametrize("size", [0, 300_000])
def test_work_is_told_at_once_that_its_client_left_and_no_task_waits_for_it(size):
    """Also behind a body so long that reading stood still; nothing else is woken meanwhile."""
    left.clear()

    async def play(reader, writer, protocols):
        writer.write(b"POST /work HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
        await asyncio.sleep(0.1)
        tasks = len(asyncio.all_tasks())
        writer.close()
        began = time.monotonic()
        while not left and time.monotonic() < began + 2:
            await asyncio.sleep(0.005)
        return tasks, time.monotonic() - began

    tasks, took = played(play)
    assert left == ["told"] and took < 1
    assert tasks == 2  # the test's and the request's
