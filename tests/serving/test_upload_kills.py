"""What a server acknowledged before `kill -9` is there after it; what it did not acknowledge is whole or absent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).with_name("upload_kills.py")


def killed(root: Path, kills: int, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, str(KILLS), str(root), str(kills), str(seed)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["acknowledged"] >= kills and told["ended_in_order"], told
    wrong = ("lost", "half_visible", "rows_without_their_event", "other_answers")
    assert {name: told[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert told["restart_cpu_s"] <= 5  # of a processor that others do not take away


def test_an_acknowledged_upload_survives_kill_9(tmp_path):
    killed(tmp_path / "root", 5, 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_acknowledged_upload_survives_two_hundred_kills(tmp_path):
    killed(tmp_path / "root", 200, 2)
