"""Molecules by their fragments alone: the same road, without the descriptors that take most of the time."""

import json
from pathlib import Path

import pytest
from made_molecules import write_cohort

from medserve.data.molecules.describe import BITS
from medserve.models.signing import Trust
from medserve.progress import SILENT
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("fragments")
    data = write_cohort(folder / "data", 160)
    said = (data / "dataset.yaml").read_text()
    (data / "dataset.yaml").write_text(said.replace("{kind: molecule}", "{kind: molecule, descriptors: false}"))
    settings, options = Settings(home=folder / "home"), Options(recipe="linear", keep="recipe", audit="quick")
    result = train_package(data, folder / "package", settings=settings, options=options, progress=SILENT)
    return LoadedModel.open(Path(result["package"]), Trust.load(settings))


def test_a_package_of_fragments_answers_and_explains(model):
    """No descriptor stands in its record; the answer knows the nitro group, and its atoms weigh most."""
    (block,) = model.records.blocks
    assert block.facts["descriptors"] == [] and block.size == BITS + block.facts["length"]
    body = json.dumps({"inputs": {"smiles": "O=[N+]([O-])CCc1ccncc1"}}).encode()
    answer = model.predict(body, explain="atoms" if "atoms" in model.offered else None)
    assert answer["outputs"][1]["probability"] > 0.5
    assert "atoms" in model.offered and "<svg" in answer["explanation"]["svg"]
    assert answer["explanation"]["values"][0]["part"] in ("atom 1", "atom 2", "atom 3", "atom 4")
