"""What each verb prints with --json, on one small trained package; `train`'s own result is tested in tests/road."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medserve.cli import VERBS
from medserve.cli import run as command
from medserve.questions.recipes import RECIPES


@pytest.fixture
def call(run, monkeypatch, capsys):
    """Runs one command line in the home of the trained package. Returns: the one JSON object."""
    monkeypatch.setenv("MEDSERVE_HOME", str(run.settings.home))

    def _call(*argv: object, status: int = 0) -> dict:
        assert command([*map(str, argv), "--json"]) == status
        said = capsys.readouterr()
        assert said.out.count("\n") == 1
        return json.loads(said.out, parse_constant=_no_constant)

    return _call


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture
def film(run) -> Path:
    return sorted(run.data.glob("images/*.dcm"))[0]


def test_inspect(call, run, tmp_path):
    """Every file is read or refused; classes, patients and parts are counted; the page is written."""
    answer = call("inspect", run.data, "--out", tmp_path / "sheet.html")
    assert {"files", "read", "refused", "cases", "kinds", "problems", "leaks"} <= answer.keys()
    assert answer["files"] == answer["read"] + len(answer["refused"]) == 162 and answer["cases"] == 160
    assert answer["kinds"]["format"] == {"DICOM": 160} and answer["kinds"]["modality"] == {"CR": 160}
    truth = [line.split(",") for line in (run.data / "labels.csv").read_text().splitlines()[1:]]
    counted = {label: sum(part["classes"][label] for part in answer["parts"].values()) for label in ("clear", "lesion")}
    assert counted == {label: sum(row[2] == label for row in truth) for label in counted}
    assert answer["patients"] == len({row[1] for row in truth}) and answer["leaks"] == []
    assert (tmp_path / "sheet.html").read_text().startswith("<!")


def test_inspect_deals_the_parts_that_training_used(call, run):
    """With the seed of the run, the planned sizes are those of the run's result."""
    assert call("inspect", run.data, "--seed", run.result["seed"])["planned"] == run.result["parts"]


def test_inspect_writes_a_declaration(call, run):
    """--write-yaml gives the columns that were understood, as text that parses."""
    import yaml

    declared = yaml.safe_load(call("inspect", run.data, "--write-yaml")["yaml"])
    assert declared["patient"] == "patient" and declared["target"]["classes"] == ["clear", "lesion"]


def test_evaluate(call, run, tmp_path):
    """Metrics with intervals, and n; the page is written where asked."""
    answer = call("evaluate", run.package, "--data", run.data, "--part", "val", "--out", tmp_path / "report.html")
    assert answer["n"] == run.result["parts"]["val"] and answer["part"] == "val"
    for name in ("auroc", "accuracy", "log_loss", "ece"):
        metric = answer["metrics"][name]
        assert metric["low"] <= metric["value"] <= metric["high"], name
    assert (tmp_path / "report.html").read_text().startswith("<!")


def test_evaluate_counts_the_openings_of_the_test_part(call, run):
    """Twice the test part is two openings more, and the figures do not move."""
    first, second = (call("evaluate", run.package, "--data", run.data) for _ in range(2))
    assert first["part"] == "test" and second["openings"] == first["openings"] + 1 >= 3
    assert first["metrics"] == second["metrics"]


def test_predict(call, run, film):
    """The answer of one picture: probabilities, the set, the decision, and which model gave it."""
    answer = call("predict", run.package, "--input", film)
    assert {"model", "outputs", "prediction_set", "status", "reasons", "decision", "explanation"} <= answer.keys()
    assert answer["model"]["name"] == "phantom-chest" and answer["model"]["digest"] == run.result["model"]["digest"]
    assert [o["label"] for o in answer["outputs"]] == ["clear", "lesion"]
    assert sum(o["probability"] for o in answer["outputs"]) == pytest.approx(1)
    assert set(answer["prediction_set"]) <= {"clear", "lesion"}
    assert answer["status"] in ("answered", "abstained") and answer["explanation"] is None
    assert call("predict", run.package, "--input", film)["outputs"] == answer["outputs"]


def test_predict_refuses_what_is_out_of_scope(call, run, tmp_path):
    """A colour photograph gets a coded refusal, not a score."""
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    error = call("predict", run.package, "--input", tmp_path / "photo.png", status=2)["error"]
    assert error["code"] == "wrong-colour" and error["kind"] == "refusal" and error["hint"]


def test_explain_without_an_audit_offers_nothing(call, run, film, tmp_path):
    """A method that was not audited is not offered, and no picture is written."""
    error = call("explain", run.package, "--input", film, "--out", tmp_path / "heat.png", status=2)["error"]
    assert error["code"] == "explanation-none" and "audit" in error["hint"]
    assert not (tmp_path / "heat.png").exists()


def test_explain(tmp_path, monkeypatch, capsys):
    """Method, verdict and files: a PNG overlay and the raw map of the same name."""
    from tiny_package import png, ramp, write_package

    from medserve.settings import Settings

    monkeypatch.setenv("MEDSERVE_HOME", str(tmp_path / "home"))
    package = write_package(tmp_path / "package", Settings(home=tmp_path / "home"))
    (tmp_path / "film.png").write_bytes(png(ramp()))
    out = tmp_path / "heat.png"
    asked = ["explain", str(package), "--input", str(tmp_path / "film.png"), "--out", str(out), "--json"]
    for extra, method, verdict in (([], "occlusion", "PASS"), (["--method", "cam"], "cam", "CAUTION")):
        assert command([*asked, *extra]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["method"], answer["verdict"]) == (method, verdict)
        assert answer["files"] == [str(out), str(out.with_suffix(".json"))]
        with Image.open(out) as picture:
            assert picture.format == "PNG"
        raw = json.loads(out.with_suffix(".json").read_bytes())
        assert raw["method"] == method and raw["model"]["digest"] == answer["answer"]["model"]["digest"]
    for name, code in (("integrated-gradients", "explanation-not-offered"), ("camm", "unknown-explanation-method")):
        assert command([*asked, "--method", name]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_models_lists_the_recipes(call):
    """Every recipe with what it is and where its figure comes from."""
    recipes = call("models")["recipes"]
    assert [r["name"] for r in recipes] == list(RECIPES)
    assert all(r["what"] and r["expected"] and r["source"] for r in recipes)


def test_models_for_data_ranks_the_recipes(call, run):
    """Suitable ones first, each with reason, expected figure and minutes; the first is what train picks."""
    from medserve.questions.recipes import default_recipe

    answer = call("models", "--for", run.data)
    assert answer["n"] == 160 and answer["task"] == "binary" and answer["shape"] == [32, 32]
    ranked = answer["recipes"]
    assert {r["name"] for r in ranked} == set(RECIPES)
    assert [r["suits"] for r in ranked] == sorted((r["suits"] for r in ranked), reverse=True)
    assert all(r["reason"] and r["expected"] and r["minutes"] > 0 for r in ranked if r["suits"])
    assert ranked[0]["name"] == default_recipe(task="binary", n=160, shape=(32, 32))


def test_models_describes_packages(call, run):
    """Both candidates of a run, by name, digest, labels and signer."""
    offered, other = call("models", run.package, run.package / "alternative")["packages"]
    assert offered["name"] == "phantom-chest" and offered["digest"] == run.result["model"]["digest"]
    assert offered["labels"] == ["clear", "lesion"] and offered["architecture"] == "residual"
    assert other["architecture"] == "thumbnail-linear" and other["signer"] == offered["signer"]


def test_keys(call, tmp_path):
    """Create, list, revoke; the key itself is shown once."""
    home = ("--home", tmp_path / "home")
    made = call("keys", "create", "--name", "ward", *home)
    assert made["key"].startswith("msk_")
    (listed,) = call("keys", "list", *home)["keys"]
    assert listed["id"] == made["id"] and "key" not in listed
    assert call("keys", "revoke", made["id"], *home)["state"] == "revoked"


def test_serve_says_why_it_cannot_start(call, run):
    """A port that is taken and one name twice are coded errors, not tracebacks."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = call("serve", "--models", run.package, "--port", port, status=2)["error"]
    assert error["code"] == "port-taken" and str(port) in error["message"] and error["hint"]


def test_every_verb_has_a_help_page_that_teaches(capsys):
    """`medserve --help` names each verb with one line; each page explains its flags."""
    assert command(["--help"]) == 0
    overview = capsys.readouterr().out
    for verb, what in VERBS.items():
        assert verb in overview and what in " ".join(overview.split()), verb
        assert command([verb, "--help"]) == 0
        page = capsys.readouterr().out
        assert "Usage: medserve" in page and len(page) > 300, verb
    assert command(["train", "--help"]) == 0
    page = capsys.readouterr().out
    for flag in ("--out", "--question", "--recipe", "--seed", "--epochs", "--folds", "--leaks", "--keep", "--json"):
        assert flag in page, flag
