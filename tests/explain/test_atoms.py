"""Atoms hidden one at a time, whatever views of the molecule the record holds."""

import numpy as np
import pytest

from medserve.data.fields import Block
from medserve.data.fields.molecule import Molecule
from medserve.explain.records import explain_record


@pytest.mark.parametrize("graph", [False, True])
def test_every_atom_has_a_weight_with_and_without_a_graph(graph):
    """A record that holds a graph too is hidden as a whole: each atom's weight is the fragments that it takes along."""
    field = Molecule("m", graph=graph).fit(["CCO", "c1ccncc1CC(=O)O"])
    block, record = Block("m", "molecule", 0, field.shape, field.facts), field.encode("CCO")
    told = explain_record("atoms", lambda x: np.nansum(x[:, :1000], 1, keepdims=True), record, record[None], [block], 0)
    assert len(told.items) == 3 and all(i["weight"] > 0 for i in told.items)
    assert told.hide is not None and told.hide([0]).shape == (1, field.shape[0])
