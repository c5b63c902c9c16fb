"""Events of a history: the one that was planted is found, sums are kept, time is told before the prediction."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from medserve.data.fields import Block
from medserve.data.fields.timeline import Timeline
from medserve.errors import Refusal
from medserve.explain.events import MOST, Happening, events, happenings, render_times
from medserve.explain.records import explain_record, methods_of
from medserve.models.nets import MODELS
from medserve.models.record import casenet, timeline  # noqa: F401
from medserve.models.record.features import RecordNet

CHANNELS, BINS = 3, 12
FACTS = {
    "names": ["HR", "Lactate", "aspirin"], "codes": ["hr", "lac", "asa"], "units": ["/min", "mmol/L", None],
    "present": [False, False, True], "hours": 2.0,
}  # fmt: skip
STAY = Block("stay", "timeline", 1, (CHANNELS, BINS), FACTS)
BLOCKS = [Block("age", "number", 0, (1,)), STAY]


def case(**cells: float) -> np.ndarray:
    """A record of an age of 60 and some cells: hr_3=88 is the pulse of the fourth bin."""
    record = np.full(1 + CHANNELS * BINS, np.nan, np.float32)
    record[0] = 60
    for name, value in cells.items():
        code, at = name.split("_")
        record[1 + FACTS["codes"].index(code) * BINS + int(at)] = value
    return record


def grid(rows: np.ndarray) -> np.ndarray:
    return rows[:, 1:].reshape(-1, CHANNELS, BINS)


def test_each_event_is_told_with_time_value_and_unit():
    """A bin of 2 h: the last bin lies 0 to 2 h before the prediction, the first 22 to 24 h; what happened has no
    value."""
    found = happenings(case(hr_0=80, lac_11=4.5, asa_6=1), BLOCKS)
    assert [(h.channel, h.hours, h.value, h.unit) for h in found] == [
        ("HR", (24.0, 22.0), 80.0, "/min"), ("aspirin", (12.0, 10.0), None, None),
        ("Lactate", (2.0, 0.0), 4.5, "mmol/L"),
    ]  # fmt: skip
    assert [h.middle_h for h in found] == [23, 11, 1] and found[2].said == "0 to 2 h before"
    assert found[0].columns == (1,) and found[2].columns == (1 + BINS + 11,)
    assert Happening("stay", "HR", (240.0, 216.0), 1.0, None, (1,)).said == "9 to 10 d before"


def test_a_long_history_is_told_in_coarser_steps():
    """More than 128 events become means of longer stretches, which hold every column once and end at the prediction."""
    facts = {"names": [str(i) for i in range(20)], "present": [False] * 20, "hours": 1.0}
    block = Block("stay", "timeline", 0, (20, 48), facts)
    record = np.arange(20 * 48, dtype=np.float32)
    found = happenings(record, [block])
    assert len(found) <= MOST and sorted(c for h in found for c in h.columns) == list(range(20 * 48))
    assert {h.hours[1] for h in found} >= {0.0} and max(h.hours[0] for h in found) == 48
    latest = next(h for h in found if h.channel == "0" and h.hours[1] == 0)
    assert latest.value == np.mean(latest.columns) and 47 in latest.columns


def test_by_hand():
    """Lactate adds 2, and 3 more with aspirin beside it, wherever they stand: each gets half of the three; base is the
    rest of the case, and the sum is the logit."""

    def score(rows):
        there = np.isfinite(grid(rows)).any(2)
        return np.stack([np.zeros(len(rows)), rows[:, 0] / 60 + 2 * there[:, 1] + 3 * (there[:, 1] & there[:, 2])], 1)

    record = case(hr_0=80, lac_4=4, asa_6=1)
    found = happenings(record, BLOCKS)
    weights, base, gap = events(score, record, found, 1)
    assert dict(zip([h.channel for h in found], weights.tolist(), strict=True)) == pytest.approx(
        {"HR": 0, "Lactate": 3.5, "aspirin": 1.5}
    )
    assert base == 1 and gap == 0


def test_events_that_say_the_same_share_the_effect():
    """The answer hangs on any pulse at all: three equal ones get a third each, where hiding one would say 0."""
    record = case(hr_2=80, hr_5=80, hr_9=80, lac_1=1)
    found = happenings(record, BLOCKS)
    weights, _, _ = events(lambda r: np.isfinite(grid(r)[:, 0]).any(1, keepdims=True) * 3.0, record, found, 0)
    assert weights.tolist() == pytest.approx([0, 1, 1, 1])


def test_as_data_and_as_a_picture():
    """The method suits histories; items carry the time, value and unit; no history is a coded refusal."""
    assert methods_of(BLOCKS) == ["shapley", "events"]
    record, background = case(hr_0=80, lac_4=4), np.zeros((1, 37))
    told = explain_record("events", lambda r: np.nan_to_num(grid(r)[:, 1, 4:5]), record, background, BLOCKS, 0)
    assert told.items[0] == {
        "input": "stay", "part": "Lactate, 14 to 16 h before", "time": 15.0, "value": 4.0, "unit": "mmol/L",
        "weight": pytest.approx(4),
    }  # fmt: skip
    assert told.places[0].tolist() == [1 + BINS + 4] and told.total == pytest.approx(4) and told.gap < 1e-6
    assert told.png.startswith(b"\x89PNG")
    with pytest.raises(Refusal) as caught:
        explain_record("events", lambda r: r[:, :1], case(), background, BLOCKS, 0)
    assert caught.value.code == "input-missing"


def test_the_picture_shows_when_and_which_way():
    """Red early in the row of the pulse, blue late in that of the lactate, the stronger channel on top."""
    found = [Happening("stay", "HR", (24.0, 22.0), 80.0, None, (1,)),
             Happening("stay", "Lactate", (2.0, 0.0), 4.0, None, (2,))]  # fmt: skip
    picture = np.asarray(Image.open(io.BytesIO(render_times(found, np.array([2.0, -1.9])))))
    red, blue = (
        (np.abs(picture[30:74].astype(int) - colour).sum(-1) < 60) for colour in ((200, 60, 50), (50, 100, 190))
    )
    assert red.any() and blue.any()
    assert np.flatnonzero(red.any(1)).max() < np.flatnonzero(blue.any(1)).min()
    assert np.flatnonzero(red.any(0)).max() < 300 < 770 < np.flatnonzero(blue.any(0)).min()
    many = [Happening("stay", f"c{i}", (2.0, 0.0), 1.0, None, (i,)) for i in range(60)]
    assert Image.open(io.BytesIO(render_times(many, np.ones(60)))).height == 30 + 22 * 25 + 46
    assert render_times([], [])[:4] == b"\x89PNG"


def learned(score_of: str):
    """A model that learned from 300 histories that a lactate above 3 within the last 12 h is what kills.

    Returns: its score, and test records with the column of that event.
    """
    random = np.random.default_rng(3)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.stack([case() for _ in range(n)])
        values = grid(rows)
        for c in range(CHANNELS):
            there = random.random((n, BINS)) < 0.35
            values[:, c][there] = 1.0 if c == 2 else random.normal((80, 1.5)[c], (10, 0.4)[c], there.sum())
        at, ill = random.integers(6, BINS, n), random.random(n) < 0.5
        values[ill, 1, at[ill]] = random.normal(6, 0.5, ill.sum())
        rows[:, 1:] = values.reshape(n, -1)
        return rows, ill.astype(np.float32), 1 + BINS + at

    rows, y, _ = draw(300)
    torch.manual_seed(0)
    x, target = torch.from_numpy(rows), torch.from_numpy(y)
    if score_of == "trees":
        import lightgbm

        net = RecordNet([STAY])
        net.features.fit(rows)
        params = {"objective": "binary", "verbosity": -1, "num_threads": 1, "num_leaves": 7, "min_child_samples": 10}
        booster = lightgbm.train(params, lightgbm.Dataset(net.features.matrix(rows), y), 40)

        def score(some):
            return booster.predict(net.features.matrix(np.asarray(some, np.float32)), raw_score=True)[:, None]
    else:
        said = {"name": score_of} | ({"hidden": 16, "summary": 8} if score_of == "gru" else {"width": 16, "heads": 2})
        model = MODELS["case-net"](len(rows[0]), (), 1, blocks=BLOCKS, encoders={"timeline": said})
        model.fit(_Samples(rows, y))
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(90):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x)[0][:, 0], target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()

        @torch.no_grad()
        def score(some):
            return model(torch.from_numpy(np.asarray(some, np.float32)))[0].numpy()

    held, ill, column = draw(40)
    return score, held[ill == 1], column[ill == 1]


class _Samples:
    def __init__(self, x, y):
        self.x, self.targets = x, y

    def __len__(self):
        return len(self.x)

    def take(self, rows):
        return self.x[rows]


@pytest.mark.parametrize("kind", ["gru", "visit-transformer", "trees"])
def test_the_planted_event_is_found(kind):
    """Recurrent network, visit transformer, aggregates under boosted trees: the lactate that kills is named first among
    a dozen events in at least 7 of 10 cases; chance is 1 in 12."""
    score, rows, columns = learned(kind)
    hits = 0
    for record, column in zip(rows[:10], columns[:10], strict=True):
        told = explain_record("events", score, record, np.zeros((1, len(record))), BLOCKS, 0)
        assert told.gap < 1e-3 and len(told.items) > 5
        hits += int(column in told.places[0] and told.items[0]["weight"] > 0)
    assert hits >= 7


def test_what_the_field_writes_is_what_is_told():
    """From events as sent to the evidence: code, time and unit survive the record."""
    cases = [[[h, "loinc|8867-4", 80 + h, "/min"] for h in (1, 5, 20)] for _ in range(12)]
    field = Timeline("stay", window_h=24, bins=24, until_h=24)
    field = field.fit([field.parse(c) for c in cases])
    block = Block("stay", "timeline", 0, field.shape, field.facts)
    record = field.encode(field.parse([[3.5, "loinc|8867-4", 101, "/min"]])).ravel()
    (only,) = happenings(record, [block])
    assert (only.channel, only.hours, only.value, only.unit) == ("Heart rate", (21.0, 20.0), 101.0, "/min")
