"""Entries of any length on disk: what goes in comes out, memory stays small, and a full disk has a code."""

import errno
import os
import stat
import tracemalloc

import numpy as np
import pytest

from medserve.data import blobs as module
from medserve.data.blobs import HELD, Blobs
from medserve.errors import Fault
from medserve.types import Event, Wave

ENTRIES = [
    {"age": 63.5, "sex": "F", "note": None, "ward": "Ü-1 急诊"},
    [[0.5, "HR", 88.0, "/min", None]],
    b"\x00\xff" * 1000,
    {},
    None,
    0,
    "x" * 70_000,
]


@pytest.fixture(params=["named", "unnamed"])
def blobs(request, tmp_path) -> Blobs:
    return Blobs(tmp_path / "values.blobs" if request.param == "named" else None)


def test_what_goes_in_comes_out(blobs):
    """By index, in any order, between the writing of others, and again."""
    for number, entry in enumerate(ENTRIES):
        assert blobs.add(entry) == number and len(blobs) == number + 1
        assert blobs.get(number) == entry
    order = [5, 0, 6, 6, 2]
    assert list(blobs.each(order)) == [ENTRIES[i] for i in order]
    assert list(blobs.each(np.array(order))) == [ENTRIES[i] for i in order]
    with pytest.raises(IndexError):
        blobs.get(len(ENTRIES))
    blobs.close()
    blobs.close()


def test_events_and_waves_keep_every_bit(blobs):
    """A time, a missing value, a sample that is NaN."""
    wave = Wave.of(np.array([[0.1, np.nan, -3e-7]], np.float32), ["II"], 250.0)
    index = blobs.add({"stay": [Event(1 / 3, "HR", None, None, "high")], "ecg": wave})
    stored = blobs.get(index)
    assert stored["stay"] == [[1 / 3, "HR", None, None, "high"]] and stored["ecg"][2] == wave.data


def test_entries_stand_on_disk_for_their_owner_alone(tmp_path):
    """0600; an unnamed file has no name that another could open."""
    named = Blobs(tmp_path / "values.blobs")
    named.add("first")
    assert stat.S_IMODE((tmp_path / "values.blobs").stat().st_mode) == 0o600
    assert named.get(0) == "first" and (tmp_path / "values.blobs").stat().st_size > 0
    unnamed = Blobs()
    status = os.fstat(unnamed._fd)
    assert status.st_nlink == 0 and stat.S_IMODE(status.st_mode) == 0o600


def test_memory_does_not_grow_with_the_entries(tmp_path):
    """64 MB of entries, of which memory holds what waits to be written and an index."""
    blobs, entry = Blobs(tmp_path / "values.blobs"), b"x" * 2**16
    tracemalloc.start()
    try:
        for _ in range(1024):
            blobs.add(entry)
        assert sum(len(e) for e in blobs.each(range(1024))) == 1024 * 2**16
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * HELD, peak


def test_a_disk_that_takes_a_little_at_a_time_takes_all(tmp_path, monkeypatch):
    """The system may write fewer bytes than it was given."""
    write = os.pwrite
    monkeypatch.setattr(module.os, "pwrite", lambda fd, data, at: write(fd, data[:997], at))
    blobs = Blobs(tmp_path / "values.blobs")
    for entry in ENTRIES:
        blobs.add(entry)
    assert list(blobs.each(range(len(ENTRIES)))) == ENTRIES


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "disk-full"), (errno.EIO, "file-unwritable")])
def test_a_full_disk_has_a_code_and_loses_nothing(tmp_path, monkeypatch, number, code):
    """The Fault names the file and the next step; with space again, all that was added is there."""
    blobs = Blobs(tmp_path / "values.blobs")
    blobs.add(ENTRIES[0])
    assert blobs.get(0) == ENTRIES[0]
    write, calls = os.pwrite, []

    def pwrite(fd: int, data: bytes, at: int) -> int:
        calls.append(at)
        if len(calls) > 1:
            raise OSError(number, os.strerror(number))
        return write(fd, data[:100], at)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "pwrite", pwrite)
        blobs.add(ENTRIES[6])
        with pytest.raises(Fault) as caught:
            blobs.get(1)
        assert caught.value.code == code and "values.blobs" in caught.value.message and caught.value.hint
        with pytest.raises(Fault):
            for _ in range(1 + HELD // 60_000):
                blobs.add(ENTRIES[6])
    assert blobs.get(0) == ENTRIES[0] and all(blobs.get(i) == ENTRIES[6] for i in range(1, len(blobs)))


def test_no_place_to_write_has_a_code(tmp_path):
    with pytest.raises(Fault) as caught:
        Blobs(tmp_path / "nowhere" / "values.blobs")
    assert caught.value.code == "file-unwritable" and "values.blobs" in caught.value.message


def test_a_file_that_was_cut_is_noticed(tmp_path):
    """Not half an entry, and not another's."""
    blobs = Blobs(tmp_path / "values.blobs")
    for entry in ("first", "second"):
        blobs.add(entry)
    assert blobs.get(1) == "second"
    os.truncate(tmp_path / "values.blobs", 8)
    assert blobs.get(0) == "first"
    with pytest.raises(Fault) as caught:
        blobs.get(1)
    assert caught.value.code == "blobs-truncated"
