"""The Shapley values that a service answers, beside the reference library's exact ones for the same boosted trees."""

import json

import httpx2
import lightgbm
import numpy as np
import pytest
from scipy.stats import kendalltau
from tiny_package import SMALL, serving

from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.data.biopsies import write_biopsies
from medserve.models.package import SELFCHECK
from medserve.models.signing import Trust
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings

CASES = 12
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def biopsies(tmp_path_factory):
    """Boosted trees on the biopsies. Returns: the package, the settings, and the library's own models of the run."""
    folder, boosters, fit = tmp_path_factory.mktemp("biopsies"), [], lightgbm.train

    def kept(*args, **more):
        boosters.append(fit(*args, **more))
        return boosters[-1]

    settings = Settings(home=folder / "home")
    data = write_biopsies(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightgbm, "train", kept)
        options = Options(recipe="boosting", keep="recipe", audit="quick", seed=1)
        train_package(data, folder / "model", settings=settings, options=options)
    return folder / "model", settings, boosters


def test_the_service_agrees_with_the_reference(biopsies):
    """POST .../predict?explain=shapley on the exported graph: median Kendall's tau with interventional TreeSHAP of the
    library's own trees, against the package's background, at least .8; weights and base make the logit to 1e-3."""
    shap = pytest.importorskip("shap")
    package, settings, boosters = biopsies
    model = LoadedModel.open(package, Trust.load(settings), threads=1)
    background = np.asarray(model.package.tensors(SELFCHECK)["background"], np.float32)
    names = [i.name for i in model.spec.inputs]
    random = np.random.default_rng(0)
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    table = data.data[np.sort(random.permutation(len(data.data))[:CASES])]
    records = np.stack([model.load(body(names, row)) for row in table])
    logits = model.score(records).logits[:, 0]
    forests = next(some for some in served_by(boosters) if np.abs(mean_logit(some, records) - logits).max() < 1e-3)
    references = [shap.TreeExplainer(b, background, feature_perturbation="interventional") for b in forests]
    expected = np.mean([r.shap_values(records) for r in references], axis=0)  # Shapley values of a mean: their mean
    base = float(np.mean([np.ravel(r.expected_value)[-1] for r in references]))
    # The reference's own values of a case do not always add up to what its trees predict; then they say nothing.
    sound = np.abs(base + expected.sum(1) - mean_logit(forests, records)) < 1e-3
    assert sound.sum() >= CASES - 2

    keys = KeyRing.open(settings)
    http = {"headers": {"Authorization": f"Bearer {keys.create('tests').key}"}, "timeout": 60, "trust_env": False}
    taus = []
    with serving(build(settings, [package], keys=keys, limits=SMALL, threads=1)) as port:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", **http) as client:
            for row, exact, logit in zip(table, expected, logits, strict=True):
                address = f"/v1/models/{model.name}/predict"
                said = client.post(address, content=body(names, row), params={"explain": "shapley"},
                                   headers={"Content-Type": "application/json"})  # fmt: skip
                told = said.json()["explanation"]
                weights = {i["input"]: i["weight"] for i in told["values"]}
                assert abs(told["base"] + sum(weights.values()) - float(logit)) <= 1e-3
                assert told["base"] == pytest.approx(base, abs=1e-3)
                taus.append(kendalltau([weights[n] for n in names], exact).statistic)
    keys.close()
    assert len(taus) == CASES and np.median(np.array(taus)[sound]) >= 0.8, taus


def test_the_report_states_the_additivity(biopsies):
    """The largest gap between the weights' sum and the logit stands in the record of the audit, and on the page, which
    shows cases with their evidence: the set is public."""
    package, _, _ = biopsies
    (method,) = json.loads((package / "evaluation" / "test.json").read_text())["audit"]
    assert method["name"] == "shapley" and method["verdict"] != "FAIL"
    assert method["figures"]["additivity"] == {"value": method["figures"]["additivity"]["value"], "level": "PASS"}
    assert method["figures"]["additivity"]["value"] <= 1e-3
    page = (package / "evaluation" / "report.html").read_text()
    assert "additivity" in page and page.count('alt="Evidence for the answer to a case') >= 3


def served_by(boosters):
    """What can stand in the package: the last forests of the run, after those that chose its settings."""
    return (boosters[-count:] for count in range(1, len(boosters) + 1))


def mean_logit(boosters, records):
    return np.mean([b.predict(records, raw_score=True) for b in boosters], axis=0)


def body(names, row) -> bytes:
    """A row of scikit-learn's table as a request."""
    return json.dumps({"inputs": {name: float(value) for name, value in zip(names, row, strict=True)}}).encode()
