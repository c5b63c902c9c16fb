"""The service on Ray: checks that need no cluster, then a real one of several processes."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from tiny_package import dicom, noise, png, ramp, serving, spec, write_package

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing
from medserve.errors import Usage
from medserve.settings import Settings

ROOT = Path(__file__).parents[1]


def test_nothing_imports_ray_unless_it_is_asked_for():
    """Not the application, not the command line, not even the module that would use it."""
    code = "import sys, medserve.app, medserve.cli.serve, medserve.cli.train\n"
    code += "import medserve.cluster.replicas, medserve.cluster.training\n"
    subprocess.run([sys.executable, "-c", code + "assert 'ray' not in sys.modules"], check=True)


def test_the_adapter_stays_small():
    """Whatever knows Ray stands in one folder, in files that can be read at a sitting."""
    folder = ROOT / "src" / "medserve"
    words = re.compile(r"(?m)^\s*(?:import ray|from ray)\b")
    knows = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*.py") if words.search(p.read_text())}
    assert knows and all(name.startswith("cluster/") for name in knows)
    assert all(len(path.read_text().splitlines()) < 200 for path in knows.values())


@pytest.mark.parametrize(("text", "numbers"), [("2", (2, 2)), ("1..8", (1, 8)), ("0", (0, 0))])
def test_replicas_are_a_number_or_a_range(text, numbers):
    from medserve.cluster.replicas import numbers_of

    assert numbers_of(text) == numbers


@pytest.mark.parametrize("text", ["", "two", "3..1", "0..4", "-1", "1..", "1...2"])
def test_no_other_words_are_replicas(text):
    from medserve.cluster.replicas import numbers_of

    with pytest.raises(Usage) as caught:
        numbers_of(text)
    assert caught.value.code == "replicas"


def test_a_file_is_no_database_of_several_machines(tmp_path):
    """One machine may have SQLite, however many processes; two need PostgreSQL."""
    from medserve.cluster.connection import check_nodes

    file, server = Settings(home=tmp_path), Settings(home=tmp_path, database="postgresql://m@/m", blobs="s3://med")
    assert check_nodes(file, ["10.0.0.1", "10.0.0.1"]) == 1
    assert check_nodes(server, ["10.0.0.1", "10.0.0.2"]) == 2
    with pytest.raises(Usage) as caught:
        check_nodes(file, ["10.0.0.1", "10.0.0.2"])
    assert caught.value.code == "ray-one-node"


@pytest.mark.parametrize("name", ["RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"])
def test_switches_that_open_ports_are_refused(name):
    """They bind every replica to all interfaces; only behind a proxy, by the operator's word."""
    from medserve.cluster.connection import check_switches

    check_switches({}, behind_proxy=False)
    check_switches({name: "1"}, behind_proxy=True)
    with pytest.raises(Usage) as caught:
        check_switches({name: "1"}, behind_proxy=False)
    assert caught.value.code == "ray-open-ports"


@pytest.mark.parametrize(("more", "code"), [(["--host", "0.0.0.0"], "host-without-tls"), ([], "ray-missing")])
def test_what_is_refused_before_ray_is_touched(tmp_path, more, code):
    """An open port without TLS; no Ray installed: told in our words, and no cluster is started."""
    settings = Settings(home=tmp_path / "home")
    folder = write_package(tmp_path / "package", settings)
    ring = KeyRing.open(settings)
    ring.create("tests")
    ring.close()
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError('ray')")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-m", "medserve.cli", "serve", "--engine", "ray", "--json", "--home", str(settings.home),
         "--models", str(folder), *more],
        capture_output=True, env=env, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["error"]["code"] == code and done.returncode


def test_a_proxy_that_does_not_start_is_told_in_our_words(tmp_path):
    """Ray gives its proxy up where the machine is busy: no defect of ours, and it is given longer than that. The Ray
    here is a stand-in of a few lines."""
    settings = Settings(home=tmp_path / "home")
    folder = write_package(tmp_path / "package", settings)
    parts = {
        "__init__.py": "def init(**more): pass\ndef shutdown(): pass\ndef nodes(): return []\n",
        "exceptions.py": "class RayError(Exception): pass\nclass ActorDiedError(RayError): pass\n",
        "serve.py": "import os\nfrom ray.exceptions import ActorDiedError\ndef start(**more):\n"
        "    assert float(os.environ['RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S']) >= 30\n    raise ActorDiedError\n",
    }
    (tmp_path / "ray").mkdir()
    for name, text in parts.items():
        (tmp_path / "ray" / name).write_text(text)
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = ["serve", "--engine", "ray", "--json", "--home", str(settings.home), "--models", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "medserve.cli", *command], capture_output=True, env=env, check=False, cwd=tmp_path
    )
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "ray-deploy" and "ActorDiedError" in error["message"] and "try again" in error["hint"]


@dataclass
class Cluster:
    address: str
    url: str
    port: int
    key: str
    settings: Settings
    folder: Path
    env: dict = field(repr=False)

    def serve(self, *more: str, models: tuple[Path, ...] = ()) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "medserve.cli", "serve", "--engine", "ray", "--ray-address", self.address,
                   "--port", str(self.port), "--json", "--home", str(self.settings.home), *more,
                   "--models", *map(str, models or (self.folder,))]  # fmt: skip
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
        return done

    def http(self, **more) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=30, **more)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """`ray start --head` and two replicas of the tiny model."""
    pytest.importorskip("ray")
    from real_ray import ENV, free_port, ray_cluster

    root = tmp_path_factory.mktemp("cluster")
    settings = Settings(home=root / "home")
    folder = write_package(root / "package", settings)
    ring = KeyRing.open(settings)
    key = ring.create("tests").key
    ring.close()
    port = free_port()
    with ray_cluster() as address:
        made = Cluster(address, f"http://127.0.0.1:{port}", port, key, settings, folder, os.environ | ENV)
        made.serve("--replicas", "2")
        yield made


BODIES = {
    "png": ("image/png", lambda: png(ramp())),
    "bright": ("image/png", lambda: png(ramp(200, 255))),
    "jpeg": ("image/jpeg", lambda: png(ramp(), "JPEG")),
    "dicom": ("application/dicom", lambda: dicom(ramp())),
    "of another kind": ("application/dicom", lambda: dicom(ramp(), modality="MR")),
    "unlike": ("image/png", lambda: png(noise())),
    "cut": ("image/png", lambda: png(ramp())[:60]),
    "nothing": ("image/png", lambda: b""),
    "json": ("application/json", lambda: b'{"inputs": {}}'),
    "large": ("image/png", lambda: bytes(3 * 2**20)),
}


@pytest.mark.slow
def test_the_same_bytes_get_the_same_answers(cluster):
    """From the local server and from the replicas, whatever is sent: apart from ids, traces and times."""
    from medserve.app import build

    ring = KeyRing.open(cluster.settings)
    with serving(build(cluster.settings, [cluster.folder], keys=ring, threads=1)) as port:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as here, cluster.http() as there:
            here.headers = there.headers
            for name, (media, body) in BODIES.items():
                for explain in ("", "?explain=cam"):
                    asked = {"content": body(), "headers": {"content-type": media}}
                    a = here.post(f"/v1/models/tiny/predict{explain}", **asked)
                    for _ in range(4):  # both replicas
                        b = there.post(f"/v1/models/tiny/predict{explain}", **asked)
                        assert (a.status_code, _plain(a)) == (b.status_code, _plain(b)), name
                        assert {"x-content-type-options", "cache-control"} <= set(b.headers)
            for path in ("/v1/models", "/v1/models/tiny", "/v2/health/ready", "/v1/nothing", "/openapi.json"):
                a, b = here.get(path), there.get(path)
                assert (a.status_code, _plain(a)) == (b.status_code, _plain(b)), path
        for path in ("/v1/models", "/metrics", "/v1/packages"):
            assert httpx2.get(cluster.url + path).status_code == 401, "identity is asked for in the replica"
    ring.close()


def _plain(answer: httpx2.Response) -> object:
    said = answer.json()
    for name in ("id", "trace", "created_at", "at"):
        if isinstance(said, dict):
            said.pop(name, None)
    return said


@pytest.mark.slow
def test_an_update_under_load_fails_no_request(cluster, tmp_path):
    """Version 2 takes over from version 1 while eight clients ask; the log that all replicas wrote is sound."""
    newer = write_package(tmp_path / "newer", cluster.settings, spec(version="2"))
    stop, seen, failed = threading.Event(), [], []

    def ask() -> None:
        with cluster.http() as http:
            while not stop.is_set():
                try:
                    answer = http.post(
                        "/v1/models/tiny/predict", content=png(ramp()), headers={"content-type": "image/png"}
                    )
                except httpx2.HTTPError as error:
                    failed.append(repr(error))
                    continue
                if answer.status_code == 200:
                    seen.append((time.monotonic(), answer.json()["model"]["version"]))
                else:
                    failed.append(answer.text)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1)
        cluster.serve("--replicas", "2", models=(newer,))
        time.sleep(2)
    finally:
        stop.set()
        for thread in threads:
            thread.join(40)
    assert failed == [] and len(seen) > 50
    assert seen[0][1] == "1" and {version for _, version in seen[-20:]} == {"2"}
    ledger = Ledger.open(cluster.settings)
    verdict = ledger.verify()
    assert verdict.sound and verdict.events >= len(seen), verdict
    ledger.close()


def _begun(cluster: Cluster, length: int) -> socket.socket:
    """A prediction whose body is still to come."""
    sock = socket.create_connection(("127.0.0.1", cluster.port), timeout=30)
    sock.sendall(f"POST /v1/models/tiny/predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {cluster.key}\r\n"
                 f"content-type: image/png\r\ncontent-length: {length}\r\n\r\n".encode())  # fmt: skip
    return sock


@pytest.mark.slow
def test_a_full_replica_refuses_in_our_words(cluster):
    """Bodies on their way claim its memory; the next is refused before its body: 503, Retry-After, our code."""
    cluster.serve("--replicas", "1")
    held = [_begun(cluster, 60 * 2**20) for _ in range(12)]
    try:
        answers = []
        for sock in held:
            sock.settimeout(5)
            with contextlib.suppress(TimeoutError):
                answers.append(sock.recv(65536))
        refused = [one for one in answers if one.startswith(b"HTTP/1.1 503")]
        assert refused, answers[:2]
        assert all(b"retry-after: " in one.lower() and b'"kind":"capacity"' in one for one in refused)
    finally:
        for sock in held:
            sock.close()
    with cluster.http() as http:
        asked = {"content": png(ramp()), "headers": {"content-type": "image/png"}}
        assert http.post("/v1/models/tiny/predict", **asked).status_code == 200


@pytest.mark.slow
def test_replicas_grow_with_the_load(cluster):
    """More than 32 requests under way for a while: a second replica comes, and all are answered."""
    from real_ray import status

    cluster.serve("--replicas", "1..2")
    stop, statuses = threading.Event(), []

    def slowly() -> None:
        body = png(ramp())
        while not stop.is_set():
            with _begun(cluster, len(body)) as sock:
                stop.wait(6)
                sock.sendall(body)
                statuses.append(sock.recv(65536)[9:12])

    threads = [threading.Thread(target=slowly) for _ in range(60)]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + 120
        while status(cluster.address)["replicas"].get("RUNNING", 0) < 2:
            assert time.monotonic() < deadline, status(cluster.address)
            time.sleep(1)
    finally:
        stop.set()
        for thread in threads:
            thread.join(40)
    assert set(statuses) == {b"200"}


@pytest.mark.slow
def test_no_replicas_takes_it_down_after_what_is_under_way(cluster):
    """The one who was admitted is answered; afterwards the address knows nothing."""
    cluster.serve("--replicas", "2")
    answers = []

    def slow_body():
        yield png(ramp())[:50]
        time.sleep(3)
        yield png(ramp())[50:]

    def ask() -> None:
        with cluster.http() as http:
            asked = {"content": slow_body(), "headers": {"content-type": "image/png"}}
            answers.append(http.post("/v1/models/tiny/predict", **asked).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(1)
    cluster.serve("--replicas", "0")
    asking.join(30)
    assert answers == [200]
    assert httpx2.get(cluster.url + "/v1/models").status_code != 200


@pytest.mark.slow
def test_a_cluster_of_its_own_lives_as_long_as_the_command(tmp_path):
    """Without --ray-address: on loopback alone, gone after SIGTERM, exit code 0."""
    pytest.importorskip("ray")
    import psutil
    from real_ray import ENV, free_port

    settings = Settings(home=tmp_path / "home")
    folder = write_package(tmp_path / "package", settings)
    ring = KeyRing.open(settings)
    key = ring.create("tests").key
    ring.close()
    command = [sys.executable, "-m", "medserve.cli", "serve", "--engine", "ray", "--port", str(free_port()), "--json",
               "--home", str(settings.home), "--models", str(folder)]  # fmt: skip
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=os.environ | ENV)
    family = []
    try:
        line = process.stdout.readline()
        assert line, (tmp_path / "log").read_text()[-3000:]
        url = json.loads(line)["url"]
        headers = {"authorization": f"Bearer {key}", "content-type": "image/png"}
        asked = httpx2.post(url + "/v1/models/tiny/predict", content=png(ramp()), headers=headers, timeout=20)
        assert asked.status_code == 200
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) > 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()[-3000:]
        assert psutil.wait_procs(family, timeout=20)[1] == []
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        for one in family:
            if one.is_running():
                one.kill()
