"""Promises of data/clean.py: each problem has a set that shows it, and a clean set shows none."""

import numpy as np
import pytest
from made_cohorts import fields, make_cohort, recoded

from medserve.data.clean import find_problems, part_names
from medserve.data.cohort import Refused
from medserve.data.duplicates import find_duplicates
from medserve.data.split import split


def _all(cohort):
    parts = split(cohort, check=False)
    pairs = find_duplicates(cohort.cases, cohort.thumbs, parts=part_names(parts))
    return find_problems(cohort, parts, pairs)


def _problems(cohort):
    return {problem.code: problem for problem in _all(cohort)}


@pytest.fixture(scope="module")
def pictures():
    return fields(600)


def _official(n=600):
    """Parts large enough for any claim: 200 train, 100 val, 200 calibration, 100 test."""
    return (["train"] * 200 + ["val"] * 100 + ["calibration"] * 200 + ["test"] * 100)[:n]


def test_a_clean_set_has_no_problem(tmp_path, pictures):
    """600 different pictures, balanced, in four large parts: nothing is reported."""
    assert _problems(make_cohort(tmp_path, [0, 1] * 300, official=_official(), pictures=pictures)) == {}


def test_each_fault_is_reported_with_its_files_and_count(tmp_path, pictures):
    """Blank, repeats, conflicts, refused, unlabelled and mixed: each under its code, none dropped."""
    faulty, labels = list(pictures), [0, 1] * 300
    faulty[2] = np.full((64, 64), 7, np.uint8)
    faulty[6] = faulty[4]  # same label, same part
    faulty[9] = faulty[8]  # other label
    faulty[12] = recoded(faulty[10])
    faulty[15] = recoded(faulty[14])  # other label
    labels[20] = None
    modalities = ["CR"] * 599 + ["CT"]
    refused = [Refused("a.png", "file-truncated", "."), Refused("b.png", "label-missing", ".")]
    colours = [True] + [False] * 599
    cohort = make_cohort(
        tmp_path,
        labels,
        official=_official(),
        pictures=faulty,
        modalities=modalities,
        colours=colours,
        refused=refused,
    )
    found = _problems(cohort)
    assert found["blank"].files == ("case-2.png",)
    assert found["exact-duplicate"].files == ("case-6.png", "case-9.png") and found["exact-duplicate"].part == "train"
    assert found["near-duplicate"].files == ("case-12.png", "case-15.png")
    conflicts = [p.files for p in _all(cohort) if p.code == "label-conflict"]
    assert conflicts == [("case-8.png", "case-9.png"), ("case-14.png", "case-15.png")]
    assert found["unreadable"].files == ("a.png",) and "file-truncated" in found["unreadable"].message
    assert found["missing-label"].count == 1
    assert found["modality-mix"].files == ("case-599.png",) and found["colour-mix"].files == ("case-0.png",)


def test_repeats_of_unknown_label_are_no_conflict(tmp_path):
    """An unlabelled copy contradicts nothing."""
    a, b = fields(2)
    cohort = make_cohort(tmp_path, [0, None, 1, 1], pictures=[a, a, b, b])
    assert "label-conflict" not in _problems(cohort)


def test_two_alike_films_of_one_patient_are_expected(tmp_path):
    """Near-duplicates of one declared patient are not reported; of two patients they are."""
    first = fields(40)
    pictures = [*first, recoded(first[0])]
    official = [*["train", "val", "calibration", "test"] * 10, "train"]
    same = [f"p{i}" for i in range(40)] + ["p0"]
    other = [f"p{i}" for i in range(41)]
    labels = [0, 0, 0, 0, 1, 1, 1, 1] * 5 + [0]
    assert "near-duplicate" not in _problems(
        make_cohort(tmp_path, labels, patients=same, official=official, pictures=pictures)
    )
    assert "near-duplicate" in _problems(
        make_cohort(tmp_path, labels, patients=other, official=official, pictures=pictures)
    )


def test_balance_and_sizes_are_judged(tmp_path, pictures):
    """One class, an empty class, 1 to 9, a test part without enough of a class: each under its code."""
    assert "one-class" in _problems(make_cohort(tmp_path, [1] * 40, pictures=pictures[:40]))
    three = make_cohort(
        tmp_path, [0, 1] * 20, pictures=pictures[:40], task="multiclass", names=("a", "b", "c"), official=["train"] * 40
    )
    assert _problems(three)["empty-class"].message.endswith("c.")
    skewed = _problems(make_cohort(tmp_path, ([0] + [1] * 9) * 60, official=_official(), pictures=pictures))
    assert skewed["class-imbalance"].count == 20 and "90%" in skewed["class-imbalance"].message
    assert skewed["tiny-part"].part in ("val", "calibration", "test")
