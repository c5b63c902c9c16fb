"""Exported graphs compute as many places as the longest row of a batch has, and give the numbers of the whole."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from tiny_encoder import PIECES, write_encoder

from medserve.data.declaration import Input
from medserve.data.fields import Block, Records
from medserve.data.fields.molecule import Molecule
from medserve.data.fields.protein import Protein
from medserve.data.fields.text import Text
from medserve.models.export import export_onnx
from medserve.models.nets import MODELS
from medserve.models.record import families  # noqa: F401 - registers
from medserve.models.record.sentence import load_encoder, read_folder
from medserve.models.served import ServedNet

DRUGS = ["C", "CCO", "CC(=O)Oc1ccccc1C(=O)O", "CCCCCCCCCCCCCCCCCCCCCCCCCCCC(=O)NC1CCCCC1CCCCCCCCCCCCCCCCCCCC"]


def ids(length: int, *counts: int) -> np.ndarray:
    """Rows of so many word ids, NaN after them."""
    random = np.random.default_rng(0)
    rows = np.full((len(counts), length), np.nan, np.float32)
    for row, count in zip(rows, counts, strict=True):
        row[:count] = random.integers(0, 50, count)
    return rows


def made(name: str, folder) -> tuple[list[Block], dict, np.ndarray]:
    """Blocks, encoders, and four rows, the shortest first."""
    if name in ("text-cnn", "text-gru"):
        block = Block("note", "text", 0, (120,), {"vocabulary": 50})
        return [block], {"text": {"name": name}}, ids(120, 1, 5, 12, 120)
    if name == "protein-cnn":
        field = Protein("t", 200, True)
        rows = np.stack([field.encode("MKTAYIAKQR" * n) for n in (1, 2, 3, 20)])
        return [Block("t", "protein", 0, field.shape, field.facts)], {"protein": {"name": name}}, rows
    if name == "frozen-text":
        found = read_folder(write_encoder(folder / "tiny-bert"))
        records = Records((Text.pretrained("note", found.vocabulary, length=30),))
        rows = np.stack([records({"note": " ".join(PIECES[4:] * n)[: 6 + 60 * n]}) for n in range(4)])
        return list(records.blocks), {"text": {"name": name, "config": found.config}}, rows
    field = Molecule.declare("drug", Input(kind="molecule"))
    records = Records((replace(field, graph=name == "molecule-graph").fit(DRUGS),))
    return list(records.blocks), {"molecule": {"name": name}}, np.stack([records({"drug": s}) for s in DRUGS])


def computed(graph: onnx.ModelProto, rows: np.ndarray) -> int:
    """Numbers that all the nodes of the graph give together."""
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    given = {one.name for one in watched.graph.output}
    inferred = [name for node in graph.graph.node for name in node.output if name and name not in given]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in inferred)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return sum(np.size(value) for value in session.run(None, {"record": rows}))


@pytest.mark.parametrize(
    "name", ["text-cnn", "text-gru", "protein-cnn", "smiles-deep", "molecule-graph", "frozen-text"]
)
def test_short_rows_cost_little_and_give_the_same(name, tmp_path):
    blocks, encoders, rows = made(name, tmp_path)
    torch.manual_seed(0)
    width = sum(block.size for block in blocks)
    net = MODELS["case-net"](channels=width, size=(), outputs=2, blocks=blocks, encoders=encoders)
    if name == "frozen-text":
        load_encoder(net, read_folder(tmp_path / "tiny-bert"))
    served, path = ServedNet(net, [0.0], [1.0]), tmp_path / "graph.onnx"
    export_onnx(served, (width,), path, samples=rows)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for some in (rows[:1], rows[:3], rows, rows[::-1], np.repeat(rows[1:2], 9, 0)):
        some = np.ascontiguousarray(some)
        np.testing.assert_allclose(session.run(None, {"record": some})[0], served.scores(some).logits, atol=1e-4)
    graph = onnx.load(path)
    short, long = (computed(graph, np.repeat(row[None], 4, 0)) for row in (rows[0], rows[3]))
    assert short < 0.5 * long
