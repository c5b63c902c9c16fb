"""The master key: made once, kept private, never silently replaced."""

import os

import pytest

from medserve.errors import MedServeError
from medserve.store.masters import FileSource, PassphraseSource
from medserve.store.rotation import rotate_master
from medserve.store.vault import Vault

CHEAP = {"memory_kib": 64, "passes": 1, "lanes": 1}


def code_of(call) -> str:
    with pytest.raises(MedServeError) as caught:
        call()
    return caught.value.code


def test_the_key_file_is_its_owners_alone(vault, settings):
    """Made on first use with 0600; readable by others, the vault does not open and says the way out."""
    path = settings.home / "keys" / "master-0001.key"
    assert not path.exists()
    ref = vault.put("t", "p", b"data")
    assert path.stat().st_mode & 0o777 == 0o600
    vault.close()
    for mode in (0o640, 0o604, 0o620, 0o606):
        path.chmod(mode)
        with pytest.raises(MedServeError) as caught:
            Vault.open(settings)
        assert caught.value.code == "key-exposed"
        assert f"chmod 600 {path}" in caught.value.hint
    path.chmod(0o600)
    again = Vault.open(settings)
    assert again.get("t", ref.object) == b"data"
    again.close()


def test_a_lost_key_is_not_made_again(vault, settings):
    """Without the file, with another one or half of it: a coded refusal, and nothing is written in its place."""
    vault.put("t", "p", b"data")
    vault.close()
    path = settings.home / "keys" / "master-0001.key"
    key = path.read_bytes()
    path.unlink()
    assert code_of(lambda: Vault.open(settings)) == "key-unreadable"
    assert not path.exists()
    for wrong, code in ((os.urandom(32), "key-wrong"), (key[:31], "key-unreadable"), (key + b"x", "key-unreadable")):
        path.write_bytes(wrong)
        path.chmod(0o600)
        assert code_of(lambda: Vault.open(settings)) == code
    path.write_bytes(key)
    Vault.open(settings).close()


def test_a_passphrase_opens_what_it_closed(settings):
    """The right one opens; another, or none, is told apart from damage; nothing secret is on disk."""
    source = PassphraseSource(["correct horse battery"], **CHEAP)
    vault = Vault.open(settings, [source])
    ref = vault.put("t", "p", b"data")
    vault.close()
    again = Vault.open(settings, [PassphraseSource(["correct horse battery"])])  # the stored cost counts
    assert again.get("t", ref.object) == b"data"
    again.close()
    assert code_of(lambda: Vault.open(settings, [PassphraseSource(["incorrect horse bat"])])) == "key-wrong"
    assert code_of(lambda: Vault.open(settings)) == "key-source"
    assert list((settings.home / "keys").glob("master*")) == []


def test_short_passphrases_are_refused():
    assert code_of(lambda: PassphraseSource(["elevenchars"])) == "passphrase-short"
    PassphraseSource(["twelve chars"])


def test_the_master_key_moves_between_sources(settings):
    """File to passphrase, to another passphrase, and back: all readable, and the old source opens nothing."""
    vault = Vault.open(settings)
    ref = vault.put("t", "p", b"data")
    vault.close()
    moves = [
        ([FileSource(settings), PassphraseSource(["first passphrase"], **CHEAP)], "passphrase"),
        ([PassphraseSource(["first passphrase", "second passphrase"], **CHEAP)], "passphrase"),
        ([PassphraseSource(["second passphrase"]), FileSource(settings)], "file"),
    ]
    for version, (sources, kind) in enumerate(moves, 2):
        vault = Vault.open(settings, sources)
        assert rotate_master(vault, kind).version == version
        assert vault.get("t", ref.object) == b"data"
        assert vault.status()["masters"] == [{"version": version, "source": kind, "keys": 1}]
        vault.close()
        if version == 3:
            assert code_of(lambda: Vault.open(settings, [PassphraseSource(["first passphrase"])])) == "key-wrong"
    assert sorted(p.name for p in (settings.home / "keys").glob("master*")) == ["master-0004.key"]
    vault = Vault.open(settings)
    assert vault.get("t", ref.object) == b"data"
    vault.close()
