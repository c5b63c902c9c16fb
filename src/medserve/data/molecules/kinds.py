"""A molecule as a graph of any size, its atoms and bonds numbered by kind.

    letters = Letters()
    graph = letters.read(mol)           # Graph(atoms=(V,), bonds=(E,), begins=(E,), ends=(E,))
    letters.atoms, letters.bonds        # (A, 72) and (B, 14) float32: the rows that the numbers in a graph stand for

Few kinds of atoms and bonds exist, so a graph holds their numbers, and what a network does with a row it does once for
each kind. The rows are the features of `graph.py`, spread out as in Chemprop 2 (its multi-hot featurizers, V2).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from medserve.data.molecules.graph import ATOM_SIZES, BONDS, CHARGES, ELEMENTS, HYBRIDS, STEREO, WIDE_ATOM, WIDE_BOND
from medserve.data.molecules.standard import chemistry
from medserve.types import Array

_NUMBERS = {number: at for at, number in enumerate(ELEMENTS)}
_CHARGES = {charge: at for at, charge in enumerate(CHARGES)}


@dataclass(frozen=True, slots=True)
class Graph:
    """atoms: (V,) kinds. bonds: (E,) kinds of directed bonds; 2k and 2k + 1 are one bond both ways. begins, ends: (E,)
    their atoms."""

    atoms: Array
    bonds: Array
    begins: Array
    ends: Array


class Letters:
    """The kinds of atoms and bonds that were met so far."""

    def __init__(self) -> None:
        chem = chemistry()
        self._orbitals = {getattr(chem.HybridizationType, name): at for at, name in enumerate(HYBRIDS)}
        self._types = {getattr(chem.BondType, name): at for at, name in enumerate(BONDS)}
        self._atoms: dict[Any, int] = {}
        self._bonds: dict[Any, int] = {}
        self._rows: list[Array] = []
        self._bond_rows: list[Array] = []

    @property
    def atoms(self) -> Array:
        return np.stack(self._rows) if self._rows else np.zeros((0, WIDE_ATOM), np.float32)

    @property
    def bonds(self) -> Array:
        return np.stack(self._bond_rows) if self._bond_rows else np.zeros((0, WIDE_BOND), np.float32)

    def read(self, mol: Any) -> Graph:
        """mol: RDKit's, sanitised."""
        atoms = [self._atom(atom) for atom in mol.GetAtoms()]
        bonds: list[int] = []
        begins: list[int] = []
        for bond in mol.GetBonds():
            kind, one, other = self._bond(bond), bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            bonds += (kind, kind)
            begins += (one, other)
        first = np.array(begins, np.int64)
        return Graph(
            np.array(atoms, np.int64), np.array(bonds, np.int64), first, first.reshape(-1, 2)[:, ::-1].reshape(-1)
        )

    def _atom(self, atom: Any) -> int:
        said = (
            atom.GetAtomicNum(), atom.GetTotalDegree(), atom.GetFormalCharge(), int(atom.GetChiralTag()),
            atom.GetTotalNumHs(), atom.GetHybridization(), atom.GetIsAromatic(), atom.GetMass(),
        )  # fmt: skip
        found = self._atoms.get(said)
        if found is None:
            found = self._atoms[said] = len(self._rows)
            self._rows.append(self._atom_row(*said))
        return found

    def _atom_row(
        self, number: int, degree: int, charge: int, chiral: int, hydrogens: int, orbital: Any, ring: bool, mass: float
    ) -> Array:
        """One place for each answer, one more for an answer that is none of them."""
        row, at = np.zeros(WIDE_ATOM, np.float32), 0
        found = (_NUMBERS.get(number), degree, _CHARGES.get(charge), chiral, hydrogens, self._orbitals.get(orbital))
        for place, size in zip(found, ATOM_SIZES, strict=True):
            row[at + (size - 1 if place is None else min(place, size - 1))] = 1
            at += size
        row[at], row[at + 1] = ring, 0.01 * mass
        return row

    def _bond(self, bond: Any) -> int:
        said = (bond.GetBondType(), bond.GetIsConjugated(), bond.IsInRing(), int(bond.GetStereo()))
        found = self._bonds.get(said)
        if found is None:
            found = self._bonds[said] = len(self._bond_rows)
            row = np.zeros(WIDE_BOND, np.float32)  # place 0: no bond at all
            if said[0] in self._types:
                row[1 + self._types[said[0]]] = 1
            row[5], row[6], row[7 + min(said[3], STEREO)] = said[1], said[2], 1
            self._bond_rows.append(row)
        return found
