"""What nobody is helped to make is recognised, and ordinary chemistry is not."""

import pytest
from made_molecules import molecules

from medserve.data.molecules.controlled import controlled
from medserve.data.molecules.standard import standardise


@pytest.mark.parametrize(
    ("smiles", "family"),
    [
        ("CCCP(=O)(F)OCC", "organophosphorus fluorides"),
        ("ClCCSCCC", "sulfur mustards"),
        ("CCN(CCCl)CCCl", "nitrogen mustards"),
    ],
)
def test_families_of_chemical_weapons_are_told_by_their_bonds(smiles, family):
    """Any member, not only those that a list names."""
    assert controlled(smiles) == family


def test_a_scheduled_drug_and_its_close_analogue_are_recognised():
    """A fluorine on the ring changes nothing."""
    assert controlled("CCC(=O)N(c1ccccc1)C1CCN(CCc2ccccc2)CC1") == "fentanyl"
    assert controlled("CCC(=O)N(c1ccc(F)cc1)C1CCN(CCc2ccccc2)CC1") is not None


@pytest.mark.parametrize(
    "smiles",
    [
        "CC(=O)Oc1ccccc1C(=O)O",  # aspirin
        "CC(C)Cc1ccc(C(C)C(=O)O)cc1",  # ibuprofen
        "ClCCN(CCCl)c1ccc(CCCC(=O)O)cc1",  # chlorambucil, a medicine
        "CNC(C)C(O)c1ccccc1",  # ephedrine
        "O=C(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1",  # haloperidol
    ],
)
def test_medicines_are_left_alone(smiles):
    """No alarm for what a pharmacy sells."""
    assert controlled(standardise(smiles).smiles) is None


def test_ordinary_molecules_are_left_alone_and_a_site_may_bar_its_own():
    """0 of 300 made molecules; one that is barred here is told."""
    rows = [standardise(s).smiles for s, _ in molecules(300)]
    assert [s for s in rows if controlled(s)] == []
    assert controlled(rows[0], more=[rows[0]]) == "barred here, number 1"
