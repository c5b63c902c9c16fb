"""Molecules by a pretrained encoder of SMILES, along the road: from a local folder to a package that answers alone."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_molecules import write_cohort
from tiny_encoder import write_smiles_encoder

from medserve.errors import Usage
from medserve.models.package import open_package
from medserve.models.signing import Trust
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.settings import Settings


def run(folder: Path, data: Path, **more):
    said = {"keep": "recipe", "audit": "none", "seed": 1} | more
    out = folder / str(said["recipe"])
    return train_package(data, out, settings=Settings(home=folder / "home"), options=Options(**said))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("molecules") / "data", 120)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return write_smiles_encoder(tmp_path_factory.mktemp("encoders") / "tiny-roberta")


SERVED = """
import json, sys
for name in ("torch", "transformers", "peft", "sklearn", "onnx"): sys.modules[name] = None
from pathlib import Path
from medserve.models.signing import Trust
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings
trust = Trust.load(Settings(home=Path(sys.argv[1])))
model = LoadedModel.open(Path(sys.argv[2]), trust, threads=1)
body = json.dumps({"inputs": {"smiles": "O=[N+]([O-])CCc1ccccc1"}}).encode()
answer = model.predict(body, explain="atoms" if "atoms" in model.offered else None)
answer["offered"] = list(model.offered)
print(json.dumps(answer))
"""


def test_weights_are_asked_for(data, tmp_path):
    """None ship, and none are guessed."""
    with pytest.raises(Usage, match="weights of your own") as told:
        run(tmp_path, data, recipe="molecule-frozen")
    assert told.value.code == "weights-missing" and "tokenizer.json" in told.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["molecule-frozen", "molecule-lora"])
def test_an_encoder_walks_the_road(recipe, data, encoder, tmp_path):
    """A molecule is answered without torch or transformers; the files of the encoder are in the lineage by digest."""
    result = run(tmp_path, data, recipe=recipe, weights=str(encoder), epochs=6, audit="quick")
    package = open_package(Path(result["package"]), Trust.load(Settings(home=tmp_path / "home")))
    told = package.lineage["weights"]
    assert told["source"] == str(encoder) and told["tensors"] == 2 * 16 + 5
    assert told["files"]["tokenizer.json"] == hashlib.sha256((encoder / "tokenizer.json").read_bytes()).hexdigest()
    assert not any("lora" in name for name in package.tensors("weights.safetensors"))
    said = json.loads((package.folder / "model.json").read_text())
    assert all("tokenizer_json" not in block["facts"] for block in said["architecture"]["params"]["blocks"])
    command = [sys.executable, "-c", SERVED, str(tmp_path / "home"), result["package"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["status"] in ("answered", "abstained") and "domain" in answer
    if "atoms" in answer["offered"]:
        assert len(answer["explanation"]["values"]) == 11
