"""ADMET-AI's own answers beside ours, where it is installed: `pip install 'medserve[admet]'`."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_molecules import molecules

from medserve.cli import run as command
from medserve.data.molecules.standard import standardise
from medserve.progress import SILENT
from medserve.road.admet.approved import Approved
from medserve.road.admet.endpoints import ENDPOINTS
from medserve.road.admet.panel import Job, Panel
from medserve.road.admet.shipped import NAMES, Shipped

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the library's own loop, and torch once
    pytest.mark.skipif(importlib.util.find_spec("admet_ai") is None, reason="ADMET-AI is not installed"),
]
DRUGS = (
    "CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O", "C", "FS(F)(F)(F)(F)F",
    "CN(C)CCOC(c1ccccc1)c1ccccc1", "O=C(O)/C=C/c1ccccc1", "C[C@H](N)C(=O)O", "B(O)(O)c1ccccc1", "C[Si](C)(C)C", "II",
)  # fmt: skip
ASK = """
import json, sys
from admet_ai import ADMETModel
found = ADMETModel(num_workers=0).predict(json.load(open(sys.argv[1])))
json.dump({name: found[name].tolist() for name in found.columns}, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("admet") / "home"


@pytest.fixture(scope="module")
def both(home, tmp_path_factory):
    """200 molecules: ours, and the library's columns."""
    folder = tmp_path_factory.mktemp("library")
    smiles = [standardise(s).smiles for s in [*DRUGS, *(s for s, _ in molecules(200 - len(DRUGS)))]]
    (folder / "asked.json").write_text(json.dumps(smiles))
    env = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ASK, str(folder / "asked.json"), str(folder / "told.json")]
    subprocess.run(command, check=True, env=env, capture_output=True, cwd=folder)
    panel = Panel(Job(str(home), [], True, {}), SILENT)
    return smiles, panel, panel(smiles), json.loads((folder / "told.json").read_text())


def test_every_answer_is_the_librarys(both):
    """41 outputs of ten networks and 11 properties, for 200 molecules: within 1e-4."""
    _, _, ours, theirs = both
    raw = np.array([one.raw for one in ours])
    wanted = np.array([theirs[endpoint.id] for endpoint in ENDPOINTS]).T
    assert raw.shape == (200, 52) and np.abs(raw - wanted).max() <= 1e-4


def test_every_percentile_is_the_librarys(both):
    """The library's own percentiles, but for ties that its rounding of the table breaks: 10 drugs of 2,845."""
    _, _, ours, theirs = both
    found = np.array([one.percentiles for one in ours])
    wanted = np.array([theirs[f"{endpoint.id}_drugbank_approved_percentile"] for endpoint in ENDPOINTS]).T
    assert np.abs(found - wanted).max() < 0.4


def test_the_tensors_are_made_once_and_kept_whole(home, both, monkeypatch):
    """A second start converts nothing; a tensor that was touched is made again rather than used."""
    kept = next((home / "admet").glob("*.safetensors"))
    made = []
    monkeypatch.setattr("medserve.road.admet.shipped.convert_all", lambda *given, **more: made.append(given) or 1 / 0)
    Shipped.open(home, SILENT)
    assert not made
    data = kept.read_bytes()
    kept.write_bytes(data[:-4] + b"\0\0\0\1")
    with pytest.raises(ZeroDivisionError):
        Shipped.open(home, SILENT)
    kept.write_bytes(data)


def test_an_approved_drug_is_found_however_it_is_written(home, both):
    """Aspirin as its sodium salt: approved, with its own name; its like is its own."""
    _, panel, _, _ = both
    told = panel(["[Na+].CC(=O)Oc1ccccc1C(=O)[O-]"])[0]
    assert told.approved and told.similarity == 1.0 and "salicyl" in told.nearest.lower()
    assert isinstance(panel.approved, Approved) and len(panel.approved) > 2500 and len(NAMES) == 41


def test_nothing_of_the_library_is_imported(home, both, tmp_path):
    """The command answers without torch, Chemprop, Lightning or admet_ai in its process."""
    (tmp_path / "a.smi").write_text("CCO\n")
    code = (
        "import sys\nfrom medserve.cli import run\n"
        f"assert run(['admet', {str(tmp_path / 'a.smi')!r}, '--home', {str(home)!r}, '--json']) == 0\n"
        "found = {'torch', 'chemprop', 'lightning', 'admet_ai'} & set(sys.modules)\nassert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_several_processes_write_the_same_table(home, both, tmp_path):
    """Whoever answered a part: the same bytes."""
    smiles = both[0]
    (tmp_path / "m.smi").write_text("\n".join(smiles * 3) + "\n")
    for workers in ("1", "2"):
        argv = ["admet", str(tmp_path / "m.smi"), "--home", str(home), "--out", str(tmp_path / workers)]
        assert command([*argv, "--workers", workers, "--json"]) == 0
    assert (tmp_path / "1" / "panel.csv").read_bytes() == (tmp_path / "2" / "panel.csv").read_bytes()
