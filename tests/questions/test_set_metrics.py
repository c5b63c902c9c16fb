"""Sets of medicines against a reading of the definitions that shares no code with them."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from medserve.questions.medicines import (
    f1s,
    interaction_rate,
    jaccards,
    praucs,
    threshold_of,
    weighted_mean,
    weighted_rate,
)
from medserve.questions.metrics import SETS, Judged, measure

PAIRS = [(0, 2), (1, 4), (3, 5)]


@pytest.fixture(scope="module")
def sets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities with ties, what is given from one half on, and what was prescribed; 40 visits, 6 medicines."""
    random = np.random.default_rng(3)
    probs = np.round(random.random((40, 6)), 1)
    truth = random.random((40, 6)) < 0.4
    truth[:2] = False
    return probs, probs >= 0.5, truth


def test_jaccard_and_f1_are_those_of_sets(sets):
    _, given, truth = sets
    for row, (jaccard, f1) in enumerate(zip(jaccards(given, truth), f1s(given, truth), strict=True)):
        a, b = set(np.flatnonzero(given[row])), set(np.flatnonzero(truth[row]))
        assert jaccard == (len(a & b) / len(a | b) if a | b else 1)
        assert f1 == pytest.approx(2 * len(a & b) / (len(a) + len(b)) if a or b else 1)


def test_average_precision_is_that_of_scikit_learn(sets):
    probs, _, truth = sets
    found = praucs(probs, truth)
    assert np.isnan(found[:2]).all()
    wanted = [average_precision_score(t, p) for p, t in zip(probs[2:], truth[2:], strict=True) if t.any()]
    assert found[2:][truth[2:].any(axis=1)] == pytest.approx(wanted)


def test_interactions_are_counted_over_all_pairs_of_all_visits(sets):
    _, given, _ = sets
    pairs = [pair for row in given for pair in itertools.combinations(np.flatnonzero(row).tolist(), 2)]
    wanted = sum(pair in PAIRS for pair in pairs) / len(pairs)
    assert interaction_rate(given, PAIRS) == pytest.approx(wanted)
    assert np.isnan(interaction_rate(given[:0], PAIRS)) and interaction_rate(given, []) == 0
    twice = np.concatenate([given, given[:7]])
    weights = np.ones((1, 40))
    weights[0, :7] = 2
    assert weighted_rate(given, PAIRS, weights)[0] == pytest.approx(interaction_rate(twice, PAIRS))
    assert weighted_mean(np.array([1.0, np.nan, 4.0]), np.array([[2.0, 9.0, 1.0]]))[0] == 2


def test_the_threshold_is_the_best_that_keeps_to_the_rate(sets):
    probs, _, truth = sets
    tries = [0.15, 0.35, 0.55, 0.75]
    told = {at: (jaccards(probs >= at, truth).mean(), interaction_rate(probs >= at, PAIRS)) for at in tries}
    free, best = threshold_of(probs, truth, PAIRS, 1.0, tries)
    assert best == max(jaccard for jaccard, _ in told.values()) == told[free][0]
    limit = sorted(rate for _, rate in told.values())[1]
    kept, _ = threshold_of(probs, truth, PAIRS, limit, tries)
    assert told[kept][1] <= limit
    assert told[kept][0] == max(jaccard for jaccard, rate in told.values() if rate <= limit)
    least, _ = threshold_of(probs, truth, PAIRS, -1.0, tries)
    assert told[least][1] == min(rate for _, rate in told.values())


def test_a_weight_is_a_repeated_visit(sets):
    """A visit of weight 3 counts as three equal visits, weight 0 as none, in every figure; those of the task too."""
    probs, given, truth = sets
    judged = Judged("multilabel", tuple("abcdef"), truth.astype(float), probs, given, pairs=tuple(PAIRS))
    times = np.arange(40) % 4
    told = measure(judged, times[None].astype(float))
    again = measure(judged.keep(np.repeat(np.arange(40), times)), np.ones((1, times.sum())))
    assert set(told) == set(SETS)
    for name, value in told.items():
        assert value[0] == pytest.approx(again[name][0]), name
    assert set(measure(judged, np.ones((1, 40)), only=("auroc", "ece"))) == {"auroc", "ece"}
