"""Cases without one of their inputs: sets and intervals that only widen, and keep what they promise."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from medserve.data.fields import Block, absent_from, together
from medserve.evaluation.calibrate import bare
from medserve.evaluation.conformal import covered, fit_absent, fit_conformal
from medserve.models.spec import Absent, Calibration, Conformal, OutputSpec
from medserve.questions.answers import answer_one, limits, prediction_set, probabilities

TASKS = {
    "binary": OutputSpec(task="binary", labels=["no", "yes"]),
    "multiclass": OutputSpec(task="multiclass", labels=["a", "b", "c"]),
    "ordinal": OutputSpec(task="ordinal", labels=["low", "middle", "high"]),
}
NUMBER = OutputSpec(task="number", labels=["days"], unit="d", mean=10.0, sd=4.0)
BLOCKS = (
    Block("age", "number", 0, (1,)),
    Block("film", "image", 1, (1, 2, 2)),
    Block("sex", "category", 5, (1,)),
    Block("note", "text", 6, (3,)),
)
level = st.floats(0, 1)
quantiles = st.tuples(level, st.none() | st.tuples(level, level, level))


def spec_of(output: OutputSpec, full: tuple, absent: dict[tuple[str, ...], tuple]):
    """A signature with given quantiles; a triple is by label, cut to the labels there are."""

    def said(pair):
        each = None if pair[1] is None else dict(zip(output.labels, pair[1], strict=False))
        return {"quantile": pair[0], "by_label": each}

    entries = [Absent(inputs=list(names), n=9, **said(pair)) for names, pair in absent.items()]
    conformal = Conformal(alpha=0.1, n=9, absent=entries, **said(full))
    return bare(output, Calibration(conformal=conformal))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(TASKS)), quantiles, quantiles, quantiles, st.lists(st.floats(-5, 5), min_size=3, max_size=3)
)
def test_a_hidden_input_never_narrows_the_set(task, full, one, two, logits):
    """At the same logits: the set with more inputs absent holds the set with fewer, whatever was fitted."""
    output = TASKS[task]
    spec = spec_of(output, full, {("film",): one, ("note",): two, ("film", "note"): one})
    probs = probabilities(spec, np.array([logits[: output.width]]))[0]
    sets = [set(prediction_set(spec, probs, names) or ()) for names in ((), ("film",), ("film", "note"))]
    assert sets[0] <= sets[1] <= sets[2]
    assert set(answer_one(spec, probs, absent=("film",)).prediction_set or ()) == sets[1]
    assert sets[0] == set(prediction_set(spec, probs, ("age",)) or ())  # nothing was fitted for it


@settings(max_examples=80, deadline=None)
@given(level, level, st.floats(-5, 5))
def test_a_hidden_input_never_narrows_the_interval(full, one, value):
    """Of a number: both ends move outwards or stay."""
    spec = spec_of(NUMBER, (full, None), {("film",): (one, None)})
    probs = probabilities(spec, np.array([[value]]))[0]
    whole, lacking = answer_one(spec, probs).interval, answer_one(spec, probs, absent=("film",)).interval
    assert whole is not None and lacking is not None
    assert lacking[0] <= whole[0] <= whole[1] <= lacking[1]
    assert lacking[1] - lacking[0] == pytest.approx(2 * max(full, one))


def test_quantiles_by_label_are_compared_label_by_label():
    """0.2 against 0.5 for one label, 0.9 against 0.4 for the other: 0.5 and 0.9."""
    spec = spec_of(TASKS["binary"], (0.3, (0.2, 0.9, 0)), {("film",): (0.35, (0.5, 0.4, 0))})
    conformal = spec.calibration.conformal
    assert conformal is not None
    assert limits(conformal, ["no", "yes"]) == [0.2, 0.9] and limits(conformal, ["no", "yes"], ["film"]) == [0.5, 0.9]


def two_signs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two inputs that tell of one label. Returns: (logits with both, logits of a model that lost the first, labels)."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, n)
    strong, weak = (2 * y - 1) * 1.5 + random.normal(0, 1, n), (2 * y - 1) * 0.4 + random.normal(0, 1, n)
    return (3 * strong + 0.8 * weak)[:, None], (3 * weak)[:, None], y  # the second is far too sure


@pytest.mark.parametrize("n", [90, 600])  # one quantile, and one a label
def test_the_sets_of_cases_without_an_input_hold_the_truth_as_often_as_promised(n):
    """On new cases whose strong sign is hidden, 90 of 100 less chance; without the second quantile, far fewer."""
    full, hidden, y = two_signs(n, seed=1)
    output = TASKS["binary"]
    plain = bare(output, Calibration(conformal=fit_conformal(bare(output), full, y)))
    assert plain.calibration.conformal is not None
    absent = fit_absent(plain, {("film",): (hidden, y)})
    conformal = msgspec.structs.replace(plain.calibration.conformal, absent=absent)
    spec = bare(output, Calibration(conformal=conformal))
    assert absent[0].n == n and (absent[0].by_label is not None) == (n == 600)
    hits, before = [], []
    for seed in range(20):  # many draws of new cases: what is left is the luck of one calibration part
        _, logits, truth = two_signs(200, seed=100 + seed)
        hits.append(covered(spec, logits, truth, [("film",)] * 200)[0])
        before.append(covered(spec, logits, truth)[0])
    least = binom.ppf(0.001, n, 0.9) / n  # the calibration part's own chance
    assert np.mean(hits) >= least and np.mean(before) < 0.8


def test_intervals_of_a_number_without_an_input_hold_the_truth():
    """The error doubles when the input is hidden; so does the half-width, and coverage stays."""
    random = np.random.default_rng(3)
    truth = random.normal(10, 4, 400)
    logits = lambda noise: ((truth + random.normal(0, noise, 400) - 10) / 4)[:, None]  # noqa: E731
    plain = bare(NUMBER, Calibration(conformal=fit_conformal(bare(NUMBER), logits(1.0), truth)))
    assert plain.calibration.conformal is not None
    absent = fit_absent(plain, {("film",): (logits(2.0), truth)})
    conformal = msgspec.structs.replace(plain.calibration.conformal, absent=absent)
    spec = bare(NUMBER, Calibration(conformal=conformal))
    assert absent[0].quantile == pytest.approx(2 * conformal.quantile, rel=0.25)
    hit, _ = covered(spec, logits(2.0), truth, [("film",)] * 400)
    assert hit.mean() >= binom.ppf(0.001, 400, 0.9) / 400


def test_nothing_is_fitted_where_it_cannot_hold():
    """Too few cases for the quantile, or a task without sets: no entry, and the answer is as it was."""
    full, hidden, y = two_signs(60, seed=2)
    plain = bare(TASKS["binary"], Calibration(conformal=fit_conformal(bare(TASKS["binary"]), full, y)))
    assert fit_absent(plain, {("film",): (hidden[:8], y[:8]), ("note",): (hidden[:0], y[:0])}) == []
    many = OutputSpec(task="multilabel", labels=["a"])
    assert fit_absent(bare(many), {("film",): (hidden, y)}) == []


def test_an_input_is_absent_when_all_of_it_is():
    """NaN all through; numbers and categories count as one group, since a table always has gaps."""
    records = np.ones((5, 9), np.float32)
    records[1, 1:5] = np.nan
    records[2, [0, 1, 6]] = np.nan
    records[3, [0, 5]] = np.nan
    records[4, 1:] = np.nan
    assert [tuple(b.name for b in group) for group in together(BLOCKS)] == [("age", "sex"), ("film",), ("note",)]
    assert absent_from(BLOCKS, records) == [(), ("film",), (), ("age", "sex"), ("film", "note")]
