"""Dangers of times to an event: each poison turns its check red, the clean table none."""

import numpy as np
import pytest

from medserve.evaluation.dangers import ABSENCE, INSIDE, SOURCE, danger_checks, survival_labels


def study(n: int = 400, seed: int = 0):
    """Age and lactate shorten the time to death, sodium says nothing; a third is censored; a tenth of lactate is
    missing at random. Returns: columns, known, targets (N, 2), patients, sites."""
    random = np.random.default_rng(seed)
    columns = {name: random.normal(size=(n, 1)) for name in ("age", "lactate", "sodium")}
    risk = (columns["age"] + columns["lactate"])[:, 0]
    time, end = random.exponential(100 * np.exp(-risk)), random.exponential(200, n)
    targets = np.column_stack([np.minimum(time, end), (time <= end).astype(float)])
    known = {name: np.ones(n, bool) for name in columns}
    known["lactate"] = random.random(n) > 0.1
    columns["lactate"][~known["lactate"]] = 0
    sites = [{"site": word} for word in random.choice(["north", "south"], n)]
    return columns, known, targets, np.arange(n), sites


def found(columns, known, targets, who, sites, seed=0):
    labels = survival_labels(targets)
    checks = danger_checks(columns, known, labels, patients=who, facts=sites, follow_up=targets, seed=seed)
    return {c["name"]: c for c in checks}


def test_the_labels_by_hand():
    """Events at 2, 4 and 6: the middle is 4. Died by then 1, known to be alive then 0, lost before NaN."""
    targets = np.array([[2, 1], [4, 1], [6, 1], [5, 0], [3, 0], [np.nan, 1]])
    early, seen = survival_labels(targets).T
    assert np.array_equal(early, [1, 1, 0, 0, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(seen, [1, 1, 1, 0, 0, np.nan], equal_nan=True)


@pytest.mark.parametrize("seed", range(6))
def test_a_clean_study_is_green(seed):
    """Strong honest inputs, random gaps, sites by chance: nothing is red or amber."""
    checks = found(*study(seed=seed), seed=seed)
    assert checks.keys() == {INSIDE, ABSENCE, SOURCE}
    assert {c["level"] for c in checks.values()} == {"green"}


@pytest.mark.parametrize("poison", ["days", "turned", "died"])
def test_the_outcome_inside_an_input_turns_red(poison):
    """The length of the stay that death ends, minus it, or a code that is written at death."""
    columns, known, targets, who, sites = study(seed=1)
    random = np.random.default_rng(8)
    columns["written_late"] = {
        "days": np.log(targets[:, :1]) + random.normal(0, 0.1, (len(who), 1)),
        "turned": -targets[:, :1],
        "died": targets[:, 1:] + random.normal(0, 0.1, (len(who), 1)),
    }[poison]
    known["written_late"] = np.ones(len(who), bool)
    check = found(columns, known, targets, who, sites)[INSIDE]
    assert check["level"] == "red" and "'written_late'" in check["message"] and check["value"] > 0.95
    assert ("concordance" in check["message"]) == (poison != "died")


def test_a_test_that_only_the_dying_get_turns_red():
    """The values say nothing; that there is one tells who dies soon."""
    columns, known, targets, who, sites = study(seed=2)
    random = np.random.default_rng(22)
    early = survival_labels(targets)[:, 0] == 1
    columns = {"ct": random.normal(size=(len(who), 1)), "sodium": columns["sodium"]}
    known = {"ct": random.random(len(who)) < np.where(early, 0.9, 0.15), "sodium": known["sodium"]}
    check = found(columns, known, targets, who, sites)[ABSENCE]
    assert check["level"] == "red" and check["low"] > 0.6


def test_a_site_that_sends_the_dying_turns_red():
    columns, known, targets, who, _ = study(seed=3)
    early = survival_labels(targets)[:, 0]
    sites = [{"site": "hospice" if one == 1 else "clinic"} for one in early]
    check = found(columns, known, targets, who, sites)[SOURCE]
    assert check["level"] == "red" and "'site'" in check["message"]


def test_too_few_events_are_no_alarm():
    columns, known, targets, who, sites = study(n=60, seed=4)
    targets[:, 1] = 0
    assert {c["level"] for c in found(columns, known, targets, who, sites).values()} == {"green"}
