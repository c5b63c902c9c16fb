"""The vault: what goes in comes out, for the right tenant, and only then."""

import os
import threading

import pytest

from medserve.errors import Fault, Gone, NotFound, Usage
from medserve.settings import Settings
from medserve.store import fields, segments, wrap
from medserve.store.segments import SMALLEST
from medserve.store.vault import Vault


@pytest.mark.parametrize("size", [0, 1, SMALLEST - 1, SMALLEST, SMALLEST + 1, 3 * SMALLEST, 3 * SMALLEST + 5])
def test_what_is_stored_is_read(vault, size):
    """Every size, also after the vault was closed and opened."""
    data = os.urandom(size)
    ref = vault.put("t", "p", data)
    assert ref.size == size
    assert vault.get("t", ref.object) == data == b"".join(vault.read("t", ref.object))


def test_versions_stand_side_by_side(vault, settings):
    """The newest is read unless one is named; a new process finds them."""
    first = vault.put("t", "p", b"one")
    second = vault.put("t", "p", b"two", object=first.object)
    assert (second.object, second.version) == (first.object, 2)
    vault.close()
    again = Vault.open(settings)
    assert again.get("t", first.object) == b"two"
    assert again.get("t", first.object, 1) == b"one"
    with pytest.raises(NotFound):
        again.get("t", first.object, 3)
    again.close()


def test_another_tenant_finds_nothing(vault):
    """A foreign object and one that never was answer alike."""
    ref = vault.put("t", "p", b"data")
    vault.put("u", "p", b"data")
    answers = []
    for id in (ref.object, "0" * 32):
        with pytest.raises(NotFound) as caught:
            vault.get("u", id)
        answers.append(str(caught.value).replace(id, "ID"))
    assert answers[0] == answers[1]
    with pytest.raises(NotFound):
        vault.put("u", "p", b"next", object=ref.object)


def test_an_object_keeps_its_patient(vault):
    """A version for somebody else is refused: it would outlive the erasure of the first."""
    ref = vault.put("t", "p", b"data")
    with pytest.raises(Usage) as caught:
        vault.put("t", "q", b"data", object=ref.object)
    assert caught.value.code == "object-patient"


def test_a_write_that_fails_leaves_nothing(vault, settings):
    """No row, no file, no second name."""
    before = sorted(settings.home.joinpath("objects").rglob("*"))
    with pytest.raises(RuntimeError), vault.write("t", "p") as out:
        out.write(bytes(200_000))
        raise RuntimeError
    assert vault.status()["objects"] == 0
    assert sorted(settings.home.joinpath("objects").rglob("*")) == before


def test_a_disk_that_cannot_flush_is_not_trusted(vault, monkeypatch):
    """EIO at fsync: a coded error, nothing visible; the same write passes when the disk is well."""

    def broken(_handle):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(Fault) as caught:
            vault.put("t", "p", b"data")
    assert caught.value.code == "file-unwritable"
    assert vault.status()["objects"] == 0
    assert vault.get("t", vault.put("t", "p", b"data").object) == b"data"


def test_memory_does_not_grow_with_the_object(vault):
    """A stream of 8 MiB is written and read holding a few segments."""
    import tracemalloc

    chunk = os.urandom(SMALLEST)
    vault.put("t", "p", b"warm")
    tracemalloc.start()
    with vault.write("t", "p") as out:
        for _ in range(128):
            out.write(chunk)
    total = sum(len(part) for part in vault.read("t", out.ref.object))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 128 * SMALLEST
    assert peak < 12 * SMALLEST


def test_long_objects_are_streamed(vault):
    """`get` has a cap."""
    ref = vault.put("t", "p", b"x" * 100)
    assert len(vault.get("t", ref.object, max_bytes=100)) == 100
    with pytest.raises(Usage) as caught:
        vault.get("t", ref.object, max_bytes=99)
    assert caught.value.code == "object-long"


def test_a_removed_object_is_gone_and_its_neighbour_stays(vault):
    ref, other = vault.put("t", "p", b"data"), vault.put("t", "p", b"other")
    vault.remove("t", ref.object)
    assert not vault.files.path(f"{ref.object}.1").exists()
    for call in (vault.get, vault.remove):
        with pytest.raises(NotFound):
            call("t", ref.object)
    assert vault.get("t", other.object) == b"other"


@pytest.mark.parametrize("tenant", ["", "../x", "a b", "-a", "a" * 65, "ä"])
def test_odd_tenants_are_refused(vault, tenant):
    with pytest.raises(Usage) as caught:
        vault.put(tenant, "p", b"")
    assert caught.value.code == "bad-tenant"


def test_no_key_and_nonce_meet_twice(vault, monkeypatch):
    """Over segments, wrapped keys and fields: every encryption has a pair of key and nonce of its own."""
    pairs: list[tuple[bytes, bytes]] = []

    class Recording:
        def __init__(self, key):
            self.key, self.real = bytes(key), real(key)
            self.decrypt = self.real.decrypt

        def encrypt(self, nonce, data, bound):
            pairs.append((self.key, bytes(nonce)))
            return self.real.encrypt(nonce, data, bound)

    real = wrap.AESGCM
    for module in (wrap, segments, fields):
        monkeypatch.setattr(module, "AESGCM", Recording)
    for i in range(30):
        ref = vault.put("t", f"p{i % 3}", bytes(SMALLEST * (i % 4)))
        vault.put("t", f"p{i % 3}", bytes(SMALLEST * (i % 4)), object=ref.object)
    column = vault.fields("t", "a.b")
    assert len({column.seal("same") for _ in range(50)}) == 50
    assert len(pairs) > 200
    assert len(set(pairs)) == len(pairs)


def test_many_writers_at_once(vault):
    """Threads that meet on first use agree on one key of each kind, and all objects open."""
    refs, errors = [], []

    def work(number: int) -> None:
        try:
            for i in range(5):
                refs.append((number, i, vault.put("t", f"p{i}", f"{number} {i}".encode())))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(vault.get("t", ref.object) == f"{n} {i}".encode() for n, i, ref in refs)
    status = vault.status()
    assert (status["patients"], status["objects"], len(status["masters"])) == (5, 20, 1)


class TestFields:
    def test_text_comes_back_and_can_be_searched(self, vault):
        """Equal texts meet in the index, whatever their Unicode form; the stored bytes differ every time."""
        column = vault.fields("t", "people.name")
        assert column.open(column.seal("Zoë 王小明")) == "Zoë 王小明"
        assert column.seal("a") != column.seal("a")
        assert column.index("Zoë") == column.index(" Zoe\u0308 ") == vault.fields("t", "people.name").index("Zoë")
        assert column.index("Zoe") != column.index("Zoë")

    def test_a_value_stays_in_its_place(self, vault):
        """Another tenant, column or patient neither opens it nor shares an index."""
        here = vault.fields("t", "people.name", patient="p")
        sealed = here.seal("Muster")
        assert here.open(sealed) == "Muster"
        others = [
            vault.fields("t", "people.name"),
            vault.fields("t", "people.name", patient="q"),
            vault.fields("t", "people.town", patient="p"),
            vault.fields("u", "people.name", patient="p"),
        ]
        for other in others:
            with pytest.raises(Fault) as caught:
                other.open(sealed)
            assert caught.value.code == "field-damaged"
        assert here.index("Muster") == others[0].index("Muster")
        assert len({here.index("Muster"), others[2].index("Muster"), others[3].index("Muster")}) == 3

    def test_lengths_show_in_steps_only(self, vault):
        column = vault.fields("t", "a.b")
        assert len(column.seal("Li")) == len(column.seal("Featherstonehaugh"))

    def test_every_bit_counts(self, vault):
        column = vault.fields("t", "a.b")
        sealed = column.seal("x")
        for at in range(len(sealed) * 8):
            changed = bytearray(sealed)
            changed[at // 8] ^= 1 << at % 8
            with pytest.raises(Fault):
                column.open(bytes(changed))
        for end in range(len(sealed)):
            with pytest.raises(Fault):
                column.open(sealed[:end])
        assert column.open(sealed) == "x"

    def test_a_patients_fields_die_with_him(self, vault):
        """After the erasure a new key is made, which opens nothing old."""
        sealed = vault.fields("t", "a.b", patient="p").seal("x")
        vault.erase("t", "p")
        with pytest.raises(Fault):
            vault.fields("t", "a.b", patient="p").open(sealed)

    def test_long_texts_are_refused(self, vault):
        column = vault.fields("t", "a.b")
        assert column.open(column.seal("x" * 4096)) == "x" * 4096
        with pytest.raises(Usage):
            column.seal("x" * 4097)


def test_an_erasure_during_a_write_wins(vault):
    """The patient is erased while a stream of his comes in: nothing of it is kept."""
    vault.put("t", "p", b"before")
    with pytest.raises(Gone) as caught, vault.write("t", "p") as out:
        out.write(b"during")
        vault.erase("t", "p")
    assert caught.value.code == "erased"
    assert vault.status()["objects"] == 0
    assert not [path for path in vault.files.folder.rglob("*") if path.is_file()]


def test_segments_have_sane_sizes(tmp_path):
    with pytest.raises(Usage):
        Vault.open(Settings(home=tmp_path), segment_bytes=1000)
