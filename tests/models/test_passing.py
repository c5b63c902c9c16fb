"""Message passing over many graphs at once, held against the same sums written bond by bond."""

import numpy as np
import pytest
from made_admet import HIDDEN, NETS, OUT, made_tensors

from medserve.data.molecules.kinds import Letters
from medserve.data.molecules.standard import chemistry
from medserve.models.passing import NORM, Ensemble

SMILES = ("CC(=O)Oc1ccccc1C(=O)O", "C", "CC(C)(C)C", "FS(F)(F)(F)(F)F", "C1CC1", "OCC", "[O-][N+](=O)c1ccc2ccccc2c1")


def by_hand(tensors, m, graph, letters):
    """One network over one molecule, as the paper writes it."""
    net = {name: value[m].astype(np.float64) for name, value in tensors.items()}
    atoms, bonds = letters.atoms[graph.atoms], letters.bonds[graph.bonds]
    own = [net["W_i"] @ np.concatenate([atoms[v], bonds[e]]) for e, v in enumerate(graph.begins)]
    state = [np.maximum(h, 0) for h in own]
    for _ in range(2):
        heard = []
        for e, v in enumerate(graph.begins):
            behind = [k for k in range(len(state)) if graph.ends[k] == v and k != e ^ 1]
            heard.append(sum((state[k] for k in behind), np.zeros(HIDDEN)))
        state = [np.maximum(own[e] + net["W_h"] @ heard[e], 0) for e in range(len(state))]
    total = np.zeros(HIDDEN)
    for v in range(len(atoms)):
        into = sum((state[e] for e in range(len(state)) if graph.ends[e] == v), np.zeros(HIDDEN))
        total += np.maximum(net["W_o"] @ np.concatenate([atoms[v], into]) + net["b_o"], 0)
    hidden = np.maximum(net["W_1"] @ (total / NORM) + net["b_1"], 0)
    return net["W_2"] @ hidden + net["b_2"]


@pytest.fixture(scope="module")
def graphs():
    letters = Letters()
    return letters, [letters.read(chemistry().MolFromSmiles(s)) for s in SMILES]


def test_a_batch_gives_what_each_molecule_gives_by_hand(graphs):
    """Rings, branches of five and six bonds, an atom without any: each of two networks, to 1e-4."""
    letters, every = graphs
    tensors = made_tensors()
    found = Ensemble(tensors, letters).run(every)
    wanted = np.array([[by_hand(tensors, m, graph, letters) for graph in every] for m in range(NETS)])
    assert found.shape == (NETS, len(SMILES), OUT) and np.abs(found - wanted).max() < 1e-4


def test_what_was_met_before_changes_no_bit(graphs):
    """The same molecules after hundreds of other kinds of atoms: the same numbers to the last bit."""
    tensors = made_tensors(hidden=96)
    mols = [chemistry().MolFromSmiles(s) for s in SMILES]
    found = []
    for others in ((), [f"[{n}CH3]" for n in range(14, 250)]):
        letters = Letters()
        for other in others:
            letters.read(chemistry().MolFromSmiles(other))
        found.append(Ensemble(tensors, letters).run([letters.read(mol) for mol in mols]))
    assert (found[0] == found[1]).all()


def test_company_changes_nothing(graphs, monkeypatch):
    """Alone, in another order, or in small passes: the same numbers."""
    letters, every = graphs
    ensemble = Ensemble(made_tensors(), letters)
    whole = ensemble.run(every)
    alone = np.concatenate([ensemble.run([graph]) for graph in every], axis=1)
    monkeypatch.setattr("medserve.models.passing.TOGETHER", 20)
    small = ensemble.run(every[::-1])[:, ::-1]
    limit = 1e-6 * np.abs(whole).max()  # float32 in another order
    assert np.abs(whole - alone).max() < limit and np.abs(whole - small).max() < limit
