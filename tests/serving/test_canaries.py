"""Strings planted through every door of a real server are on disk nowhere in plain, also after `kill -9`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).with_name("canary_campaign.py")


def planted(root: Path, count: int) -> None:
    command = [sys.executable, str(CAMPAIGN), str(root), str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["control_found"], "the search is blind"
    assert (told["found"], told["where"]) == (0, [])
    assert told["canaries"] == count + 1 and told["doors"] > count * 0.9 or count > 100
    assert told["stored"] >= count // 10 and told["still_there"] and told["write_ahead_log_bytes"] > 0
    assert told["half_upload_on_disk"] > 0 and told["log_lines"] > count
    taken = {door for door, status in told["statuses"].items() if status in (200, 201)}
    assert {"png", "dicom", "json", "stored case", "case png", "case dicom", "case json", "case fhir", "case note",
            "patient"} <= taken  # fmt: skip
    assert not {status for status in told["statuses"].values() if status >= 500}


def test_no_string_of_a_client_is_on_disk_in_plain(tmp_path):
    planted(tmp_path / "root", 48)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_none_of_five_hundred_is(tmp_path):
    planted(tmp_path / "root", 500)
