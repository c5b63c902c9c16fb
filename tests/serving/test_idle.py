"""An idle connection is closed in time, a busy one never; watching it costs one alarm, however many requests come."""

import asyncio
import gc
import time
import weakref

import uvicorn
from uvicorn.server import ServerState

from medserve.serving.http import BoundedProtocol

IDLE_S = 0.3
ASK = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def app(scope, receive, send) -> None:
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
