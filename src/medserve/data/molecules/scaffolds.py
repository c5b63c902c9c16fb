"""Families of molecules, for splits that ask about new chemistry.

    scaffold("CC(=O)Oc1ccccc1C(=O)O")       # "c1ccccc1"; "" for a molecule without rings
    clusters(keys, smiles, limit=0.4)       # the number of the cluster of each

Sources: Bemis and Murcko, J Med Chem 39:2887 (1996); Butina, J Chem Inf Comput Sci 39:747 (1999).
"""

from collections.abc import Sequence

import numpy as np

from medserve.data.molecules.describe import fingerprint
from medserve.data.molecules.standard import chemistry
from medserve.types import Array

MOST_CLUSTERED = 20_000  # beyond it the matrix of similarities takes hours


def scaffold(smiles: str) -> str:
    """The rings and what links them, without side chains, as canonical SMILES without stereochemistry."""
    chemistry()
    from rdkit.Chem.Scaffolds import MurckoScaffold

    found: str = MurckoScaffold.MurckoScaffoldSmiles(smiles=smiles, includeChirality=False)
    return found


def clusters(smiles: Sequence[str], *, alike: float = 0.6) -> Array:
    """(N,) int64: leader clusters of molecules whose Tanimoto similarity to the leader is at least `alike`.

    Leaders are taken in the order of how many neighbours a molecule has, then of its SMILES, so that the order of the
    rows changes nothing.
    """
    from rdkit import DataStructs

    prints = [fingerprint(s) for s in smiles]
    near: list[Array] = []
    for one in prints:
        near.append(np.flatnonzero(np.asarray(DataStructs.BulkTanimotoSimilarity(one, prints)) >= alike))
    found = np.full(len(smiles), -1, np.int64)
    order = sorted(range(len(smiles)), key=lambda i: (-len(near[i]), smiles[i]))
    number = 0
    for leader in order:
        if found[leader] >= 0:
            continue
        mine = near[leader][found[near[leader]] < 0]
        found[mine] = number
        number += 1
    return found
