"""Shortcut checks on the data: a poisoned set fires, clean sets of any size do not."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medserve.data.cohort import Case, Cohort, Shelf
from medserve.evaluation.shortcuts import (
    ASSOCIATION,
    BORDER,
    FACTS,
    THUMBNAIL,
    cohort_checks,
    cramers_v,
    data_checks,
    fact_table,
    label_columns,
    readable,
)


def clean_set(n: int, seed: int) -> tuple[list[dict[str, str]], np.ndarray, np.ndarray]:
    """Facts, thumbnails and labels that know nothing of each other; thumbnails share smooth anatomy."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] / 63
    waves = np.stack([np.sin(np.pi * (k + 1) * (y if k % 2 else x)) for k in range(6)])
    thumbs = 120 + 12 * np.einsum("nk,kij->nij", rng.standard_normal((n, 6)), waves) + rng.normal(0, 8, (n, 64, 64))
    facts = [
        {"format": rng.choice(["png", "jpeg"]), "scanner": rng.choice(list("ABC")), "kvp": f"{rng.normal(80, 5):.2f}"}
        for _ in range(n)
    ]
    return facts, np.clip(thumbs, 0, 255).astype(np.uint8), rng.integers(0, 2, (n, 1)).astype(float)


def by_name(checks: list[dict]) -> dict[str, dict]:
    return {check["name"]: check for check in checks}


def test_a_source_that_is_the_label_turns_red():
    """Positives come from another scanner: association and file facts are red, and name the fact."""
    facts, thumbs, labels = clean_set(300, 0)
    poisoned = [row | {"scanner": "B" if label else "A"} for row, label in zip(facts, labels[:, 0], strict=True)]
    checks = by_name(data_checks(poisoned, thumbs, labels))
    assert checks[ASSOCIATION]["level"] == "red" and "scanner" in checks[ASSOCIATION]["message"]
    assert "determines" in checks[ASSOCIATION]["message"]
    assert checks[FACTS]["level"] == "red" and checks[FACTS]["value"] > 0.95
    assert checks[BORDER]["level"] == "green"


def test_a_number_that_tells_the_label_turns_red():
    """An exposure that differs between the labels is found though no two files share a value."""
    facts, thumbs, labels = clean_set(300, 1)
    poisoned = [row | {"kvp": f"{float(row['kvp']) + 10 * y:.2f}"} for row, y in zip(facts, labels[:, 0], strict=True)]
    assert by_name(data_checks(poisoned, thumbs, labels))[FACTS]["level"] == "red"


def test_a_corner_marker_turns_the_border_red():
    """A bright corner in 90 % of the positives and 10 % of the negatives is read from the border alone."""
    facts, thumbs, labels = clean_set(300, 2)
    marked = np.random.default_rng(2).random(300) < np.where(labels[:, 0] == 1, 0.9, 0.1)
    thumbs[marked, 1:5, 1:5] = 250
    check = by_name(data_checks(facts, thumbs, labels))[BORDER]
    assert check["level"] == "red" and check["low"] > 0.8


def test_brightness_in_the_middle_is_amber_at_most():
    """A label that shows in the thumbnail may be the disease: said, and never red."""
    facts, thumbs, labels = clean_set(300, 3)
    thumbs[labels[:, 0] == 1, 24:40, 24:40] += 60
    checks = by_name(data_checks(facts, thumbs, labels))
    assert checks[THUMBNAIL]["level"] == "amber" and checks[BORDER]["level"] == "green"


def test_clean_sets_raise_no_alarm():
    """At most 1 of 20 clean sets raises any alarm, small sets included (a false-alarm rate of 5 %)."""
    alarms = 0
    for seed in range(20):
        facts, thumbs, labels = clean_set(60 if seed % 2 else 240, 100 + seed)
        alarms += any(check["level"] != "green" for check in data_checks(facts, thumbs, labels))
    assert alarms <= 1


def test_a_patient_stays_in_one_fold():
    """Features that only name the patient tell nothing when her pictures stay together."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 4)
    label = np.repeat(rng.integers(0, 2, 60), 4)
    features = np.eye(60)[patients]
    together = readable(features, label, patients)
    apart = readable(features, label, np.arange(240))
    assert together is not None and apart is not None
    assert together[0] < 0.65 < 0.9 < apart[0]


def test_readable_is_an_auroc_inside_its_interval():
    """A single clean feature: close to the AUROC of the feature itself, between low and high."""
    rng = np.random.default_rng(4)
    label = rng.integers(0, 2, 400)
    feature = label + rng.normal(0, 1, 400)
    value, low, high, sure = readable(feature[:, None], label, np.arange(400))  # type: ignore[misc]
    assert sure <= low < value < high
    assert value == pytest.approx(roc_auc_score(label, feature), abs=0.02)


def test_too_few_cases_are_not_measured():
    """Fewer than 20 positives: no figure, no alarm, and the reason."""
    facts, thumbs, _ = clean_set(100, 5)
    labels = (np.arange(100) < 10).astype(float)[:, None]
    check = by_name(data_checks(facts, thumbs, labels))[BORDER]
    assert check["value"] is None and check["level"] == "green" and "too few" in check["message"]


def test_cramers_v_by_hand():
    """30 10 / 10 30: chi2 = 20; phi2 = 20/80 - 1/79 = .23734; k = 2 - 1/79 = 1.98734; V = sqrt(.23734 / (k - 1))."""
    label = np.repeat([0, 1], 40)
    fact = ["a"] * 30 + ["b"] * 10 + ["a"] * 10 + ["b"] * 30
    v, p = cramers_v(label, fact)
    assert v == pytest.approx(0.49029, abs=1e-4)
    assert p == pytest.approx(7.74e-6, rel=0.01)
    assert cramers_v(label, ["same"] * 80) == (0.0, 1.0)


def test_labels_of_every_task_become_questions():
    """Two classes are one question, three are three, a number is above or below its median, NaN stays unknown."""
    assert label_columns(np.array([0.0, 1, 1]), "binary").tolist() == [[0], [1], [1]]
    assert label_columns(np.array([0.0, 1, 2]), "multiclass").shape == (3, 3)
    assert label_columns(np.array([1.0, 2, 3, 10]), "number")[:, 0].tolist() == [0, 0, 1, 1]
    assert np.isnan(label_columns(np.array([[np.nan, 1.0]]), "multilabel")[0, 0])


def test_a_rare_value_is_no_column():
    """A value that fewer than five files share (it would name a patient) does not enter the table."""
    facts = [{"site": "a"}] * 10 + [{"site": "b"}] * 10 + [{"site": "c"}]
    assert fact_table(facts).shape == (21, 2)
    assert fact_table([{"site": "a"}] * 10).shape == (10, 0)


def test_a_cohort_is_checked_whole(tmp_path: Path):
    """Headers, suffixes and sizes of a cohort's cases are the facts; positives in another size are found."""
    _, thumbs, labels = clean_set(120, 6)
    rng = np.random.default_rng(6)
    shelf = Shelf(tmp_path / "thumbs", (1, 64, 64), write=True)
    cases = []
    for k, label in enumerate(labels[:, 0].astype(int)):
        shelf.put(k, thumbs[k][None])
        header = {"format": "png", "size": f"{rng.integers(500, 700) + 300 * label}x{rng.integers(500, 700)}"}
        cases.append(
            Case(
                f"c{k}",
                f"c{k}.png",
                k,
                int(label),
                f"p{k}",
                None,
                {"age": "40"},
                b"",
                b"",
                0,
                None,
                None,
                False,
                False,
                (64, 64),
                header,
            )
        )
    cohort = Cohort("set", "binary", ("no", "yes"), tuple(cases), (), 120, shelf, shelf, "")
    checks = by_name(cohort_checks(cohort))
    assert checks[FACTS]["level"] == "red" and checks[FACTS]["value"] > 0.95
    assert checks[BORDER]["level"] == "green"
    shelf.close()
