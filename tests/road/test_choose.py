"""Which of two models is offered: the simpler one, unless the other's scores are shown to tell more."""

import numpy as np
import pytest

from medserve.models.spec import OutputSpec
from medserve.road.choose import choose, scaled

BINARY = OutputSpec(task="binary", labels=["no", "yes"])
THREE = OutputSpec(task="multiclass", labels=["a", "b", "c"])


def risks(n=800, seed=0):
    """One in eight is ill. Returns: targets, and a score that tells it apart, on the scale of its log odds."""
    random = np.random.default_rng(seed)
    y = (np.arange(n) % 8 == 0).astype(int)
    return y, (1.5 * (y * 1.5 + random.normal(size=n)) - 3.1)[:, None]


def test_a_better_decision_with_a_worse_order_is_not_better():
    """The recipe alarms more often at 0.5, the baseline tells ill and well apart: the baseline stays."""
    random = np.random.default_rng(0)
    y, cautious = risks()
    eager = cautious + 2.5 + random.normal(size=(800, 1)) * 2
    errors = [np.mean([((x[y == k, 0] > 0) != k).mean() for k in (0, 1)]) for x in (eager, cautious)]
    assert errors[0] < errors[1], "as a balanced error at 0.5 sees it, the recipe is better"
    found = choose(BINARY, eager, cautious, y, np.arange(800), on="val", draws=200)
    assert found["chosen"] == "baseline" and found["difference"]["high"] < 0
    assert found["auroc"]["recipe"] < found["auroc"]["baseline"]


def test_a_model_that_tells_more_is_offered():
    """Less log loss with its interval; a model is not better than itself."""
    random = np.random.default_rng(1)
    y = random.integers(0, 2, 600)
    good, bad = ((y * 2 - 1)[:, None] * 1.5 + random.normal(size=(600, 1)) * s for s in (0.5, 4.0))
    found = choose(BINARY, good, bad, y, np.arange(600), on="val", draws=200)
    assert found["chosen"] == "recipe" and found["metric"] == "log loss"
    assert choose(BINARY, good, good, y, np.arange(600), on="val", draws=200)["chosen"] == "baseline"


@pytest.mark.parametrize("change", [lambda x: x + 2, lambda x: x * 0.3, lambda x: 4 * x - 3])
def test_neither_scale_nor_prior_decides(change):
    """Classes that weighed the same in training, or an over-sure network: the same order is the same model."""
    y, logits = risks()
    found = choose(BINARY, change(logits), logits, y, np.arange(800), on="val", draws=200)
    assert found["chosen"] == "baseline" and abs(found["difference"]["value"]) < 2e-3
    assert choose(BINARY, logits, change(logits), y, np.arange(800), on="val", draws=200)["chosen"] == "baseline"


def test_networks_of_one_cross_validation_have_units_of_their_own():
    """One of three is far surer of the same order: pooled, that says nothing against the recipe."""
    y, logits = risks(90)
    nets = np.arange(90) % 3
    sure = logits * np.array([1.0, 40.0, 0.2])[nets][:, None]
    found = choose(BINARY, sure, logits, y, np.arange(90), on="3-fold cross-validation", folds=nets, draws=200)
    assert abs(found["difference"]["value"]) < 1e-6


def test_several_classes_are_brought_to_scale_too():
    """One offset a class: what a training with equal classes adds is taken away again."""
    random = np.random.default_rng(2)
    y = random.choice(3, 900, p=[0.7, 0.2, 0.1])
    logits = np.eye(3)[y] * 2 + random.normal(size=(900, 3)) + np.log([0.7, 0.2, 0.1])
    even = logits - np.log([0.7, 0.2, 0.1])
    found = choose(THREE, even, logits, y, np.arange(900), on="val", draws=200)
    assert abs(found["difference"]["value"]) < 2e-3
    moved = scaled(THREE, even, y, np.arange(900)) - scaled(THREE, logits, y, np.arange(900))
    assert np.ptp(moved, axis=1).max() < 0.3  # of 2.3


def test_no_case_is_scaled_by_its_own_class():
    """Scores without meaning gain nothing: the scale comes from other folds, and whole patients stand in one."""
    random = np.random.default_rng(3)
    y, who = np.repeat(random.integers(0, 2, 100), 8), np.repeat(np.arange(100), 8)
    noise = np.repeat(random.normal(size=(100, 1)), 8, axis=0)
    made = scaled(BINARY, noise, y, who)[:, 0]
    assert np.logaddexp(0, np.where(y == 1, -made, made)).mean() > np.log(2) - 0.005


def test_few_cases_are_taken_as_they_are():
    """Under twenty cases there is no scale to fit."""
    y, logits = risks(16)
    assert np.array_equal(scaled(BINARY, logits, y, np.arange(16)), logits)


def test_the_choice_does_not_know_what_patients_are_called():
    """Two installations name the same patients in another order; folds, draws and verdict are the same."""
    y, good = risks()
    other = good + np.random.default_rng(5).normal(size=good.shape)
    who = np.arange(800) // 2
    names = [np.array([f"p-{key ^ number:04d}" for number in who]) for key in (0, 677)]
    assert not np.array_equal(np.argsort(names[0]), np.argsort(names[1]))
    first, second = (choose(BINARY, good, other, y, told, on="val", draws=100) for told in names)
    assert first == second
