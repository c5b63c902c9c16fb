"""A run that is killed goes on where it was and ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medserve.data.phantoms import make_phantoms

EPOCHS, KILL_AFTER = 6, 2
WEIGHTS = "weights.safetensors"


def start(data: Path, out: Path, home: Path) -> subprocess.Popen[str]:
    argv = ["train", data, "--out", out, "--recipe", "residual-quick", "--epochs", EPOCHS, "--audit", "none",
            "--seed", 3, "--json"]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1", "MEDSERVE_HOME": str(home)}
    command = [sys.executable, "-m", "medserve.cli", *map(str, argv)]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def epochs_kept(work: Path) -> int:
    """How many epochs the checkpoint of a run holds."""
    path = work / "recipe" / "history.json"
    if not (path.exists() and (work / "recipe" / "checkpoint.safetensors").exists()):
        return 0
    return len(json.loads(path.read_bytes())["epochs"])


def finished(child: subprocess.Popen[str]) -> dict:
    out, err = child.communicate(timeout=250)
    assert child.returncode == 0, out + err
    return json.loads(out)


def both_weights(package: Path) -> dict[str, bytes]:
    """By role: the weights of the recipe and of the baseline, whichever of them is offered."""
    found = {}
    for folder in (package, package / "alternative"):
        role = json.loads((folder / "manifest.json").read_bytes())["lineage"]["role"]
        found[role] = (folder / WEIGHTS).read_bytes()
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path):
    """kill -9 after two epochs, the same command again: byte-equal weights, and nothing left beside the package."""
    data, home = make_phantoms(tmp_path / "phantoms", 120, size=32, seed=3), tmp_path / "home"
    broken, whole = tmp_path / "A", tmp_path / "B"
    work = tmp_path / ".A.training"
    child = start(data, broken, home)
    try:
        while epochs_kept(work) < KILL_AFTER:
            assert child.poll() is None, child.communicate()
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == -signal.SIGKILL and not broken.exists()
    kept = epochs_kept(work)
    assert KILL_AFTER <= kept < EPOCHS, "the run was over before it was killed"

    again = start(data, broken, home)
    resumed = finished(again)
    unbroken = finished(start(data, whole, home))
    assert resumed["chosen"] == unbroken["chosen"] and resumed["parts"] == unbroken["parts"]
    assert resumed["metrics"] == unbroken["metrics"]
    assert resumed["model"]["digest"] == unbroken["model"]["digest"]
    ours, theirs = both_weights(broken), both_weights(whole)
    assert ours.keys() == theirs.keys() == {"recipe", "baseline"}
    assert ours["recipe"] == theirs["recipe"] and ours["baseline"] == theirs["baseline"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["A", "B", "home", "phantoms"]
