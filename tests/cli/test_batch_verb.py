"""`medserve batch`: every file of a folder has its line, also when the command, or the service, stopped in between."""

import json
import os

import pytest
from tiny_package import SMALL, png, ramp, serving, write_package

from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.cli import run
from medserve.client import Client
from medserve.errors import Usage
from medserve.settings import Settings


@pytest.fixture
def service(tmp_path, monkeypatch):
    settings = Settings(home=tmp_path / "home")
    ring = KeyRing.open(settings)
    monkeypatch.setenv("MEDSERVE_KEY", ring.create("x").key)
    with serving(
        build(settings, [write_package(tmp_path / "m", settings)], keys=ring, limits=SMALL, threads=1)
    ) as port:
        yield f"http://127.0.0.1:{port}"
    ring.close()


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    (folder / "ward").mkdir(parents=True)
    for i in range(150):
        (folder / f"{i:03}.png").write_bytes(png(ramp(0, i % 200 + 50)))
    (folder / "ward" / "bad.png").write_bytes(b"no picture")
    return folder


def test_a_folder_is_answered_and_a_run_that_stopped_goes_on(service, films, tmp_path, monkeypatch, capsys):
    out = tmp_path / "results.ndjson"
    command = ["batch", str(films), "--model", "tiny", "--out", str(out), "--url", service, "--json"]

    def torn(self, batch, *, start=0):
        yield from list(whole(self, batch, start=start))[:40]
        raise Usage("stopped", "As if it had been.")

    whole = Client.results
    monkeypatch.setattr(Client, "results", torn)
    assert run(command) == 2 and json.loads(capsys.readouterr().out)["error"]["code"] == "stopped"
    monkeypatch.setattr(Client, "results", whole)
    with open(out, "ab") as file:
        file.write(b'{"item": 41, "id"')  # cut off in the middle of a line
    assert run(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["items"], said["failed"]) == ("done", 151, 1)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["id"] for one in found] == [f"{i:03}.png" for i in range(150)] + ["ward/bad.png"]
    assert [one["id"] for one in found if "error" in one] == ["ward/bad.png"]
    assert not out.with_name(out.name + ".batch").exists()
    with Client(service, os.environ["MEDSERVE_KEY"]) as client:
        assert [one.batch for one in client.batches()] == [said["batch"]]  # it was never sent twice
        client.delete_batch(said["batch"])
        assert client.batches() == []
    assert run(command) == 2 and json.loads(capsys.readouterr().out)["error"]["code"] == "out-exists"


def test_a_manifest_is_sent_as_it_is_and_wrong_sources_are_named(service, tmp_path, capsys):
    manifest = tmp_path / "manifest.ndjson"
    manifest.write_text('{"id": "x", "case": "0"}\nnothing\n')
    out = tmp_path / "r"
    command = ["batch", str(manifest), "--model", "tiny", "--out", str(out), "--url", service, "--json"]
    assert run(command) == 0 and json.loads(capsys.readouterr().out)["failed"] == 2
    codes = [json.loads(line)["error"]["code"] for line in out.read_text().splitlines()]
    assert codes == ["unknown-case", "item-invalid"]
    (tmp_path / "empty").mkdir()
    for source, code in ((tmp_path / "empty", "batch-source"), (tmp_path / "gone", "input-missing")):
        again = ["batch", str(source), *command[2:5], str(tmp_path / f"o-{code}"), *command[6:]]
        assert run(again) == 2 and json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_a_start_that_was_refused_is_not_remembered(service, films, tmp_path, capsys):
    """The name of a model is mended, and the same command goes on; another version is another batch."""
    out = tmp_path / "r"
    command = ["batch", str(films), "--out", str(out), "--url", service, "--json"]
    assert run([*command, "--model", "tyni"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unknown-model"
    assert run([*command, "--model", "tiny", "--version", "7"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unknown-version"
    assert run([*command, "--model", "tiny"]) == 0


def test_another_version_is_another_batch(service, films, tmp_path, monkeypatch, capsys):
    """What was begun of one is not gone on with as if it were of the other."""

    def stopped(self, batch, *, start=0):
        raise Usage("stopped", "As if it had been.")

    monkeypatch.setattr(Client, "results", stopped)
    command = ["batch", str(films), "--model", "tiny", "--out", str(tmp_path / "r"), "--url", service, "--json"]
    assert run(command) == 2 and json.loads(capsys.readouterr().out)["error"]["code"] == "stopped"
    assert run([*command, "--version", "1"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "batch-other"
