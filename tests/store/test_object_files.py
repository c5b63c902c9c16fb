"""What writers that died leave behind, at each point at which they may die."""

import os

from medserve.store.object_files import Incoming
from medserve.store.vault import Vault


def on_disk(vault: Vault) -> list[str]:
    return sorted(path.name for path in vault.files.folder.rglob("*") if path.is_file())


def die(file: Incoming) -> None:
    """The kernel closes the files of a dead process, which lets its lock go; nothing else happens."""
    os.close(file._handle)


def test_a_writer_that_died_before_its_row_leaves_nothing(vault, settings):
    """Half written, or whole and under its name: without a row both are swept."""
    kept = vault.put("t", "p", b"kept")
    half, whole = vault.files.incoming("aa11.1"), vault.files.incoming("bb22.1")
    half.write(b"half")
    whole.write(b"whole")
    whole.publish()
    die(half)
    die(whole)
    assert len(on_disk(vault)) == 4
    again = Vault.open(settings)
    assert on_disk(again) == [f"{kept.object}.1"]
    assert again.get("t", kept.object) == b"kept"
    again.close()


def test_a_writer_that_died_after_its_row_keeps_the_object(vault, settings, monkeypatch):
    """Committed, but the second name still there: only that name goes."""
    with monkeypatch.context() as patch:
        patch.setattr(Incoming, "settle", die)
        ref = vault.put("t", "p", b"data")
    assert len(on_disk(vault)) == 2
    again = Vault.open(settings)
    assert on_disk(again) == [f"{ref.object}.1"]
    assert again.get("t", ref.object) == b"data"
    again.close()


def test_a_writer_that_lives_is_left_alone(vault, settings):
    """Another process opens the vault while a stream comes in."""
    with vault.write("t", "p") as out:
        out.write(bytes(200_000))
        other = Vault.open(settings)
        assert other.repair() == 0
        other.close()
        out.write(b"end")
    assert vault.get("t", out.ref.object) == bytes(200_000) + b"end"


def test_a_name_that_is_taken_is_not_touched_by_a_dead_second_writer(vault, settings):
    """A second writer of the same version that died before it had the name: the first one's file stays."""
    ref = vault.put("t", "p", b"first")
    second = vault.files.incoming(f"{ref.object}.1")
    second.write(b"second")
    die(second)
    again = Vault.open(settings)
    assert again.get("t", ref.object) == b"first"
    assert on_disk(again) == [f"{ref.object}.1"]
    again.close()


def test_a_name_of_a_writer_that_is_just_committing_is_not_touched(vault, settings):
    """The same, while the first has the name and not yet its row: told apart by the file itself."""
    first, second = vault.files.incoming("cc33.1"), vault.files.incoming("cc33.1")
    first.publish()
    die(second)
    assert vault.repair() == 1
    assert first.final.exists()
    first.discard()
    assert on_disk(vault) == []
