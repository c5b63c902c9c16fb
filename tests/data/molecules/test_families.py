"""Splits by chemistry: no family stands in two parts."""

import pytest
from made_molecules import molecules

from medserve.data.molecules.families import families
from medserve.data.molecules.scaffolds import clusters, scaffold


def test_a_scaffold_is_the_rings_and_their_links():
    """Aspirin's scaffold is benzene; a chain has none."""
    assert scaffold("CC(=O)Oc1ccccc1C(=O)O") == "c1ccccc1"
    assert scaffold("CCCCO") == ""


@pytest.mark.parametrize("by", ["scaffold", "cluster"])
def test_families_do_not_depend_on_the_order_of_the_rows(by):
    """The same molecules turned round fall into the same families."""
    smiles = [s for s, _ in molecules(60)]
    forth, back = families(smiles, by), families(smiles[::-1], by)[::-1]
    same = {
        (a == b) == (c == d) for (a, c) in zip(forth, back, strict=True) for (b, d) in zip(forth, back, strict=True)
    }
    assert same == {True}


def test_members_of_a_cluster_are_like_their_leader():
    """A molecule and its twin share a cluster; strangers do not."""
    found = clusters(["CCCCCCCCO", "CCCCCCCCCO", "c1ccc2ccccc2c1"], alike=0.5)
    assert found[0] == found[1] != found[2]
