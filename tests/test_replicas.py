"""Several processes on one port are one service: a client that each time meets another one notices nothing, and neither
a signal nor the death of one of them loses what was answered."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from real_server import RealServer
from tiny_package import noise, png, ramp, spec, write_package

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing
from medserve.cluster.local import count_of, listen_together
from medserve.errors import Usage
from medserve.serving.address import Address, listen
from medserve.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="replicas on one port need Linux")
PNG = {"content-type": "image/png"}
CHILD = "medserve.cluster.one"


@dataclass
class Service:
    server: RealServer
    settings: Settings
    keys: dict[str, str]
    ids: dict[str, str]

    def ask(self, who: str, method: str, path: str, headers: dict | None = None, **more) -> httpx2.Response:
        """Over a connection of its own, which the system gives to any of the replicas."""
        said = {"authorization": f"Bearer {self.keys[who]}", "connection": "close"} | (headers or {})
        return httpx2.request(method, self.server.url + path, headers=said, timeout=30, **more)

    def predict(self, who: str = "service", query: str = "", body: bytes = b"") -> httpx2.Response:
        return self.ask(who, "POST", f"/v1/models/tiny/predict{query}", PNG, content=body or png(ramp()))

    def processes(self) -> list[psutil.Process]:
        """The replicas that live."""
        found = []
        for one in psutil.Process(self.server.pid).children():
            with contextlib.suppress(psutil.Error):  # it has just ended
                found += [one] if CHILD in one.cmdline() else []
        return sorted(found, key=lambda one: one.pid)

    def events(self) -> list:
        ledger = Ledger.open(self.settings)
        assert ledger.verify().sound, ledger.verify()
        found = [event for _, event in ledger.read()]
        ledger.close()
        return found

    def log(self) -> str:
        return (self.server.root / "log" / "stderr").read_text()


@pytest.fixture
def service(tmp_path) -> Iterator[Service]:
    settings = Settings(home=tmp_path / "home")
    ring = KeyRing.open(settings)
    made = {
        "service": ring.create("service", days=1),
        "leaver": ring.create("leaver", days=1),
        "administrator": ring.create("administrator", role="administrator"),
        "engineer": ring.create("engineer", role="ml-engineer"),
    }
    ring.close()
    folders = [write_package(tmp_path / "tiny", settings), write_package(tmp_path / "other", settings, spec("other"))]
    server = RealServer(tmp_path, folders, more=("--replicas", "2"))
    try:
        server.start()
        keys = {name: one.key for name, one in made.items()}
        yield Service(server, settings, keys, {name: one.row.id for name, one in made.items()})
    finally:
        server.close()


def metrics(service: Service) -> list:
    answer = service.ask("administrator", "GET", "/metrics")
    assert answer.status_code == 200
    return [one for family in text_string_to_metric_families(answer.text) for one in family.samples]


def answering(service: Service) -> float:
    return next(one.value for one in metrics(service) if one.name == "medserve_replicas_answering")


def test_two_replicas_are_one_service(service):
    """Predictions, explanations, refusals, a batch and the end of a key, each over a connection of its own: every
    answer is that of one service, both replicas took part, and the log they share has one event for each answer."""
    answers: Counter[tuple[str, int]] = Counter()

    def count(action: str, answer: httpx2.Response) -> httpx2.Response:
        answers[action, answer.status_code] += 1
        return answer

    outputs = {json.dumps(count("models.predict", service.predict()).json()["outputs"]) for _ in range(40)}
    assert len(outputs) == 1
    for _ in range(3):
        assert count("models.explain", service.predict(query="?explain=occlusion")).status_code == 200
        assert count("models.predict", service.predict(body=png(noise()))).status_code == 422
        assert count("unknown", service.ask("service", "GET", "/none")).status_code == 404

    manifest = b"".join(b'{"id": "%d", "inputs": {"image": "%s"}}\n' % (n, _base64()) for n in range(30))
    sent = {"content-type": "application/x-ndjson", "idempotency-key": "once"}
    began = [
        count("batches.create", service.ask("service", "POST", "/v1/models/tiny/batch", sent, content=manifest))
        for _ in range(4)
    ]
    assert {one.status_code for one in began} == {202} and len({one.json()["batch"] for one in began}) == 1
    batch = began[0].json()["batch"]
    with httpx2.stream(
        "GET", f"{service.server.url}/v1/batches/{batch}/events", timeout=30,
        headers={"authorization": f"Bearer {service.keys['service']}"},
    ) as events:  # fmt: skip
        assert '"state":"done"' in "".join(events.iter_text())
    for _ in range(4):
        lines = service.ask("service", "GET", f"/v1/batches/{batch}/results").text.splitlines()
        assert len(lines) == 30

    for _ in range(8):  # both know the key
        assert count("models.predict", service.predict("leaver")).status_code == 200
    ring = KeyRing.open(service.settings)
    ring.revoke(service.ids["leaver"])
    ring.close()
    time.sleep(1.0)  # what the documentation promises
    for _ in range(12):
        gone = count("models.predict", service.predict("leaver"))
        assert (gone.status_code, gone.json()["error"]["code"]) == (401, "key-revoked")

    told = metrics(service)
    predicted = [
        one for one in told if one.name == "medserve_requests_total" and one.labels["action"] == "models.predict"
    ]
    assert {one.labels["replica"] for one in predicted if one.value} == {"0", "1"}
    assert sum(one.value for one in predicted) == sum(n for (action, _), n in answers.items() if "predict" in action)
    assert answering(service) == 2

    assert service.server.stop() == 0
    written = Counter((one.action, one.status) for one in service.events())
    assert {key: written[key] for key in answers} == dict(answers)


def _base64() -> bytes:
    import base64

    return base64.b64encode(png(ramp()))


class Load:
    """Asks without a pause over connections of its own. statuses: of what was answered; 0: nothing was. refused: nobody
    listened any more."""

    def __init__(self, service: Service, threads: int = 6) -> None:
        self._service, self._end = service, threading.Event()
        self.statuses: Counter[int] = Counter()
        self.refused = 0
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]
        for one in self._threads:
            one.start()

    def _ask(self) -> None:
        while not self._end.is_set():
            try:
                self.statuses[self._service.predict().status_code] += 1
            except httpx2.ConnectError:
                self.refused += 1
                return
            except httpx2.HTTPError:
                self.statuses[0] += 1

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for one in self._threads:
            one.join(40)


def test_one_that_is_killed_comes_back(service):
    """SIGKILL to a replica under load: the other answers meanwhile, another takes its place on the same socket, who
    waited there is answered, and the log is sound, with an event for each answer."""
    with Load(service) as load:
        time.sleep(1.0)
        victim, other = service.processes()
        victim.kill()
        deadline = time.monotonic() + 40
        while victim in (now := service.processes()) or len(now) < 2 or answering(service) < 2:
            assert time.monotonic() < deadline, service.log()[-3000:]
            time.sleep(0.1)
        assert other in now
        time.sleep(1.0)
    assert set(load.statuses) <= {200, 0} and load.statuses[200] > 20
    assert load.statuses[0] <= 6 and not load.refused  # at most what each was waiting for at that moment
    assert "warning replica-ended: replica" in service.log()
    assert service.server.stop() == 0
    written = [one for one in service.events() if one.action == "models.predict"]
    assert load.statuses[200] <= len(written) <= load.statuses[200] + load.statuses[0]


def test_the_end_loses_no_request(service):
    """SIGTERM under load: everybody who was let in is answered, the exit code is 0, and nothing of it is left."""
    with Load(service) as load:
        time.sleep(1.0)
        family = [psutil.Process(service.server.pid), *psutil.Process(service.server.pid).children(recursive=True)]
        assert service.server.stop() == 0
    assert set(load.statuses) == {200} and load.statuses[200] > 20, load.statuses
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert not list((service.server.root / "temp").glob("medserve-*"))
    assert len([one for one in service.events() if one.action == "models.predict"]) == load.statuses[200]


def test_they_end_with_the_process_that_started_them(service):
    """SIGKILL to it leaves nobody on the port."""
    family = psutil.Process(service.server.pid).children(recursive=True)
    service.server.kill()
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_a_signal_to_look_again_reaches_all(service, tmp_path):
    """SIGHUP: a package that was put beside the others is served by both."""
    more = tmp_path / "more"
    write_package(more / "fresh", service.settings, spec("fresh"))
    service.server.stop()
    write_package(more / "first", service.settings, spec("first"))
    server = service.server = RealServer(tmp_path, [more], more=("--replicas", "2"))
    try:
        server.start()
        write_package(tmp_path / "late", service.settings, spec("late")).rename(more / "late")
        os.kill(server.pid, signal.SIGHUP)
        deadline = time.monotonic() + 20
        good = 0
        while good < 12:
            assert time.monotonic() < deadline, service.log()[-3000:]
            answer = service.ask("service", "POST", "/v1/models/late/predict", PNG, content=png(ramp()))
            good = good + 1 if answer.status_code == 200 else 0
    finally:
        server.close()


def test_tls_and_grpc_are_as_with_one_process(service, tmp_path):
    """Both replicas speak TLS; gRPC is the first one's, and has the same port when that one comes back."""
    service.server.stop()
    more = ("--replicas", "2", "--tls", "self-signed", "--grpc-port", "0")
    server = service.server = RealServer(tmp_path, [tmp_path / "tiny"], more=more)
    try:
        server.start()
        assert server.url.startswith("https://")
        for _ in range(6):
            assert httpx2.get(server.url + "/v2/health/live", verify=False).status_code == 200
        place = ("127.0.0.1", int(server.said["grpc"].rpartition(":")[2]))
        socket.create_connection(place, timeout=5).close()
        first = min(service.processes(), key=lambda one: one.create_time())
        first.kill()
        deadline, again = time.monotonic() + 40, False
        while not again:
            assert time.monotonic() < deadline, service.log()[-3000:]
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                socket.create_connection(place, timeout=1).close()
                again = first not in service.processes()
    finally:
        server.close()


def test_what_stops_a_replica_from_starting_is_said_once(tmp_path):
    """A package that was altered: exit code 2, one JSON object, and no process is left."""
    settings = Settings(home=tmp_path / "home")
    folder = write_package(tmp_path / "tiny", settings)
    with open(folder / "card.json", "a") as file:
        file.write(" ")
    command = [sys.executable, "-m", "medserve.cli", "serve", "--replicas", "2", "--port", "0", "--json", "--home",
               str(settings.home), "--models", str(folder)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout)["error"]["kind"] == "refusal"
    assert "Traceback" not in done.stderr


def test_a_port_is_shared_with_nobody_else():
    """Not with one process that serves alone, and not with a second group of the same user."""
    alone = listen(Address(port=0))
    taken = Address("127.0.0.1", alone.getsockname()[1])
    with alone, pytest.raises(Usage) as caught:
        listen_together(taken, 2)
    assert caught.value.code == "port-taken"
    socks = listen_together(Address(port=0), 3)
    ports = {sock.getsockname()[1] for sock in socks}
    assert len(socks) == 3 and len(ports) == 1
    with pytest.raises(Usage) as caught:
        listen_together(Address("127.0.0.1", ports.pop()), 2)
    assert caught.value.code == "port-taken"
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("said", ["0", "65", "1..4", "two", "-1", ""])
def test_a_wrong_number_is_refused(said):
    with pytest.raises(Usage) as caught:
        count_of(said)
    assert caught.value.code == "replicas" and "--replicas 2" in caught.value.hint


def test_elsewhere_than_on_linux_it_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Usage) as caught:
        listen_together(Address(port=0), 2)
    assert caught.value.code == "replicas-unsupported"
