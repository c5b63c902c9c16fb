"""Likeness to known molecules, and picks that are unlike each other."""

import numpy as np
from made_molecules import molecules
from rdkit import DataStructs
from rdkit.SimDivFilters.rdSimDivPickers import MaxMinPicker

from medserve.data.molecules.describe import fingerprint
from medserve.data.molecules.nearest import Nearest, apart, unlike

PRINTS = [fingerprint(smiles) for smiles, _ in molecules(120)]


def test_the_nearest_is_the_most_alike():
    """Itself with 1; else what a plain search finds."""
    known = Nearest([smiles for smiles, _ in molecules(120)[:40]])
    assert known(PRINTS[7]) == (1.0, 7)
    alike, at = known(PRINTS[90])
    each = [DataStructs.TanimotoSimilarity(PRINTS[90], one) for one in PRINTS[:40]]
    assert (alike, at) == (max(each), int(np.argmax(each)))


def test_maxmin_picks_as_rdkit_does():
    """The same spread as RDKit's own picker from the same first pick: no two picks nearer than its nearest two."""
    mine = unlike(PRINTS, 12)
    theirs = list(MaxMinPicker().LazyBitVectorPick(PRINTS, len(PRINTS), 12, [0]))
    assert mine[0] == 0 and len(set(mine)) == 12
    assert _nearest_two(mine) <= _nearest_two(theirs) + 0.02


def test_sphere_exclusion_takes_no_neighbours():
    """In order, none that is as alike as the limit to an earlier one; and nothing was passed over for less."""
    taken = apart(PRINTS, 20, alike=0.5)
    assert taken[0] == 0 and taken == sorted(taken) and _nearest_two(taken) < 0.5
    for at in set(range(taken[-1])) - set(taken):
        assert max(DataStructs.BulkTanimotoSimilarity(PRINTS[at], [PRINTS[i] for i in taken if i < at])) >= 0.5


def _nearest_two(taken: list[int]) -> float:
    return max(
        DataStructs.TanimotoSimilarity(PRINTS[a], PRINTS[b]) for i, a in enumerate(taken) for b in taken[i + 1 :]
    )
