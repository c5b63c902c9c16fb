"""Early recognition: RDKit's values where nothing is tied, the mean over all orders where something is."""

import itertools

import numpy as np
import pytest

from medserve.evaluation.enrichment import RankCounts, enrichment, figures


@pytest.mark.parametrize("n", [60, 333, 4000])
def test_without_ties_the_values_are_those_of_rdkit(n):
    """EF 1 %, BEDROC (20) and AUROC."""
    from rdkit.ML.Scoring import Scoring

    random = np.random.default_rng(n)
    active = random.random(n) < 0.1
    scores = random.normal(size=n) + active
    found = enrichment(RankCounts.of(scores, active), draws=50)
    rows = [(scores[i], int(active[i])) for i in np.argsort(-scores)]
    assert found["ef_1"]["value"] == pytest.approx(Scoring.CalcEnrichment(rows, 1, [0.01])[0])
    assert found["bedroc_20"]["value"] == pytest.approx(Scoring.CalcBEDROC(rows, 1, 20.0))
    assert found["auroc"]["value"] == pytest.approx(Scoring.CalcAUC(rows, 1))
    for span in found.values():
        assert span["low"] <= span["value"] <= span["high"]


def test_ties_are_the_mean_over_all_orders():
    """Five molecules of which three share a score: every order of them, averaged."""
    active = np.array([False, True, False, True, False])
    scores = np.array([5.0, 3.0, 3.0, 3.0, 1.0])
    whole = figures(*(side[None] for side in _sides(RankCounts.of(scores, active))))
    each = []
    for order in itertools.permutations([1, 2, 3]):
        row = active[[0, *order, 4]]
        each.append(figures(row.astype(int)[None], (~row).astype(int)[None]))
    for name, value in whole.items():
        assert value[0] == pytest.approx(np.mean([one[name][0] for one in each]))


def test_one_side_alone_tells_nothing():
    """No figure without actives, or without inactives."""
    found = enrichment(RankCounts.of(np.arange(5.0), np.zeros(5, bool)))
    assert all(span["value"] is None for span in found.values())


def _sides(counts: RankCounts) -> tuple:
    return counts.actives, counts.inactives
