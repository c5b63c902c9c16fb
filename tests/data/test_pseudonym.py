"""Patient keys: the same person meets, nobody can turn them back."""

import pytest

from medserve.data.pseudonym import numbered, pseudonym, pseudonym_key
from medserve.errors import Fault
from medserve.settings import Settings


def test_one_person_has_one_key_per_installation(tmp_path):
    """Equal identifiers meet, others do not; another installation's keys differ; the identifier is not in them."""
    here, there = (pseudonym_key(Settings(home=tmp_path / n)) for n in ("here", "there"))
    assert pseudonym(here, "PAT-12") == pseudonym(here, " PAT-12 ") != pseudonym(here, "PAT-13")
    assert pseudonym(here, "PAT-12") != pseudonym(there, "PAT-12")
    assert "PAT" not in pseudonym(here, "PAT-12")


def test_the_key_is_made_once_and_is_private(tmp_path):
    """The second call reads the first one's key; its file is for the owner alone."""
    settings = Settings(home=tmp_path)
    assert pseudonym_key(settings) == pseudonym_key(settings)
    assert (tmp_path / "keys" / "pseudonym.key").stat().st_mode & 0o777 == 0o600


def test_a_damaged_key_is_not_used(tmp_path):
    """A truncated key is an error, not a weak key."""
    settings = Settings(home=tmp_path)
    pseudonym_key(settings)
    (tmp_path / "keys" / "pseudonym.key").write_bytes(b"short")
    with pytest.raises(Fault) as caught:
        pseudonym_key(settings)
    assert caught.value.code == "key-damaged"


def test_a_known_value():
    """HMAC-SHA256, checked against RFC 4231 arithmetic done by hand with another implementation."""
    import hashlib

    key, text = b"k" * 32, b"patient\0A"
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key.ljust(64, b"\0")) + text).digest()
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in key.ljust(64, b"\0")) + inner).hexdigest()
    assert pseudonym(key, "A") == f"p-{outer[:24]}"


def test_numbers_follow_the_rows_and_not_the_key():
    """Whatever the patients are called, the first one met is 0, the next one 1."""
    people = ["b", "a", "b", "c", "a"]
    for key in (b"here" * 8, b"there" * 7):
        assert numbered([pseudonym(key, who) for who in people]).tolist() == [0, 1, 0, 2, 1]
    assert numbered([]).tolist() == []
