"""What a server acknowledged (packages, publications, jobs, cases, rotations, erasures) holds after `kill -9`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).with_name("registry_kills.py")


def killed(root: Path, kills: int, seed: int) -> dict:
    done = subprocess.run([sys.executable, KILLS, root, str(kills), str(seed)], capture_output=True, text=True)
    assert done.stdout, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert (told["lost"], told["half_visible"], told["answers_of_500_or_more"]) == ({}, {}, {}), told
    assert told["restart_cpu_s"] <= 5  # of a processor that others do not take away
    assert {"uploaded", "jobs", "cases"} <= set(told["acknowledged"])
    return told


def test_what_was_acknowledged_holds_after_kill_9(tmp_path):
    killed(tmp_path / "root", 3, 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_was_acknowledged_holds_after_a_hundred_kills(tmp_path, record_property):
    told = killed(tmp_path / "root", 100, 2)
    record_property("told", json.dumps(told))
    assert {"published", "ended", "erased", "rotations"} <= set(told["acknowledged"])
