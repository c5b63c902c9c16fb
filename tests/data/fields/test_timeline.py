"""The field of a patient's history."""

import msgspec
import numpy as np
import pytest

from medserve.data.declaration import Input
from medserve.data.fields import Records
from medserve.data.fields.timeline import Timeline
from medserve.errors import BadData, Refusal
from medserve.types import Event


def stays(n: int = 40, seed: int = 1) -> list[list[list]]:
    """48 h of heart rate, temperature (some in Fahrenheit) and, in every second stay, a drug."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(n):
        events = [[float(h), "HR", float(random.normal(80, 10)), "/min"] for h in range(0, 48, 2)]
        events += [[h + 0.5, "loinc|8310-5", 37.0 + i % 3, "Cel"] for h in range(0, 48, 8)]
        events += [[1.0, "loinc|8310-5", 98.6, "[degF]"]]
        events += [[5.0, "rxnorm|860975"]] if i % 2 else []
        events += [[6.0, f"rare{i}", 1.0]]
        made.append(events)
    return made


@pytest.fixture(scope="module")
def field() -> Timeline:
    bare = Timeline("stay", until_h=48)
    return bare.fit([bare.parse(raw) for raw in stays()])


def refused(field: Timeline, raw) -> Refusal:
    with pytest.raises(Refusal) as caught:
        field.check(field.parse(raw))
    return caught.value


def test_channels_are_the_codes_of_enough_cases(field):
    """Measured ones in the unit of most events, then what only happens; a code of one patient is not kept."""
    assert [(c.code, c.unit, c.present) for c in field.channels] == [
        ("HR", "/min", False), ("loinc|8310-5", "Cel", False), ("rxnorm|860975", None, True)
    ]  # fmt: skip
    assert field.facts["names"] == ["Heart rate", "Body temperature", "rxnorm|860975"]
    assert (field.window_h, field.shape, field.facts["hours"]) == (48, (3, 48), 1)
    assert field.strange == 40 and field.outside == 0


def test_the_grid_by_hand(field):
    """Mean of a bin, a unit converted, presence as 1, NaN elsewhere; the prediction time belongs to the last bin."""
    raw = [[0, "HR", 60], [0.5, "HR", 80], [1.0, "HR", 90], [48, "HR", 100], [3.2, "loinc|8310-5", 100.4, "[degF]"],
           [5, "rxnorm|860975"], [5.1, "rxnorm|860975"]]  # fmt: skip
    grid = field.encode(field.parse(raw))
    assert grid.dtype == np.float32
    expected = np.full((3, 48), np.nan)
    expected[0, [0, 1, 47]] = 70, 90, 100
    expected[1, 3], expected[2, 5] = 38, 1
    np.testing.assert_allclose(grid, expected, rtol=1e-6)
    assert np.isnan(field.encode(None)).all()


@pytest.mark.parametrize("late", [[48.01, "HR", 300], [1e9, "HR", 20, "/min"], [49, "rxnorm|860975"], [50, "new", 1]])
def test_a_planted_future_event_changes_nothing(field, late):
    """Neither the encoded array, nor the parsed value, nor what is fitted."""
    raw = stays(1)[0]
    assert field.parse([*raw, late]) == field.parse(raw)
    assert field.encode(field.parse([*raw, late])).tobytes() == field.encode(field.parse(raw)).tobytes()
    bare = Timeline("stay", until_h=48)
    assert bare.fit([bare.parse([*raw, late]) for raw in stays()]) == field
    smuggled = type(field.parse(raw))(48.0, [*field.parse(raw).events, Event(float(late[0]), "HR", 300.0)])
    np.testing.assert_array_equal(field.encode(smuggled), field.encode(field.parse(raw)))


def test_a_case_says_its_own_prediction_time(field):
    """In hours or as a date; events are seen up to it, and the window ends there."""
    raw = stays(1)[0]
    early = field.parse({"events": raw, "prediction_time": 10})
    assert max(e.time for e in early.events) <= 10
    grid = field.encode(early)
    assert grid[0, 47] == np.float32(raw[5][2]) and np.isnan(grid[0, :37]).all()
    dated = [{"time": f"2020-05-01T{h:02d}:00:00Z", "code": "HR", "value": 60 + h} for h in range(10)]
    seen = field.parse({"events": dated, "prediction_time": "2020-05-01T04:00:00Z"})
    assert [e.value for e in seen.events] == [60, 61, 62, 63, 64]


def test_dates_are_counted_from_the_first_event_and_else_the_last_event_is_the_present():
    """`until_h` from the start of the record."""
    dated = [[f"2020-05-0{day}", "HR", 60.0 + day] for day in (1, 2, 3, 4)]
    assert [e.value for e in Timeline("x", until_h=24).parse(dated).events] == [61, 62]
    whole = Timeline("x").parse(dated)
    assert len(whole.events) == 4 and whole.until == whole.events[-1].time


def test_a_bundle_is_a_timeline():
    """Of one patient; of two it is refused."""

    def of(*patients):
        return {"resourceType": "Bundle", "entry": [
            {"resource": {"resourceType": "Observation", "status": "final", "subject": {"reference": f"Patient/{p}"},
                          "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
                          "effectiveDateTime": f"2020-05-01T0{i}:00:00Z", "valueQuantity": {"value": 80 + i}}}
            for i, p in enumerate(patients)]}  # fmt: skip

    value = Timeline("x", window_h=24).parse({"events": of("a", "a", "a"), "prediction_time": "2020-05-01T01:00:00Z"})
    assert [(e.code, e.value) for e in value.events] == [("loinc|8867-4", 80), ("loinc|8867-4", 81)]
    assert refused(Timeline("x"), of("a", "b")).code == "timeline-invalid"


@pytest.mark.parametrize(
    ("raw", "code"),
    [([], "timeline-empty"), ([[60, "HR", 80]], "timeline-empty"), ([[1, "pulse", 80], [2, "bp", 1]], "unknown-code"),
     ([[1, "HR", 80, "kg"]], "wrong-unit"), ([[1, "loinc|8310-5", 98.6]], "value-out-of-range"),
     ([[1, "HR", 400]], "value-out-of-range"), ("HR", "timeline-invalid"), ([["soon", "HR", 80]], "timeline-invalid"),
     ([[float("nan"), "HR", 80]], "timeline-invalid"), ([[1, "HR", float("inf")]], "timeline-invalid"),
     ([[1, "HR", "80"]], "timeline-invalid"), ([[1, "HR", True]], "timeline-invalid"), ([[1]], "timeline-invalid"),
     ([[1, "", 3]], "timeline-invalid"), ([{"time": 1, "kode": "HR"}], "timeline-invalid"),
     ([[1, "HR", 80], ["2020-01-01", "HR", 80]], "timeline-invalid"), ({"event": []}, "timeline-invalid"),
     ({"events": [[1, "HR", 80]], "prediction_time": "soon"}, "timeline-invalid"),
     ([[10**400, "HR"]], "timeline-invalid"), ([[1, "HR", 10**400]], "timeline-invalid"),
     ({"resourceType": "Patient"}, "timeline-invalid")],
)  # fmt: skip
def test_refusals(field, raw, code):
    """Each with its stable code, the field's name, and a next step."""
    said = refused(field, raw)
    assert said.code == code and "nan" not in str(said)
    assert code == "wrong-unit" or "stay" in said.message
    assert said.hint


def test_single_unknown_codes_are_ignored_and_counted(field):
    """One known code is enough to answer."""
    value = field.parse([[1, "HR", 80], [2, "pulse", 1], [3, "HR", 900], [4, "HR", 1, "kg"]])
    assert field.account(value) == {"kept": 1, "strange": 1, "outside": 1, "wrong_unit": 1}
    field.check(field.parse([[1, "HR", 80], [2, "pulse", 1]]))


def test_impossible_values_of_training_data_become_missing_and_are_counted():
    """A pH of 735 neither moves the mean nor widens the range."""
    bare = Timeline("stay", until_h=48)
    raws = [[[1, "pH", 7.35], [2, "pH", 735]] if i < 5 else [[1, "pH", 7.4]] for i in range(40)]
    fitted = bare.fit([bare.parse(raw) for raw in raws])
    assert fitted.outside == 5 and fitted.channels[0].high == 8.2
    grid = fitted.encode(bare.parse(raws[0]))
    assert np.nansum(grid) == np.float32(7.35)


def test_a_code_without_a_known_limit_gets_a_wide_range():
    """1st to 99th percentile, widened by their distance."""
    bare = Timeline("x", until_h=1)
    fitted = bare.fit([bare.parse([[0, "odd", float(i % 101)]]) for i in range(1010)])
    assert fitted.channels[0].low == pytest.approx(-97, abs=1) and fitted.channels[0].high == pytest.approx(197, abs=1)


def test_coded_results_are_channels_of_their_own():
    """A smoking status is one channel for each answer."""
    bare = Timeline("x", until_h=1)
    raws = [[[0, "loinc|72166-2", None, None, f"snomed|{i % 2}"]] for i in range(40)]
    fitted = bare.fit([bare.parse(raw) for raw in raws])
    assert [c.code for c in fitted.channels] == ["loinc|72166-2=snomed|0", "loinc|72166-2=snomed|1"]
    assert np.nansum(fitted.encode(bare.parse(raws[1])), 1).tolist() == [0, 1]


def test_nothing_common_is_told():
    """Fewer than ten cases with a code make no model."""
    bare = Timeline("x")
    with pytest.raises(BadData, match="10 cases"):
        bare.fit([bare.parse([[0, "a", 1.0]])] * 9)


def test_the_window_comes_from_the_data_unless_declared():
    """It holds nine timelines out of ten."""
    bare = Timeline("x")
    values = [bare.parse([[0, "a", 1.0], [float(hours), "a", 1.0]]) for hours in range(1, 101)]
    assert 89 <= bare.fit(values).window_h <= 92
    said = Timeline.declare("x", Input(kind="timeline", window=12))
    assert said.fit(values).window_h == 12


def test_it_goes_through_a_package_and_a_file(field):
    """Parameters as JSON and values as msgpack come back the same; equal parameters and value, equal bytes."""
    named = msgspec.json.decode(msgspec.json.encode(field.named()), type=type(field.named()))
    again = Timeline(**named.params)
    assert again == field
    value = field.parse(stays(1)[0])
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    assert field.restore(stored) == value
    assert again.encode(field.restore(stored)).tobytes() == field.encode(value).tobytes()
    records = Records.build([field.named()])
    assert records.examples(3).shape == (3, 144) and records({"stay": stays(1)[0]}).shape == (144,)


def test_examples_are_made_of_parameters(field):
    """Within the ranges, with gaps, the same for a seed."""
    made = field.example(np.random.default_rng(3))
    assert made.shape == field.shape and made.dtype == np.float32
    assert 0 < np.isnan(made).mean() < 1
    assert np.nanmin(made[1]) >= 14 and np.nanmax(made[1]) <= 47
    np.testing.assert_array_equal(made, field.example(np.random.default_rng(3)))
