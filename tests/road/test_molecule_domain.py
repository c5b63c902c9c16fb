"""Molecules that are not public: a package knows groups of them, and no training molecule can be read out of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_molecules import molecules, write_cohort

from medserve.data.fields.molecule import written
from medserve.errors import BadPackage, Usage
from medserve.models.package import DOMAIN
from medserve.models.signing import Trust
from medserve.progress import SILENT
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.domain import at_the_edge, open_domain
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secret")
    settings, data = Settings(home=folder / "home"), write_cohort(folder / "data", public=False)
    options = Options(recipe="linear", audit="quick", keep="recipe")
    result = train_package(data, folder / "package", settings=settings, options=options, progress=SILENT)
    return LoadedModel.open(Path(result["package"]), Trust.load(settings))


def test_no_training_molecule_travels(secret):
    """Not as text in any file, not as letters of a stored record."""
    package = secret.package
    texts = b"".join(f.read_bytes() for f in package.folder.rglob("*") if f.suffix in (".json", ".safetensors"))
    assert not [s for s, _ in molecules(240) if len(s) > 14 and s.encode() in texts]
    stored = package.tensors("selfcheck.safetensors")
    length = package.spec.transforms[0].params["length"]
    known = {s for s, _ in molecules(240)}
    for name in ("record", "background"):
        assert not [w for row in np.asarray(stored[name]) if (w := _written(row, length)) in known]


def test_groups_still_tell_how_alike_a_molecule_is(secret):
    """Training chemistry is nearer than a chain of fluorine; the answer says that groups were asked."""
    near, far = (secret.domain.of(secret.load(s, "a.smi")) for s in (b"NCc1ccc2ccccc2c1", b"FC(F)(F)C(F)(F)C(F)(F)F"))
    assert near["of"] == "groups" and near["n"] >= 2 and near["similarity"] > far["similarity"]
    assert [r["code"] for r in at_the_edge(far)] == ["domain-edge"] and far["percentile"] < 5
    assert secret.predict(b"NCc1ccc2ccccc2c1", name="a.smi")["domain"] == near


def test_neighbours_are_not_shown(secret):
    """A model that knows groups alone cannot name a molecule."""
    with pytest.raises(Usage) as told:
        secret.predict(b"CCO", name="a.smi", explain="neighbours")
    assert told.value.code == "explanation-not-offered"


def test_the_report_tells_alike_and_less_alike_molecules_apart(secret):
    """A subgroup of the test part: how good the model is where molecules are less like the training molecules."""
    numbers = json.loads((secret.package.folder / "evaluation" / "test.json").read_text())
    assert "likeness to training molecules" in json.dumps(numbers["subgroups"])


def test_known_molecules_belong_to_the_model(secret, monkeypatch):
    """What is known of the training molecules is named by model.json: another file is refused."""
    package = secret.package
    (package.folder / DOMAIN).write_bytes((package.folder / DOMAIN).read_bytes() + b" ")
    with pytest.raises(BadPackage) as told:
        open_domain(package, secret._records.blocks)
    assert told.value.code == "package-altered"


def _written(row, length):
    try:
        return written(row, length)
    except UnicodeDecodeError:
        return None
