"""Figures of a molecule that nobody made are those of the published scripts."""

import gzip
import pickle
from pathlib import Path

import pytest

from medserve.data.molecules.quality import _script, diversity, quality

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def test_the_table_of_the_sa_score_is_read_without_opening_a_pickle():
    """The reader of numbers finds what pickle would have found, every fragment and score of it."""
    from rdkit import RDConfig

    data = pickle.loads(gzip.decompress((Path(RDConfig.RDContribDir) / "SA_Score" / "fpscores.pkl.gz").read_bytes()))
    assert {f: float(row[0]) for row in data for f in row[1:]} == _script()._fscores


def test_aspirin_is_drug_like_easy_to_make_and_without_alert():
    """QED .55 and SA score 1.58, RDKit's own values."""
    found = quality(ASPIRIN)
    assert found.qed == pytest.approx(0.5501, abs=1e-3) and found.sa == pytest.approx(1.58, abs=0.01)
    assert found.weight == pytest.approx(180.16, abs=0.01) and found.pains == ()


def test_an_alert_is_named():
    """A rhodanine with an ylidene is one of the PAINS."""
    assert any("rhod" in name for name in quality("O=C1NC(=S)SC1=Cc1ccccc1").pains)


def test_diversity_is_0_of_one_molecule_twice_and_above_it_of_two():
    """Pairs of different molecules only."""
    assert diversity([ASPIRIN, ASPIRIN]) == pytest.approx(0)
    assert diversity([ASPIRIN, "CCCCCC"]) > 0.9 and diversity([ASPIRIN]) is None
