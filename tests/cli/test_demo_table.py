"""`medserve demo --data TABLE.csv`: a table given to the demo is trained on, served and asked, like images."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from medserve.cli import run


def table(path: Path, label: str) -> Path:
    random = np.random.default_rng(1)
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["age", "crp", "ward", label])
        for i in range(160):
            age, crp = random.integers(20, 90), random.lognormal(2, 0.5)
            out.writerow([age, round(crp, 1), "icu" if i % 2 else "general", "yes" if age + 3 * crp > 80 else "no"])
    return path


def test_a_table_without_a_label_is_refused_with_the_next_step(tmp_path, capsys):
    """Before anything is trained or started: a code, and what to declare."""
    code = run(
        ["demo", "--data", str(table(tmp_path / "visits.csv", "verdict")), "--folder", str(tmp_path / "d"), "--json"]
    )
    error = json.loads(capsys.readouterr().out)["error"]
    assert code == 2 and error["code"] == "columns-unknown" and "dataset.yaml" in error["hint"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the service outlives the demo's Popen
def test_the_demo_takes_a_table(tmp_path, capsys):
    """Its own default recipe, a sample as JSON, an answer of the running service, and an end."""
    data, folder = table(tmp_path / "visits.csv", "label"), str(tmp_path / "demo")
    try:
        assert run(["demo", "--data", str(data), "--folder", folder, "--port", "0", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["metrics"]["auroc"]["value"] > 0.8 and told["answer"]["status"] in ("answered", "abstained")
        assert "application/json" in told["curl"] and "sample.json" in told["curl"]
        assert told["table"]["answer"]["model"]["name"] == "breast-biopsies"
    finally:
        assert run(["demo", "--stop", "--folder", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stopped"] is True
