"""The verbs that serve: keys, predict, serve."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_package import noise, png, ramp, spec, write_package

from medserve.cli import run
from medserve.models.signing import Trust
from medserve.models.spec import OutputSpec
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDSERVE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def call(capsys, *argv: object) -> tuple[int, dict]:
    """Exit code and the one JSON object on stdout."""
    code = run([*map(str, argv), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_key_is_made_listed_and_revoked(home, capsys):
    """The key is shown at creation and never again."""
    code, made = call(capsys, "keys", "create", "--name", "ward 7", "--days", 30)
    assert code == 0 and made["key"].startswith("msk_") and made["state"] == "active"
    code, listed = call(capsys, "keys", "list")
    assert code == 0 and [key["name"] for key in listed["keys"]] == ["ward 7"]
    assert made["key"] not in json.dumps(listed)
    code, revoked = call(capsys, "keys", "revoke", made["id"])
    assert (code, revoked["state"]) == (0, "revoked")
    assert call(capsys, "keys", "create", "--days", 0)[1]["expires"] is None


def test_keys_for_a_person(home, capsys):
    """Without --json: the key on the first line, a table of keys."""
    assert run(["keys", "create", "--name", "demo"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("msk_")
    assert run(["keys", "list"]) == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["keys", "revoke", "k-none"], "unknown-key"),
        (["keys", "create", "--days", "-3"], "key-days"),
        (["keys", "create", "--name", ""], "key-name"),
    ],
)
def test_bad_arguments_of_keys_are_coded(home, capsys, argv, code):
    """Exit code 2."""
    status, answer = call(capsys, *argv)
    assert (status, answer["error"]["code"]) == (2, code)


def test_predict_prints_the_answer_of_the_library(home, tmp_path, capsys):
    """The same code path as the network."""
    settings = Settings(home=home)
    folder = write_package(tmp_path / "package", settings)
    picture = tmp_path / "x.png"
    picture.write_bytes(png(ramp()))
    code, answer = call(capsys, "predict", folder, "--input", picture, "--explain", "cam")
    wanted = LoadedModel.open(folder, Trust.load(settings)).predict(picture.read_bytes(), "cam")
    assert code == 0
    assert answer["outputs"] == wanted["outputs"] and answer["explanation"] == wanted["explanation"]
    assert run(["predict", str(folder), "--input", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "bright" in shown and "abstained" in shown


@pytest.mark.parametrize(
    ("data", "extra", "code"),
    [
        (png(noise()), [], "out-of-distribution"),
        (b"", [], "file-empty"),
        (b"words", [], "format-unknown"),
        (png(ramp()), ["--explain", "integrated-gradients"], "explanation-not-offered"),
        (None, [], "input-missing"),
    ],
)
def test_predict_refuses_with_exit_code_two(home, tmp_path, capsys, data, extra, code):
    """A refusal is one JSON object with the same code as on the network."""
    folder = write_package(tmp_path / "package", Settings(home=home))
    picture = tmp_path / "x.png"
    if data is not None:
        picture.write_bytes(data)
    status, answer = call(capsys, "predict", folder, "--input", picture, *extra)
    assert (status, answer["error"]["code"]) == (2, code)


def test_every_task_can_be_shown_to_a_person(home, tmp_path, capsys):
    """A number without interval, several labels, and an answered binary."""
    settings = Settings(home=home)
    bright, picture = {"operating_points": [], "ood": None}, tmp_path / "x.png"
    picture.write_bytes(png(ramp(200, 255)))
    tasks = {
        "number": spec(output=OutputSpec(task="number", labels=["age"], unit="a"), **bright),
        "multilabel": spec(output=OutputSpec(task="multilabel", labels=["effusion"]), **bright),
        "ordinal": spec(output=OutputSpec(task="ordinal", labels=["none", "some"]), **bright),
        "binary": spec(),
    }
    for task, model in tasks.items():
        folder = write_package(tmp_path / task, settings, model)
        assert run(["predict", str(folder), "--input", str(picture)]) == 0, capsys.readouterr().err
        assert model.output.labels[-1] in capsys.readouterr().out


def test_serve_refuses_an_open_address_without_keys(home, tmp_path, capsys):
    """Exit code 2, one JSON object, and nothing listens."""
    folder = write_package(tmp_path / "package", Settings(home=home))
    status, answer = call(capsys, "serve", "--models", folder, "--host", "0.0.0.0", "--port", 0)
    assert (status, answer["error"]["code"]) == (2, "host-without-keys")
    assert "keys create" in answer["error"]["hint"]


def test_the_help_teaches(home, capsys):
    """Each verb explains itself and its flags."""
    for argv, words in (
        (["serve", "--help"], ("--models", "--host", "TLS")),
        (["predict", "--help"], ("--input", "--explain", "Exit code 2")),
        (["keys", "create", "--help"], ("--days", "--name")),
    ):
        assert run(argv) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words), shown
