"""`medserve vault`: counts, new keys, erasing."""

import json
from pathlib import Path

import pytest

from medserve.cli import run
from medserve.settings import Settings
from medserve.store.vault import Vault


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDSERVE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def call(capsys, *argv: object) -> tuple[int, dict]:
    code = run(["vault", *map(str, argv), "--json"])
    return code, json.loads(capsys.readouterr().out)


def secret(path: Path, text: str) -> Path:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def test_an_empty_vault_says_so_and_makes_no_key(home, capsys):
    code, data = call(capsys, "status")
    assert (code, data["masters"], data["objects"], data["rotation_unfinished"]) == (0, [], 0, False)
    assert not list(home.glob("keys/master*"))
    assert call(capsys, "rotate", "--resume") == (0, {"rotated": []})


def test_keys_turn_and_a_patient_is_erased(home, capsys):
    """status, rotate, erase on one vault; the pseudonym is in no answer."""
    vault = Vault.open(Settings(home=home))
    ref, other = vault.put("ward", "PAT-0012", b"x" * 10), vault.put("icu", "PAT-0013", b"y")
    code, data = call(capsys, "rotate")
    assert code == 0
    assert [(r["what"], r["version"], r["keys"]) for r in data["rotated"]] == [
        ("master", 2, 2), ("icu", 2, 2), ("ward", 2, 2)
    ]  # fmt: skip
    code, data = call(capsys, "rotate", "--tenant", "icu")
    assert [(r["what"], r["version"]) for r in data["rotated"]] == [("icu", 3)]
    assert vault.get("ward", ref.object) == b"x" * 10
    code, data = call(capsys, "erase", "--patient", "PAT-0012", "--tenant", "ward")
    assert (code, data["objects"], data["tenant"]) == (0, 1, "ward")
    assert "PAT-0012" not in json.dumps(data)
    code, data = call(capsys, "status")
    assert (data["patients"], data["objects"], data["bytes"], data["erased"]) == (1, 1, 1, 1)
    assert vault.get("icu", other.object) == b"y"
    vault.close()
    code, data = call(capsys, "erase", "--patient", "PAT-0012", "--tenant", "ward")
    assert (code, data["error"]["code"]) == (2, "erased")
    code, data = call(capsys, "erase", "--patient", "PAT-0099", "--tenant", "ward")
    assert (code, data["error"]["code"]) == (2, "unknown-patient")
    assert "PAT-0099" not in json.dumps(data)


def test_the_master_key_moves_to_a_passphrase(home, capsys, tmp_path):
    """And then nothing opens without it; a file that others can read is refused with the way out."""
    vault = Vault.open(Settings(home=home))
    vault.put("ward", "p", b"x")
    vault.close()
    file = secret(tmp_path / "pass", "six random words of a list")
    code, data = call(capsys, "rotate", "--master", "--new-passphrase-file", file)
    assert (code, data["rotated"][0]["version"]) == (0, 2)
    code, data = call(capsys, "status")
    assert (code, data["error"]["code"]) == (2, "key-source")
    code, data = call(capsys, "status", "--passphrase-file", file)
    assert (code, data["masters"]) == (0, [{"version": 2, "source": "passphrase", "keys": 1}])
    wrong = secret(tmp_path / "wrong", "another passphrase")
    assert call(capsys, "status", "--passphrase-file", wrong)[1]["error"]["code"] == "key-wrong"
    file.chmod(0o644)
    code, data = call(capsys, "status", "--passphrase-file", file)
    assert (data["error"]["code"], data["error"]["hint"]) == ("passphrase-exposed", f"Run: chmod 600 {file}")


@pytest.mark.parametrize(
    "argv", [["--master", "--tenant", "t"], ["--resume", "--master"], ["--resume", "--to", "file"], ["--to", "moon"]]
)
def test_options_that_do_not_fit_are_refused(home, capsys, argv):
    vault = Vault.open(Settings(home=home))
    vault.put("t", "p", b"x")
    vault.close()
    code, data = call(capsys, "rotate", *argv)
    assert (code, data["error"]["kind"]) == (2, "usage")
    assert call(capsys, "status")[1]["masters"][0]["version"] == 1


def test_people_read_tables_and_help(home, capsys):
    vault = Vault.open(Settings(home=home))
    vault.put("ward", "p", b"x")
    vault.close()
    assert run(["vault", "status"]) == 0
    assert "tenant ward" in capsys.readouterr().out
    assert run(["vault", "erase", "--help"]) == 0
    assert "cannot be undone" in " ".join(capsys.readouterr().out.split())
