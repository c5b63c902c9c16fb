"""A molecule with some atoms hidden: what a model would see if it did not know them.

    rows = without_atoms("CC(=O)O", [(0,), (1, 2)])         # (2, BITS + D): counts and descriptors

Every circular fragment that touches a hidden atom is taken out of the counts, and the descriptors are those of the
molecule with nameless atoms in their place.
Source: Riniker and Landrum, J Cheminform 5:43 (2013), for the counts.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from medserve.data.molecules.describe import BITS, descriptors_of, morgan
from medserve.data.molecules.standard import chemistry
from medserve.types import Array


def without_atoms(smiles: str, sets: Sequence[Sequence[int]], *, descriptors: bool = True) -> Array:
    """(K, BITS + D) float32; (K, BITS) without descriptors.

    Args:
        smiles: canonical, so that atom k is the k-th atom of the text. sets: atoms that are hidden together.
    """
    chem = chemistry()
    mol = chem.MolFromSmiles(smiles)
    whole, touching = _environments(mol)
    rows = []
    for some in sets:
        counts = whole.copy()
        for bit, _ in {place for atom in some for place in touching[atom]}:
            counts[bit] -= 1
        more = [descriptors_of(_nameless(chem, mol, some))] if descriptors else []
        rows.append(np.concatenate([counts.astype(np.float32), *more]))
    return np.stack(rows)


def _environments(mol: Any) -> tuple[Array, dict[int, set[tuple[int, tuple[int, int]]]]]:
    """Counts by bit, and of each atom the fragments that hold it: (bit, (centre, radius))."""
    from rdkit.Chem import rdFingerprintGenerator

    more = rdFingerprintGenerator.AdditionalOutput()
    more.AllocateBitInfoMap()
    counts = morgan().GetCountFingerprintAsNumPy(mol, additionalOutput=more).astype(np.int64)
    distance = chemistry().GetDistanceMatrix(mol)
    touching: dict[int, set[tuple[int, tuple[int, int]]]] = defaultdict(set)
    for bit, places in more.GetBitInfoMap().items():
        for centre, radius in places:
            for atom in np.flatnonzero(distance[centre] <= radius):
                touching[int(atom)].add((bit, (centre, radius)))
    assert counts.shape == (BITS,)
    return counts, touching


def _nameless(chem: Any, mol: Any, atoms: Sequence[int]) -> Any:
    other = chem.RWMol(mol)
    for index in atoms:
        atom = other.GetAtomWithIdx(index)
        atom.SetAtomicNum(0)
        atom.SetFormalCharge(0)
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(0)
    other.UpdatePropertyCache(strict=False)
    chem.FastFindRings(other)
    return other
