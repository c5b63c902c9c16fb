"""New keys while others read and write; a crash in between loses nothing."""

import threading

import pytest

from medserve.errors import NotFound
from medserve.store import rotation
from medserve.store.rotation import finish, rotate_master, rotate_tenant
from medserve.store.vault import Vault


def test_everything_is_readable_after_both_rotations(vault, settings):
    """One version of each stays, nothing stands under an old one, and a new process reads all."""
    refs = {vault.put("t", f"p{i}", str(i).encode()).object: str(i).encode() for i in range(12)}
    column = vault.fields("t", "a.b")
    sealed, index = column.seal("x"), column.index("x")
    other = vault.put("u", "p", b"other").object
    assert rotate_tenant(vault, "t", batch=5).keys == 14  # 12 patients, index, fields
    assert rotate_master(vault).keys == 2  # two tenants
    status = vault.status()
    assert status["masters"] == [{"version": 2, "source": "file", "keys": 2}]
    assert [t["versions"] for t in status["tenants"]] == [[{"version": 2, "keys": 14}], [{"version": 1, "keys": 2}]]
    assert [p.name for p in (settings.home / "keys").glob("master*")] == ["master-0002.key"]
    vault.close()
    again = Vault.open(settings)
    assert all(again.get("t", id) == data for id, data in refs.items())
    assert again.get("u", other) == b"other"
    assert again.fields("t", "a.b").open(sealed) == "x"
    assert again.fields("t", "a.b").index("x") == index
    again.close()


@pytest.mark.parametrize("turn", [rotate_master, lambda vault, **kw: rotate_tenant(vault, "t", **kw)])
def test_an_interrupted_rotation_goes_on(vault, settings, turn, monkeypatch):
    """It stops after the second batch: all readable, new patients under the new key; `finish` ends it and makes no
    third version."""
    for tenant in ("t", "u", "v", "w"):
        for i in range(4):
            vault.put(tenant, f"p{i}", b"data")
    with vault.engine.connect() as db:
        refs = [(row.tenant, row.object) for row in db.exec_driver_sql("SELECT * FROM vault_objects")]

    def stop(done):
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        turn(vault, batch=1, progress=stop)
    vault.close()
    again = Vault.open(settings)
    refs.append(("t", again.put("t", "new", b"data").object))
    assert again.status()["rotation_unfinished"]
    assert all(again.get(tenant, object) == b"data" for tenant, object in refs)
    (done,) = finish(again)
    assert done.version == 2
    assert finish(again) == []
    assert not again.status()["rotation_unfinished"]
    assert all(again.get(tenant, object) == b"data" for tenant, object in refs)
    again.close()


def test_readers_and_writers_go_on(vault, settings):
    """Other vaults, as other processes have them, read and write through ten rotations without one error."""
    refs = [vault.put("t", f"p{i}", b"data").object for i in range(20)]
    stop, errors, reads, writes = threading.Event(), [], [], []

    def read() -> None:
        try:
            while not stop.is_set():
                fresh = Vault.open(settings)  # nothing remembered: the hardest case
                for object in refs[:5]:
                    assert fresh.get("t", object) == b"data"
                    reads.append(object)
                fresh.close()
        except Exception as error:
            errors.append(error)

    def write() -> None:
        mine = Vault.open(settings)
        try:
            while not stop.is_set():
                writes.append(mine.put("t", f"n{len(writes)}", b"new").object)
        except Exception as error:
            errors.append(error)
        mine.close()

    threads = [threading.Thread(target=read), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        rotate_tenant(vault, "t", batch=3)
        rotate_master(vault)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert reads and writes
    assert all(vault.get("t", object) == b"new" for object in writes)
    assert len(vault.status()["masters"]) == 1


def test_a_version_in_use_is_never_retired(vault):
    """The guard itself: a master key that wraps something is not given up."""
    vault.put("t", "p", b"data")
    with rotation.writing(vault.engine) as db, pytest.raises(AssertionError):
        vault.keys.masters.retire(db, vault.keys.masters.live(db)[0].id)


def test_what_is_not_there_is_not_rotated(vault):
    with pytest.raises(NotFound):
        rotate_master(vault)
    with pytest.raises(NotFound):
        rotate_tenant(vault, "nobody")
    assert finish(vault) == []
