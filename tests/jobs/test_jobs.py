"""Jobs: claimed once, of the tenant's own data alone, ended with all their processes, taken up again after a kill."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from test_packages_door import House, code, opened
from throwaway_postgres import new_database
from tiny_package import spec, write_package

from medserve.access.audit import Event, Ledger
from medserve.data.phantoms import make_phantoms
from medserve.errors import MedServeError
from medserve.jobs.asked import Admet, Asked, Screen, Train, command, data_path
from medserve.jobs.executor import Executor
from medserve.jobs.table import JobRow, Jobs
from medserve.settings import Settings


@pytest.fixture
def settings(tmp_path) -> Settings:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "b").mkdir()
    return Settings(home=tmp_path / "home", data_root=tmp_path / "data")


def entered(settings: Settings, id: str, tenant: str = "a", asked: dict | None = None) -> None:
    ledger, jobs = Ledger.open(settings), Jobs(settings)
    row = JobRow(id, tenant, asked or {"kind": "train", "data": "x"}, "k-1", "someone", time.time())
    with ledger.with_effect(Event(action="jobs.create", outcome="allow")) as db:
        jobs.add(db, row)
    jobs.close()
    ledger.close()


def wait_for(look, seconds: float = 30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


def test_a_job_is_claimed_by_one_worker_only(settings):
    """Eight threads, twenty jobs: each job once, the oldest first for each."""
    for number in range(20):
        entered(settings, f"j-{number:016x}")
    claimed: list[str] = []

    def work(name: str) -> None:
        jobs = Jobs(settings)
        while row := jobs.claim(name, lease_s=60):
            claimed.append(row.id)
        jobs.close()

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == [f"j-{n:016x}" for n in range(20)]


def test_a_lapsed_lease_passes_to_another_worker(settings):
    """And its first holder can no longer end or renew it; one that is renewed is not taken."""
    entered(settings, "j-1")
    jobs = Jobs(settings)
    assert jobs.claim("first", lease_s=0.2).attempts == 1
    assert jobs.renew("j-1", "first", lease_s=0.2, progress="epoch 1") == "running"
    assert jobs.claim("second", lease_s=60) is None
    time.sleep(0.3)
    assert jobs.claim("second", lease_s=60).attempts == 2
    assert jobs.renew("j-1", "first", lease_s=60, progress="") is None
    jobs.end("j-1", "first", "done")
    assert jobs.row("a", "j-1").state == "running"
    jobs.release("j-1", "second")
    assert (jobs.row("a", "j-1").state, jobs.row("a", "j-1").attempts) == ("queued", 1)
    assert jobs.row("b", "j-1") is None
    jobs.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "promise", [test_a_job_is_claimed_by_one_worker_only, test_a_lapsed_lease_passes_to_another_worker]
)
def test_the_table_keeps_its_promises_on_postgres(settings, promise):
    with new_database() as url:
        promise(replace(settings, database=url))


@pytest.mark.parametrize(
    "said", ["../b/secret.npz", "/etc/passwd", "link", "..", "../../home/medserve.db", "none.npz", "a\0b", "x/../../b"]
)
def test_data_of_others_is_not_there(settings, said):
    """One answer for what is absent, another tenant's, or outside; the twin below the own folder is found."""
    (settings.data_root / "b" / "secret.npz").write_bytes(b"x")
    (settings.data_root / "a" / "link").symlink_to(settings.data_root / "b" / "secret.npz")
    (settings.data_root / "a" / "mine.npz").write_bytes(b"x")
    settings.folder()
    with pytest.raises(MedServeError) as caught:
        data_path(settings, "a", said)
    assert (caught.value.code, caught.value.status) == ("unknown-data", 404)
    assert said not in caught.value.message and str(settings.data_root) not in str(caught.value)
    assert data_path(settings, "a", "mine.npz") == settings.data_root / "a" / "mine.npz"


def test_no_value_is_read_as_an_option():
    words = command(Train(data="x", name="a", recipe="r"), [Path("/d/x")], Path("/o"), [], Path("/h"))
    assert words[1] == "/d/x" and all(word.startswith("--") for word in words[2:])
    for bad in ('"name": "--home=/"', '"recipe": "a b"', '"epochs": 0', '"seed": -1', '"home": "/"', '"out": "/"'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(f'{{"kind": "train", "data": "x", {bad}}}', type=Asked)


def test_a_job_that_cannot_start_says_why_without_paths(settings):
    """The data is gone; or it was begun too often."""
    entered(settings, "j-1")
    jobs = Jobs(settings)
    with Executor(settings):
        row = wait_for(lambda: (r := jobs.row("a", "j-1")).ended_at and r)
    assert (row.state, row.error["code"]) == ("failed", "unknown-data")
    jobs.close()


def grandchildren(id: str) -> list[int]:
    """Processes that name the job in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if id.encode() in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_job_through_the_network_is_ended_with_all_its_processes(settings):
    """201, running, DELETE, no process left; foreign tenants see nothing of it; an evaluation that fails says why."""
    make_phantoms(settings.data_root / "a" / "films", 60, size=32, seed=1)
    (settings.data_root / "a" / "broken").write_bytes(b"words")
    house = House(settings.home.parent, settings)
    with opened(house), Executor(settings, limit=2):
        made = house.ask("engineer", "POST", "/v1/jobs", json={"kind": "train", "data": "films", "epochs": 500})
        assert made.status_code == 201, made.text
        id = made.json()["id"]
        digest = house.upload("engineer", house.packed("judged")).json()["digest"]
        asked = {"kind": "evaluate", "data": "broken", "package": digest}
        second = house.ask("engineer", "POST", "/v1/jobs", json=asked).json()["id"]
        wait_for(lambda: grandchildren(id))
        page = lambda job: house.ask("engineer", "GET", f"/v1/jobs/{job}").json()  # noqa: E731
        failed = wait_for(lambda: (p := page(second))["job"]["state"] == "failed" and p, 60)
        assert failed["error"]["code"] not in ("internal", "job-died") and failed["result"] is None
        assert str(settings.home.parent) not in str(failed)
        for method in ("GET", "DELETE"):
            assert (
                house.ask("engineer b", method, f"/v1/jobs/{id}").json()["error"]
                == house.ask("engineer b", method, f"/v1/jobs/j-{'0' * 16}").json()["error"]
            )
        assert house.ask("engineer b", "GET", "/v1/jobs").json() == {"jobs": []}
        asked = {"kind": "evaluate", "data": "films", "package": digest}
        assert code(house.ask("engineer b", "POST", "/v1/jobs", json=asked))[0] == 404
        assert code(house.ask("engineer", "POST", "/v1/jobs", json={"kind": "shell"})) == (400, "job-invalid")
        ended = house.ask("engineer", "DELETE", f"/v1/jobs/{id}")
        assert ended.status_code == 200 and ended.json()["state"] in ("cancelling", "cancelled")
        wait_for(lambda: page(id)["job"]["state"] == "cancelled")
        assert not grandchildren(id)
    done = [(e.action, e.resource) for _, e in Ledger.open(settings).read() if e.status in (200, 201)]
    changes = [one for one in done if one[0] in ("jobs.create", "jobs.cancel")]
    assert changes == [("jobs.create", id), ("jobs.create", second), ("jobs.cancel", id)]


LIBRARY = [f"{'C' * n}O alcohol-{n}" for n in range(1, 40)] + ["not-a-molecule broken"]


def test_a_screen_through_the_network_is_downloaded_and_destroyed(settings):
    """The library is the tenant's own; the results stand in the vault alone, its tenant's, until they are deleted."""
    (settings.data_root / "a" / "library.smi").write_text("\n".join(LIBRARY) + "\n")
    (settings.data_root / "b" / "secret.smi").write_text("CCO secret\n")
    house = House(settings.home.parent, settings)
    asked = {"kind": "screen", "data": "library.smi", "query": ["CCCCO", "CCCC"], "top": 5, "diverse": 2}
    with opened(house), Executor(settings):
        for bad in ({"data": "../b/secret.smi"}, {"actives": "../b/secret.smi"}, {"packages": ["sha256:" + "0" * 64]}):
            assert house.ask("engineer", "POST", "/v1/jobs", json=asked | bad).status_code == 404
        made = house.ask("engineer", "POST", "/v1/jobs", json=asked)
        assert made.status_code == 201, made.text
        address = f"/v1/jobs/{made.json()['id']}"
        page = lambda: house.ask("engineer", "GET", address).json()  # noqa: E731
        done = wait_for(lambda: (p := page())["job"]["ended_at"] and p, 240)
        assert done["job"]["state"] == "done", done
        assert (done["result"]["molecules"], done["result"]["refused"]) == (40, 1)
        assert {"hits.csv", "hits.sdf", "scores.parquet", "report.html"} <= set(done["result"]["results"])
        found = house.ask("engineer", "GET", f"{address}/results")
        assert found.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(found.content)) as packed:
            assert packed.testzip() is None and set(packed.namelist()) == set(done["result"]["results"])
            hits = packed.read("hits.csv").decode().splitlines()
        assert len(hits) == 6 and "alcohol-4" in hits[1]
        assert not any(b"alcohol-4" in path.read_bytes() for path in settings.home.rglob("*") if path.is_file())
        for method, where in (("GET", f"{address}/results"), ("DELETE", address)):
            assert code(house.ask("engineer b", method, where)) == (404, "unknown-job")
        assert house.ask("clinician", "GET", f"{address}/results").status_code == 403
        assert house.ask("engineer", "DELETE", address).status_code == 200
        assert code(house.ask("engineer", "GET", f"{address}/results"))[0] == 404
        assert "results" not in page()["result"] and page()["job"]["state"] == "done"
    read = [(e.action, e.status) for _, e in Ledger.open(settings).read() if e.principal and "/results" not in e.code]
    assert ("jobs.cancel", 200) in read and ("jobs.read", 403) in read


def test_a_screen_that_was_done_but_not_kept_is_kept(settings):
    """Stopped between the end of the screen and the vault: nothing is screened twice."""
    id = "j-00000000000000bb"
    (settings.data_root / "a" / "x").write_text("CCO a\n")
    entered(settings, id, asked={"kind": "screen", "data": "x", "query": ["CCO"]})
    out = settings.folder("jobs") / id / "out"
    out.mkdir(parents=True)
    (out / "hits.csv").write_text("rank\n")
    jobs = Jobs(settings)
    with Executor(settings):
        row = wait_for(lambda: (r := jobs.row("a", id)).ended_at and r)
    assert row.state == "done" and row.result["results"]["files"] == ["hits.csv"]
    assert not out.exists()
    jobs.close()


def test_a_query_is_never_the_name_of_a_file():
    """It is a line of a file of the job's own; what more a line could say is refused."""
    screen = Screen(data="x", packages=["sha256:" + "1" * 64], query=["/etc/passwd"], actives="y", seek=["low"], top=7)
    words = command(screen, [Path("/d/x"), Path("/d/y")], Path("/w/out"), [Path("/p")], Path("/h"))
    assert words == ["screen", "--library=/d/x", "--out=/w/out", "--home=/h", "--model=/p", "--actives=/d/y",
                     "--query=/w/query.smi", "--seek=low", "--top=7", "--json"]  # fmt: skip
    panel = Admet(data="x", packages=["sha256:" + "1" * 64], column="smiles")
    assert command(panel, [Path("/d/x")], Path("/w/out"), [Path("/p")], Path("/h")) == [
        "admet", "/d/x", "--out=/w/out", "--home=/h", "--model=/p", "--column=smiles", "--json",
    ]  # fmt: skip
    for bad in ('"query": ["C C"]', '"query": ["C\\nO"]', '"packages": ["/p"]', '"seek": ["up"]', '"top": 0'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(f'{{"kind": "screen", "data": "x", {bad}}}', type=Asked)


SERVE = """
import sys, time
from pathlib import Path
from medserve.jobs.executor import Executor
from medserve.settings import Settings
settings = Settings(home=Path(sys.argv[1]), data_root=Path(sys.argv[2]))
with Executor(settings, lease_s=2):
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_outlives_a_killed_service_and_needs_a_second_person(settings):
    """kill -9 of the service amid training: the job's processes die with it, the next service goes on from the
    checkpoint, and the package waits on the shelf as its asker's."""
    make_phantoms(settings.data_root / "a" / "films", 120, size=32, seed=1)
    house = House(settings.home.parent, settings)
    asked = {
        "kind": "train",
        "data": "films",
        "name": "grown",
        "recipe": "residual-quick",
        "epochs": 6,
        "audit": "none",
    }
    with opened(house):
        id = house.ask("both", "POST", "/v1/jobs", json=asked).json()["id"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", SERVE, str(settings.home), str(settings.data_root)]
    service = subprocess.Popen(run, env=env)
    checkpoint = settings.home / "jobs" / id / ".out.training" / "recipe" / "checkpoint.safetensors"
    try:
        wait_for(checkpoint.exists, 300)
    finally:
        service.send_signal(signal.SIGKILL)
        service.wait()
    wait_for(lambda: not grandchildren(id), 20)
    jobs = Jobs(settings)
    assert jobs.row("a", id).state == "running" and checkpoint.exists()
    jobs.close()
    with opened(house), Executor(settings, lease_s=2):
        page = wait_for(
            lambda: (p := house.ask("engineer", "GET", f"/v1/jobs/{id}").json())["job"]["ended_at"] and p, 500
        )
        assert page["job"]["state"] == "done", page
        assert page["log"].strip() and page["result"]["metrics"]
        digest = page["result"]["package"]
        (row,) = house.ask("engineer", "GET", "/v1/packages").json()["packages"]
        assert (row["digest"], row["state"], row["job"]) == (digest, "uploaded", id)
        assert code(house.ask("both", "POST", f"/v1/packages/{digest}/publish")) == (403, "second-person")
        assert house.ask("approver", "POST", f"/v1/packages/{digest}/publish").status_code == 200
        assert house.ask("clinician", "GET", "/v1/models/grown").status_code == 200


def test_a_trained_package_that_was_not_kept_yet_is_kept(settings):
    """Stopped between the end of training and the shelf: nothing is trained twice, and the asker cannot publish it."""
    entered(settings, "j-00000000000000aa", asked={"kind": "train", "data": "films"})
    (settings.data_root / "a" / "films").mkdir()
    write_package(settings.folder("jobs") / "j-00000000000000aa" / "out", settings, spec("found"))
    jobs = Jobs(settings)
    with Executor(settings):
        row = wait_for(lambda: (r := jobs.row("a", "j-00000000000000aa")).ended_at and r)
    assert row.state == "done", row.error
    jobs.close()
    house = House(settings.home.parent, settings)
    with opened(house):
        (found,) = house.ask("engineer", "GET", "/v1/packages").json()["packages"]
        assert (found["job"], found["uploaded_by"], found["state"]) == (row.id, "k-1", "uploaded")
        assert found["digest"] == row.result["package"]
