"""The waveform field: leads, rate, window and unit of the training part, and refusals for whatever does not fit."""

import msgspec
import numpy as np
import pytest

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS, Records
from medserve.data.fields.waveform import Waveform
from medserve.errors import Refusal
from medserve.types import Wave

SECONDS = 4


def strip(hz: float = 500, seconds: float = SECONDS, leads=("II", "V1"), size: float = 1.0, seed: int = 0) -> Wave:
    """Beats of 1 mV every 0.8 s on a wandering baseline of 0.1 Hz, around the middle of the record."""
    random = np.random.default_rng(seed)
    time = (np.arange(int(hz * seconds)) - hz * seconds / 2) / hz
    beat = np.exp(-0.5 * (((time + 0.4) % 0.8 - 0.4) / 0.02) ** 2)
    values = [size * beat * (i + 1) + 0.5 * np.sin(2 * np.pi * 0.1 * time) for i in range(len(leads))]
    return Wave.of(np.float32(values) + random.normal(0, 0.01, (len(leads), len(time))), list(leads), hz)


@pytest.fixture
def field() -> Waveform:
    return Waveform("ecg").fit([strip(), None, strip(leads=("V1", "II", "x"), seed=1), strip(seconds=6)])


def test_what_is_not_declared_is_learned_from_training(field):
    """The common leads in standard order, the median rate up to 250 Hz, the median length, the unit."""
    assert field.leads == ("II", "V1") and field.hz == 250 and field.unit == "mV"
    assert field.shape == (2, 1000) and field.band == (0.5, 40.0)
    assert field.facts == {"leads": ["II", "V1"], "hz": 250, "unit": "mV"}


def test_what_is_declared_stands():
    """Leads, rate and window of dataset.yaml."""
    said = Input(kind="waveform", leads=["v1"], hz=100.0, seconds=2.0, unit="mV")
    field = FIELDS["waveform"].declare("ecg", said).fit([strip()])
    assert field.leads == ("V1",) and field.shape == (1, 200)


def test_the_beat_stays_where_it_was(field):
    """Filter and rate move nothing in time: the middle beat of the record is the middle of the window."""
    for hz in (250, 360, 500, 1000):
        out = field.encode(strip(hz, seconds=20))
        assert out.dtype == np.float32 and out.shape == (2, 1000)
        assert abs(int(out[0].argmax()) % 200 - 100) <= 1 and out[0].max() == pytest.approx(0.87, abs=0.12)
        assert np.abs(out[0, 500:520].max() - out[0].max()) < 0.05
    wandering = field.encode(strip(seconds=20))
    assert np.abs(np.median(wandering, 1)).max() < 0.2  # 0.5 mV of baseline wander are gone


def test_a_record_is_stored_and_restored(field):
    """Through msgpack, and the field through JSON: the same bytes."""
    value = field.parse(strip(seconds=3))
    again = field.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(value)))
    rebuilt = Records.build([msgspec.json.decode(msgspec.json.encode(field.named()), type=type(field.named()))])
    assert rebuilt.fields[0] == field
    assert np.array_equal(rebuilt.fields[0].encode(again), field.encode(value), equal_nan=True)
    assert rebuilt.blocks[0].shape == (2, 1000)


def test_shorter_strips_stand_in_the_middle(field):
    """NaN on both sides; a missing input is all NaN."""
    out = field.encode(strip(seconds=3))
    assert np.isnan(out[:, :125]).all() and np.isnan(out[:, 875:]).all() and np.isfinite(out[:, 125:875]).all()
    assert np.isnan(field.encode(None)).all() and field.parse(None) is None and field.parse(" ") is None


def test_limb_leads_follow_from_two():
    """Einthoven: III = II - I. Goldberger: aVF = (II + III) / 2 = II - I / 2."""
    field = Waveform("ecg", leads=("I", "III", "aVF"), hz=0.0, unit="mV", samples=2, shortest=1)
    wave = Wave.of(np.float32([[1, 2], [3, 5]]), ["I", "II"], 0.0)
    field.check(wave)
    assert field.encode(wave).tolist() == [[1, 2], [2, 3], [2.5, 4]]


def test_the_wire_gives_plain_numbers(field):
    """A dictionary, with null for what was not recorded; microvolts are converted."""
    wave = strip(250, seconds=5)
    values = [[None if i == 3 else float(v) * 1000 for i, v in enumerate(row)] for row in wave.values]
    parsed = field.parse({"leads": ["II", "V1"], "hz": 250, "unit": "uV", "values": values})
    assert parsed.unit == "mV" and np.nanmax(np.abs(parsed.values - wave.values)) < 1e-5
    assert np.isnan(parsed.values[:, 3]).all()
    field.check(parsed)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("no file", "wave-expected"),
        (7, "wave-expected"),
        ([], "wave-expected"),
        ({"values": [[1, 2], [3]], "hz": 250, "unit": "mV"}, "wave-expected"),
        ({"values": [[1, "2"]], "hz": 250, "unit": "mV"}, "wave-expected"),
        ({"values": [[1, 2]], "unit": "mV"}, "wave-expected"),
        ({"values": [[1, 2]], "hz": 250, "unit": "mV", "leads": ["I", "II"]}, "wave-expected"),
        ({"values": [[1, 2]], "hz": 250, "unit": "mV", "lead": ["I"]}, "wave-expected"),
        ({"values": [[1e300, 2]], "hz": 250, "unit": "mV"}, "wave-expected"),
        ({"values": [[10**400, 2]], "hz": 250, "unit": "mV"}, "wave-expected"),
        ({"values": [[1, 2]], "hz": 250, "unit": "mm[Hg]"}, "wrong-unit"),
        (b"\x89PNG\r\n", "wave-unreadable"),
        (Wave.of(np.ones((1, 4)), ["II"], 250.0, ""), "wrong-unit"),
    ],
)
def test_what_cannot_be_read_is_refused(field, raw, code):
    """With the field's name, or the file's."""
    with pytest.raises(Refusal) as caught:
        field.parse(raw)
    assert caught.value.code == code and "ecg" in caught.value.message


def test_what_must_not_be_answered_is_refused(field):
    """A missing lead, a flat one, a wrong gain, a strip that is too short."""
    good = strip()
    field.check(good)
    flat, large, absent = good.values.copy(), good.values * 30, good.values.copy()
    flat[1], absent[1] = 0.3, np.nan
    cases = [
        (strip(leads=("I", "V1")), "lead-missing"),
        (Wave.of(absent, good.leads, good.hz), "lead-missing"),
        (Wave.of(flat, good.leads, good.hz), "wave-flat"),
        (Wave.of(large, good.leads, good.hz), "value-out-of-range"),
        (strip(seconds=0.5), "wave-short"),
        (Wave.of(good.values, good.leads, 0.0), "wave-expected"),
    ]
    for wave, code in cases:
        with pytest.raises(Refusal) as caught:
            field.check(wave)
        assert caught.value.code == code and caught.value.message.startswith("ecg")
        assert field.encode(wave).shape == field.shape  # encoding itself never fails


def test_strips_of_unknown_rate_are_taken_as_they_are():
    """A UCR row: no unit, no rate, no filter."""
    rows = [Wave.of(np.arange(96, dtype=np.float32)[None] + i, ["1"], 0.0, "") for i in range(3)]
    field = Waveform("beat").fit(rows)
    assert (field.hz, field.unit, field.band, field.shape) == (0.0, "", (), (1, 96))
    assert np.array_equal(field.encode(rows[1]), rows[1].values)
    assert np.array_equal(field.encode(field.parse(rows[2].values[0].tolist())), rows[2].values)


def test_an_example_is_made_up_and_fits(field):
    """Finite, of the field's shape, from the parameters alone."""
    out = field.example(np.random.default_rng(0))
    assert out.shape == field.shape and out.dtype == np.float32 and np.isfinite(out).all()
