"""A backup made while others write comes back whole, and whoever was erased stays erased."""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from throwaway_postgres import new_database

from medserve.access.audit import Event, Ledger
from medserve.access.keys import KeyRing
from medserve.errors import BadData, Fault, Gone, MedServeError, NotFound, Usage
from medserve.settings import Settings
from medserve.store.backup import MANIFEST, make_backup, own_signer, verify_backup
from medserve.store.restore import restore_backup
from medserve.store.rotation import rotate_master, rotate_tenant
from medserve.store.sealed import seal, unseal
from medserve.store.segments import SMALLEST
from medserve.store.vault import Vault

WORDS = "correct horse battery staple"


@pytest.fixture(params=["sqlite", "postgresql"])
def stored(request, tmp_path) -> Iterator[tuple[Settings, Settings]]:
    """A home, and a place for the restored one, over each of the two stores."""
    if request.param == "sqlite":
        yield Settings(home=tmp_path / "home"), Settings(home=tmp_path / "new")
        return
    with new_database() as url, new_database() as other:
        yield Settings(home=tmp_path / "home", database=url), Settings(home=tmp_path / "new", database=other)


@pytest.fixture
def kept(tmp_path) -> Iterator[tuple[Settings, Path]]:
    """A home with three objects, a policy and a package's file, and its backup."""
    settings = Settings(home=tmp_path / "home")
    vault, ledger = Vault.open(settings, segment_bytes=SMALLEST), Ledger.open(settings)
    for name in "abc":
        vault.put("t", name, name.encode() * 100_000)
    (settings.folder("packages/t") / "model.json").write_text("{}")
    (settings.home / "policy.yaml").write_text("version: 1\nroles: {}\n")
    ledger.write([Event(action="a", outcome="allow")])
    make_backup(settings, tmp_path / "backup", passphrase=WORDS, still=ledger.still)
    ledger.close()
    vault.close()
    yield settings, tmp_path / "backup"


def test_what_was_acknowledged_before_a_backup_is_in_it(stored, tmp_path):
    """Six threads store, write the log, rotate and erase while it is made; the restored home holds everything that was
    acknowledged before it began, nothing half, and its log goes on."""
    settings, new = stored
    vault = Vault.open(settings, segment_bytes=SMALLEST)
    ring = KeyRing.open(settings)
    made: list[tuple[str, str, bytes, float]] = []
    keys: list[tuple[str, float]] = []
    events: list[tuple[str, float]] = []
    erased: set[str] = set()
    faults: list[Exception] = []
    stop = threading.Event()

    def going(work) -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                work(number)
        except Exception as error:
            faults.append(error)

    def driven_out(work) -> None:
        try:
            work()
        except Fault as fault:  # the backup's reader holds the old pages: finished at the next start
            assert fault.code == "erase-unfinished"

    def put(who: str):
        def work(number: int) -> None:
            data = f"{who} {number} ".encode() * (1 + number % 50 * 100)
            ref = vault.put("t", f"{who}-{number}", data)
            made.append((f"{who}-{number}", ref.object, data, time.monotonic()))

        return work

    def key(number: int) -> None:
        keys.append((ring.create(f"key {number}").key, time.monotonic()))
        time.sleep(0.01)

    ledger = Ledger.open(settings)

    def write(number: int) -> None:
        ledger.write([Event(action="a", outcome="allow", trace=f"trace-{number}")])
        events.append((f"trace-{number}", time.monotonic()))

    def erase(number: int) -> None:
        if len(made) > 5 * number:
            patient = made[5 * number - 1][0]
            driven_out(lambda: vault.erase("t", patient))
            erased.add(patient)
        time.sleep(0.03)

    def rotate(number: int) -> None:
        driven_out(lambda: rotate_tenant(vault, "t", batch=20))
        driven_out(lambda: rotate_master(vault))
        time.sleep(0.1)

    vault.put("t", "first", b"x")
    threads = [threading.Thread(target=going, args=(w,)) for w in (put("x"), put("y"), key, write, erase, rotate)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    latest = time.monotonic() + 30
    while min(len(made) / 10, len(keys) / 3, len(events) / 10) < 1.5 and not faults and time.monotonic() < latest:
        time.sleep(0.05)  # a busy machine writes slowly
    began, gone_before = time.monotonic(), set(erased)
    checked = make_backup(settings, tmp_path / "backup", passphrase=WORDS, still=ledger.still)
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    vault.close()
    ring.close()
    ledger.close()
    assert checked.manifest.missing == 0
    done = restore_backup(tmp_path / "backup", new, passphrase=WORDS)
    vault, ledger, ring = Vault.open(new), Ledger.open(new), KeyRing.open(new)
    before = [one for one in made if one[3] < began]
    assert len(before) >= 10 and len(keys) >= 3 and len(events) >= 10
    for patient, object, data, _ in before:
        try:
            assert vault.get("t", object) == data
        except Gone:
            assert patient in erased
    for patient, object, data, at in made:
        if patient in gone_before:
            with pytest.raises(Gone):
                vault.get("t", object)
        elif at >= began:
            with suppress(NotFound, Gone):  # written or erased after the instant
                assert vault.get("t", object) == data
    for key_text, at in keys:
        if at < began:
            ring.verify(key_text)
    traces = {event.trace for _, event in ledger.read()}
    assert {trace for trace, at in events if at < began} <= traces
    assert ledger.verify().sound
    ledger.write([Event(action="a", outcome="allow")])
    assert ledger.verify().sound and done.checked.known
    files = {path.name for path in vault.files.folder.rglob("*") if path.is_file()}
    status = vault.status()
    assert len(files) == status["objects"] and status["erasures_unfinished"] == 0
    vault.close()
    ring.close()
    ledger.close()


def test_a_patient_who_is_erased_while_the_copy_is_made_is_gone_in_the_restored_home(tmp_path):
    """His object is no longer on disk when it is to be copied; its twin, removed at that moment, is unknown."""
    settings, new = Settings(home=tmp_path / "home"), Settings(home=tmp_path / "new")
    vault, ledger = Vault.open(settings, segment_bytes=SMALLEST), Ledger.open(settings)
    refs = {name: vault.put("t", name, name.encode() * 1000).object for name in "abcd"}
    seen = []

    def progress(place: str) -> None:
        if not seen:
            vault.erase("t", "c")
            vault.remove("t", refs["d"])
        seen.append(place)

    checked = make_backup(settings, tmp_path / "backup", passphrase=WORDS, still=ledger.still, progress=progress)
    assert checked.manifest.missing == 0 and {name for name, _ in checked.manifest.removed} == {refs["c"], refs["d"]}
    ledger.close()
    vault.close()
    restore_backup(tmp_path / "backup", new, passphrase=WORDS)
    vault = Vault.open(new)
    assert vault.get("t", refs["a"]) == b"a" * 1000
    with pytest.raises(Gone):
        vault.get("t", refs["c"])
    with pytest.raises(NotFound):
        vault.get("t", refs["d"])
    vault.close()


def test_a_patient_who_was_erased_after_the_backup_stays_erased(kept, tmp_path):
    """The mirror on another disk was told; the twin without a mirror shows what would be back."""
    settings, backup = kept
    mirrored = Settings(home=settings.home, audit_mirror=tmp_path / "heads.jsonl")
    vault = Vault.open(mirrored)
    objects = {name: ref for name, ref in zip("abc", _objects(vault), strict=True)}
    vault.erase("t", "b")
    vault.close()
    told = (tmp_path / "heads.jsonl").read_text()
    assert '"erased"' in told and '"b"' not in told
    done = restore_backup(backup, Settings(home=tmp_path / "new"), passphrase=WORDS, mirror=tmp_path / "heads.jsonl")
    twin = restore_backup(backup, Settings(home=tmp_path / "twin"), passphrase=WORDS)
    assert (done.erased, twin.erased) == (1, 0)
    new, back = Vault.open(Settings(home=tmp_path / "new")), Vault.open(Settings(home=tmp_path / "twin"))
    assert back.get("t", objects["b"]) == b"b" * 100_000
    with pytest.raises(Gone):
        new.get("t", objects["b"])
    assert new.get("t", objects["a"]) == b"a" * 100_000
    assert new.status()["erased"] == 1 and not new.files.path(f"{objects['b']}.1").exists()
    with pytest.raises(Gone) as caught:
        new.erase("t", "b")  # the receipt is known under his blind index
    assert caught.value.code == "erased"
    new.close()
    back.close()


def test_a_mirror_that_was_not_told_is_told_at_the_next_start(kept, tmp_path):
    """Erased by a command that knew of no mirror: the service that does tells it, once."""
    settings, _ = kept
    vault = Vault.open(settings)
    vault.erase("t", "a")
    vault.close()
    mirrored = Settings(home=settings.home, audit_mirror=tmp_path / "heads.jsonl")
    for _ in range(2):
        Vault.open(mirrored).close()
    assert len((tmp_path / "heads.jsonl").read_text().splitlines()) == 1


def test_no_key_and_no_plain_object_stands_in_a_backup(kept):
    settings, backup = kept
    keys = [path.read_bytes() for path in (settings.home / "keys").iterdir() if path.suffix in (".key", ".state")]
    blobs = [path.read_bytes() for path in backup.rglob("*") if path.is_file()]
    assert len(keys) >= 3
    assert not any(key in blob for key in keys for blob in blobs)
    assert not any(b"a" * 64 in blob for blob in blobs)
    assert all(path.stat().st_mode & 0o077 == 0 for path in [backup, *backup.glob("*.*")])


CHANGES = {
    "object": (lambda b: _flip(next((b / "objects").rglob("*.1"))), "backup-altered"),
    "database": (lambda b: _flip(b / "database.sqlite", 5000), "backup-altered"),
    "keys": (lambda b: _flip(b / "keys.sealed", -10), ("backup-altered", "keys-sealed")),
    "package": (lambda b: (b / "home/packages/t/model.json").write_text("[]"), "backup-altered"),
    "missing": (lambda b: (b / "home/policy.yaml").unlink(), "backup-incomplete"),
    "extra": (lambda b: (b / "home/policy2.yaml").write_text(""), "backup-extra"),
    "link": (lambda b: _relink(b / "home/policy.yaml"), "backup-incomplete"),
    "manifest": (lambda b: _flip(b / MANIFEST, 60), ("backup-signature", "backup-unreadable")),
    "no manifest": (lambda b: (b / MANIFEST).unlink(), "backup-unreadable"),
    "signature": (lambda b: _flip(b / "manifest.sig"), "backup-signature"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_of_a_backup_shows(kept, tmp_path, what):
    """And nothing of it is restored; unchanged, it is."""
    _, backup = kept
    change, codes = CHANGES[what]
    verify_backup(backup, passphrase=WORDS)
    change(backup)
    for passphrase in (WORDS, None):
        with pytest.raises(BadData) as caught:
            verify_backup(backup, passphrase=passphrase)
        assert caught.value.code in codes
    with pytest.raises(MedServeError):
        restore_backup(backup, Settings(home=tmp_path / "new"), passphrase=WORDS)
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*"))


def test_a_forged_backup_is_told_from_a_true_one(kept, tmp_path):
    """Somebody else signs altered data with a key of his own: the passphrase, or the noted key, tells."""
    settings, backup = kept
    other = Settings(home=tmp_path / "other")
    ledger = Ledger.open(other)
    make_backup(other, tmp_path / "forged", passphrase="another passphrase", still=ledger.still)
    ledger.close()
    shutil.copy(backup / "keys.sealed", tmp_path / "forged" / "keys.sealed")
    with pytest.raises(BadData):
        verify_backup(tmp_path / "forged", passphrase=WORDS)
    with pytest.raises(BadData) as caught:
        verify_backup(tmp_path / "forged", signer=own_signer(settings))
    assert caught.value.code == "backup-signer"
    assert not verify_backup(backup).known and verify_backup(backup, signer=own_signer(settings)).known


def test_nothing_is_overwritten(kept, stored, tmp_path):
    settings, backup = kept
    with pytest.raises(Usage) as caught:
        restore_backup(backup, settings, passphrase=WORDS)
    assert caught.value.code == "restore-not-empty"
    _, new = stored
    if new.database:
        with pytest.raises(Usage) as caught:
            restore_backup(backup, new, passphrase=WORDS)
        assert caught.value.code == "restore-store"
    ledger = Ledger.open(settings)
    for out, code in ((backup, "out-exists"), (settings.home / "backup", "backup-inside")):
        with pytest.raises(Usage) as caught:
            make_backup(settings, out, passphrase=WORDS, still=ledger.still)
        assert caught.value.code == code
    ledger.close()


def test_a_database_with_tables_is_not_restored_into(tmp_path):
    with new_database() as url:
        settings = Settings(home=tmp_path / "home", database=url)
        ledger = Ledger.open(settings)
        make_backup(settings, tmp_path / "backup", passphrase=WORDS, still=ledger.still)
        with pytest.raises(Usage) as caught:
            restore_backup(tmp_path / "backup", Settings(home=tmp_path / "new", database=url), passphrase=WORDS)
        assert caught.value.code == "restore-not-empty" and not (tmp_path / "new").exists()
        assert ledger.verify().sound
        ledger.close()


def test_without_keys_they_come_from_where_they_are_kept(kept, tmp_path):
    settings, _ = kept
    ledger = Ledger.open(settings)
    make_backup(settings, tmp_path / "bare", passphrase=None, still=ledger.still)
    ledger.close()
    shutil.copytree(settings.home / "keys", tmp_path / "apart")
    assert not (tmp_path / "bare" / "keys.sealed").exists()
    with pytest.raises(Usage) as caught:
        restore_backup(tmp_path / "bare", Settings(home=tmp_path / "new"))
    assert caught.value.code == "restore-keys"
    restore_backup(tmp_path / "bare", Settings(home=tmp_path / "new"), keys=tmp_path / "apart")
    new = Settings(home=tmp_path / "new")
    assert Ledger.open(new).verify().sound
    assert (new.home / "policy.yaml").read_text() == (settings.home / "policy.yaml").read_text()
    vault = Vault.open(new)
    assert {vault.get("t", object)[:1] for object in _objects(vault)} == {b"a", b"b", b"c"}
    vault.close()


def test_keys_open_with_their_passphrase_alone(tmp_path):
    seal(tmp_path / "sealed", {"one.key": b"\x00\xff", "two": b""}, WORDS)
    assert unseal(tmp_path / "sealed", WORDS) == {"one.key": b"\x00\xff", "two": b""}
    said = json.loads((tmp_path / "sealed").read_text())
    for change in ({"memory_kib": 8}, {"salt": "00" * 16}, {"passes": 10**9}, {"sealed": said["sealed"][:-4] + "AAAA"}):
        (tmp_path / "bad").write_text(json.dumps(said | change))
        with pytest.raises(BadData):
            unseal(tmp_path / "bad", WORDS)
    with pytest.raises(BadData):
        unseal(tmp_path / "sealed", WORDS + " ")
    with pytest.raises(Usage):
        seal(tmp_path / "x", {}, "too short")


def _objects(vault: Vault) -> list[str]:
    with vault.engine.connect() as db:
        return list(db.exec_driver_sql("SELECT object FROM vault_objects ORDER BY serial").scalars())


def _flip(path: Path, at: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _relink(path: Path) -> None:
    shutil.copy(path, path.parents[2] / "elsewhere")
    path.unlink()
    os.symlink(path.parents[2] / "elsewhere", path)
