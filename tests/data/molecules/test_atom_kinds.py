"""Molecules as graphs whose atoms and bonds are numbered by kind."""

import numpy as np

from medserve.data.molecules.graph import WIDE_ATOM, WIDE_BOND
from medserve.data.molecules.kinds import Letters
from medserve.data.molecules.standard import chemistry


def read(letters: Letters, smiles: str):
    return letters.read(chemistry().MolFromSmiles(smiles))


def test_an_atom_is_written_place_by_place():
    """Of the oxygen of ethanol: number 8, degree 2, no charge, no chirality, one hydrogen, SP3, not aromatic, mass."""
    letters = Letters()
    graph = read(letters, "CCO")
    row = letters.atoms[graph.atoms[2]]
    assert row.shape == (WIDE_ATOM,)
    assert np.flatnonzero(row[:70]).tolist() == [7, 38 + 2, 45 + 4, 51 + 0, 56 + 1, 62 + 4]
    assert row[70] == 0 and abs(row[71] - 0.15999) < 1e-5


def test_a_bond_stands_both_ways_side_by_side():
    """Bonds 2k and 2k + 1 are one; an aromatic bond in a ring is conjugated and has no stereo."""
    letters = Letters()
    graph = read(letters, "c1ccccc1")
    assert len(graph.bonds) == 12 and len(letters.bonds) == 1
    assert (graph.begins[::2] == graph.ends[1::2]).all() and (graph.begins[1::2] == graph.ends[::2]).all()
    assert np.flatnonzero(letters.bonds[0]).tolist() == [4, 5, 6, 7] and letters.bonds.shape[1] == WIDE_BOND


def test_kinds_are_shared_between_molecules():
    """A second molecule of the same atoms adds no kind; what is beyond every list takes the last place of it."""
    letters = Letters()
    read(letters, "CCO")
    before = len(letters.atoms)
    read(letters, "OCC")
    assert len(letters.atoms) == before
    odd = read(letters, "[Xe]")
    assert np.flatnonzero(letters.atoms[odd.atoms[0]][:38]).tolist() == [37] and len(odd.bonds) == 0
