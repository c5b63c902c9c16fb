"""`medserve tune` on a trained package: the table, the verdict, the picture, and the seal of the test part."""

import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from medserve.cli import run as command
from medserve.cli.tune import _shown
from medserve.data.phantoms import make_phantoms
from medserve.road.tune import tune_package
from medserve.store.database import database
from medserve.store.database import test_openings as openings_table


@pytest.fixture
def home(run, monkeypatch):
    """The trained package's home; no verdict stays behind."""
    monkeypatch.setenv("MEDSERVE_HOME", str(run.settings.home))
    monkeypatch.setattr("medserve.runtime.tuner.BLOCK_S", 0.01)
    monkeypatch.setattr("medserve.runtime.tuner.LONE_S", 0.01)
    yield run.settings.home
    shutil.rmtree(run.settings.home / "tuned", ignore_errors=True)


def call(capsys, *argv: object, status: int = 0) -> dict:
    assert command([*map(str, argv), "--json"]) == status
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    return json.loads(said.out)


def opened(run) -> int:
    with database(run.settings).connect() as db:
        return len(db.execute(openings_table.select()).all())


def test_tune_measures_chooses_and_leaves_the_test_part_sealed(run, home, capsys):
    """20 calibration cases cannot vouch for bfloat16; the best of fp32 is written down and drawn."""
    pytest.importorskip("openvino")
    before, package = opened(run), sorted(p.stat().st_mtime_ns for p in run.package.rglob("*"))
    found = call(capsys, "tune", run.package, "--data", run.data, "--threads", 1)
    verdict = found["verdict"]
    assert opened(run) == before and sorted(p.stat().st_mtime_ns for p in run.package.rglob("*")) == package
    assert verdict["cases"] == run.result["parts"]["calibration"] < 100
    assert verdict["chosen"]["precision"] == "fp32" and verdict["digest"] == run.result["model"]["digest"]
    for precision in ("bf16", "int8"):
        codes = {row["code"] for row in verdict["rows"] if row["choice"]["precision"] == precision}
        assert codes and codes <= {"gate-few-cases", "engine-precision", "engine-missing", "selfcheck"}
    assert verdict["quantised"] == "" and not list((home / "tuned").glob("*.int8"))
    assert json.loads((home / "tuned" / found["record"].split("/")[-1]).read_text()) == verdict
    with open(found["picture"], encoding="utf-8") as file:
        drawn = file.read()
    assert "<svg" in drawn and "hollow: kept out" in drawn and "star: chosen" in drawn  # its legend says what is drawn


def test_the_ranges_of_int8_come_from_the_training_part(run, home, monkeypatch):
    """No case on which the gate judges is among them, nor one of the sealed test part."""
    seen = []
    monkeypatch.setattr("medserve.road.tune.tune", lambda package, **more: seen.append(more) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tune_package(run.package, run.data, settings=run.settings)
    ranges, judged = seen[0]["quantiser"].inputs, seen[0]["evidence"].samples
    known = {case.tobytes() for case in judged.take(np.arange(len(judged)))}
    assert 0 < len(ranges) <= run.result["parts"]["train"] and not known & {case.tobytes() for case in ranges}


def test_tune_without_data_and_for_a_person(run, home, capsys):
    """A table, what was chosen, where it is kept; only fp32 could win, and predict names its engine."""
    assert command(["tune", str(run.package)]) == 0
    said = capsys.readouterr().out
    assert "ONNX Runtime fp32" in said and "only fp32" in said and "chosen:" in said and "picture:" in said
    film = sorted(run.data.glob("images/*.dcm"))[0]
    assert command(["predict", str(run.package), "--input", str(film)]) == 0
    assert "fp32" in capsys.readouterr().out


def test_tune_needs_the_data_of_the_training(run, home, capsys, tmp_path):
    """Other cases say nothing of the calibration part."""
    other = make_phantoms(tmp_path / "other", 40, size=32, seed=9)
    error = call(capsys, "tune", run.package, "--data", other, status=2)["error"]
    assert error["code"] == "foreign-data" and "calibration" in error["message"] and "medserve train" in error["hint"]
    assert call(capsys, "tune", tmp_path, status=2)["error"]["code"] == "package-missing"


@pytest.mark.parametrize("verb", ["tune", "evaluate"])
def test_data_of_another_kind_are_told_so(verb, run, home, capsys, tmp_path):
    """A table for a model of pictures: not a word about its transforms."""
    table = tmp_path / "table.csv"
    table.write_text("age,label\n" + "".join(f"{40 + n},{n % 2}\n" for n in range(40)))
    error = call(capsys, verb, run.package, "--data", table, status=2)["error"]
    assert error["code"] == "wrong-kind" and "pictures" in error["message"] and "records" in error["message"]


@pytest.mark.parametrize("verb", [["tune", "nowhere"], ["serve", "--models", "nowhere"]])
def test_fewer_threads_than_none_are_refused(verb, capsys):
    error = call(capsys, *verb, "--threads=-1", status=2)["error"]
    assert error["code"] == "bad-arguments" and "--threads" in error["message"]


def test_the_table_fits_an_ordinary_terminal():
    """A number in two lines is read as another one; 80 columns hold the longest name and seven digits."""
    rows = [
        {
            "choice": {"engine": "openvino", "precision": "int8", "streams": 16, "batch": 256, "second": second},
            "images_per_s": 1234567.0, "lone_ms": 12345.67, "gap": {}, "code": "gate-few-cases", "reason": "why",
            "gate": {"figures": {"flipped": {"value": 0.1234}}}, "again": 0.12,
        }
        for second in (False, True)
    ]  # fmt: skip
    verdict = {"rows": rows, "chosen": rows[0]["choice"], "cases": 262, "processor": "x", "cores": 2, "note": ""}
    said = {"verdict": verdict, "model": {"name": "chest"}, "record": "r", "picture": "p", "load": None, "missing": []}
    console = Console(width=80, file=io.StringIO())
    console.print(_shown(said))
    text = console.file.getvalue()
    assert text.count("1234567") == text.count("12345.67") == text.count("12.34%") == 2
    assert "OpenVINO int8" in text and "with a second look at 12%" in text and "gate-few-cases" in text
