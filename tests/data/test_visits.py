"""A patient's events as visits: what is seen of the present one, what was prescribed at each, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from made_visits import YAML, made

from medserve.data.declaration import parse
from medserve.data.fields import Records
from medserve.data.fields.visits import Visits
from medserve.data.forms import list_items
from medserve.data.records import prepare_records, values_of
from medserve.data.visits import is_medicine, parted, visits_of
from medserve.errors import BadData, Refusal
from medserve.types import Event

DAY = 24.0
EVENTS = [
    Event(0.0, "icd10|I10"),
    Event(0.5, "atc|C09AA05"),
    Event(30 * DAY, "icd10|Z00"),  # a visit without a medicine
    Event(60 * DAY, "icd10|E11"),
    Event(60 * DAY + 1, "rxnorm|6809"),
    Event(60 * DAY + 2, "loinc|2160-0", 90.0, "umol/L"),  # known only after the first prescription
    Event(60 * DAY + 3, "atc|C09AA05"),
    Event(60 * DAY + 20, "text|sorafenib", text="request"),  # as the FHIR reader tells a medicine without a code
]


def test_a_visit_is_what_stands_less_than_a_day_apart():
    """Two visits with prescriptions of three; the moment of each is its first prescription."""
    first, second = visits_of(EVENTS, DAY)
    assert (first.at, first.medicines) == (0.5, {"atc|C09AA05"})
    assert (second.start, second.at) == (60 * DAY, 60 * DAY + 1)
    assert second.medicines == {"rxnorm|6809", "atc|C09AA05", "text|sorafenib"}
    assert len(visits_of(EVENTS, 100 * DAY)) == 1


def test_a_medicine_is_told_by_its_system_or_its_source():
    """A code of ATC, RxNorm or NDC; a FHIR resource or OMOP's DRUG_EXPOSURE without one; no vaccine, no allergy."""
    yes = [("ndc|1", None), ("text|x", "request"), ("source|y", "exposure"), ("snomed|1", "administration")]
    no = [("cvx|140", "exposure"), ("allergy/rxnorm|7980", None), ("loinc|2160-0", "high"), ("source|z", None)]
    assert all(is_medicine(Event(0.0, code, text=text)) for code, text in yes)
    assert not any(is_medicine(Event(0.0, code, text=text)) for code, text in no)


def test_nothing_of_the_visits_own_prescribing_is_seen():
    """Of the present visit its diagnosis alone: no medicine of it, and nothing after the first."""
    until = 60 * DAY + 1
    earlier, today = parted([e for e in EVENTS if e.time <= until], until, DAY)
    assert [e.code for e in earlier] == ["icd10|I10", "atc|C09AA05", "icd10|Z00"]
    assert [e.code for e in today] == ["icd10|E11"]
    field = Visits("history").parse({"events": EVENTS, "prediction_time": until})
    again = Visits("history").parse({"events": [e for e in EVENTS if e.time < 60 * DAY + 1], "prediction_time": until})
    assert field == again  # whatever was prescribed at the visit


def test_the_grid_has_a_column_a_visit():
    """The present visit last, the ones before it one by one, all older ones together in the first column."""
    field = Visits("history", bins=3, medicines=("atc|C09AA05", "rxnorm|6809"))
    values = [field.parse({"events": EVENTS, "prediction_time": 60 * DAY + 1}) for _ in range(10)]
    fitted = field.fit(values)
    row = {channel.code: fitted.encode(values[0])[at].tolist() for at, channel in enumerate(fitted.channels)}
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert row["icd10|I10"] == [1, nan, nan] and row["icd10|Z00"] == [nan, 1, nan] and row["icd10|E11"] == [nan, nan, 1]
    assert row["atc|C09AA05"] == [1, nan, nan] and row["rxnorm|6809"] == [nan, nan, nan]
    assert fitted.last_prescribed(values[0]) == {"atc|C09AA05"}
    assert fitted.last_prescribed(field.parse({"events": EVENTS, "prediction_time": 0.5})) is None
    (again,) = Records.build([fitted.named()]).fields
    assert np.array_equal(again.encode(values[0]), fitted.encode(values[0]), equal_nan=True)


def test_a_case_of_which_nothing_is_known_is_refused():
    """Only the medicines of the present visit were sent."""
    field = Visits("history", medicines=("atc|C09AA05",))
    fitted = field.fit([field.parse({"events": EVENTS[:2], "prediction_time": 0.5})] * 10)
    with pytest.raises(Refusal) as error:
        fitted.check(fitted.parse([[3.0, "atc|C09AA05"]]))
    assert error.value.code == "timeline-empty"


def test_cases_are_the_visits_with_prescriptions(tmp_path):
    """Every patient's visits are cases of hers, labelled by every code prescribed; who was given none is no case."""
    listing = list_items(made(tmp_path / "data"))
    assert listing.task == "multilabel" and listing.asked == "medicines" and not listing.independent
    assert listing.labels == tuple(sorted(listing.labels)) and "rxnorm|6809" in listing.labels
    cohort = prepare_records(listing, tmp_path / "work")
    patients = {item.patient for item in listing.items}
    assert len(cohort) == len(listing) > len(patients) > 40 and all(item.part is None for item in listing.items)
    value = values_of(cohort, 5)
    assert value["sex"] in ("F", "M") and value["history"].events[-1].time <= value["history"].until


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("target: {kind: medicines}", "target: {kind: medicines, column: drugs}", "declaration-value"),
        ("target: {kind: medicines}", "target: {kind: medicines}\nprediction_time: 24", "declaration-value"),
        ("kind: timeline,", "kind: timeline, window: 48,", "declaration-value"),
        ("kind: timeline,", "kind: timeline, visits: 2,", "declaration-value"),
        ("kind: timeline,", "kind: timeline, gap: 0,", "declaration-value"),
        ("target: {kind: medicines}", "split: {by: random}\ntarget: {kind: medicines}", "declaration-value"),
        ("kind: timeline, table: events.csv, patient: who, time: hours, code: item, value: x, event_unit: u",
         "kind: category", "medicines-history"),
        ("target: {kind: medicines}", "target: {kind: binary, column: sex}", None),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_told(old, new, code):
    """What has no place beside medicines is an error; `visits` has none elsewhere."""
    said = YAML.replace(old, new)
    if code is None:
        said, code = said.replace("kind: timeline,", "kind: timeline, visits: 8,"), "declaration-value"
    assert said != YAML
    with pytest.raises(BadData) as error:
        parse(said.encode())
    assert error.value.code == code


def _replaced(folder: Path, name: str, old: str, new: str) -> None:
    (folder / name).write_text((folder / name).read_text().replace(old, new))


def test_bad_tables_are_told(tmp_path):
    """No medicine at all; two rows of one patient; a column that is nowhere."""
    folder = made(tmp_path / "none")
    for system in ("atc|", "rxnorm|"):
        _replaced(folder, "events.csv", system, "x|")
    twice, lost = made(tmp_path / "twice"), made(tmp_path / "lost")
    _replaced(twice, "patients.csv", "p1,F", "p0,F")
    _replaced(lost, "dataset.yaml", "sex: {kind: category}", "age: {kind: number}")
    for data, code in ((folder, "medicines-none"), (twice, "patient-twice"), (lost, "column-missing")):
        with pytest.raises(BadData) as error:
            list_items(data)
        assert error.value.code == code
