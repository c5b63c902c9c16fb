"""A thief who can write: every exchange and every changed bit is refused, its benign twin is accepted."""

import os
import random
import shutil
import sqlite3

import pytest

from medserve.errors import MedServeError
from medserve.store.segments import SMALLEST
from medserve.store.vault import Vault
from medserve.store.wrap import TAG_BYTES

REFUSED = {"object-damaged", "key-damaged"}


class Thief:
    """Changes rows and files behind the vault's back, and puts them back."""

    def __init__(self, vault, settings):
        self.vault, self.settings = vault, settings
        self.db = sqlite3.connect(settings.home / "medserve.db", isolation_level=None)
        self.db.execute("PRAGMA synchronous=OFF")
        self.refs = [
            (tenant, vault.put(tenant, patient, os.urandom(size)))
            for tenant in ("t", "u")
            for patient in ("p", "q")
            for size in (40, 40, 2 * SMALLEST)
        ]
        tenant, first = self.refs[0]
        self.refs.append((tenant, vault.put(tenant, "p", os.urandom(40), object=first.object)))
        self.plain = {ref: vault.get(tenant, ref.object, ref.version) for tenant, ref in self.refs}

    def reads(self, index: int) -> bool:
        """True: the right bytes. An error with an expected code: False. Anything else fails."""
        tenant, ref = self.refs[index]
        try:
            data = self.vault.get(tenant, ref.object, ref.version)
        except MedServeError as error:
            assert error.code in REFUSED
            return False
        assert data == self.plain[ref]
        return True

    def file(self, index: int):
        ref = self.refs[index][1]
        return self.vault.files.path(f"{ref.object}.{ref.version}")

    def serial(self, index: int) -> int:
        ref = self.refs[index][1]
        (found,) = self.db.execute(
            "SELECT serial FROM vault_objects WHERE object=? AND version=?", (ref.object, ref.version)
        ).fetchone()
        return found

    def swap_cells(self, table: str, columns: tuple[str, ...], a: int, b: int) -> None:
        rows = [
            self.db.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE serial=?", (s,)).fetchone() for s in (a, b)
        ]
        for serial, row in ((a, rows[1]), (b, rows[0])):
            self.db.execute(f"UPDATE {table} SET {', '.join(c + '=?' for c in columns)} WHERE serial=?", (*row, serial))


@pytest.fixture
def thief(vault, settings):
    thief = Thief(vault, settings)
    yield thief
    thief.db.close()


def swap_files(thief, a, b):
    one, other = thief.file(a), thief.file(b)
    spare = one.with_name("spare")
    shutil.move(one, spare)
    shutil.move(other, one)
    shutil.move(spare, other)


def test_a_thousand_exchanges_are_refused(thief):
    """Files, object keys, both together, owners and patients' keys, between any two objects, patients, tenants and
    versions; put back, both read again."""
    rng = random.Random(5)
    count = len(thief.refs)
    keys = [row[0] for row in thief.db.execute("SELECT serial FROM vault_keys WHERE kind='patient'")]
    assert len(keys) == 4

    def exchange(kind, a, b, pair):
        if kind in ("file", "both"):
            swap_files(thief, a, b)
        if kind in ("key", "both"):
            thief.swap_cells("vault_objects", ("wrapped", "size"), thief.serial(a), thief.serial(b))
        if kind == "patient key":
            thief.swap_cells("vault_keys", ("wrapped",), *pair)
        if kind == "owner":
            thief.swap_cells("vault_objects", ("patient",), thief.serial(a), thief.serial(b))

    done = 0
    while done < 1000:
        kind = rng.choice(["file", "key", "both", "patient key", "owner"])
        a, b = rng.sample(range(count), 2)
        pair = rng.sample(keys, 2)
        if kind == "owner":
            owners = [
                thief.db.execute("SELECT patient FROM vault_objects WHERE serial=?", (thief.serial(i),)).fetchone()
                for i in (a, b)
            ]
            if owners[0] == owners[1]:
                continue
        if kind == "patient key":  # look at an object of each of the two
            names = [thief.db.execute("SELECT id FROM vault_keys WHERE serial=?", (s,)).fetchone()[0] for s in pair]
            a, b = (
                next(i for i in range(count) if thief.db.execute(
                    "SELECT 1 FROM vault_objects WHERE serial=? AND patient=?", (thief.serial(i), name)).fetchone())
                for name in names
            )  # fmt: skip
        exchange(kind, a, b, pair)
        assert not thief.reads(a) and not thief.reads(b), kind
        exchange(kind, a, b, pair)
        assert thief.reads(a) and thief.reads(b), kind
        done += 1


def test_a_thousand_flipped_bits_are_refused(thief):
    """Anywhere in a file, an object's key, a patient's key, or the row's own words; flipped back, it reads."""
    rng = random.Random(6)
    for _ in range(1000):
        index = rng.randrange(len(thief.refs))
        where = rng.choice(["file", "file", "vault_objects", "vault_keys"])
        if where == "file":
            path = thief.file(index)
            bit = rng.randrange(path.stat().st_size * 8)

            def flip(path=path, bit=bit):
                with open(path, "r+b") as file:
                    file.seek(bit // 8)
                    (value,) = file.read(1)
                    file.seek(bit // 8)
                    file.write(bytes([value ^ 1 << bit % 8]))
        else:
            serial = thief.serial(index)
            if where == "vault_keys":
                (serial,) = thief.db.execute(
                    "SELECT serial FROM vault_keys WHERE id=(SELECT patient FROM vault_objects WHERE serial=?)",
                    (serial,),
                ).fetchone()
            bit = rng.randrange(60 * 8)

            def flip(where=where, serial=serial, bit=bit):
                (cell,) = thief.db.execute(f"SELECT wrapped FROM {where} WHERE serial=?", (serial,)).fetchone()
                changed = bytearray(cell)
                changed[bit // 8] ^= 1 << bit % 8
                thief.db.execute(f"UPDATE {where} SET wrapped=? WHERE serial=?", (bytes(changed), serial))

        flip()
        assert not thief.reads(index), where
        flip()
        assert thief.reads(index), where


def test_a_row_says_nothing_that_is_not_bound(thief):
    """Another tenant, version, size, segment length or creator's words in a row: nothing opens."""
    serial = thief.serial(0)
    tenant, ref = thief.refs[0]
    for column, value in (("size", 39), ("size", 41), ("segment_bytes", 2 * SMALLEST), ("version", 7), ("tenant", "u")):
        (was,) = thief.db.execute(f"SELECT {column} FROM vault_objects WHERE serial=?", (serial,)).fetchone()
        thief.db.execute(f"UPDATE vault_objects SET {column}=? WHERE serial=?", (value, serial))
        version = 7 if column == "version" else ref.version
        with pytest.raises(MedServeError) as caught:
            thief.vault.get("u" if column == "tenant" else tenant, ref.object, version)
        assert caught.value.code in REFUSED
        thief.db.execute(f"UPDATE vault_objects SET {column}=? WHERE serial=?", (was, serial))
        assert thief.reads(0)


def test_a_file_cut_between_segments_gives_nothing(thief):
    """Three segments cut to two, with the row's size made to fit: refused before the first byte, since the size is
    bound to the object's key; the first two segments alone would have passed as a beginning."""
    data = os.urandom(3 * SMALLEST)
    ref = thief.vault.put("t", "p", data)
    serial = thief.db.execute("SELECT serial FROM vault_objects WHERE object=?", (ref.object,)).fetchone()[0]
    assert b"".join(thief.vault.read("t", ref.object)) == data
    with open(thief.vault.files.path(f"{ref.object}.1"), "r+b") as file:
        file.truncate(2 * (SMALLEST + TAG_BYTES))
    got = []
    for size in (3 * SMALLEST, 2 * SMALLEST):
        thief.db.execute("UPDATE vault_objects SET size=? WHERE serial=?", (size, serial))
        with pytest.raises(MedServeError) as caught:
            for part in thief.vault.read("t", ref.object):
                got.append(part)
        assert caught.value.code == "object-damaged"
    assert got == []


def test_nothing_new_is_written_under_an_exchanged_key(thief):
    """Two patients' wrapped keys exchanged, or a tenant's two lasting keys: writing and searching stop, too. Else one
    patient's new data would hang on the other's key and outlive his erasure."""
    rows = thief.db.execute("SELECT serial FROM vault_keys WHERE tenant='t' AND kind='patient'").fetchall()
    (one,), (other,) = rows
    thief.vault.fields("t", "a.b").seal("x")
    lasting = [
        thief.db.execute("SELECT serial FROM vault_keys WHERE tenant='t' AND kind=?", (kind,)).fetchone()[0]
        for kind in ("index", "fields")
    ]
    for pair in ((one, other), lasting):
        thief.swap_cells("vault_keys", ("wrapped",), *pair)
        fresh = Vault.open(thief.settings)
        with pytest.raises(MedServeError) as caught:
            fresh.put("t", "p", b"new")
        assert caught.value.code == "key-damaged"
        fresh.close()
        thief.swap_cells("vault_keys", ("wrapped",), *pair)
    fresh = Vault.open(thief.settings)
    fresh.put("t", "p", b"new")
    fresh.close()


def test_a_missing_file_is_a_damaged_object(thief):
    thief.file(1).unlink()
    assert not thief.reads(1)
    assert thief.reads(0)
