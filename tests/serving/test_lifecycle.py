"""Versions come, go, and leave the memory while clients ask without a pause: no request fails."""

import asyncio
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import httpx2
from real_server import RealServer
from steady_load import Load
from tiny_package import SMALL, png, ramp, serving, spec, write_package

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing
from medserve.app import Keep, build
from medserve.client import Client
from medserve.errors import BadPackage, Busy, MedServeError, NotFound
from medserve.models.signing import Trust
from medserve.runtime.loading import Loader
from medserve.serving.memory import DoesNotFit
from medserve.settings import Settings

# FastAPI hides this one itself, by filters that are not safe where several threads change them at once.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.UnsupportedFieldAttributeWarning")
MIB = 2**20
ONE = 33 * MIB  # more than one tiny model takes (32 MiB and three graphs), less than two


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home")


@pytest.fixture
def keys(settings):
    ring = KeyRing.open(settings)
    made = {"asks": ring.create("asks", role="service").key,
            "decides": ring.create("decides", role="administrator", duties=["approver"]).key}  # fmt: skip
    ring.close()
    return made


def started(settings, folders, **more):
    """The application and its server; `on_loop` runs a coroutine where it runs."""
    application = build(settings, folders, limits=SMALL, threads=1, **more)

    async def started():
        application.test_loop = asyncio.get_running_loop()

    application._running = (*application._running, started)
    return application, serving(application)


def on_loop(application, work, wait_s=30):
    """The result of a coroutine on the server's loop."""
    return asyncio.run_coroutine_threadsafe(work, application.test_loop).result(wait_s)


def states(client):
    return {(one.name, one.version): one.state for one in client.models()}


def test_swap_move_roll_back_withdraw_reload_under_load(settings, keys, tmp_path):
    """Version 2 is put into the folder, takes the name, gives it back within two seconds, and is withdrawn; 1 leaves
    the memory and comes back. Every request is answered."""
    shelf = tmp_path / "models"
    write_package(shelf / "one", settings, spec(version="1"))
    application, server = started(settings, [shelf])
    with server as port, Client(f"http://127.0.0.1:{port}", keys["decides"]) as decides:
        with Load(f"http://127.0.0.1:{port}", keys["asks"], clients=4) as load:
            assert load.versions_after(0) == {"1"}
            write_package(shelf / "two", settings, spec(version="2"))
            on_loop(application, application.reload())
            assert load.versions_after(load.wait() - 0.001) <= {"2"}
            decides.split("tiny", {"1": 50, "2": 50})
            moment = time.monotonic()
            load.wait(80)
            assert load.versions_after(moment) == {"1", "2"}
            decides.split("tiny", {"2": 100})
            load.wait()
            decides.split("tiny", {"1": 100})
            decides.split("tiny", {"2": 100})
            load.wait()
            moment = time.monotonic()
            decides.rollback("tiny")
            load.wait()
            assert load.last_of("2") - moment < 2 and load.versions_after(time.monotonic() - 0.01) <= {"1"}
            decides.withdraw("tiny", "2")
            assert states(decides) == {("tiny", "1"): "loaded"}
            on_loop(application, application.registry.unload("tiny"))
            load.wait()
            assert states(decides) == {("tiny", "1"): "loaded"}
        assert load.failed == [] and load.refused == 0
        assert load.versions_after(moment + 1) <= {"1"}


def test_two_models_share_the_memory_of_one_under_load(settings, keys, tmp_path):
    """They are asked in turns: each makes room for the other when it has nothing to do, and nobody is refused."""
    folders = [write_package(tmp_path / name, settings, spec(name)) for name in ("left", "right")]
    application, server = started(settings, folders, memory=Keep(ONE))
    with server as port, Client(f"http://127.0.0.1:{port}", keys["decides"]) as decides:
        assert states(decides) == {("left", "1"): "loaded", ("right", "1"): "unloaded"}
        with Load(f"http://127.0.0.1:{port}", keys["asks"], clients=1, models=("left", "right")) as load:
            load.wait(12)
            assert application.registry.memory.held <= ONE
            text = httpx2.get(f"http://127.0.0.1:{port}/metrics", headers=decides._http.headers).text
        assert load.failed == [] and {one.model for one in load.asked} == {"left", "right"}
        held = [float(line.rpartition(" ")[2]) for line in text.splitlines() if "model_loaded_bytes{" in line]
        assert len(held) == 2 and sum(held) <= ONE


def test_a_model_that_is_never_idle_makes_room_after_a_while(settings, keys, tmp_path):
    """Two clients that never pause ask for two models of which one fits."""
    folders = [write_package(tmp_path / name, settings, spec(name)) for name in ("left", "right")]
    application, server = started(settings, folders, memory=Keep(ONE))
    slow = application.registry.find("left", None).model.score

    def at_work(images):
        time.sleep(0.05)
        return slow(images)

    application.registry.find("left", None).model.score = at_work
    with server as port, Load(f"http://127.0.0.1:{port}", keys["asks"], clients=3, models=("left",)) as load:
        headers = {"authorization": f"Bearer {keys['asks']}", "content-type": "image/png"}
        began = time.monotonic()
        got = httpx2.post(
            f"http://127.0.0.1:{port}/v1/models/right/predict", content=png(ramp()), headers=headers, timeout=20
        )
        assert got.status_code == 200 and time.monotonic() - began < 18
    assert load.failed == []


def test_what_is_pinned_stays_and_what_never_fits_is_refused(settings, keys, tmp_path):
    folders = [write_package(tmp_path / name, settings, spec(name)) for name in ("left", "right", "third")]
    application, server = started(settings, folders, memory=Keep(2 * ONE, ("right",)))
    with server as port, Client(f"http://127.0.0.1:{port}", keys["asks"]) as client:
        assert {one.name: (one.state, one.pinned) for one in client.models()} == {
            "left": ("loaded", False), "right": ("loaded", True), "third": ("unloaded", False)
        }  # fmt: skip
        for name in ("third", "left", "third"):
            assert client.predict(png(ramp()), model=name).model.name == name
        assert {one.name: one.state for one in client.models()} == {
            "left": "unloaded", "right": "loaded", "third": "loaded"
        }  # fmt: skip
        assert all(one.bytes == application.registry.find(one.name, None).bytes > 32 * MIB for one in client.models())
        with pytest.raises(MedServeError) as caught:
            on_loop(application, application.registry.unload("right"))
        assert caught.value.code == "model-pinned"
    for keep, error, code in (
        (Keep(31 * MIB), DoesNotFit, "model-does-not-fit"),
        (Keep(ONE, ("left",)), DoesNotFit, "model-does-not-fit"),
        (Keep(None, ("wrong",)), NotFound, "unknown-model"),
    ):
        with pytest.raises(error) as caught:
            build(settings, folders, memory=keep)
        assert caught.value.code == code


def test_many_who_ask_for_an_unloaded_model_cost_one_load(settings, keys, tmp_path, monkeypatch):
    """They wait within their deadlines; whoever has too little time is told when to come back; a model that is in
    memory answers all the while."""
    folders = [write_package(tmp_path / name, settings, spec(name)) for name in ("here", "away")]
    loads, done, load = [], threading.Event(), Loader.load

    def slow(self, known):
        loads.append(known.name)
        assert done.wait(20)
        return load(self, known)

    application, server = started(settings, folders)
    with server as port:
        url = f"http://127.0.0.1:{port}"
        on_loop(application, application.registry.unload("away"))
        application.registry.find("away", None)._open = lambda known: slow(application.registry.loader, known)
        headers = {"authorization": f"Bearer {keys['asks']}", "content-type": "image/png"}
        ask = {"content": png(ramp()), "timeout": 20}
        with Load(url, keys["asks"], clients=4, models=("away",), least=0) as load_:
            pass_ = httpx2.post(f"{url}/v1/models/here/predict", headers=headers, **ask)
            assert pass_.status_code == 200
            hurried = headers | {"x-request-deadline-ms": "150"}
            late = httpx2.post(f"{url}/v1/models/away/predict", headers=hurried, **ask)
            assert (late.status_code, late.json()["error"]["code"]) == (503, "model-loading")
            assert 1 <= int(late.headers["retry-after"]) <= 6
            assert httpx2.get(f"{url}/v2/health/ready").status_code == 200
            done.set()
            load_.wait(20)
        assert load_.failed == [] and loads == ["away"]


def test_a_model_that_does_not_load_says_so_and_harms_no_other(settings, keys, tmp_path):
    """Its folder is damaged after it was verified: 503 with a code, no second try at once; ready and the other stay."""
    folders = [write_package(tmp_path / name, settings, spec(name)) for name in ("here", "away")]
    application, server = started(settings, folders)
    with server as port, Client(f"http://127.0.0.1:{port}", keys["asks"]) as client:
        on_loop(application, application.registry.unload("away"))
        (tmp_path / "away" / "graph.onnx").write_bytes(b"no graph")
        for _ in range(2):
            with pytest.raises(Busy) as caught:
                client.predict(png(ramp()), model="away")
            assert caught.value.code == "model-failed" and 0 < caught.value.retry_after_s <= 30
        assert states(client) == {("here", "1"): "loaded", ("away", "1"): "failed"}
        entry = next(one for one in application.registry.index(["away"]))
        assert (entry.state, entry.reason) == ("failed", "package-altered")
        assert application.registry.index([]) == []
        assert client.predict(png(ramp()), model="here").model.name == "here" and client.ready()
        with pytest.raises(BadPackage):
            on_loop(application, application.registry.load("away"))


def test_a_bad_package_changes_nothing_and_a_removed_one_leaves(settings, keys, tmp_path):
    """Looking again: a foreign signer, a self-check that fails, a name taken twice: each is named and written down."""
    shelf, warned = tmp_path / "models", []
    write_package(shelf / "one", settings, spec(version="1"))
    application, server = started(settings, [shelf], warn=warned.append)
    with server as port, Client(f"http://127.0.0.1:{port}", keys["asks"]) as client:
        write_package(shelf / "foreign", Settings(home=tmp_path / "elsewhere"), spec(version="2"))
        write_package(shelf / "wrong", settings, spec(version="3"), wrong=True)
        shutil.copytree(shelf / "one", shelf / "half")
        (shelf / "half" / "weights.safetensors").unlink()
        on_loop(application, application.reload())
        assert states(client) == {("tiny", "1"): "loaded"}
        codes = {line.split()[1].rstrip(":") for line in warned if line.startswith("warning")}
        assert codes >= {"package-signer", "package-selfcheck", "package-incomplete"}
        found = [e for _, e in Ledger.open(settings).read() if e.action == "models.reload"]
        assert {(e.outcome, e.code) for e in found} == {("deny", code) for code in codes}
        for name in ("foreign", "wrong", "half"):
            shutil.rmtree(shelf / name)
        os.rename(shelf / "one", shelf / "uno")
        on_loop(application, application.reload())
        assert states(client) == {("tiny", "1"): "loaded"}
        shutil.copytree(shelf / "uno", shelf / "one")
        on_loop(application, application.reload())
        assert "service-taken" in warned[-1]
        write_package(shelf / "two", settings, spec(version="2"))
        on_loop(application, application.reload())
        shutil.rmtree(shelf / "one")
        shutil.rmtree(shelf / "uno")
        on_loop(application, application.reload())
        assert states(client) == {("tiny", "2"): "loaded"}
        shutil.rmtree(shelf)  # a disk that is not mounted takes nothing away
        on_loop(application, application.reload())
        assert states(client) == {("tiny", "2"): "loaded"} and "models-missing" in warned[-1]


def test_another_model_under_the_same_version_takes_its_place(settings, keys, tmp_path):
    """The folder is replaced whole; the reference is swapped once the new one is ready."""
    shelf = tmp_path / "models"
    write_package(shelf / "one", settings, spec(version="1"))
    application, server = started(settings, [shelf])
    with server as port, Client(f"http://127.0.0.1:{port}", keys["asks"]) as client:
        before = client.models()[0].digest
        with Load(f"http://127.0.0.1:{port}", keys["asks"], clients=2) as load:
            write_package(tmp_path / "next", settings, spec(version="1", operating_points=[]))
            shutil.rmtree(shelf / "one")
            os.rename(tmp_path / "next", shelf / "one")
            on_loop(application, application.reload())
            load.wait(10)
        assert load.failed == [] and client.models()[0].digest != before and len(client.models()) == 1


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_the_end_of_a_process_fails_no_request(settings, keys, tmp_path, rounds):
    """SIGTERM, and SIGHUP before it, to `medserve serve` under load: answered, or refused at the door."""
    root = tmp_path / "run"
    for _ in range(rounds):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        write_package(root / "models" / "one", settings, spec(version="1"))
        shutil.copytree(settings.home, root / "home")
        server = RealServer(root, [root / "models"])
        try:
            server.start()
            with Load(server.url, keys["asks"], clients=6, pause_s=0.005) as load:
                write_package(root / "models" / "two", settings, spec(version="2"))
                os.kill(server.pid, signal.SIGHUP)
                until = time.monotonic() + 20
                while "2" not in load.versions_after(0) and time.monotonic() < until:
                    load.wait(10)
                assert load.versions_after(0) == {"1", "2"}
                count = len(load.asked)
                assert server.stop() == 0
                load.join()
            assert load.failed == [] and load.refused == 6
            assert len(load.asked) > count
        finally:
            server.close()


@pytest.mark.slow
def test_twenty_rounds_of_every_change_under_load(settings, keys, tmp_path, capsys):
    """A real process under eight clients: a new version by SIGHUP, shares, rollback, unloading, withdrawal, twenty
    times, then SIGTERM. Prints what docs/traffic.md says."""
    root, rounds, back = tmp_path / "run", 20, []
    root.mkdir()
    write_package(root / "models" / "v1", settings, spec(version="1"))
    shutil.copytree(settings.home, root / "home")
    server = RealServer(root, [root / "models"])
    try:
        server.start()
        with Client(server.url, keys["decides"], timeout_s=60) as decides:
            with Load(server.url, keys["asks"], clients=8, pause_s=0.002) as load:
                decides.split("tiny", {"1": 100})
                began = time.monotonic()
                for n in map(str, range(2, rounds + 2)):
                    write_package(root / "models" / f"v{n}", settings, spec(version=n))
                    os.kill(server.pid, signal.SIGHUP)
                    while ("tiny", n) not in states(decides):
                        time.sleep(0.02)
                    decides.split("tiny", {"1": 90, n: 10})
                    load.wait(50)
                    decides.split("tiny", {n: 100})
                    load.wait(50)
                    decides.split("tiny", {"1": 100})
                    decides.split("tiny", {n: 100})
                    load.wait(50)
                    moment = time.monotonic()
                    decides.rollback("tiny")
                    load.wait(50)
                    back.append(load.last_of(n) - moment)
                    assert n not in load.versions_after(moment + max(back[-1], 0))
                    httpx2.post(f"{server.url}/v2/repository/models/tiny/unload", headers=decides._http.headers)
                    decides.withdraw("tiny", n)
                took, count = time.monotonic() - began, len(load.asked)
                assert server.stop() == 0
                load.join()
        with capsys.disabled():
            sys.stdout.write(
                f"\n{rounds} rounds in {took:.0f} s: {load.summary()}; {len(load.asked) - count} after SIGTERM\n"
            )
            said = f"median {sorted(back)[rounds // 2] * 1e3:.0f} ms, longest {max(back) * 1e3:.0f} ms"
            sys.stdout.write(f"rollback, until the last answer of the version left behind: {said}\n")
        assert load.failed == [] and load.refused == 8 and max(back) < 2
    finally:
        server.close()


def test_what_an_engine_takes_is_not_above_the_estimate(settings, tmp_path):
    """The tiny model: 32 MiB for the activations of its largest batch and three times its graph."""
    folder = write_package(tmp_path / "m", settings)
    loader = Loader(lambda: Trust.load(settings), threads=1)
    known = loader.verify(folder)
    assert loader.bytes_of(known) == 3 * (folder / "graph.onnx").stat().st_size + 32 * MIB
    before = _resident()
    model = loader.load(known)
    assert _resident() - before < loader.bytes_of(known) and model.digest == known.digest


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
