"""The road from a file of molecules to a package that answers: the same road as for pictures and tables."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_molecules import molecules, write_cohort

from medserve.cli import run as command
from medserve.data.fields.molecule import Molecule
from medserve.errors import BadData
from medserve.models.signing import Trust
from medserve.progress import SILENT
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings
from medserve.types import Scores


@pytest.fixture(scope="session")
def model(made) -> LoadedModel:
    settings, result = made
    return LoadedModel.open(Path(result["package"]), Trust.load(settings))


def ask(model: LoadedModel, smiles: str, **more: Any) -> dict[str, Any]:
    return model.predict(json.dumps({"inputs": {"smiles": smiles}}).encode(), **more)


def test_a_file_of_molecules_becomes_a_model(made, model):
    """Trees on fragments find the planted group; the answer is calibrated like every other."""
    _, result = made
    assert result["split"] == "random" and result["metrics"]["auroc"]["value"] > 0.95
    answer = ask(model, "O=[N+]([O-])Cc1ccncc1")
    assert answer["outputs"][1]["label"] == "toxic" and answer["outputs"][1]["probability"] > 0.5


def test_how_a_molecule_is_written_changes_nothing(model):
    """Salt, order and notation: the same scores to the last bit, also for raw bodies."""
    wanted = ask(model, "NCc1ccc2ccccc2c1")["outputs"]
    assert ask(model, "[Cl-].c1(C[NH3+])ccc2ccccc2c1")["outputs"] == wanted
    assert model.predict(b"NCc1ccc2ccccc2c1\n", name="a.smi")["outputs"] == wanted


def test_the_gallery_draws_what_its_caption_names(made, model):
    """Atoms alone: neighbours passed their audit too, but are no picture of the case."""
    page = (Path(made[1]["package"]) / "evaluation" / "report.html").read_text()
    assert "neighbours" in model.offered
    assert re.findall(r'<br><span class="soft">([a-z, ]+)</span></div>', page) == ["atoms"] * 6


def test_the_planted_group_is_what_the_atoms_point_at(model):
    """Atom weights rank the atoms of the nitro group first: mean AUROC at least .9 over toxic molecules."""
    from rdkit import Chem
    from sklearn.metrics import roc_auc_score

    field = Molecule("smiles")
    pattern, found = Chem.MolFromSmarts("[N+](=O)[O-]"), []
    for smiles in [s for s, toxic in molecules(240) if toxic][:24]:
        smiles = field.parse(smiles)
        told = ask(model, smiles, explain="atoms")["explanation"]
        weights = {int(re.sub(r"\D", "", v["part"])) - 1: v["weight"] for v in told["values"]}
        hit = {i for match in Chem.MolFromSmiles(smiles).GetSubstructMatches(pattern) for i in match}
        found.append(roc_auc_score([i in hit for i in range(len(weights))], [weights[i] for i in range(len(weights))]))
    assert np.mean(found) >= 0.9


def test_an_explanation_is_drawn_on_the_structure(model):
    """PNG, SVG and one weight an atom, after an audit that the method passed."""
    told = ask(model, "O=[N+]([O-])Cc1ccncc1", explain="atoms")["explanation"]
    assert told["verdict"] == "PASS" and len(told["values"]) == 10
    assert base64.b64decode(told["png"])[:4] == b"\x89PNG" and "<svg" in told["svg"]


@pytest.mark.parametrize(("body", "code"), [
    ({"inputs": {"smiles": "CC(=O"}}, "molecule-invalid"),
    ({"inputs": {"smiles": "CCO>>CC"}}, "molecule-reaction"),
    ({"inputs": {"smiles": "C" * 1500}}, "molecule-too-large"),
    ({"inputs": {"smiles": 5}}, "molecule-expected"),
    ({"inputs": {"smiles": ""}}, "case-empty"),
    ({"inputs": {"drug": "CCO"}}, "input-unknown"),
])  # fmt: skip
def test_bad_molecules_are_refused_by_the_model(model, body, code):
    """A coded refusal, never a score."""
    from medserve.errors import Refusal

    with pytest.raises(Refusal) as told:
        model.predict(json.dumps(body).encode())
    assert told.value.code == code


def test_an_answer_says_how_alike_the_training_molecules_are(made, model):
    """1 for one of them; a small amine is at the edge, and a reason says so."""
    _, result = made
    domain = model.spec.domain
    assert domain.of == "molecules" and domain.n == result["parts"]["train"] and len(domain.quantiles) == 21
    assert domain.quantiles == sorted(domain.quantiles)
    known = ask(model, model.domain.smiles[3])["domain"]
    assert known["similarity"] == 1.0 and known["percentile"] == 100.0 and known["input"] == "smiles"
    case = model.load(b"CC(C)(C)NC(C)(C)C", "a.smi")
    far = model.answer(Scores(model.score(case[None]).logits), case=case)
    assert far["domain"]["similarity"] < 0.3 and "domain-edge" in [r["code"] for r in far["reasons"]]


def test_the_nearest_training_molecules_explain(model):
    """Five of them, the most alike first, with their labels, drawn beside the molecule that was asked about."""
    told = ask(model, "O=[N+]([O-])Cc1ccncc1", explain="neighbours")["explanation"]
    assert told["verdict"] == "PASS" and "similarity" in told["note"] and "<svg" in told["svg"]
    weights = [v["weight"] for v in told["values"]]
    assert len(weights) == 5 and weights == sorted(weights, reverse=True) and weights[0] > 0.4
    assert {v["value"] for v in told["values"]} <= {"clean", "toxic"} and told["values"][0]["value"] == "toxic"
    assert base64.b64decode(told["png"])[:4] == b"\x89PNG"


@pytest.mark.parametrize(("order", "name"), [
    ("", "scaffold, largest families to train"), (", order: balanced, seed: 1", "scaffold, balanced, seed 1"),
])  # fmt: skip
def test_a_scaffold_split_keeps_families_apart(tmp_path, monkeypatch, capsys, order, name):
    """`split: {by: scaffold}` is named in the plan with its order, and no scaffold stands in two parts."""
    from medserve.data.molecules.scaffolds import scaffold
    from medserve.data.records import values_of
    from medserve.data.split import declared_split
    from medserve.road.collect import list_data, read_data

    data = write_cohort(tmp_path / "data", 120, split=f"split: {{by: scaffold, test: 0.2{order}}}\n")
    monkeypatch.setenv("MEDSERVE_HOME", str(tmp_path / "home"))
    assert command(["inspect", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rule"]["rule"] == name
    listing = list_data(data, Settings(home=tmp_path / "home"))
    cohort = read_data(listing, [], (), tmp_path, SILENT)
    parts = declared_split(cohort, seed=0)
    seen = [{scaffold(values_of(cohort, int(row))["smiles"]) for row in view.rows} for view in parts]
    assert all(not seen[i] & seen[j] for i in range(4) for j in range(i))


def test_a_split_by_time_tests_the_latest_molecules(tmp_path):
    """`split: {by: time, column: measured}`: dates and numbers are ordered as such; the rule is named."""
    from medserve.data.split import declared_split
    from medserve.road.collect import list_data, read_data

    data = write_cohort(tmp_path / "data", 120, split="split: {by: time, column: measured, test: 0.2}\n")
    first, *rows = (data / "m.csv").read_text().splitlines()
    months = [i % 12 + 1 for i in range(120)]
    said = ((f"2024-{m:02}-05T10:00:00+0{m % 3}:00" for m in months), (str(m) for m in months))
    for cells in said:
        lines = [f"{row},{cell}" for row, cell in zip(rows, cells, strict=True)]
        (data / "m.csv").write_text("\n".join([f"{first},measured", *lines]) + "\n")
        cohort = read_data(list_data(data, Settings(home=tmp_path / "home")), [], (), tmp_path, SILENT)
        parts = declared_split(cohort, seed=0)
        of = {case.id: month for case, month in zip(sorted(cohort.cases, key=lambda c: c.index), months, strict=True)}
        seen = [{of[case.id] for case in view.cases} for view in parts]
        assert seen[3] == {10, 11, 12} and max(max(months) for months in seen[:3]) == 9
        assert parts.rule["rule"] == "time, val and calibration carved from train"
    (data / "m.csv").write_text("\n".join([f"{first},measured", *(f"{row},last spring" for row in rows)]) + "\n")
    with pytest.raises(BadData, match="last spring") as told:
        list_data(data, Settings(home=tmp_path / "home"))
    assert told.value.code == "split-time"
