"""Shapley values of a record's inputs: they add up, agree with TreeSHAP, find what was planted; and their picture."""

import io

import lightgbm
import numpy as np
import pytest
from PIL import Image
from scipy.stats import kendalltau

from medserve.data.fields import Block
from medserve.explain.shapley import LEAST, background_of, permutation_shapley, render_bars


@pytest.fixture(scope="module")
def planted():
    """50 numbers, three of which make the outcome; trees that learnt it."""
    random = np.random.default_rng(0)
    x = random.normal(size=(1500, 50)).astype(np.float32)
    x[random.random(x.shape) < 0.05] = np.nan
    clean = np.nan_to_num(x)
    logit = 2 * clean[:, 4] - 1.5 * clean[:, 17] + 1.5 * clean[:, 30] * (clean[:, 4] > 0)
    y = (random.random(1500) < 1 / (1 + np.exp(-logit))).astype(int)
    params = {"objective": "binary", "num_leaves": 15, "verbosity": -1, "num_threads": 1, "min_child_samples": 20}
    return lightgbm.train(params, lightgbm.Dataset(x, y), 60), x


def each(count):
    return [np.array([i]) for i in range(count)]


def scorer(booster):
    return lambda rows: booster.predict(rows, raw_score=True)


def test_agrees_with_the_reference(planted):
    """Kendall's tau with shap's interventional TreeExplainer on the same background, and additivity."""
    shap = pytest.importorskip("shap")
    booster, x = planted
    background = background_of(x, 10, 7)
    reference = shap.TreeExplainer(booster, np.nan_to_num(background), feature_perturbation="interventional")
    taus = []
    for record in np.nan_to_num(x[:8]):
        values, base, gap = permutation_shapley(scorer(booster), record, np.nan_to_num(background), each(50))
        expected = reference.shap_values(record[None])[0]
        taus.append(kendalltau(values, expected).statistic)
        assert gap <= 1e-3
        assert base == pytest.approx(float(np.ravel(reference.expected_value)[-1]), abs=1e-3)
        assert np.abs(values - expected).max() < 0.25 * np.abs(expected).max()
    assert np.mean(taus) >= 0.8


def test_finds_what_was_planted(planted):
    """Over 20 cases the three true inputs of 50 carry the most weight, missing values and all."""
    booster, x = planted
    background = background_of(x, 10, 7)
    total = np.zeros(50)
    for record in x[:20]:
        values, _, gap = permutation_shapley(scorer(booster), record, background, each(50), permutations=4)
        total += np.abs(values)
        assert gap <= 1e-3
    assert set(np.argsort(-total)[:3]) == {4, 17, 30}


def test_few_inputs_are_exact():
    """f = x0 * x1 + x2 at (1, 1, 3) against 0: half of the product to each, 3 to the last, nothing to a stranger."""
    calls = []

    def score(rows):
        calls.append(len(rows))
        return np.stack([np.zeros(len(rows)), rows[:, 0] * rows[:, 1] + rows[:, 2]], 1)

    record, background = np.array([1.0, 1, 3, 5]), np.array([[0.0, 0, 0, 5]])
    values, base, gap = permutation_shapley(score, record, background, each(4), column=1)
    assert values.tolist() == pytest.approx([0.5, 0.5, 3, 0]) and base == 0 and gap == 0
    assert sum(calls) == 2**3 + 1  # the fourth input says what the background says


def test_an_empty_background_costs_one_pass_a_coalition():
    """Ten times "nothing was sent" is asked once; a missing value of the record is no news."""
    calls = []

    def score(rows):
        calls.append(len(rows))
        return np.isfinite(rows).sum(1)

    values, base, gap = permutation_shapley(score, np.array([1.0, 2, np.nan]), np.full((10, 3), np.nan), each(3))
    assert values.tolist() == [1, 1, 0] and base == gap == 0 and sum(calls) == 2**2 + 1


def test_columns_of_one_input_move_together():
    """A group of two columns takes the whole of their product; `slice` is a group too."""
    record, background = np.array([2.0, 3, 1]), np.array([[0.0, 0, 0], [0.0, 1, 0]])
    groups = [slice(0, 2), np.array([2])]
    values, base, gap = permutation_shapley(lambda r: r[:, 0] * r[:, 1] + r[:, 2], record, background, groups)
    assert values.tolist() == pytest.approx([6, 1]) and base == 0 and gap == 0


def test_the_same_seed_gives_the_same_values(planted):
    booster, x = planted
    background = background_of(x, 5, 7)
    first, again = (
        permutation_shapley(scorer(booster), x[3], background, each(50), permutations=2, seed=4, batch=size)[0]
        for size in (64, 4096)
    )
    assert np.array_equal(first, again)


def test_no_case_stands_in_the_background():
    """At least 10 cases behind each row and each value; words by majority; what is no scalar is left out."""
    random = np.random.default_rng(0)
    age = random.normal(60, 10, 203)
    bmi = np.where(random.random(203) < 0.6, np.nan, 27.0)
    rare = np.where(np.arange(203) < 9, 1.0, np.nan)
    word = random.choice([0.0, 1.0, 2.0], 203, p=[0.6, 0.3, 0.1])
    wave = random.normal(size=(203, 4))
    x = np.column_stack([age, bmi, rare, word, wave]).astype(np.float32)
    blocks = [
        Block("age", "number", 0, (1,)), Block("bmi", "number", 1, (1,)), Block("rare", "number", 2, (1,)),
        Block("word", "category", 3, (1,), {"levels": 4}), Block("ecg", "waveform", 4, (1, 4)),
    ]  # fmt: skip
    found = background_of(x, 8, 7, blocks)
    assert found.shape == (8, 8) and found.dtype == np.float32
    assert np.isnan(found[:, 2]).all() and np.isnan(found[:, 4:]).all()
    assert set(found[:, 3]) <= {0, 1, 2} and np.isfinite(found[:, 0]).all()
    assert not np.isin(found[:, 0], x[:, 0]).any()
    assert found[:, 0].mean() == pytest.approx(60, abs=2) and np.ptp(found[:, 0]) > 5
    assert len(background_of(x, 1000, 7, blocks)) <= 203 // LEAST
    assert np.isnan(background_of(x[:9], 5, 7, blocks)).all()
    assert np.array_equal(background_of(x, 8, 7, blocks), found, equal_nan=True)


def colours(png):
    return {colour for _, colour in Image.open(io.BytesIO(png)).getcolors(100_000)}


def test_the_picture_shows_both_directions():
    """Red to the right of the axis raises, blue to the left lowers; the longest bar is on top."""
    png = render_bars(["age", "a very long name of an input " * 6], [1.2, -0.4], ["71 a", "F"], -1.0, -0.2)
    picture = np.asarray(Image.open(io.BytesIO(png)))
    red, blue = ((picture == colour).all(-1) for colour in ((200, 60, 50), (50, 100, 190)))
    wide_red, wide_blue = red.sum(1) > 30, blue.sum(1) > 30
    assert wide_red.any() and wide_blue.any()
    assert np.flatnonzero(wide_red).max() < np.flatnonzero(wide_blue).min()
    middle = 300 + 230
    assert np.flatnonzero(red[wide_red].any(0)).min() >= middle >= np.flatnonzero(blue[wide_blue].any(0)).max()
    assert red.sum(1).max() == pytest.approx(3 * blue.sum(1)[wide_blue].max(), rel=0.05)


def test_the_picture_of_many_and_of_none():
    many = Image.open(io.BytesIO(render_bars([f"x{i}" for i in range(40)], np.ones(40), [""] * 40, 0, 40)))
    few = Image.open(io.BytesIO(render_bars(["x"], [0.0], ["missing"], 0.5, 0.5)))
    assert many.height == 40 + 28 * 13 + 36 and few.height < many.height
    assert render_bars([], [], [], 0, 0)[:4] == b"\x89PNG"
