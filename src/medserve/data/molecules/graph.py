"""A molecule as a graph: atoms and bonds with what chemists say of them, as numbers of a fixed place.

    graph_of("CCO", atoms=24)            # (24 * ATOM + 30 * BOND,) float32, NaN beyond the last atom and bond

Of an atom: element, degree, charge, chirality, hydrogens, hybridisation (each a place in its list, the last for what is
not listed), aromatic, mass / 100. Of a bond: its two atoms, kind, conjugated, in a ring, stereochemistry.
Source: the features of Chemprop 2 (Heid et al., J Chem Inf Model 64:9, 2024), MultiHotAtomFeaturizer.v2 and
MultiHotBondFeaturizer; lists as there.
"""

from collections.abc import Sequence

import numpy as np

from medserve.data.molecules.standard import chemistry
from medserve.types import Array

ELEMENTS = (*range(1, 37), 53)
DEGREES, CHIRAL, HYDROGENS = 6, 4, 5
CHARGES = (-1, -2, 1, 2, 0)
HYBRIDS = ("S", "SP", "SP2", "SP2D", "SP3", "SP3D", "SP3D2")
BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
STEREO = 6
ATOM_SIZES = (len(ELEMENTS) + 1, DEGREES + 1, len(CHARGES) + 1, CHIRAL + 1, HYDROGENS + 1, len(HYBRIDS) + 1)
ATOM, BOND = 8, 6  # numbers of one
WIDE_ATOM, WIDE_BOND = sum(ATOM_SIZES) + 2, 1 + len(BONDS) + 2 + STEREO + 1  # of one, each answer in a place of its own
LEAST_ATOMS, MOST_ATOMS = 24, 200


def bonds_for(atoms: int) -> int:
    """Places for the bonds of so many atoms: a quarter more, which fused rings seldom need."""
    return atoms + atoms // 4


def graph_size(atoms: int) -> int:
    return atoms * ATOM + bonds_for(atoms) * BOND


def graph_of(smiles: str, atoms: int) -> Array | None:
    """(graph_size(atoms),) float32, atoms first; None where the molecule does not fit."""
    mol = chemistry().MolFromSmiles(smiles)
    if mol.GetNumAtoms() > atoms or mol.GetNumBonds() > bonds_for(atoms):
        return None
    out = np.full(graph_size(atoms), np.nan, np.float32)
    first = out[: atoms * ATOM].reshape(atoms, ATOM)
    for i, atom in enumerate(mol.GetAtoms()):
        first[i] = (
            _at(ELEMENTS, atom.GetAtomicNum()),
            min(atom.GetTotalDegree(), DEGREES),
            _at(CHARGES, atom.GetFormalCharge()),
            min(int(atom.GetChiralTag()), CHIRAL),
            min(int(atom.GetTotalNumHs()), HYDROGENS),
            _at(HYBRIDS, str(atom.GetHybridization())),
            atom.GetIsAromatic(),
            0.01 * atom.GetMass(),
        )
    second = out[atoms * ATOM :].reshape(-1, BOND)
    for i, bond in enumerate(mol.GetBonds()):
        second[i] = (
            bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), _at(BONDS, str(bond.GetBondType())), bond.GetIsConjugated(),
            bond.IsInRing(), min(int(bond.GetStereo()), STEREO),
        )  # fmt: skip
    return out


def nameless(graph: Array, atoms: Sequence[int], most: int) -> None:
    """Make some atoms of a graph, in place, into ones of no element that chemists know; their bonds stay."""
    first = graph[: most * ATOM].reshape(most, ATOM)
    for i in atoms:
        first[i] = (*(size - 1 for size in ATOM_SIZES), 0, 0)


def drawn_graph(random: np.random.Generator, atoms: int) -> Array:
    """A chain of atoms that nobody measured, with some rings."""
    out = np.full(graph_size(atoms), np.nan, np.float32)
    count = int(random.integers(2, atoms + 1))
    first, second = out[: atoms * ATOM].reshape(atoms, ATOM), out[atoms * ATOM :].reshape(-1, BOND)
    first[:count] = np.column_stack([
        *(random.integers(0, size, count) for size in ATOM_SIZES), random.integers(0, 2, count), random.random(count),
    ])  # fmt: skip
    begin = np.concatenate([np.arange(count - 1), np.arange(0, count - 5, 6)])
    end = np.concatenate([np.arange(1, count), np.arange(5, count, 6)])
    bonds = len(begin)
    second[:bonds] = np.column_stack([
        begin, end, random.integers(0, len(BONDS), bonds), random.integers(0, 2, bonds), random.integers(0, 2, bonds),
        random.integers(0, STEREO, bonds),
    ])  # fmt: skip
    return out


def _at(known: tuple[object, ...], value: object) -> int:
    return known.index(value) if value in known else len(known)
