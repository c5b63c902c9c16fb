"""gRPC under load while the process ends: every call that reached it is answered."""

import shutil
import threading
import time
from collections import Counter

import grpc
import pytest
from real_server import RealServer
from tensors import packed
from tiny_package import png, ramp

from medserve.access.keys import KeyRing
from medserve.serving.oip import open_inference_pb2 as pb
from medserve.serving.oip.door import SERVICE

CLIENTS = 6
NOBODY = "failed to connect to all addresses"  # no call was sent


class Load:
    """Clients that call without a pause, each over a channel of its own, until nobody listens any more."""

    def __init__(self, address: str, key: str) -> None:
        self._address, self._metadata = address, [("authorization", f"Bearer {key}")]
        tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
        self._request = pb.ModelInferRequest(
            model_name="tiny", inputs=[tensor], raw_input_contents=[packed([png(ramp())])]
        )
        self.answered = self.refused = 0
        self.failed: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with grpc.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
            )
            while True:
                try:
                    assert call(self._request, metadata=self._metadata, timeout=30).outputs
                    self.answered += 1
                except grpc.RpcError as error:
                    said = str(error.details())
                    if error.code() == grpc.StatusCode.UNAVAILABLE and said.startswith(NOBODY):
                        self.refused += 1
                        return
                    self.failed[f"{error.code().name} {said}"] += 1
                    if sum(self.failed.values()) > 50:
                        return

    def wait(self, count: int) -> None:
        until, goal = time.monotonic() + 60, self.answered + count
        while self.answered < goal and time.monotonic() < until:
            time.sleep(0.01)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_the_end_of_a_process_fails_no_call(folders, tmp_path, rounds):
    """SIGTERM to `medserve serve` under calls over gRPC: answered, or nobody is there to connect to."""
    settings, packages = folders
    ring = KeyRing.open(settings)
    key = ring.create("load").key
    ring.close()
    for n in range(rounds):
        root = tmp_path / f"run-{n}"
        root.mkdir()
        shutil.copytree(settings.home, root / "home")
        server = RealServer(root, packages[:1], more=("--grpc-port", "0"))
        try:
            server.start()
            load = Load(server.said["grpc"], key)
            load.wait(60)
            count = load.answered
            assert server.stop() == 0
            load.join()
            assert load.failed == {} and load.refused == CLIENTS
            assert load.answered > count
        finally:
            server.close()
