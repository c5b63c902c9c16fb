"""Damaged DICOM files, three of each that pydicom ships here; two hundred of each by `mutation_campaign.py`."""

import random

import pytest
from hostile_service import hostile
from mutation_campaign import damaged, files, run


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with hostile(tmp_path_factory.mktemp("mutations")) as running:
        yield running


def answered(service, times: int, seed: int) -> dict:
    paths = files()
    assert len(paths) >= 30
    found = run(service, paths, times, seed)
    assert found["wrong"] == [] and found["service_up"] and found["tracebacks_in_log"] == 0
    assert found["sent"] == times * len(paths) and len(found["answers"]) >= 5
    return found


def test_damaged_files_are_answered_or_refused_with_a_code(service):
    answered(service, 3, 1)


@pytest.mark.slow
def test_two_hundred_damages_of_each_file(service):
    answered(service, 200, 2)


def test_a_seed_gives_the_same_damage_again_and_another_seed_another():
    data = files()[0].read_bytes()
    one, two, other = (damaged(data, random.Random(f"{seed}")) for seed in (1, 1, 2))
    assert one == two and one not in (data, other)
