"""The graph network: Chemprop's features and sums, the same numbers packed and padded, and from the exported graph."""

import numpy as np
import pytest
import torch
from made_molecules import molecules

from medserve.data.declaration import Input
from medserve.data.fields import Records
from medserve.data.fields.molecule import Molecule
from medserve.data.molecules.graph import bonds_for, graph_of
from medserve.data.molecules.standard import chemistry
from medserve.errors import Refusal, Usage
from medserve.models.record import ENCODERS, families  # noqa: F401
from medserve.models.record.molecule_graph import wide_atoms, wide_bonds

SOME = ["CC(=O)Oc1ccccc1C(=O)O", "C", "C/C=C/[N+](=O)[O-]", "N[C@@H](C)C(=O)O", "c1ccc2ccccc2c1Br"]


@pytest.fixture(scope="module")
def field() -> Molecule:
    from dataclasses import replace

    drug = Molecule.declare("smiles", Input(kind="molecule"))
    return replace(drug, graph=True).fit([*SOME, *(s for s, _ in molecules(40))])


def net_of(field, **more):
    torch.manual_seed(0)
    (block,) = Records((field,)).blocks
    net = ENCODERS["molecule-graph"](block, hidden=24, **more)
    x = torch.from_numpy(np.stack([field.encode(s) for s in SOME]))
    net.fit(x)
    return net.eval(), x


def test_features_are_those_of_chemprop():
    """Atom by atom and bond by bond, where Chemprop is installed."""
    pytest.importorskip("chemprop", exc_type=ImportError)
    from chemprop.featurizers.atom import MultiHotAtomFeaturizer
    from chemprop.featurizers.bond import MultiHotBondFeaturizer

    atoms, bonds = MultiHotAtomFeaturizer.v2(), MultiHotBondFeaturizer()
    for smiles in SOME:
        mol, graph = chemistry().MolFromSmiles(smiles), graph_of(smiles, 40)
        first = torch.from_numpy(graph[: 40 * 8].reshape(40, 8))[: mol.GetNumAtoms()]
        second = torch.from_numpy(graph[40 * 8 :].reshape(bonds_for(40), 6))[: mol.GetNumBonds()]
        assert np.allclose(wide_atoms(first), [atoms(a) for a in mol.GetAtoms()])
        assert np.allclose(
            wide_bonds(second).numpy().reshape(-1, 14), np.reshape([bonds(b) for b in mol.GetBonds()], (-1, 14))
        )


def test_messages_are_those_of_chemprop(field):
    """The same weights give the same molecule vectors as Chemprop's own module, mean over atoms."""
    pytest.importorskip("chemprop", exc_type=ImportError)
    from chemprop.data import BatchMolGraph
    from chemprop.featurizers import SimpleMoleculeMolGraphFeaturizer
    from chemprop.nn import BondMessagePassing, MeanAggregation

    net, x = net_of(field, descriptors=False)
    theirs = BondMessagePassing(d_h=24, depth=3).eval()
    theirs.W_i.load_state_dict(net.into.state_dict())
    theirs.W_h.load_state_dict(net.between.state_dict())
    theirs.W_o.load_state_dict(net.out.state_dict())
    featurise = SimpleMoleculeMolGraphFeaturizer()
    graphs = BatchMolGraph([featurise(chemistry().MolFromSmiles(s)) for s in SOME])
    with torch.no_grad():
        wanted = MeanAggregation()(theirs(graphs), graphs.batch)
        graph = x[:, net.start : net.start + 8 * net.atoms + 6 * bonds_for(net.atoms)]
        assert torch.allclose(net._there(graph), wanted, atol=1e-5)


def test_packed_and_padded_give_the_same(field):
    """Training computes what is there, serving every place; a molecule without a graph gives the descriptors' view."""
    net, x = net_of(field)
    graph = x[:, net.start : net.start + 8 * net.atoms + 6 * bonds_for(net.atoms)].clone()
    graph[1] = torch.nan
    with torch.no_grad():
        a, b = net._there(graph), net._every(graph)
    assert torch.allclose(a, b, atol=1e-5) and a[0].abs().sum() > 0 and a[1].abs().sum() == 0


def test_the_order_of_atoms_changes_nothing(field):
    """A graph has no first atom: records of one molecule with its atoms in another order give one view."""
    net, x = net_of(field, descriptors=False)
    other = chemistry().MolFromSmiles(SOME[0])
    shuffled = chemistry().RenumberAtoms(other, np.random.default_rng(0).permutation(other.GetNumAtoms()).tolist())
    text = chemistry().MolToSmiles(shuffled, canonical=False)
    moved = x[:1].clone()
    size = 8 * net.atoms + 6 * bonds_for(net.atoms)
    moved[0, net.start : net.start + size] = torch.from_numpy(graph_of(text, net.atoms))
    with torch.no_grad():
        assert not torch.equal(moved, x[:1]) and torch.allclose(net(moved), net(x[:1]), atol=1e-5)


def test_an_exported_graph_gives_the_same(field, tmp_path):
    """ONNX Runtime and torch agree on molecules and on generated records."""
    from medserve.models.export import export_onnx
    from medserve.models.nets import MODELS
    from medserve.models.served import ServedNet
    from medserve.runtime.engine import Engine
    from medserve.runtime.graphfile import read_graph

    records = Records((field,))
    net = MODELS["case-net"](records.length, (), 1, blocks=records.blocks,
                             encoders={"molecule": {"name": "molecule-graph", "hidden": 16}}).eval()  # fmt: skip
    x = np.stack([field.encode(s) for s in SOME])
    served = ServedNet(net, (0.0,), (1.0,))
    export_onnx(served, (records.length,), tmp_path / "g.onnx", samples=x)
    asked = np.concatenate([x, records.examples(4)])
    found = Engine(read_graph(tmp_path / "g.onnx"), shape=(records.length,), width=1).score(asked).logits
    assert np.abs(found - served.scores(asked).logits).max() < 1e-4


def test_a_molecule_larger_than_the_block_is_refused(field):
    """By the field, before any score; and a record without graphs by the network."""
    with pytest.raises(Refusal) as told:
        field.check("C" * 120)
    assert told.value.code == "molecule-too-large"
    (block,) = Records((Molecule("smiles").fit(SOME),)).blocks
    with pytest.raises(Usage):
        ENCODERS["molecule-graph"](block)


def test_hiding_an_atom_changes_its_place_alone(field):
    """The graph with a nameless atom: one atom differs, bonds stay."""
    row, hidden = field.encode(SOME[0]), field.hidden(SOME[0])
    start = 2048 + len(field.names)
    atoms = slice(start, start + 8 * field.atoms)
    changed = (hidden[:, atoms] != row[atoms]) & np.isfinite(row[atoms])
    assert (changed.reshape(13, -1, 8).any(2).sum(1) == 1).all()
    bonds = slice(atoms.stop, start + 8 * field.atoms + 6 * bonds_for(field.atoms))
    assert np.array_equal(hidden[:, bonds], np.repeat(row[None, bonds], 13, 0), equal_nan=True)
