"""Dangers of records: a poisoned table turns red, clean ones do not, and an honest strong input is a question only."""

import numpy as np
import pytest

from medserve.evaluation.dangers import ABSENCE, INSIDE, SOURCE, danger_checks

Columns = dict[str, np.ndarray]


def table(n: int = 300, seed: int = 0, *, signal: float = 1.0) -> tuple[Columns, Columns, np.ndarray, np.ndarray]:
    """Four numbers and a category of three levels, of which two numbers go with the label; a tenth of `lactate` is
    missing at random. Returns: columns, known, labels (N, 1), patients (each twice)."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, n).astype(float)
    columns = {name: random.normal(size=(n, 1)) for name in ("age", "lactate", "height", "sodium")}
    for name in ("age", "lactate"):
        columns[name][:, 0] += signal * label
    columns["ward"] = np.eye(3)[random.integers(0, 3, n)]
    known = {name: np.ones(n, bool) for name in columns}
    known["lactate"] = random.random(n) > 0.1
    columns["lactate"][~known["lactate"]] = 0.5 * signal
    return columns, known, label[:, None], np.arange(n) // 2


def levels(
    columns: Columns, known: Columns, labels: np.ndarray, who: np.ndarray, facts: list[dict[str, str]] | None = None,
    seed: int = 0,
) -> dict[str, str]:  # fmt: skip
    return {c["name"]: c["level"] for c in danger_checks(columns, known, labels, patients=who, facts=facts or [],
                                                         seed=seed)}  # fmt: skip


def sites(label: np.ndarray, agree: float, seed: int = 0) -> list[dict[str, str]]:
    """A site that is the label in a share of the cases, and a coin in the others."""
    random = np.random.default_rng(seed)
    same = random.random(len(label)) < agree
    said = np.where(same, label[:, 0], random.integers(0, 2, len(label)))
    return [{"site": "north" if one else "south"} for one in said]


def test_a_clean_table_is_green():
    columns, known, labels, who = table()
    found = danger_checks(columns, known, labels, patients=who, facts=sites(labels, 0), seed=0)
    assert {c["name"]: c["level"] for c in found} == {INSIDE: "green", ABSENCE: "green", SOURCE: "green"}
    for one in found:
        assert one["message"].endswith(".") and {"value", "low", "high", "figure"} <= one.keys()


@pytest.mark.parametrize("kind", ["number", "turned", "category", "noisy", "few"])
def test_a_label_inside_an_input_turns_red(kind):
    """The label as a number, the other way round, as a level, with a little noise: red, and the input is named."""
    columns, known, labels, who = table(seed=1)
    random, label = np.random.default_rng(9), labels[:, 0]
    leaked = {
        "number": 10 * label + random.normal(size=len(label)),
        "turned": -10 * label + random.normal(size=len(label)),
        "category": np.eye(2)[label.astype(int)],
        "noisy": 3 * label + random.normal(size=len(label)),
        "few": 10 * label + random.normal(size=len(label)),
    }[kind]
    columns["discharge"], known["discharge"] = leaked.reshape(len(label), -1), np.ones(len(label), bool)
    if kind == "few":  # nothing but that input and one that says nothing
        columns = {name: columns[name] for name in ("discharge", "height")}
        known = {name: known[name] for name in columns}
    found = {c["name"]: c for c in danger_checks(columns, known, labels, patients=who, seed=0)}
    assert found[INSIDE]["level"] == "red" and "'discharge'" in found[INSIDE]["message"]
    assert found[INSIDE]["value"] > 0.95


def test_a_label_alone_as_input_turns_red():
    """With no other input there is nothing that could tell it too."""
    columns, known, labels, who = table(seed=2)
    assert levels({"outcome": labels.copy()}, {"outcome": known["age"]}, labels, who)[INSIDE] == "red"


def test_a_leak_into_one_label_of_three_turns_red():
    """A column that is one class of a multiclass target; unknown labels do not hide it."""
    columns, known, _, who = table(n=450, seed=3)
    random = np.random.default_rng(3)
    classes = random.integers(0, 3, len(who))
    labels = (classes[:, None] == np.arange(3)).astype(float)
    labels[random.random(len(who)) < 0.1, 0] = np.nan
    columns["code"] = (classes == 2).astype(float)[:, None] + random.normal(0, 0.05, (len(who), 1))
    known["code"] = np.ones(len(who), bool)
    assert levels(columns, known, labels, who)[INSIDE] == "red"


def test_an_honest_strong_input_is_amber():
    """Blood gases that all follow the illness: one alone tells it, so do the others without it."""
    columns, known, labels, who = table(seed=4)
    random = np.random.default_rng(4)
    illness = 3.5 * labels[:, 0] + random.normal(size=len(who))
    for name, noise in (("troponin", 0.2), ("ck", 0.5), ("bnp", 0.5)):
        columns[name] = (illness + random.normal(0, noise, len(who)))[:, None]
        known[name] = np.ones(len(who), bool)
    found = {c["name"]: c for c in danger_checks(columns, known, labels, patients=who, seed=0)}
    assert found[INSIDE]["level"] == "amber" and found[INSIDE]["value"] > 0.95, found[INSIDE]
    assert found[ABSENCE]["level"] == "green"


@pytest.mark.parametrize("channels", [False, True])
def test_a_label_told_by_what_is_missing_turns_red(channels):
    """A test that is ordered for the ill, whose values say nothing; also as one channel of a timeline."""
    columns, known, labels, who = table(seed=5, signal=0)
    random = np.random.default_rng(5)
    there = random.random(len(who)) < np.where(labels[:, 0] == 1, 0.9, 0.2)
    if channels:
        columns["stay"] = random.normal(size=(len(who), 3))
        known["stay"] = np.stack([random.random(len(who)) > 0.3, there, np.ones(len(who), bool)], axis=1)
    else:
        columns["lactate"], known["lactate"] = random.normal(size=(len(who), 1)), there
    found = {c["name"]: c for c in danger_checks(columns, known, labels, patients=who, seed=0)}
    assert found[ABSENCE]["level"] == "red" and found[ABSENCE]["low"] > 0.6
    assert found[INSIDE]["level"] == "green"


def test_missingness_beside_strong_values_is_amber():
    """What is missing tells something, and the values tell much more."""
    columns, known, labels, who = table(n=500, seed=6, signal=2.0)
    random = np.random.default_rng(6)
    known["height"] = random.random(len(who)) < np.where(labels[:, 0] == 1, 0.8, 0.4)
    assert levels(columns, known, labels, who)[ABSENCE] == "amber"


def test_an_input_missing_for_one_class_only_is_not_overlooked():
    """Missing exactly where the outcome is absent: the checks together raise red."""
    columns, known, labels, who = table(seed=7, signal=0)
    known["height"] = labels[:, 0] == 1
    assert levels(columns, known, labels, who)[ABSENCE] == "red"


@pytest.mark.parametrize(("agree", "level"), [(1.0, "red"), (0.8, "red"), (0.42, "amber"), (0.0, "green")])
def test_a_source_that_is_the_class_turns_red(agree, level):
    """All of one label from one hospital: red, named; a weak link amber; none green."""
    columns, known, labels, who = table(seed=8)
    found = danger_checks(columns, known, labels, patients=who, facts=sites(labels, agree, 8), seed=0)
    source = next(c for c in found if c["name"] == SOURCE)
    assert source["level"] == level and (level == "green" or "'site'" in source["message"]), source


def test_clean_tables_raise_no_false_alarm():
    """Of 20 clean tables, small ones among them, at most one raises red or amber."""
    alarms = []
    for seed in range(20):
        columns, known, labels, who = table(n=120 + 20 * (seed % 4), seed=100 + seed, signal=0.8 * (seed % 2))
        found = levels(columns, known, labels, who, sites(labels, 0, seed), seed=seed)
        alarms += [(seed, name, level) for name, level in found.items() if level != "green"]
    assert len(alarms) <= 1, alarms


def test_a_table_too_small_to_judge_is_said_to_be_so():
    """Fewer than twenty of a label, one label only, nothing missing, no facts: no alarm and no crash."""
    columns, known, labels, who = table(n=24, seed=11)
    assert set(levels(columns, known, labels, who).values()) == {"green"}
    assert set(levels(columns, known, np.zeros_like(labels), who).values()) == {"green"}
    assert set(levels(columns, known, np.full_like(labels, np.nan), who).values()) == {"green"}
    everything = {name: np.ones(len(who), bool) for name in columns}
    found = {c["name"]: c for c in danger_checks(columns, everything, labels, patients=who)}
    assert found[ABSENCE]["message"] == "Nothing is missing anywhere."


def test_many_rows_are_looked_at_by_a_sample():
    """Above the limit a sample is looked at, facts and patients in step with it."""
    columns, known, labels, who = table(n=6000, seed=12)
    columns["outcome"], known["outcome"] = labels.copy(), np.ones(len(who), bool)
    found = levels(columns, known, labels, who, sites(labels, 1.0))
    assert found[INSIDE] == "red" and found[SOURCE] == "red"


def test_where_no_input_can_be_tried_alone_it_says_so():
    """Molecules, texts and waveforms are no columns: an AUROC of 0 would be a figure that nobody measured."""
    _, _, labels, who = table()
    inside = next(c for c in danger_checks({}, {}, labels, patients=who, facts=[]) if c["name"] == INSIDE)
    assert inside["value"] is None and inside["message"].startswith("Not measured")
