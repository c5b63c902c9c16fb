"""A molecule with one atom hidden at a time: what a model would see if it did not know that atom.

    rows = without_atoms("CC(=O)O")         # (V, BITS + D): counts and descriptors, atom by atom

Every circular fragment that touches the atom is taken out of the counts, and the descriptors are those of the molecule
with a nameless atom in its place.
Source: Riniker and Landrum, J Cheminform 5:43 (2013), for the counts.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from medserve.data.molecules.describe import BITS, descriptors_of, morgan
from medserve.data.molecules.standard import chemistry
from medserve.types import Array


def without_atoms(smiles: str) -> Array:
    """(V, BITS + D) float32. smiles: canonical, so that atom k is the k-th atom of the text."""
    chem = chemistry()
    mol = chem.MolFromSmiles(smiles)
    whole, touching = _environments(mol)
    rows = []
    for atom in mol.GetAtoms():
        counts = whole.copy()
        for bit, number in touching[atom.GetIdx()].items():
            counts[bit] -= number
        rows.append(np.concatenate([counts.astype(np.float32), descriptors_of(_nameless(chem, mol, atom.GetIdx()))]))
    return np.stack(rows)


def _environments(mol: Any) -> tuple[Array, dict[int, dict[int, int]]]:
    """Counts by bit, and of each atom how many fragments of each bit hold it."""
    from rdkit.Chem import rdFingerprintGenerator

    more = rdFingerprintGenerator.AdditionalOutput()
    more.AllocateBitInfoMap()
    counts = morgan().GetCountFingerprintAsNumPy(mol, additionalOutput=more).astype(np.int64)
    distance = chemistry().GetDistanceMatrix(mol)
    touching: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for bit, places in more.GetBitInfoMap().items():
        for centre, radius in places:
            for atom in np.flatnonzero(distance[centre] <= radius):
                touching[int(atom)][bit] += 1
    assert counts.shape == (BITS,)
    return counts, touching


def _nameless(chem: Any, mol: Any, index: int) -> Any:
    other = chem.RWMol(mol)
    atom = other.GetAtomWithIdx(index)
    atom.SetAtomicNum(0)
    atom.SetFormalCharge(0)
    atom.SetNoImplicit(True)
    atom.SetNumExplicitHs(0)
    other.UpdatePropertyCache(strict=False)
    chem.FastFindRings(other)
    return other
