"""Waveform readers: files that libraries wrote, read back in millivolts; whatever is wrong gets a coded refusal."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from medserve.data.readers import waves
from medserve.data.readers.waves import MAX_SAMPLES, lead_name, read_ucr, read_wave, sniff_wave
from medserve.errors import BadData, Refusal

RNG = np.random.default_rng(0)
STRIP = np.cumsum(RNG.normal(0, 0.02, (2, 500)), 1).astype(np.float32)  # mV

CODES = {"wave-unreadable", "wave-truncated", "wave-empty", "wave-too-large", "wave-unit", "wave-flat", "file-missing"}


def wfdb_record(folder: Path, form: str = "16", units=("mV", "mV"), name: str = "r1", values=STRIP) -> Path:
    wfdb = pytest.importorskip("wfdb")
    swapped = {"61": ">i2", "160": "<u2"}.get(form)  # the library reads them and does not write them
    written = "16" if swapped else form
    wfdb.wrsamp(
        name,
        fs=250,
        units=list(units),
        sig_name=["I", "II"],
        p_signal=values.T.astype(float),
        fmt=[written, written],
        write_dir=str(folder),
    )
    header = folder / f"{name}.hea"
    if swapped:
        data = np.fromfile(folder / f"{name}.dat", "<i2").astype(int) + (2**15 if form == "160" else 0)
        data.astype(swapped).tofile(folder / f"{name}.dat")
        header.write_text(header.read_text().replace(".dat 16 ", f".dat {form} "))
    return header


def zipped(folder: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return out.getvalue()


def edf_bytes(*signals) -> bytes:
    edfio = pytest.importorskip("edfio")
    out = io.BytesIO()
    edfio.Edf([edfio.EdfSignal(v, hz, label=n, physical_dimension=u) for n, u, hz, v in signals]).write(out)
    return out.getvalue()


def dicom_bytes() -> bytes:
    return Path(get_testdata_file("waveform_ecg.dcm", download=False)).read_bytes()


@pytest.mark.parametrize("form", ["16", "212", "24", "32", "80", "61", "160"])
def test_a_wfdb_record_reads_as_the_library_reads_it(form, tmp_path):
    """Same numbers as wfdb.rdrecord, for every format that is decoded here."""
    header = wfdb_record(tmp_path, form)
    import wfdb

    wave = read_wave(header)
    expected = wfdb.rdrecord(str(tmp_path / "r1")).p_signal.T
    assert (wave.leads, wave.hz, wave.unit) == (["I", "II"], 250.0, "mV")
    assert np.allclose(wave.values, expected, atol=1e-5)
    assert np.abs(wave.values - STRIP).max() < (0.02 if form == "80" else 1e-3)


def test_a_rarer_wfdb_format_goes_through_the_library(tmp_path):
    """A compressed record and one of two segments are read too."""
    values = read_wave(wfdb_record(tmp_path, "516", name="small")).values
    assert np.abs(values - STRIP).max() < 1e-3
    for path in tmp_path.iterdir():
        path.unlink()
    header = wfdb_record(tmp_path, "16", name="seg1")
    wfdb_record(tmp_path, "16", name="seg2", values=STRIP[:, ::-1])
    (tmp_path / "both.hea").write_text("both/2 2 250 1000\nseg1 500\nseg2 500\n")
    wave = read_wave(tmp_path / "both")
    assert wave.values.shape == (2, 1000)
    assert np.allclose(wave.values[:, :500], read_wave(header).values, atol=1e-5)
    packed = read_wave(zipped(tmp_path), name="both.zip")
    assert np.array_equal(packed.values, wave.values)


def test_a_wfdb_record_in_a_zip_is_the_record_on_disk(tmp_path):
    """HTTP carries header and data together."""
    header = wfdb_record(tmp_path, "212")
    assert np.array_equal(read_wave(zipped(tmp_path)).values, read_wave(header).values)
    assert np.array_equal(read_wave(tmp_path / "r1").values, read_wave(header).values)
    with pytest.raises(Refusal, match="without its data") as caught:
        read_wave(header.read_bytes(), name="r1.hea")
    assert caught.value.hint


@pytest.mark.parametrize("name", ["../secret.dat", "/etc/passwd", "s3://bucket/x.dat", "~"])
def test_a_header_cannot_reach_another_folder(name, tmp_path):
    """Data stand beside their header, by a plain name."""
    (tmp_path / "a").mkdir()
    (tmp_path / "secret.dat").write_bytes(bytes(2000))
    (tmp_path / "a" / "r.hea").write_text(f"r 1 250 500\n{name} 16 200 16 0 0 0 0 I\n")
    with pytest.raises(Refusal) as caught:
        read_wave(tmp_path / "a" / "r.hea")
    assert caught.value.code == "wave-unreadable"


def test_an_altered_record_fails_its_checksum(tmp_path):
    """One changed byte in the data is noticed."""
    header = wfdb_record(tmp_path, "16")
    data = bytearray((tmp_path / "r1.dat").read_bytes())
    data[100] ^= 4
    (tmp_path / "r1.dat").write_bytes(data)
    with pytest.raises(Refusal, match="checksum"):
        read_wave(header)


def test_leads_of_other_units_are_left_out_with_a_note(tmp_path):
    """A pulse is not an ECG; asked for by its unit, it is what is read."""
    header = wfdb_record(tmp_path, units=("uV", "NU"), values=STRIP * 1000)
    notes: list[str] = []
    wave = read_wave(header, notes=notes)
    assert wave.leads == ["I"] and np.allclose(wave.values[0], STRIP[0], atol=1e-3)
    assert notes == ["II is in NU and was left out."]
    assert read_wave(header, unit="NU").leads == ["II"]
    with pytest.raises(Refusal) as caught:
        read_wave(header, unit="mmHg")
    assert caught.value.code == "wave-unit" and "NU, mV" in caught.value.message


def test_edf_and_bdf(tmp_path):
    """Microvolts become mV; leads at a lower rate are brought to the highest."""
    slow = STRIP[1, ::2] * 1000
    notes: list[str] = []
    data = edf_bytes(("ECG I", "uV", 250, STRIP[0] * 1000.0), ("ECG II", "uV", 125, slow.astype(float)))
    wave = read_wave(data, notes=notes)
    assert (wave.leads, wave.hz, wave.unit) == (["I", "II"], 250.0, "mV")
    assert np.abs(wave.values[0] - STRIP[0]).max() < 1e-3
    assert np.corrcoef(wave.values[1], STRIP[1])[0, 1] > 0.99
    assert notes == ["II was resampled from 125 to 250 Hz."]
    edfio = pytest.importorskip("edfio")
    out = io.BytesIO()
    edfio.Bdf([edfio.BdfSignal(STRIP[0].astype(float), 250, label="I", physical_dimension="mV")]).write(out)
    assert np.abs(read_wave(out.getvalue()).values[0] - STRIP[0]).max() < 1e-5


def test_a_dicom_ecg():
    """pydicom's 12-lead file: the rhythm strip, in mV by hand: stored 80 * 1.25 uV = 0.1 mV."""
    wave = read_wave(dicom_bytes())
    assert wave.leads == ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    assert (wave.hz, wave.unit, wave.values.shape) == (1000.0, "mV", (12, 10000))
    assert wave.values[:3, 0] == pytest.approx([0.1, 0.1125, 0.0125])


def test_text_tables():
    """A lead a column; the time column gives the rate; an empty cell is missing, a word is an error."""
    wave = read_wave(b"time (ms),Lead I (uV),avr (uV)\n0,10,20\n4,,30\n8,100,20\n")
    assert (wave.leads, wave.hz, wave.unit) == (["I", "aVR"], 250.0, "mV")
    assert np.isnan(wave.values[0, 1]) and wave.values[1, 1] == pytest.approx(0.03)
    assert read_wave(b"1\t2\t3\n").values.tolist() == [[1, 2, 3]]
    for text in (b"a,b\n1,x\n2,3\n", b"a,b\n1,2\nlead,off\n", b"time,b\n0,2\n3,1\n2,4\n", b"a,b\n1,2\n1\n"):
        with pytest.raises(Refusal):
            read_wave(text)


def test_ucr_rows(tmp_path):
    """Label, then samples; padding at the end is cut off, a gap within stays."""
    path = tmp_path / "x.tsv"
    path.write_text("1\t0.5\tNaN\t2\n-1.0\t3\t4\tNaN\n")
    labels, found = read_ucr(path)
    assert labels == ["1", "-1"] and [w.values.shape for w in found] == [(1, 3), (1, 2)]
    assert found[0].unit == "" and found[0].hz == 0 and np.isnan(found[0].values[0, 1])
    with pytest.raises(BadData, match="row 2"):
        read_ucr(b"1\t2\n1\tx\n")


def test_the_first_bytes_decide(tmp_path):
    """No extension is looked at, and a contradiction is said."""
    header = wfdb_record(tmp_path)
    assert sniff_wave(dicom_bytes()[:1024]) == "application/dicom"
    assert sniff_wave(edf_bytes(("I", "mV", 250, STRIP[0].astype(float)))[:1024]) == "application/edf"
    assert sniff_wave(header.read_bytes()[:1024]) == "text/x-wfdb-header"
    assert sniff_wave(zipped(tmp_path)[:1024]) == "application/zip"
    assert sniff_wave(b"\x89PNG\r\n\x1a\n" + bytes(100)) == sniff_wave(b"") == sniff_wave(b"hello world") == ""
    with pytest.raises(Refusal, match="sent as application/edf"):
        read_wave(dicom_bytes(), media="application/edf")


def test_nothing_to_see():
    """Empty, flat and missing records are refused, each by its code."""
    for data, code in ((b"", "wave-empty"), (b"I,II\n1,2\n1,2\n", "wave-flat"), (b"I,II\n,\n,\n", "wave-empty")):
        with pytest.raises(Refusal) as caught:
            read_wave(data, name="x")
        assert caught.value.code == code and caught.value.message.startswith("x: ")


def test_a_declared_size_is_checked_before_anything_is_read(tmp_path):
    """A header that promises terabytes costs nothing."""
    (tmp_path / "r.hea").write_text(f"r 2 250 {MAX_SAMPLES}\nr.dat 16 200 16 0 0 0 0 I\nr.dat 16 200 16 0 0 0 0 II\n")
    with pytest.raises(Refusal) as caught:
        read_wave(tmp_path / "r")
    assert caught.value.code == "wave-too-large"
    data = bytearray(edf_bytes(("I", "mV", 250, STRIP[0].astype(float))))
    data[236:244] = b"99999999"
    with pytest.raises(Refusal) as caught:
        read_wave(bytes(data))
    assert caught.value.code == "wave-too-large"
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("r.hea", b"r 1 250 10\nr.dat 16\n")
    data = bytearray(bomb.getvalue())
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 2**31)  # the directory's word for the unpacked size
    with pytest.raises(Refusal) as caught:
        read_wave(bytes(data))
    assert caught.value.code == "wave-too-large"


@pytest.mark.parametrize("form", ["edf", "dicom", "zip", "wfdb", "csv"])
def test_damage_is_refused_and_never_a_crash(form, tmp_path):
    """Cut at every sixteenth, and with random bytes: a coded refusal, or a whole finite record; nothing else."""
    if form in ("zip", "wfdb"):
        header = wfdb_record(tmp_path, "212")
        whole = zipped(tmp_path) if form == "zip" else header.read_bytes()
    else:
        csv = "time,I\n" + "".join(f"{i / 250:.3f},{v:.3f}\n" for i, v in enumerate(STRIP[0]))
        made = {"edf": lambda: edf_bytes(("I", "mV", 250, STRIP[0].astype(float))), "dicom": dicom_bytes}
        whole = made[form]() if form in made else csv.encode()

    def read(data: bytes):
        if form != "wfdb":
            return read_wave(data, name="x")
        (tmp_path / "cut.hea").write_bytes(data)
        return read_wave(tmp_path / "cut.hea")

    cuts = [whole[: len(whole) * i // 16] for i in range(16)]
    refused = 0
    random = np.random.default_rng(3)
    noisy = []
    for _ in range(40):
        data = bytearray(whole)
        for at in random.integers(0, min(len(whole), 2000), 6):
            data[at] = random.integers(256)
        noisy.append(bytes(data))
    for data in [*cuts, *noisy, random.bytes(3000)]:
        try:
            wave = read(data)
        except Refusal as error:
            refused += 1
            assert error.code in CODES and error.message
        else:
            assert not np.isinf(wave.values).any() and wave.values.shape[0] == len(wave.leads)
    assert refused >= (5 if form == "csv" else 12)  # a table cut between two rows is a shorter table


def test_lead_names():
    """As manufacturers write them."""
    assert [lead_name(w) for w in ("Lead I (Einthoven)", "ECG avf", "MDC_ECG_LEAD_V1", "v 6", "MLII")] == [
        "I", "aVF", "V1", "V6", "MLII"]  # fmt: skip


def test_the_libraries_are_imported_only_when_needed():
    """Importing the readers brings in no format library."""
    import subprocess
    import sys

    heavy = ("wfdb", "edfio", "pydicom", "scipy", "pandas")
    code = f"import sys, {waves.__name__}\nassert not [m for m in {heavy} if m in sys.modules]"
    subprocess.run([sys.executable, "-c", code], check=True)
