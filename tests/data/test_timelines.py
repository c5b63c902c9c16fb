"""Events that find their case by patient: read once, cut at the prediction time, what was left out is said."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from medserve.data.declaration import Input
from medserve.data.forms import list_items
from medserve.data.forms.table import read_table
from medserve.data.records import prepare_records, values_of
from medserve.data.timelines import TimelineIndex
from medserve.errors import BadData
from medserve.types import Event

STAYS = Input(kind="timeline", table="events.csv", patient="subject", time="hours", code="item", value="x",
              event_unit="u")  # fmt: skip
EVENTS = [
    ("p2", 30, "HR", 140, "/min"),
    ("p1", 1.5, "Temp", 36.9, "Cel"),
    ("p1", 0.5, "HR", 88, "/min"),
    ("p2", 2, "HR", 101, "/min"),
    ("p9", 1, "HR", 70, "/min"),
    ("p1", 3, "ventilated", "yes", ""),
]
YAML = """
name: icu
table: stays.csv
patient: person
prediction_time: {until}
inputs:
  sex: {{kind: category}}
  stay: {{kind: timeline, table: events.csv, patient: subject, time: hours, code: item, value: x, event_unit: u}}
target: {{column: died, kind: binary, classes: ["0", "1"]}}
"""


def write(path: Path, head: str, rows: list[tuple[Any, ...]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(head.split())
        out.writerows(rows)
    return path


@pytest.fixture
def icu(tmp_path) -> Path:
    """p1 and p2 have events, p3 has none; p2 has two cases; p9 belongs to no case."""
    write(tmp_path / "events.csv", "subject hours item x u", EVENTS)
    rows = [("p1", 2, "F", 0), ("p2", 24, "M", 1), ("p2", 48, "M", 1), ("p3", 24, "F", 0)]
    write(tmp_path / "stays.csv", "person until sex died", rows)
    return tmp_path


def read(icu: Path, until: str | float | None = None, said: Input = STAYS) -> TimelineIndex:
    return TimelineIndex.read(icu, said, {"p1", "p2", "p3"}, patient="person", until=until)


def test_events_are_found_by_patient_and_stand_in_order(icu):
    """Whatever the order of the rows; a word becomes a text; nobody gets another's events."""
    index = read(icu)
    assert index.events("p1") == [
        Event(0.5, "HR", 88.0, "/min"), Event(1.5, "Temp", 36.9, "Cel"), Event(3.0, "ventilated", None, None, "yes"),
    ]  # fmt: skip
    assert [e.value for e in index.events("p2") or ()] == [101.0, 140.0]
    assert index.events("p3") is None and index.events("p9") is None and index.others == 1


def test_the_prediction_time_is_a_column_a_number_or_not_said(icu):
    """Each row of the table has its own; two cases of one patient share the events and not the time."""
    table = read_table(icu / "stays.csv")
    by_column = [read(icu, "until").raw(table, row) for row in range(4)]
    assert [None if r is None else float(r["prediction_time"]) for r in by_column] == [2, 24, 48, None]
    assert by_column[1]["events"] == by_column[2]["events"]
    assert read(icu, 36.0).raw(table, 1)["prediction_time"] == 36.0
    assert "prediction_time" not in read(icu).raw(table, 1)


def test_what_came_later_does_not_reach_the_case(icu):
    """The same through the road's own reading: p2 at 24 h knows one beat, at 48 h both."""
    (icu / "dataset.yaml").write_text(YAML.format(until="until"))
    stays, named = stays_of(icu)
    assert not named and stays["row 5"] is None
    found = [[e.value for e in stays[f"row {row}"].events] for row in (2, 3, 4)]
    assert found == [[88.0, 36.9], [101.0], [101.0, 140.0]]


def test_the_column_of_the_prediction_time_must_be_there(icu):
    """A name that the table does not have is an error with its neighbours, not a case without a limit."""
    (icu / "dataset.yaml").write_text(YAML.format(until="untill"))
    with pytest.raises(BadData) as caught:
        prepare_records(list_items(icu), icu / "work")
    assert caught.value.code == "column-missing" and "until" in f"{caught.value.message} {caught.value.hint}"


def stays_of(folder: Path) -> tuple[dict[str, Any], set[str]]:
    """Case -> its history, and the cases that are named as refused or in trouble."""
    cohort = prepare_records(list_items(folder), folder / "work")
    named = {r.file for r in cohort.refused} | {case for t in cohort.troubles for case in t.cases}
    return {case.id: values_of(cohort, row)["stay"] for row, case in enumerate(cohort.cases)}, named


def test_a_prediction_time_that_cannot_be_read_opens_nothing(icu):
    """A word, a date on a clock of hours, an empty cell: the case is named, and its history is not read to the end."""
    rows = [("p1", "soon", "F", 0), ("p2", "", "M", 1), ("p2", "2024-03-01", "M", 1), ("p2", 24, "M", 0)]
    write(icu / "stays.csv", "person until sex died", rows)
    (icu / "dataset.yaml").write_text(YAML.format(until="until"))
    stays, named = stays_of(icu)
    assert [e.value for e in stays["row 5"].events] == [101.0]
    for case in ("row 2", "row 3", "row 4"):
        assert stays.get(case) is None and case in named, case


def test_hours_count_from_the_start_of_a_dated_record(icu):
    """`prediction_time: 48` over dates: two days after the first event; nothing earlier is lost, nothing later seen."""
    days = [("p1", "2024-03-01 08:00"), ("p1", "2024-03-02 09:00"), ("p1", "2024-03-03 09:00"), ("p2", "2023-01-01")]
    write(icu / "events.csv", "subject hours item x u", [(*d, "HR", 80 + i, "/min") for i, d in enumerate(days)])
    (icu / "dataset.yaml").write_text(YAML.format(until=48))
    stays, _ = stays_of(icu)
    assert [e.value for e in stays["row 2"].events] == [80.0, 81.0]
    assert [e.value for e in stays["row 3"].events] == [83.0]


def test_what_the_source_says_once_becomes_an_input(tmp_path):
    """Statics of PhysioNet 2012 (Age, Gender) are inputs by their name, read from the source, not from the table."""
    folder = tmp_path / "set-a"
    folder.mkdir()
    for who, age in (("132539", 54), ("132540", 76)):
        lines = ["Time,Parameter,Value", f"00:00,RecordID,{who}", f"00:00,Age,{age}", "00:00,Gender,0",
                 "00:00,Height,-1", "00:07,HR,73", "25:10,HR,86"]  # fmt: skip
        (folder / f"{who}.txt").write_text("\n".join(lines) + "\n")
    write(tmp_path / "outcomes.csv", "RecordID death", [("132539", 0), ("132540", 1)])
    (tmp_path / "dataset.yaml").write_text("""
table: outcomes.csv
patient: RecordID
prediction_time: 24
inputs:
  age: {kind: number, column: Age, unit: a, range: [0, 120]}
  stay: {kind: timeline, table: set-a}
target: {column: death, kind: binary, classes: ["0", "1"]}
""")
    cohort = prepare_records(list_items(tmp_path), tmp_path / "work")
    found = [values_of(cohort, row) for row in range(2)]
    assert [v["age"] for v in found] == [54.0, 76.0]
    assert [[e.value for e in v["stay"].events if e.code == "HR"] for v in found] == [[73.0], [73.0]]
    assert all(e.code != "Age" for v in found for e in v["stay"].events)
    yaml = (tmp_path / "dataset.yaml").read_text()
    (tmp_path / "dataset.yaml").write_text(yaml.replace("column: Age", "column: Agee"))
    with pytest.raises(BadData) as caught:
        list_items(tmp_path)
    assert caught.value.code == "column-missing"


def test_entries_that_are_skipped_are_noted(icu):
    """A row without a time, without a patient, without a code: counted, with reasons; patients of no case too."""
    write(icu / "events.csv", "subject hours item x u",
          [*EVENTS, ("p1", "later", "HR", 80, ""), ("", 1, "HR", 80, ""), ("p1", 1, "", 80, "")])  # fmt: skip
    index = read(icu)
    notes = index.notes("stay")
    assert sum(index.account.skipped.values()) == 3 and index.account.share == pytest.approx(3 / 9)
    assert len(notes) == 2 and notes[0].startswith("stay: 3 entries were skipped (33.3%)")
    assert all(reason in notes[0] for reason in ("no-time", "no-patient", "no-code"))
    assert notes[1] == "stay: 1 patients of the source belong to no case."
    (icu / "dataset.yaml").write_text(YAML.format(until=24))
    assert set(notes) <= set(list_items(icu).source["warnings"])
    write(icu / "events.csv", "subject hours item x u", [e for e in EVENTS if e[0] != "p9"])
    assert read(icu).notes("stay") == []


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Input(kind="timeline", table="nothing.csv", time="hours", code="item"), "file-missing"),
        (Input(kind="timeline", table="events.csv", patient="subject", time="hour", code="item"), "events-columns"),
        (Input(kind="timeline", table="events.csv", time="hours", code="item"), "events-columns"),
        (Input(kind="timeline", table="notes.txt"), "form-unknown"),
        (Input(kind="timeline", table="../outside.csv", patient="subject", time="hours", code="item"), "file-missing"),
    ],
)
def test_a_source_that_does_not_fit_is_an_error(icu, said, code):
    """No file, no such column, no known form, a file outside the data set: named before any case is read."""
    (icu / "notes.txt").write_text("nothing of a history\n")
    inside = icu / "data"
    inside.mkdir()
    for name in ("events.csv", "notes.txt"):
        (icu / name).rename(inside / name)
    write(icu / "outside.csv", "subject hours item x u", EVENTS)
    with pytest.raises(BadData) as caught:
        read(inside, said=said)
    assert caught.value.code == code and caught.value.message


def test_events_of_a_fhir_export_find_their_case(tmp_path):
    """The same index over NDJSON: the patient's id is the case's, sex and birth date are said once."""
    patient = {"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1990-05-01"}
    pulse = {"resourceType": "Observation", "status": "final", "subject": {"reference": "Patient/p1"},
             "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
             "effectiveDateTime": "2024-03-01T10:00:00Z", "valueQuantity": {"value": 88, "unit": "/min"}}  # fmt: skip
    (tmp_path / "Patient.ndjson").write_text(json.dumps(patient) + "\n")
    (tmp_path / "Observation.ndjson").write_text(json.dumps(pulse) + "\n")
    index = TimelineIndex.read(tmp_path, Input(kind="timeline"), {"p1"}, patient="person", until="2024-03-02")
    events = index.events("p1")
    assert events is not None and [(e.code, e.value) for e in events] == [("loinc|8867-4", 88.0)]
    assert index.static("p1")["sex"] == "female" and index.static("p2") == {}
