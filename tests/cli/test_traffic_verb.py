"""`medserve traffic` shows and changes what a running service does; one JSON object, coded errors."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_package import live_server

from medserve.access.keys import KeyRing
from medserve.cli import run


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Versions 1 and 2 of `tiny`; its address, and a file with an approver's key."""
    root = tmp_path_factory.mktemp("traffic")
    with live_server(root) as running:
        ring = KeyRing.open(running.settings)
        file = root / "key"
        file.write_text(ring.create("d", role="ml-engineer", duties=["approver"]).key + "\n")
        ring.close()
        yield running.url, file


def asked(capsys, service, *words, status=0):
    url, file = service
    assert run(["traffic", "tiny", "--url", url, "--key-file", str(file), "--json", *words]) == status
    return json.loads(capsys.readouterr().out)


def test_shares_are_set_shown_and_rolled_back(capsys, service):
    assert asked(capsys, service)["versions"] == {"2": 100}
    page = asked(capsys, service, "--set", "1=90", "2=10")
    assert (page["versions"], page["before"]["versions"]) == ({"1": 90, "2": 10}, {"2": 100})
    assert asked(capsys, service, "--set", "1=100", "--shadow", "2")["shadow"] == ["2"]
    assert asked(capsys, service, "--rollback")["versions"] == {"1": 90, "2": 10}
    assert run(["traffic", "tiny", "--url", service[0], "--key-file", str(service[1])]) == 0
    shown = capsys.readouterr().out
    assert "90 %" in shown and "answered" in shown


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--set", "1=90"), "traffic-invalid"),
        (("--set", "1"), "traffic-invalid"),
        (("--set", "1=50", "1=50"), "traffic-invalid"),
        (("--set", "9=100"), "unknown-version"),
        (("--shadow", "1"), "traffic-invalid"),
        (("--rollback", "--withdraw", "1"), "traffic-twice"),
        (("--key-file", "/nowhere"), "key-file"),
    ],
)
def test_what_makes_no_sense_is_told(capsys, service, words, code):
    url, file = service
    more = () if "--key-file" in words else ("--key-file", str(file))
    assert run(["traffic", "tiny", "--url", url, "--json", *words, *more]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_a_withdrawn_version_is_not_shown(capsys, service):
    assert "2" not in asked(capsys, service, "--withdraw", "2")["answered"]
