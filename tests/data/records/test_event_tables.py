"""OMOP, tables of events and PhysioNet 2012 into timelines; grouping by patient in bounded memory."""

import json
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import polars as pl
import pytest
from made_records import STAY, bundle, write_ndjson, write_omop

from medserve.data.readers.records import Account, _spill, read_timelines, sniff_records
from medserve.data.readers.records._time import iso_hours
from medserve.errors import BadData, NotFound
from medserve.road.collect import list_data
from medserve.settings import Settings
from medserve.types import Event

COLUMNS = {"patient": "who", "time": "t", "code": "item", "value": "x", "unit": "u"}


def read(path, form, **said):
    account = Account()
    return {p: (s, e) for p, s, e in read_timelines(path, form, account=account, **said)}, account


def test_omop_rows_become_events_with_the_vocabularys_codes(tmp_path):
    """The same codes and units as FHIR gives; a row without a concept keeps its source value."""
    found, account = read(write_omop(tmp_path), "omop")
    static, events = found["1"]
    assert static == {"sex": "female", "birth_date": "1950-02", "race": "White"}
    assert [(e.code, e.value, e.unit, e.text) for e in events] == [
        ("loinc|5792-7", None, None, "loinc|LA6577-6"), ("visit|IP", None, None, None),
        ("loinc|2160-0", 1.2, "mg/dL", None), ("snomed|44054006", None, None, None),
        ("snomed|40701008", None, None, None), ("loinc|2160-0", 1.4, "mg/dl", None), ("visit|IP/end", None, None, None),
        ("death", None, None, None),
    ]  # fmt: skip
    assert events[2].time == iso_hours("2020-05-01T09:00:00Z")
    static, events = found["2"]
    assert static == {"sex": "male", "birth_date": "1980-01-31"}
    assert [(e.code, e.text) for e in events] == [
        ("loinc|72166-2", "never, ever\nagain"), ("source|E11", None), ("rxnorm|860975", None)
    ]  # fmt: skip
    assert account.skipped == {("MEASUREMENT", "no-person"): 1, ("MEASUREMENT", "malformed"): 1,
                               ("CONDITION_OCCURRENCE", "no-time"): 1}  # fmt: skip
    assert account.read["MEASUREMENT"] == 3 and account.read["DEATH"] == 1


def test_omop_in_capitals_with_tabs_or_zipped(tmp_path):
    """The same timelines whichever way the export was packed."""
    plain, _ = read(write_omop(tmp_path / "a"), "omop")
    capitals = write_omop(tmp_path / "b", upper=True, tabs=True)
    packed = tmp_path / "c.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in capitals.iterdir():
            archive.write(file, f"export/{file.name}")
    for path in (capitals, packed):
        assert sniff_records(path) == "omop" and read(path, "omop")[0] == plain


def test_a_damaged_archive_and_a_missing_table_are_told(tmp_path):
    """With a stable code."""
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 nothing")
    write_omop(tmp_path / "o")
    (tmp_path / "o" / "person.csv").unlink()
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "person.csv").write_text("id\n1\n")
    for path, code in (("x.zip", "archive-unreadable"), ("o", "omop-person"), ("p", "omop-columns")):
        with pytest.raises(BadData) as caught:
            read(tmp_path / path, "omop")
        assert caught.value.code == code
    with pytest.raises(BadData, match="no such file"):
        read(tmp_path / "gone", "omop")
    with pytest.raises(NotFound):
        read(tmp_path, "hl7v2")


def test_physionet_2012(tmp_path):
    """Descriptors at 00:00 are static, -1 is unknown, a later weight is an event, a wrong time is counted."""
    with zipfile.ZipFile(tmp_path / "set-a.zip", "w") as archive:
        archive.writestr("set-a/132539.txt", STAY)
        archive.writestr("set-a/132540.txt", STAY.replace("00:00,RecordID,132539\n", ""))
        archive.writestr("Outcomes-a.txt", "RecordID,SAPS-I\n1,2\n")
    assert sniff_records(tmp_path / "set-a.zip") == "physionet2012"
    found, account = read(tmp_path / "set-a.zip", "physionet2012")
    assert set(found) == {"132539", "132540"}
    static, events = found["132539"]
    assert static == {"Age": 54, "Gender": 0, "ICUType": 4, "Weight": 80.5}
    assert events == [Event(0, "HR", 70), Event(7 / 60, "GCS", 15), Event(12.5, "Weight", 81),
                      Event(47 + 37 / 60, "HR", 86)]  # fmt: skip
    assert account.skipped == {("event", "unknown-value"): 2, ("event", "no-time"): 2} and account.ignored["file"] == 1


def test_what_a_stay_says_once_is_an_input_as_a_number(tmp_path):
    """An age that stands in no column of the table comes from the stay's file, and is no path of a text."""
    with zipfile.ZipFile(tmp_path / "stays.zip", "w") as archive:
        archive.writestr("set-a/132539.txt", STAY)
    (tmp_path / "cases.csv").write_text("RecordID,died\n132539,0\n")
    (tmp_path / "dataset.yaml").write_text("""
table: cases.csv
patient: RecordID
prediction_time: 48
inputs:
  Age: {kind: number, unit: a}
  stay: {kind: timeline, form: physionet2012, table: stays.zip, window: 48}
target: {column: died, kind: binary, classes: ["0", "1"]}
""")
    listing = list_data(tmp_path, Settings(home=tmp_path / "home"))
    assert listing.raw(listing.items[0])["Age"] == 54.0


def _table(tmp_path, rows):
    frame = pl.DataFrame(rows, schema=list(COLUMNS.values()), orient="row", infer_schema_length=None)
    frame.write_csv(tmp_path / "events.csv")
    frame.write_parquet(tmp_path / "events.parquet")


def test_a_table_of_events_in_csv_and_parquet(tmp_path):
    """Any order of patients; a worded value is text; what cannot be read is counted."""
    rows = [("b", "2020-05-01 10:00:00", "HR", "80", "/min"), ("a", "2020-05-01T09:00:00", "HR", "90", "/min"),
            ("b", "2020-05-01 08:00:00", "ward", "icu", None), ("b", "soon", "HR", "80", None),
            (None, "2020-05-01", "HR", "80", None), ("a", "2020-05-01", "HR", "nan", None)]  # fmt: skip
    _table(tmp_path, rows)
    found, account = read(tmp_path / "events.csv", "events", columns=COLUMNS)
    start = iso_hours("2020-05-01")
    assert found["b"][1] == [Event(start + 8, "ward", None, None, "icu"), Event(start + 10, "HR", 80, "/min")]
    assert found["a"][1] == [Event(start + 9, "HR", 90, "/min")]
    assert account.skipped == {("event", "no-time"): 1, ("event", "no-patient"): 1, ("event", "no-number"): 1}
    again, same = read(tmp_path / "events.parquet", "events", columns=COLUMNS)
    assert again == found and same == account


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"patient": "who"}, "time"),
        ({**COLUMNS, "colour": "x"}, "colour"),
        ({**COLUMNS, "value": "valu"}, "similar: x|known"),
    ],
)
def test_columns_that_do_not_exist_are_told(tmp_path, columns, said):
    """With the neighbours of the wrong name."""
    _table(tmp_path, [("a", "1.5", "HR", "80", None)])
    for name in ("events.csv", "events.parquet"):
        with pytest.raises(BadData, match=said) as caught:
            read(tmp_path / name, "events", columns=columns)
        assert caught.value.code == "events-columns"


def test_rows_in_files_group_as_rows_in_memory(tmp_path, monkeypatch):
    """Through temporary files, split again where one is too long; nothing stays behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = random.Random(1)
    made = [(f"p{rows.randrange(300)}", float(rows.randrange(50)), f"c{i}", 1.0 * i, None, None) for i in range(6000)]
    made += [(f"p{i}", None, "sex", None, None, "female") for i in range(300)]
    with _spill.Spill() as spill:
        spill.extend(made)
        memory = {p: (s, e) for p, s, e in spill.patients()}
    for most in (_spill.BUCKET_BYTES, 200):
        monkeypatch.setattr(_spill, "BUCKET_BYTES", most)
        with _spill.Spill(held=500) as spill:
            for row in made:
                spill.add(row)
            assert {p: (s, e) for p, s, e in spill.patients()} == memory
    assert not list(tmp_path.iterdir())


def test_a_reader_that_is_left_early_cleans_up(tmp_path, monkeypatch):
    """Patients' rows do not stay in a temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(_spill.Spill.__init__, "__defaults__", (None, 10, 0))
    _table(tmp_path, [(f"p{i % 50}", f"{i}", "HR", "80", None) for i in range(500)])
    timelines = read_timelines(tmp_path / "events.csv", "events", columns=COLUMNS)
    next(timelines)
    assert list((tmp_path / "tmp").iterdir())
    timelines.close()
    assert not list((tmp_path / "tmp").iterdir())


def test_sniffing_says_none_for_anything_else(tmp_path):
    """And never raises."""
    (tmp_path / "a.json").write_text('{"resourceType": "Patient"}')
    (tmp_path / "b.zip").write_bytes(b"no")
    (tmp_path / "c.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "a.json", tmp_path / "b.zip", tmp_path / "c.txt", tmp_path / "gone"):
        assert sniff_records(path) is None
    (tmp_path / "d.json").write_text(json.dumps(bundle()))
    assert sniff_records(tmp_path / "d.json") == "fhir-bundle"
    assert sniff_records(write_ndjson(tmp_path / "n")) == "fhir-ndjson"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of the memory is read from /proc")
def test_a_million_events_stream_in_bounded_memory(tmp_path):
    """Resident memory grows by less than 100 MB over the imports; the same rows as objects take several times that."""
    code = """
import sys
from pathlib import Path
from medserve.data.readers.records import read_timelines
path = Path(sys.argv[1])
with path.open("w") as file:
    file.write("who,t,item,x,u\\n")
    for i in range(1_000_000):
        file.write(f"p{i * 7919 % 5003},{i % 977 / 10},code{i % 40},{i % 300},mmol/L\\n")
def peak():  # of this program alone; getrusage would tell the peak of the one that started it
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
before = peak()
columns = {"patient": "who", "time": "t", "code": "item", "value": "x", "unit": "u"}
events = sum(len(e) for _, _, e in read_timelines(path, "events", columns=columns))
print(events, peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "e.csv")], capture_output=True, text=True, check=True
    )
    events, grown = map(int, done.stdout.split())
    assert events == 1_000_000 and grown < 100
