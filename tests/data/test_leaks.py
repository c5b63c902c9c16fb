"""Promises of data/leaks.py."""

import json

import numpy as np
import pytest
from made_cohorts import brighter, fields, make_cohort, recoded

from medserve.data.leaks import Leak, act_on, find_leaks
from medserve.data.split import TrainPart, split
from medserve.errors import BadData

TRAIN, VAL, CAL, TEST = 0, 30, 40, 50  # first row of each part


@pytest.fixture
def leaky(tmp_path):
    """60 cases in four official parts; each planted pair is (left row, right row, kind)."""
    pictures = fields(60)
    sources = [f"{i}".encode() for i in range(60)]
    planted = {
        (0, VAL): "bytes",
        (1, TEST): "pixels",
        (2, CAL): "near-duplicate",
        (VAL + 1, TEST + 1): "near-duplicate",
    }
    for (left, right), kind in planted.items():
        pictures[right] = {"bytes": lambda p: p, "pixels": lambda p: p, "near-duplicate": recoded}[kind](pictures[left])
        if kind == "bytes":
            sources[right] = sources[left]
    patients = [f"p{i}" for i in range(60)]
    patients[TEST + 2] = patients[3]
    planted[3, TEST + 2] = "patient"
    official = ["train"] * 30 + ["val"] * 10 + ["calibration"] * 10 + ["test"] * 10
    labels = [i % 2 for i in range(60)]
    cohort = make_cohort(tmp_path, labels, patients=patients, official=official, pictures=pictures, sources=sources)
    return split(cohort), planted


def test_every_planted_leak_is_found_and_no_other(leaky):
    """Patient, bytes, pixels and near-duplicate, each between the parts it crosses."""
    parts, planted = leaky
    assert {(k.a, k.b): k.kind for k in find_leaks(parts)} == planted
    assert all(k.part_b != "train" for k in find_leaks(parts))


def test_dropping_takes_the_less_protected_side_and_never_a_test_case(leaky):
    """The leaking case leaves train, val or calibration; the test part stays whole; reasons and parts are told."""
    parts, planted = leaky
    kept, removed = act_on(parts, find_leaks(parts))
    assert set(removed.rows) == {left for left, _ in planted}
    assert kept.test.rows.tolist() == parts.test.rows.tolist()
    assert not set(removed.rows) & set(np.concatenate([view.rows for view in kept]).tolist())
    assert removed.reasons[3] == ("patient",) and removed.parts[VAL + 1] == "val"
    assert removed.involved == (TEST, TEST + 1, TEST + 2)
    assert isinstance(kept.train, TrainPart) and find_leaks(kept) == []


def test_the_order_of_the_rows_decides_nothing(tmp_path):
    """With the test part listed first, still the training case leaves, for every kind of leak."""
    pictures = fields(40)
    pictures[20], pictures[21] = pictures[0], recoded(pictures[1])
    patients = [f"p{i}" for i in range(40)]
    patients[22] = patients[2]
    official = ["test"] * 10 + ["val"] * 10 + ["train"] * 20
    made = make_cohort(tmp_path, [0, 1] * 20, official=official, pictures=pictures, patients=patients)
    _, removed = act_on(split(made), find_leaks(split(made)))
    assert removed.rows == (20, 21, 22) and removed.involved == (0, 1, 2)


def test_refusing_names_counts_and_the_next_step(leaky):
    """--leaks refuse: one coded error, with the counts and a hint."""
    parts, _ = leaky
    with pytest.raises(BadData) as caught:
        act_on(parts, find_leaks(parts), "refuse")
    assert caught.value.code == "leak-found" and "5 leaks" in caught.value.message
    assert "1 bytes between train and val" in caught.value.message and "inspect" in caught.value.hint
    only = [leak for leak in find_leaks(parts) if leak.kind == "patient"]
    with pytest.raises(BadData) as caught:
        act_on(parts, only, "refuse")
    assert caught.value.code == "patient-in-two-parts"


def test_keeping_changes_nothing_and_is_recorded(leaky):
    """--leaks keep: the same parts, and a record of the leaks for the card, without any case."""
    parts, _ = leaky
    leaks = find_leaks(parts)
    kept, removed = act_on(parts, leaks, "keep")
    assert kept is parts and not removed.rows and removed.involved == (TEST, TEST + 1, TEST + 2)
    told = json.dumps(removed.as_dict())
    assert json.loads(told)["policy"] == "keep" and len(json.loads(told)["found"]) == 5 and "case-" not in told
    assert removed.as_dict(parts.cohort.cases)["found"][0].keys() >= {"a", "b", "similarity"}


def test_patients_leak_only_where_they_were_declared(tmp_path):
    """Without a patient key every image is its own patient, so no patient can be in two parts."""
    official = ["train"] * 10 + ["val"] * 10 + ["test"] * 10
    cohort = make_cohort(tmp_path, [0, 1] * 15, official=official, pictures=fields(30))
    assert cohort.independent and find_leaks(split(cohort)) == []


def test_every_copy_of_a_picture_leaves_the_training_side(tmp_path):
    """Three exact copies in train and a changed one in test: all three leave."""
    pictures = fields(40)
    pictures[1] = pictures[2] = pictures[0]
    pictures[30] = brighter(pictures[0])
    official = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
    parts = split(make_cohort(tmp_path, [0, 1] * 20, official=official, pictures=pictures))
    kept, removed = act_on(parts, find_leaks(parts))
    assert removed.rows == (0, 1, 2) and len(kept.train) == 17


def test_exact_copies_in_three_parts_end_in_the_best_protected(tmp_path):
    """One picture in train (twice), val and test (twice): only the test part keeps it, both its cases are involved."""
    pictures = fields(40)
    for row in (1, 20, 30, 31):
        pictures[row] = pictures[0]
    official = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
    parts = split(make_cohort(tmp_path, [0, 1] * 20, official=official, pictures=pictures))
    _, removed = act_on(parts, find_leaks(parts))
    assert removed.rows == (0, 1, 20) and removed.involved == (30, 31)


def test_nothing_left_after_dropping_is_refused(tmp_path):
    """When the training part is all leaks, the error says what is missing."""
    official = ["train"] * 4 + ["val"] * 4 + ["calibration"] * 4 + ["test"] * 4
    parts = split(make_cohort(tmp_path, [0, 1] * 8, official=official, pictures=fields(16)))
    leaks = [Leak("pixels", row, 12 + row, "train", "test") for row in range(4)]
    with pytest.raises(BadData) as caught:
        act_on(parts, leaks)
    assert caught.value.code == "too-few-cases" and "train" in caught.value.message
