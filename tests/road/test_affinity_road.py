"""The road from pairs of a molecule and a protein to a package that answers: the same road as for every other case."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_pairs import DRUGS, MOTIF, proteins, write_pairs
from sklearn.metrics import roc_auc_score

from medserve.errors import Refusal
from medserve.models.signing import Trust
from medserve.progress import SILENT
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.inputs import raw_inputs, schema_of
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings

BINDS = next(s for s in DRUGS if "n" in s)
PLAIN = next(s for s in DRUGS if "n" not in s)
(WITHOUT, _), (WITH, PLACE) = proteins(2)


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> tuple[Settings, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pairs")
    settings = Settings(home=folder / "home")
    data = write_pairs(folder / "data", more="intervals: drug\n", residues=", residues: 62")
    options = Options(audit="quick", keep="recipe", recipe="affinity", epochs=40)
    result = train_package(data, folder / "package", settings=settings, options=options, progress=SILENT)
    return settings, result


@pytest.fixture(scope="session")
def model(made) -> LoadedModel:
    settings, result = made
    return LoadedModel.open(Path(result["package"]), Trust.load(settings))


def ask(model: LoadedModel, smiles: Any, sequence: Any, **more: Any) -> dict[str, Any]:
    return model.predict(json.dumps({"inputs": {"smiles": smiles, "sequence": sequence}}).encode(), **more)


def value(answer: dict[str, Any]) -> float:
    return float(answer["outputs"][0]["value"])


def test_a_pair_is_told_by_both_of_its_members(made, model):
    """A planted rule: high only where a nitrogen ring meets the motif; neither alone is enough."""
    _, result = made
    assert result["metrics"]["r2"]["value"] > 0.8
    both = value(ask(model, BINDS, WITH))
    assert both - value(ask(model, PLAIN, WITH)) > 1 and both - value(ask(model, BINDS, WITHOUT)) > 1


def test_the_planted_motif_is_what_the_residues_point_at(model):
    """`?explain=residues`, after its audit: of the stretches of a protein that binds, those that hold the motif weigh
    most; of a drug that does not bind they weigh less."""
    told = ask(model, BINDS, WITH, explain="residues")["explanation"]
    assert told["verdict"] in ("PASS", "CAUTION") and base64.b64decode(told["png"])[:4] == b"\x89PNG"
    assert told["map"]["shape"] == [1, len(WITH)]
    heat = np.frombuffer(base64.b64decode(told["map"]["data"]), "<f4")
    hit = np.arange(len(WITH))
    hit = (hit >= PLACE) & (hit < PLACE + len(MOTIF))
    assert roc_auc_score(hit, heat) > 0.9
    assert told["values"][0]["value"] in WITH and told["values"][0]["part"].startswith("residues ")
    other = ask(model, PLAIN, WITH, explain="residues")["explanation"]
    assert max(v["weight"] for v in other["values"]) < max(v["weight"] for v in told["values"]) / 2


def test_the_figures_say_how_they_were_drawn(made):
    """`intervals: drug`: the method of the intervals names the column, the count is that of the drugs, and no claim
    says that patients are missing."""
    folder = Path(made[1]["package"])
    found = json.loads((folder / "evaluation" / "test.json").read_text())
    assert found["intervals"]["method"] == "bootstrap of whole values of drug" and found["n_patients"] <= len(DRUGS)
    assert "patients-not-declared" not in {c["code"] for c in found["claims"]}
    limits = json.loads((folder / "card.json").read_text())["limits"]
    assert "first 62 residues" in next(one["message"] for one in limits if one["code"] == "protein-cut")
    assert {"concordance", "mse", "rm2"} <= set(found["metrics"])
    assert "whole values of drug" in (folder / "evaluation" / "report.html").read_text()


def test_a_longer_protein_is_cut_as_declared_and_the_answer_says_so(model):
    """`residues: 62`: what lies beyond changes nothing but a reason in the answer, with its count."""
    assert len(WITHOUT) > 62
    short, long = ask(model, BINDS, WITHOUT[:62]), ask(model, BINDS, WITHOUT)
    assert value(short) == value(long) and not short["reasons"]
    assert [r["code"] for r in long["reasons"]] == ["protein-cut"]
    assert f"last {len(WITHOUT) - 62} residues" in long["reasons"][0]["message"]


@pytest.mark.parametrize(("sequence", "code"), [
    ("MKT1", "protein-invalid"), (">x\n", "protein-empty"), (7, "protein-expected"),
    ("ACGT" * 20, "protein-nucleotides"),
])  # fmt: skip
def test_bad_proteins_are_refused_by_the_model(model, sequence, code):
    """A coded refusal, never a score."""
    with pytest.raises(Refusal) as told:
        ask(model, BINDS, sequence)
    assert told.value.code == code


def test_the_signature_and_its_schema_name_the_protein(model):
    """GET /openapi.json says what to send; a raw body is FASTA for the protein, SMILES for the molecule."""
    told = schema_of(model.spec)["properties"]["inputs"]["properties"]["sequence"]
    assert told["type"] == ["string", "null"] and "FASTA" in told["description"]
    assert list(raw_inputs(model.spec, b">a\nMKT\n")) == ["sequence"]
    assert list(raw_inputs(model.spec, b"CCO\n")) == ["smiles"]
    assert list(raw_inputs(model.spec, b"MKT\n", media="chemical/seq-aa-fasta")) == ["sequence"]
