"""Packages made to do harm are refused with a code, quickly, by every way in; their twins are taken. No code runs."""

import json
import shutil
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
sys.path.insert(0, str(Path(__file__).parent))

from malicious import CASES, KINDS, Bench, Case
from test_packages_door import House, opened
from tiny_package import png, ramp, write_package

from medserve.app import build
from medserve.cli import run
from medserve.errors import MedServeError
from medserve.models.archive import pack
from medserve.settings import Settings

SECONDS = 2.0
FOLDERS = [case for case in CASES if case.folder]
TWINNED = list({case.twin: case for case in reversed(FOLDERS)}.values())  # one of each twin
FIRST = [next(case for case in CASES if case.kind == kind and case.door) for kind in KINDS if kind != "folder"]
BOMB = next(case for case in CASES if "zeros" in case.name)


def named(case: Case) -> str:
    return f"{case.kind}: {case.name}".encode("ascii", "backslashreplace").decode()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Settings(home=tmp_path_factory.mktemp("malicious") / "home")


@pytest.fixture(scope="module")
def sound(home):
    return write_package(home.home.parent / "sound", home)


@pytest.fixture
def bench(tmp_path, home, sound):
    def make(work) -> Bench:
        folder = tmp_path / "work" / "package"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(sound, folder)
        made = Bench(folder, home, Settings(home=home.home.parent / "stranger"))
        work(made)
        return made

    return make


@pytest.fixture(scope="module")
def house(home):
    with opened(House(home.home.parent, home)) as found:
        yield found


def test_there_are_enough_of_them():
    assert len({named(case) for case in CASES}) == len(CASES) >= 80
    assert len(FOLDERS) >= 80


def predict(bench: Bench, capsys) -> tuple[int, dict]:
    picture = bench.folder.parent / "x.png"
    picture.write_bytes(png(ramp()))
    status = run(["predict", str(bench.folder), "--input", str(picture), "--home", str(bench.settings.home), "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("case", FOLDERS, ids=named)
def test_no_folder_of_them_is_opened(case, bench, capsys):
    """`medserve predict`: exit code 2 and the code; each twin answers once."""
    made = bench(case.poison)
    began = time.perf_counter()
    status, answer = predict(made, capsys)
    assert (status, answer.get("error", {}).get("code")) == (2, case.code)
    assert time.perf_counter() - began < SECONDS
    assert not made.canary.exists()
    if case in TWINNED:
        status, answer = predict(bench(case.twin), capsys)
        assert status == 0 and answer["status"] in ("answered", "abstained"), answer


@pytest.mark.parametrize("case", [c for c in FIRST if c.folder], ids=named)
def test_the_service_does_not_start_with_one(case, bench):
    """`medserve serve --models`: refused by the same check before anything listens."""
    made = bench(case.poison)
    with pytest.raises(MedServeError) as caught:
        build(made.settings, [made.folder])
    assert caught.value.code == case.code and not made.canary.exists()


def send(house: House, bench: Bench):
    """Returns: the answer and its seconds; the best of three where the machine is busy."""
    archive = bench.zip if bench.zip is not None else pack(bench.folder, bench.folder.parent / "sent.zip").read_bytes()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        answer = house.upload("engineer", archive)
        seconds.append(time.perf_counter() - began)
        if answer.status_code in (200, 201) or min(seconds) < SECONDS:
            break
    return answer, min(seconds)


def refused(house: House, bench: Bench, case: Case) -> float:
    answer, seconds = send(house, bench)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, case.door_code or case.code), answer.text
    assert seconds < SECONDS and not bench.canary.exists()
    assert str(bench.settings.home) not in answer.text
    packages = bench.settings.home / "packages"
    assert not list((packages / ".staging").iterdir())
    return seconds


@pytest.mark.parametrize("case", [*FIRST, BOMB], ids=named)
def test_one_of_each_kind_is_refused_at_the_door(case, bench, house):
    """Status 422 and the code; nothing is kept; the service goes on."""
    refused(house, bench(case.poison), case)
    assert house.ask("engineer", "GET", "/v2/health/live").status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_them_are_refused_at_the_door_and_their_twins_are_taken(bench, house, capsys):
    """Through the network; prints how many and the slowest."""
    taken, slowest, count, twins = set(), 0.0, 0, 0
    for case in CASES:
        if not case.door:
            continue
        slowest = max(slowest, refused(house, bench(case.poison), case))
        count += 1
        if case.twin in taken:
            continue
        taken.add(case.twin)
        answer, _ = send(house, bench(case.twin))
        assert answer.status_code in (200, 201), (named(case), answer.text)
        twins += 1
    assert house.ask("engineer", "GET", "/v2/health/live").status_code == 200
    with capsys.disabled():
        sys.stdout.write(f"\n{count} refused at the door, slowest {slowest:.2f} s; {twins} twins taken\n")
