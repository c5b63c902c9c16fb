"""gRPC: bytes that wait to be admitted are bounded, whoever sends them and however many."""

import asyncio
import gc
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest
from small_rooms import LIMITS, MIB
from tensors import packed
from tiny_package import png, ramp

from medserve.access.keys import KeyRing
from medserve.errors import Busy
from medserve.serving.gate import Quota
from medserve.serving.oip import open_inference_pb2 as pb
from medserve.serving.oip.door import SERVICE
from medserve.serving.oip.room import MOST_CALLS, Room

CALLS = 48


def peak(pid: int) -> float:
    """MiB of memory at its largest so far."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


@pytest.mark.slow
def test_a_storm_of_long_messages_takes_no_more_than_its_room(folders):
    """48 clients send 4 MiB each to a process with room for 16 MiB: 192 MiB are on their way, and are kept there. Each
    call is answered or told that there is no room; then the service goes on as before."""
    settings, packages = folders
    ring = KeyRing.open(settings)
    keys = [ring.create(f"storm-{n}").key for n in range(4)]
    ring.close()
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("small_rooms.py")), str(settings.home), str(packages[0])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as server:  # fmt: skip
        address = json.loads(server.stdout.readline())["grpc"]
        file = png(ramp())
        padded = file + bytes(LIMITS.max_upload_bytes - len(file) - 4096)
        tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])

        def message(content: bytes) -> bytes:
            asked = pb.ModelInferRequest(model_name="tiny", inputs=[tensor], raw_input_contents=[packed([content])])
            return asked.SerializeToString()

        def ask(n: int, body: bytes, found: Counter) -> None:
            with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
                try:
                    call(body, metadata=[("authorization", f"Bearer {keys[n % len(keys)]}")], timeout=120)
                    found["answered"] += 1
                except grpc.RpcError as error:
                    found[f"{error.code().name} {error.details().partition(':')[0]}"] += 1

        found: Counter[str] = Counter()
        ask(0, message(file), found)
        before, long = peak(server.pid), message(padded)
        threads = [threading.Thread(target=ask, args=(n, long, found)) for n in range(CALLS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(150)
        grown = peak(server.pid) - before
        assert sum(found.values()) == CALLS + 1
        assert set(found) <= {"answered", "UNAVAILABLE service-full", "INVALID_ARGUMENT file-truncated"}, found
        # The room, and as much around it; without it, 250.
        assert grown < 5 * LIMITS.max_inflight_bytes / MIB, (grown, found)
        after: Counter[str] = Counter()
        ask(1, message(file), after)
        assert after == {"answered": 1}
        server.stdin.close()


def alive() -> int:
    return sum(type(one) is pb.ModelInferRequest for one in gc.get_objects())


def test_a_refused_message_is_gone_with_its_answer(running):
    """Without a collection: no cycle of exceptions and frames keeps it, whatever it was refused for."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    wrong = [
        pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[packed([content])])
        for model, content in (("tiny", png(ramp())[:-20]), ("tiny", b"nothing"), ("nobody", b""))
    ]
    wanted = [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND]
    with grpc.insecure_channel(running.grpc) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString)
        gc.collect()
        before = alive()
        gc.disable()
        try:
            for request, code in zip(wrong, wanted, strict=True):
                for _ in range(5):
                    with pytest.raises(grpc.RpcError) as error:
                        call(request, metadata=[("authorization", f"Bearer {running.key}")], timeout=20)
                    assert error.value.code() == code
            time.sleep(0.2)  # the last call ends after its answer
            assert alive() == before
        finally:
            gc.enable()


def test_room_is_shared_between_principals_and_given_back():
    """One may hold half; who waits longest is next; what was not needed is given back once the message is read."""

    async def story() -> None:
        room = Room(400, 100)
        a, b = [room.held("a", wait_s=0.01) for _ in range(3)], [room.held("b", wait_s=5) for _ in range(3)]
        await a[0].__aenter__()
        await a[1].__aenter__()
        with pytest.raises(Busy, match="under way"):
            await a[2].__aenter__()
        await b[0].__aenter__()
        await b[1].__aenter__()
        assert room.bytes == 400
        third = asyncio.ensure_future(b[2].__aenter__())
        await asyncio.sleep(0)
        a[0].is_now(0)
        await asyncio.sleep(0)
        assert not third.done()  # b has his half
        b[0].is_now(0)
        await third
        for one in (a[0], a[1], *b):
            await one.__aexit__()
        assert room.bytes == 0 and not room._by and not room._calls

    asyncio.run(story())


def test_one_principal_has_so_many_calls_and_a_lone_message_always_fits():
    """Who waits within his deadline leaves nothing behind; a budget below one message takes one at a time."""

    async def story() -> None:
        room = Room(10, 100)
        async with room.held("a", wait_s=1):
            waiting = [asyncio.ensure_future(room.held("a", wait_s=30).__aenter__()) for _ in range(MOST_CALLS - 1)]
            await asyncio.sleep(0)
            with pytest.raises(Quota) as caught:
                await room.held("a", wait_s=1).__aenter__()
            assert caught.value.code == "quota-calls"
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        assert room.bytes == 0 and not room._waiting and not room._calls

    asyncio.run(story())
