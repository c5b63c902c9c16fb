"""Files decoded in sandboxed workers: the same values, and a worker that may do nothing else."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from PIL import Image

from medserve.data import sandbox
from medserve.data.readers import iter_pictures
from medserve.data.readers.outside import goes_outside, read_outside
from medserve.data.readers.waves import read_wave
from medserve.data.sandbox import Crew, bubblewrap_works
from medserve.errors import MedServeError, Refusal, Usage

WALLS = ["limits", pytest.param("bubblewrap", marks=pytest.mark.skipif(not bubblewrap_works(), reason="no bwrap here"))]
FILES = list((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))
COMPRESSED = sorted({f.name: f for f in FILES if goes_outside("application/dicom", f.read_bytes()[:1024])}.values())


@pytest.fixture(scope="module", params=WALLS)
def crew(request):
    with Crew(1, walls=request.param) as crew:
        yield crew


def _told(data):
    """Values and words of the first picture, or the code of the refusal."""
    try:
        found = next(iter_pictures(data, name="x"))
    except MedServeError as error:
        return type(error), error.code, error.message
    facts = found.shown, found.modality, found.unit, found.spacing_mm, found.frame, found.frames, found.patient
    return found.values.dtype, found.values.shape, found.values.tobytes(), dict(found.header), facts


def test_a_worker_reads_what_this_process_reads(crew):
    some = [path.read_bytes() for path in COMPRESSED[::4]]
    some += [data[: len(data) // 2] for data in some]
    here = [_told(data) for data in some]
    with read_outside(crew):
        there = [_told(data) for data in some]
    assert here == there
    assert sum(len(one) == 5 for one in here) > 5 and sum(len(one) == 3 for one in here) > 5


def test_a_waveform_is_read_outside_too(crew):
    rows = "\n".join(f"{np.sin(i / 9):.4f},{np.cos(i / 9):.4f}" for i in range(400)).encode()
    here = _wave(b"hz,100\n" + rows), _wave(rows), _wave(b"\x00no wave")
    with read_outside(crew):
        assert (_wave(b"hz,100\n" + rows), _wave(rows), _wave(b"\x00no wave")) == here


def _wave(data):
    try:
        found = read_wave(data, name="x")
    except MedServeError as error:
        return error.code, error.message
    return found.leads, found.hz, found.data, found.unit


def test_small_decoders_stay_in_the_process():
    def head(kind):
        return (b"\0" * 128 + b"DICM" + b"\x02\x00\x10\x00UI" + len(kind).to_bytes(2, "little") + kind).ljust(
            1024, b"\0"
        )

    assert not goes_outside("image/png", b"") and not goes_outside("image/jpeg", b"")
    assert not goes_outside("application/dicom", head(b"1.2.840.10008.1.2.1\0"))
    for syntax in (b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.5\0", b"", b"1.2"):
        assert goes_outside("application/dicom", head(syntax)), syntax
    assert goes_outside("image/tiff", b"") and goes_outside("application/x-nifti", b"")


def _tiff(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "TIFF", compression="tiff_deflate")
    return out.getvalue()


def test_a_file_that_takes_too_long_is_given_up_and_the_next_is_read(crew):
    slow, quick = _tiff(np.zeros((5000, 5000), np.uint16)), _tiff(np.arange(64, dtype=np.uint8).reshape(8, 8))
    with read_outside(crew):
        assert next(iter_pictures(slow)).values.shape == (5000, 5000)
        crew.seconds = 0.01
        began = time.monotonic()
        with pytest.raises(Refusal) as refused:
            next(iter_pictures(slow))
        assert refused.value.code == "decode-time" and time.monotonic() - began < 2
        crew.seconds = 5.0
        assert next(iter_pictures(quick)).values.shape == (8, 8)


def test_a_worker_that_dies_is_a_refusal_and_a_new_one_reads_on(crew):
    """Killed while it decodes, as a broken codec would be."""
    slow, quick = _tiff(np.zeros((5000, 5000), np.uint16)), _tiff(np.arange(64, dtype=np.uint8).reshape(8, 8))
    crew.warm()
    worker = crew._idle.queue[-1]
    killer = threading.Timer(0.05, os.killpg, (worker._process.pid, signal.SIGSEGV))
    killer.start()
    with read_outside(crew):
        with pytest.raises(Refusal) as refused:
            for _ in range(20):
                next(iter_pictures(slow))
        assert refused.value.code == "decode-crashed"
        assert next(iter_pictures(quick)).values.shape == (8, 8)
    killer.join()


def _compressed_wfdb(folder):
    """A record that only the wfdb library reads, zipped."""
    wfdb = pytest.importorskip("wfdb")
    values = np.stack([np.sin(np.arange(500) / 9), np.cos(np.arange(500) / 9)], axis=1)
    wfdb.wrsamp("r", fs=250, units=["mV", "mV"], sig_name=["I", "II"], p_signal=values, fmt=["516", "516"],
                write_dir=str(folder))  # fmt: skip
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    return out.getvalue()


def test_a_library_that_wants_a_folder_has_one_in_memory_or_says_so(crew, tmp_path):
    data = _compressed_wfdb(tmp_path)
    here = read_wave(data, name="x")
    with read_outside(crew):
        if crew.walls == "bubblewrap":
            assert read_wave(data, name="x") == here
        else:
            with pytest.raises(Refusal) as refused:
                read_wave(data, name="x")
            assert refused.value.code == "codec-missing"


@pytest.mark.parametrize("walls", WALLS)
def test_memory_has_an_end(walls):
    """The same file with and without the room for it."""
    large = _tiff(np.zeros((5600, 5600), np.float32))
    with Crew(1, walls=walls, memory_bytes=240 * 2**20) as narrow, read_outside(narrow):
        with pytest.raises(Refusal) as refused:
            next(iter_pictures(large))
        assert refused.value.code == "decode-memory"
        assert next(iter_pictures(_tiff(np.eye(9, dtype=np.uint8)))).values.shape == (9, 9)
    with Crew(1, walls=walls) as wide, read_outside(wide):
        assert next(iter_pictures(large)).values.shape == (5600, 5600)


PROBE = """
import os, socket
from medserve.data.sandbox import _worker
_worker._limit(2**31, 0)
def tried(do):
    try:
        do()
    except OSError:
        return "denied"
    return "done"
print(tried(lambda: open({secret!r}).read()), tried(lambda: socket.create_connection(("127.0.0.1", {port}), 2)),
      tried(lambda: open({new!r}, "w").write("x" * 9)), sorted(set(os.environ) - {{"PATH", "PWD", "LC_CTYPE"}}))
"""


@pytest.mark.skipif(not bubblewrap_works(), reason="no bwrap here")
def test_behind_walls_there_is_no_file_no_network_and_nothing_to_write(tmp_path):
    """The same words within and without."""
    secret, new = tmp_path / "secret", tmp_path / "new"
    secret.write_text("s")
    with socket.create_server(("127.0.0.1", 0)) as door:
        code = PROBE.format(secret=str(secret), port=door.getsockname()[1], new=str(new))
        inside = [*sandbox._walls(), sys.executable, "-I", "-c", code]
        assert subprocess.run(inside, capture_output=True, text=True, timeout=60).stdout.split()[:3] == ["denied"] * 3
        outside = [sys.executable, "-I", "-c", code.replace("_worker._limit(2**31, 0)", "")]
        assert subprocess.run(outside, capture_output=True, text=True, timeout=60).stdout.split()[:3] == ["done"] * 3
    assert new.read_text() == "x" * 9


def test_a_worker_knows_nothing_of_the_environment(monkeypatch):
    monkeypatch.setenv("MEDSERVE_SECRET", "s")
    with Crew(1, walls="limits") as crew:
        crew.warm()
        environ = Path(f"/proc/{crew._idle.queue[-1]._process.pid}/environ").read_bytes()
    assert b"PATH" in environ and b"MEDSERVE_SECRET" not in environ


def test_walls_that_are_not_there_are_said_so(monkeypatch):
    monkeypatch.setattr(sandbox, "_bwrap", lambda: None)
    with pytest.raises(Usage) as refused:
        Crew(walls="bubblewrap")
    assert refused.value.code == "bubblewrap-missing"
    assert Crew(1).walls == "limits"


def test_what_a_taken_over_worker_says_is_not_believed():
    said = {"dtype": "<u2", "shape": (2, 2), "shown": (0, 1), "modality": None, "unit": None, "spacing_mm": None,
            "frame": None, "frames": 1, "header": {}, "patient": None}  # fmt: skip
    good = sandbox._picture_of(sandbox.Told(said=said), bytearray(8))
    assert good.values.shape == (2, 2)
    for lie in ({"dtype": "O"}, {"shape": (2, 3)}, {"shape": (-1, 4)}, {"shape": ()}, {"shown": (1,)}, {"header": 3},
                {"dtype": "U9"}, {"shape": "ab"}):  # fmt: skip
        with pytest.raises(Refusal):
            sandbox._picture_of(sandbox.Told(said=said | lie), bytearray(8))
