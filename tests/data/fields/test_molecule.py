"""The molecule's field: the record holds fragments, descriptors, and the molecule itself."""

import numpy as np
import pytest

from medserve.data.declaration import Input
from medserve.data.fields.molecule import Molecule, written
from medserve.data.molecules.describe import BITS, descriptor_names
from medserve.errors import BadPackage, Refusal

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@pytest.fixture(scope="module")
def drug() -> Molecule:
    return Molecule.declare("smiles", Input(kind="molecule")).fit([ASPIRIN, "CCO", None])


def test_the_record_says_what_rdkit_says(drug):
    """Counts of fragments sum to the atoms of each radius; a descriptor is RDKit's own."""
    from rdkit import Chem
    from rdkit.Chem import Descriptors

    row = drug.encode(ASPIRIN)
    logp = row[BITS + descriptor_names().index("MolLogP")]
    assert row.shape == drug.shape and logp == pytest.approx(Descriptors.MolLogP(Chem.MolFromSmiles(ASPIRIN)), rel=1e-6)
    assert row[:BITS].sum() >= 13


def test_the_molecule_can_be_read_back_from_its_record(drug):
    """What was asked is in the record, unless it was longer than what is kept, or missing."""
    length = drug.facts["length"]
    assert written(drug.encode(ASPIRIN), length) == ASPIRIN
    assert written(drug.encode("C" * 199), length) is None
    assert written(drug.encode(None), length) is None


def test_hiding_an_atom_takes_its_fragments_away(drug):
    """Counts never rise, the atom's letter is 0, and other letters stay."""
    row, hidden = drug.encode(ASPIRIN), drug.hidden(ASPIRIN)
    start = BITS + len(descriptor_names())
    assert len(hidden) == 13
    assert (hidden[:, :BITS] <= row[:BITS]).all() and (hidden[:, :BITS] >= 0).all()
    assert (hidden[:, :BITS].sum(1) < row[:BITS].sum()).all()
    changed = hidden[:, start:] != row[start:]
    assert (np.nansum(changed & np.isfinite(row[start:]), axis=1) == 1).all()


def test_a_package_of_another_rdkit_is_refused(drug):
    """Descriptors of another name would be other numbers under the same weights."""
    from dataclasses import replace

    with pytest.raises(BadPackage) as told:
        replace(drug, names=("Other", *drug.names[1:])).encode("CCO")
    assert told.value.code == "chemistry-version"


def test_values_of_other_kinds_are_refused(drug):
    """A number is no molecule; nothing is missing."""
    with pytest.raises(Refusal) as told:
        drug.parse(5)
    assert told.value.code == "molecule-expected"
    assert drug.parse("") is None and drug.parse({"smiles": "CCO"}) == "CCO"
