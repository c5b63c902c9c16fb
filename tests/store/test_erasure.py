"""Erasing a patient: his key leaves the disk, the others keep theirs, a receipt stays."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from medserve.errors import Fault, Gone, NotFound
from medserve.settings import Settings
from medserve.store import erasure
from medserve.store.erasure import holds
from medserve.store.rotation import rotate_tenant
from medserve.store.vault import Vault


def wrapped_keys(settings: Settings) -> dict[str, bytes]:
    db = sqlite3.connect(settings.home / "medserve.db")
    found = dict(db.execute("SELECT id, wrapped FROM vault_keys WHERE kind='patient'"))
    db.close()
    return found


def anywhere(home: Path, sought: bytes) -> list[str]:
    return [path.name for path in home.rglob("*") if path.is_file() and holds(path, sought)]


def test_an_erased_patient_is_gone_and_the_others_are_not(vault, settings):
    """Raw bytes of the wrapped key: on disk before (so the search can find), nowhere after; another's stay."""
    refs = [vault.put("t", "p", b"his"), vault.put("t", "p", bytes(200_000))]
    (his,) = wrapped_keys(settings).values()
    other = vault.put("t", "q", b"hers")
    elsewhere = vault.put("u", "p", b"another tenant's patient")
    assert anywhere(settings.home, his)

    receipt = vault.erase("t", "p")

    assert (receipt.tenant, receipt.objects, len(receipt.name)) == ("t", 2, 64)
    assert anywhere(settings.home, his) == []
    for ref in refs:
        with pytest.raises(Gone) as caught:
            vault.get("t", ref.object)
        assert caught.value.code == "erased"
        assert not vault.files.path(f"{ref.object}.1").exists()
    assert vault.get("t", other.object) == b"hers"
    assert vault.get("u", elsewhere.object) == b"another tenant's patient"
    left = [key for key in wrapped_keys(settings).values() if any(key)]
    assert len(left) == 2 and all(anywhere(settings.home, key) for key in left)


def test_a_copy_of_the_disk_with_the_master_key_opens_nothing(vault, settings, tmp_path):
    """Even with the erased object's file put back: its key is nowhere."""
    ref = vault.put("t", "p", b"his")
    path = vault.files.path(f"{ref.object}.1")
    sealed = path.read_bytes()
    vault.erase("t", "p")
    path.write_bytes(sealed)
    vault.close()
    shutil.copytree(settings.home, tmp_path / "copy")
    copy = Vault.open(Settings(home=tmp_path / "copy"))
    with pytest.raises(Gone):
        copy.get("t", ref.object)
    rows = copy.engine.connect().exec_driver_sql("SELECT wrapped FROM vault_keys WHERE kind='patient'")
    assert [any(row.wrapped) for row in rows] == [False]
    copy.close()


def test_no_old_wrapping_stays_in_the_slack_of_the_file(vault, settings):
    """300 patients, rotated twice, half of them erased: no wrapped key that was replaced is found anywhere."""
    for i in range(300):
        vault.patient_key("t", f"p{i}", make=True)
    seen = [wrapped_keys(settings)]
    for _ in range(2):
        rotate_tenant(vault, "t", batch=37)
        seen.append(wrapped_keys(settings))
    raw = (settings.home / "medserve.db").read_bytes() + (settings.home / "medserve.db-wal").read_bytes()
    assert all(key in raw for key in seen[2].values())
    assert not [key for old in seen[:2] for key in old.values() if key in raw]
    for i in range(0, 300, 20):
        vault.erase("t", f"p{i}")
    gone = {id for id, key in wrapped_keys(settings).items() if not any(key)}
    raw = (settings.home / "medserve.db").read_bytes()
    assert len(gone) == 15
    assert {id for id, key in seen[2].items() if key not in raw} == gone


def test_a_receipt_says_what_was_done_once(vault):
    """The second time answers "erased"; a stranger was never here."""
    vault.put("t", "p", b"his")
    receipt = vault.erase("t", "p")
    with pytest.raises(Gone, match="already") as caught:
        vault.erase("t", "p")
    assert receipt.id in caught.value.hint
    for tenant, patient in (("t", "q"), ("u", "p")):
        with pytest.raises(NotFound) as missing:
            vault.erase(tenant, patient)
        assert missing.value.code == "unknown-patient"
        assert patient not in missing.value.message.split("'")
    status = vault.status()
    assert (status["erased"], status["erasures_unfinished"], status["patients"]) == (1, 0, 0)


def test_who_comes_back_gets_a_new_key(vault):
    old = vault.put("t", "p", b"old")
    first = vault.erase("t", "p")
    new = vault.put("t", "p", b"new")
    assert vault.get("t", new.object) == b"new"
    with pytest.raises(Gone):
        vault.get("t", old.object)
    second = vault.erase("t", "p")
    assert (first.name, first.key == second.key) == (second.name, False)


def test_an_interrupted_erasure_is_finished_at_the_next_start(vault, settings, monkeypatch):
    """The machine stops after the first commit: erased already; the next start removes the files and the log."""
    ref = vault.put("t", "p", b"his")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(erasure, "_finish", stop)
        vault.erase("t", "p")
    with pytest.raises(Gone):
        vault.get("t", ref.object)
    assert vault.status()["erasures_unfinished"] == 1
    assert vault.files.path(f"{ref.object}.1").exists()
    again = Vault.open(settings)
    assert again.status()["erasures_unfinished"] == 0
    assert not again.files.path(f"{ref.object}.1").exists()
    again.close()


def test_a_reader_that_holds_the_log_is_named(vault, monkeypatch):
    """Somebody reads an older state: the key is destroyed, the call says that it is not finished, and repeating it
    finishes."""
    ref = vault.put("t", "p", b"his")
    monkeypatch.setattr(erasure, "PATIENCE_S", 0.1)
    reader = sqlite3.connect(vault.engine.url.database, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM vault_keys").fetchone()
    vault.engine.dispose()

    def short(connection, _record):
        connection.execute("PRAGMA busy_timeout=50")

    import sqlalchemy as sa

    sa.event.listen(vault.engine, "connect", short)
    with pytest.raises(Fault) as caught:
        vault.erase("t", "p")
    assert caught.value.code == "erase-unfinished"
    with pytest.raises(Gone):
        vault.get("t", ref.object)
    reader.execute("COMMIT")
    reader.close()
    assert vault.erase("t", "p").objects == 1
    assert vault.status()["erasures_unfinished"] == 0


def test_the_search_finds_bytes_across_blocks(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(95) + b"needle" + bytes(95))
    assert holds(path, b"needle", block=97) and holds(path, b"needle", block=100)
    assert not holds(path, b"needles", block=97)
    assert not holds(tmp_path / "none", b"x")
