"""`medserve replay`: the same file and model give the same answer again; anything else is exit code 1."""

import base64
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_package import live_server, noise, png, ramp, spec, write_package

from medserve.access.audit import Event, Ledger
from medserve.cli import run
from medserve.models.spec import Calibration
from medserve.settings import Settings
from medserve.store.vault import Vault


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """(home, folder of packages, traces by name) after a server has ended."""
    root = tmp_path_factory.mktemp("replay")
    (root / "film.png").write_bytes(png(ramp(200, 255)))
    film, traces = png(ramp(200, 255)), {}
    with live_server(root) as running, running.http() as http:
        address = "/v1/models/tiny/versions/1/predict"

        def store(patient):
            headers = {"x-patient": patient, "content-type": "image/png"}
            return {"case": http.post("/v1/cases", content=film, headers=headers).json()["case"]}

        case = store("p-1")
        for name, more in {
            "raw": {"content": film, "headers": {"content-type": "image/png"}},
            "json": {"json": {"inputs": {"image": base64.b64encode(film).decode()}}},
            "stored": {"json": case},
            "erased": {"json": store("p-2")},
            "refused": {"content": png(noise()), "headers": {"content-type": "image/png"}},
        }.items():
            traces[name] = http.post(address, **more).headers["x-trace-id"]
        traces["explained"] = http.post(address + "?explain=occlusion", json=case).headers["x-trace-id"]
        traces["list"] = http.get("/v1/models").headers["x-trace-id"]
        vault = Vault.open(running.settings)
        vault.erase("default", "p-2")
        vault.close()
        changed = spec(version="1", calibration=Calibration(method="temperature", temperature=2.5, n=200))
        write_package(root / "changed", running.settings, changed)
    return root / "home", root, traces


def _replay(capsys, asked, trace, *argv, model="one") -> tuple[int, dict]:
    home, root, traces = asked
    told = [traces.get(trace, trace), "--models", root / model, "--home", home, *argv]
    status = run(["replay", *map(str, told), "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("trace", ["stored", "explained", "raw", "json"])
def test_the_same_is_found_to_be_the_same(capsys, asked, trace):
    film = () if trace in ("stored", "explained") else ("--input", asked[1] / "film.png")
    status, told = _replay(capsys, asked, trace, *film)
    assert status == 0 and told["same_input"] and told["same_digest"] and told["same_numbers"]
    assert told["largest_difference"] == (None if film else 0.0) and told["trace"] == asked[2][trace]
    event = [event for _, event in Ledger.open(Settings(home=asked[0])).read()][-1]
    assert (event.action, event.purpose) == ("audit.read" if film else "cases.read", "audit")


@pytest.mark.parametrize("trace", ["stored", "raw"])
def test_another_model_is_said(capsys, asked, trace):
    """Version 2 gives the same numbers and is another model; other temperatures give other numbers."""
    film = () if trace == "stored" else ("--input", asked[1] / "film.png")
    status, told = _replay(capsys, asked, trace, *film, model="two")
    assert (status, told["same_digest"], told["same_numbers"]) == (1, False, True)
    status, told = _replay(capsys, asked, trace, *film, model="changed")
    assert (status, told["same_digest"], told["same_numbers"]) == (1, False, False)


def test_another_file_is_said(capsys, asked, tmp_path):
    """One byte at its end, which no reader looks at."""
    (tmp_path / "film.png").write_bytes((asked[1] / "film.png").read_bytes() + b"\0")
    status, told = _replay(capsys, asked, "raw", "--input", tmp_path / "film.png")
    assert (status, told["same_input"], told["same_numbers"]) == (1, False, False)


@pytest.mark.parametrize(
    ("trace", "code"),
    [("raw", "input-missing"), ("refused", "trace-not-answered"), ("list", "trace-not-answered"),
     ("0" * 32, "unknown-trace"), ("erased", "erased")],
)  # fmt: skip
def test_what_cannot_be_run_again_has_a_code(capsys, asked, trace, code):
    status, told = _replay(capsys, asked, trace)
    assert (status, told["error"]["code"]) == (2, code)


def test_a_batch_says_that_its_inputs_are_gone(capsys, asked):
    Ledger.open(Settings(home=asked[0])).write(
        [Event(action="batches.predict", outcome="allow", trace="b-1", status=200, answer="vault:x", input="vault:y")]
    )
    status, told = _replay(capsys, asked, "b-1")
    assert (status, told["error"]["code"]) == (2, "trace-is-a-batch")


def test_without_a_flag_a_person_reads_it(capsys, asked):
    home, root, traces = asked
    assert run(["replay", traces["stored"], "--models", str(root / "one"), "--home", str(home)]) == 0
    assert "the same answer" in capsys.readouterr().out
