"""Who may ask: keys are made once, stored as keyed hashes, and end at once."""

import os
import sqlite3
import subprocess
import sys
import time

import pytest

from medserve.access import keys as module
from medserve.access.keys import KeyRing, load_pepper, new_key, well_formed
from medserve.errors import Denied, Fault, NotFound, Usage


@pytest.fixture
def ring(settings):
    ring = KeyRing.open(settings)
    yield ring
    ring.close()


def denied(ring: KeyRing, key: str) -> str:
    with pytest.raises(Denied) as caught:
        ring.verify(key)
    assert key not in str(caught.value) or not key
    return caught.value.code


def test_a_key_opens_the_door_and_nothing_near_it_does(ring):
    """The made key is known; a missing, mistyped, foreign or truncated one is refused with its own code."""
    new = ring.create("ward 7")
    assert ring.verify(new.key).id == new.row.id
    assert denied(ring, "") == "key-missing"
    for wrong in (new.key[:-1], new.key + "0", new.key.swapcase(), "msk_", "x" * 53, "msk_" + "é" * 49, new_key()):
        assert denied(ring, wrong) == "key-invalid"


def test_a_mistyped_key_never_reaches_the_database(ring, monkeypatch):
    """The checksum catches every single changed character."""
    key = new_key()
    monkeypatch.setattr(ring, "_read", lambda digest: pytest.fail("the database was asked"))
    for at in range(len(key)):
        other = "A" if key[at] != "A" else "B"
        wrong = key[:at] + other + key[at + 1 :]
        assert not well_formed(wrong)
        assert denied(ring, wrong) == "key-invalid"


def test_keys_are_random_and_keep_their_form():
    """256 bits in 53 characters: 2,000 keys, all different, all well formed."""
    made = {new_key() for _ in range(2000)}
    assert len(made) == 2000
    assert all(well_formed(key) and len(key) == 53 for key in made)


def test_the_home_folder_never_holds_the_key(ring, settings):
    """Neither the database (with its log) nor any other file under home contains the key or its secret part."""
    new = ring.create("ward 7")
    ring.verify(new.key)
    files = [path for path in settings.home.rglob("*") if path.is_file()]
    assert any(path.name == "medserve.db" for path in files)
    for path in files:
        assert new.key[4:40].encode() not in path.read_bytes()


def test_the_database_alone_opens_nothing(ring, settings, tmp_path):
    """The same stored hashes under another pepper know no key."""
    new = ring.create("ward 7")
    other = KeyRing(ring._engine, b"x" * 32, ring._ledger, ring._policy)
    assert denied(other, new.key) == "key-invalid"


def test_revocation_by_another_process_takes_effect_within_a_second(ring, settings):
    """A running server has the key in its cache; the command line revokes it; one second later it is refused."""
    new = ring.create("ward 7")
    ring.verify(new.key)
    other = KeyRing.open(settings)
    other.revoke(new.row.id)
    other.close()
    time.sleep(1.0)
    assert denied(ring, new.key) == "key-revoked"
    assert [row.state(time.time()) for row in ring.rows()] == ["revoked"]
    assert ring.active() == []


def test_revocation_here_is_immediate(ring):
    """The same key ring forgets its cache."""
    new = ring.create("ward 7")
    ring.verify(new.key)
    ring.revoke(new.row.id)
    assert denied(ring, new.key) == "key-revoked"


def test_a_key_expires_also_while_it_is_cached(ring, monkeypatch):
    """The clock is asked at every request, not only when the row is read."""
    new = ring.create("ward 7", days=1)
    ring.verify(new.key)
    later = time.time() + 86401
    monkeypatch.setattr(module.time, "time", lambda: later)
    assert denied(ring, new.key) == "key-expired"


def test_what_cannot_be_a_key_is_refused_at_creation(ring):
    """Names and lifetimes are checked; an unknown id lists what is known."""
    for name in ("", "x" * 65, "tab\tbed"):
        with pytest.raises(Usage, match="1 to 64"):
            ring.create(name)
    for days in (0, -1, 4000, float("nan")):
        with pytest.raises(Usage, match="3650"):
            ring.create("x", days=days)
    with pytest.raises(NotFound, match="No key named 'k-nope'"):
        ring.revoke("k-nope")


def test_a_pepper_that_others_can_read_refuses_to_start(settings):
    """Unsafe settings refuse to start and say how to fix them."""
    load_pepper(settings)
    path = settings.home / "keys" / "api-pepper.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_pepper(settings) == path.read_bytes()
    path.chmod(0o644)
    with pytest.raises(Fault, match="chmod 600") as caught:
        KeyRing.open(settings)
    assert caught.value.code == "key-exposed"
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(Fault, match="32 bytes"):
        KeyRing.open(settings)


def test_two_processes_that_start_at_once_share_one_pepper(settings):
    """The pepper is made whole or not at all; the later one takes the earlier one's."""
    code = (
        "from pathlib import Path; from medserve.settings import Settings\n"
        "from medserve.access.keys import load_pepper\n"
        f"import sys; sys.stdout.write(load_pepper(Settings(home=Path({str(settings.home)!r}))).hex())"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
    found = {process.communicate()[0] for process in running}
    assert len(found) == 1
    assert found == {load_pepper(settings).hex().encode()}
    assert sorted(os.listdir(settings.home / "keys")) == ["api-pepper.key"]


def test_the_stored_hash_is_keyed(ring, settings):
    """HMAC-SHA-256 of the key under the pepper, checked by hand."""
    import hashlib
    import hmac

    new = ring.create("ward 7")
    with sqlite3.connect(settings.home / "medserve.db") as db:
        (stored,) = db.execute("select hash from api_keys").fetchone()
    db.close()
    assert stored == hmac.digest(load_pepper(settings), new.key.encode(), hashlib.sha256)


def test_a_key_in_use_is_read_again_beside_the_requests(ring, monkeypatch):
    """None of them waits for it, one read runs at a time, and a revocation elsewhere is followed as soon as ever."""
    new, reads, read = ring.create("busy"), [], ring._read
    assert ring.held(new.key) is None and ring.verify(new.key)
    monkeypatch.setattr(ring, "_read", lambda digest: (time.sleep(0.05), reads.append(digest), read(digest))[2])
    until = time.monotonic() + 2 * module.FRESH_S
    while time.monotonic() < until:
        assert ring.held(new.key).id == new.row.id
        time.sleep(0.002)
    assert 2 <= len(reads) <= 4
    monkeypatch.undo()
    with ring._engine.begin() as db:
        db.execute(module.api_keys.update().values(revoked_at=time.time()))
    until = time.monotonic() + module.FRESH_S + 0.3
    while ring.held(new.key) is not None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert denied(ring, new.key) == "key-revoked"
