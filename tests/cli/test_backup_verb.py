"""`medserve backup` and `medserve restore` from the command line, as an operator types them."""

import json

import pytest

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing
from medserve.cli import run
from medserve.settings import Settings


def _said(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_a_home_goes_through_a_backup(tmp_path, capsys):
    settings = Settings(home=tmp_path / "home")
    ring = KeyRing.open(settings)
    key = ring.create("ward").key
    ring.close()
    words, home = tmp_path / "words", ["--home", str(settings.home)]
    words.write_text("correct horse battery staple\n")
    words.chmod(0o600)
    sealed = ["--passphrase-file", str(words), "--json"]
    backup = str(tmp_path / "monday")
    assert run(["backup", backup, *sealed, *home]) == 0
    signer = _said(capsys)["signer"]
    assert run(["backup", "verify", backup, *home, "--json"]) == 0
    assert _said(capsys)["signer_known"] is True
    assert run(["backup", "verify", backup, "--home", str(tmp_path / "none"), "--json"]) == 0
    assert _said(capsys)["signer_known"] is False
    assert run(["restore", backup, "--home", str(tmp_path / "new"), *sealed, "--signer", signer]) == 0
    said = _said(capsys)
    assert (said["audit"]["sound"], said["opened"], said["missing"]) == (True, 0, 0)
    assert run(["restore", backup, "--home", str(tmp_path / "new"), *sealed]) == 2
    assert _said(capsys)["error"]["code"] == "restore-not-empty"
    new = Settings(home=tmp_path / "new")
    ring = KeyRing.open(new)
    assert ring.verify(key).name == "ward"
    ring.close()
    ledger = Ledger.open(new)
    assert [event.action for _, event in ledger.read()] == ["keys.manage", "state.restore"]
    ledger.close()


@pytest.mark.parametrize("how", [[], ["--without-keys", "--passphrase-file", "words"]])
def test_what_becomes_of_the_keys_is_said(tmp_path, capsys, how):
    """No default leaves keys out, or takes them along, silently."""
    assert run(["backup", str(tmp_path / "b"), "--home", str(tmp_path / "home"), "--json", *how]) == 2
    assert _said(capsys)["error"]["code"] == "backup-keys"
