"""From outcomes and model scores to advice: sums done by hand, truths that are known, three answers."""

import msgspec
import numpy as np
import pytest

from medserve.data.simulated import simulate
from medserve.models.spec import Coded, Effect, OutputSpec
from medserve.questions.effect import (
    ABSTAIN,
    advise,
    effective_size,
    first_arm,
    levelled,
    outcome_of,
    parted,
    pseudo_times,
    reasons,
    robust_scores,
    standardised_differences,
    standing,
)
from medserve.questions.policy import Policy, grow

OUTPUT = OutputSpec(
    task="effect", labels=["none", "drug"], unit="g", mean=10.0, sd=2.0,
    effect=Effect(outcome="weight", kind="number", better="higher", required=["age"]),
)  # fmt: skip


def row(effect, low, high, chance=0.5, alike=(0, 0), leaf=0):
    """Logits of one patient, in standard deviations."""
    return [effect, low, high, 1 - chance, chance, 0.0, 1.0, *alike, leaf]


def test_logits_are_read_in_the_unit_of_the_outcome():
    """sd 2, mean 10: an effect of 0.5 sd is 1 g; an expected outcome of 1 sd is 12 g."""
    said = parted(OUTPUT, np.array([row(0.5, 0.1, 0.9, 0.3, (2, -2), 3)]))
    assert said.effect.tolist() == [[1.0]] and said.high.tolist() == [[1.8]]
    assert said.outcome.tolist() == [[10.0, 12.0]] and said.propensity.tolist() == [[0.7, 0.3]]
    assert said.alike.tolist() == [[2, -2]] and said.leaf.tolist() == [3]
    assert OUTPUT.width == 10


def test_advice_follows_the_interval_the_overlap_and_the_likeness():
    """Benefit, harm, neither; too rare, too far, too little known."""
    rows = np.array(
        [row(1, 0.2, 2), row(-1, -2, -0.2), row(1, -0.1, 2), row(1, 0.2, 2, 0.97), row(1, 0.2, 2, 0.5, (0, -1))]
    )
    found = advise(OUTPUT, rows)
    assert found.arm.tolist() == [1, 0, ABSTAIN, ABSTAIN, ABSTAIN]
    assert [codes for codes in found.codes] == [
        [], [], ["interval-includes-no-benefit"], ["no-overlap"], ["few-alike"],
    ]  # fmt: skip
    assert found.against.tolist() == [[False], [True], [False], [False], [False]]
    lower = msgspec.structs.replace(OUTPUT, effect=msgspec.structs.replace(OUTPUT.effect, better="lower"))
    assert advise(lower, rows).arm[:2].tolist() == [0, 1], "less of the outcome is better: the same effects turn round"


def test_a_closed_model_and_an_unlike_or_unknown_patient_are_not_advised():
    """Each says why, in code and words."""
    good = np.array([row(1, 0.2, 2)])
    assert advise(OUTPUT, good, far=np.array([True])).codes == [["out-of-distribution"]]
    assert advise(OUTPUT, good, lacking=[("age",)]).codes == [["input-required"]]
    assert advise(OUTPUT, good, lacking=[("height",)]).arm.tolist() == [1]
    facts = msgspec.structs.replace(OUTPUT.effect, closed=[Coded("no-benefit-shown", "None was found.")])
    closed = msgspec.structs.replace(OUTPUT, effect=facts)
    assert advise(closed, good).arm.tolist() == [ABSTAIN] and advise(closed, good, closed=False).arm.tolist() == [1]
    assert reasons(closed, ["no-benefit-shown"]) == [{"code": "no-benefit-shown", "message": "None was found."}]


def test_a_model_that_is_closed_for_several_arms_says_each_once():
    """One code, and the message of every arm."""
    few = [Coded("too-few-comparable", f"Arm {arm} is worth too few.") for arm in "abc"]
    closed = msgspec.structs.replace(OUTPUT, effect=msgspec.structs.replace(OUTPUT.effect, closed=few))
    (codes,) = advise(closed, np.array([row(1, 0.2, 2)])).codes
    assert codes == ["too-few-comparable"]
    assert [one["message"] for one in reasons(closed, codes)] == [one.message for one in few]


def test_of_several_arms_the_best_sure_one_is_advised():
    """Three arms: the second is surely better by more; an arm that harms is named; all must harm to advise against."""
    three = msgspec.structs.replace(OUTPUT, labels=["none", "a", "b"])
    assert three.width == 16

    def logits(effects, lows, highs):
        return [*effects, *lows, *highs, 0.4, 0.3, 0.3, 0, 0, 0, 0, 0, 0, 0]

    rows = np.array([logits([1, 2], [0.5, 1], [2, 3]), logits([-1, 2], [-2, 1], [-0.5, 3]),
                     logits([-1, -2], [-2, -3], [-0.5, -1]), logits([-1, 0], [-2, -1], [-0.5, 1])])  # fmt: skip
    found = advise(three, rows)
    assert found.arm.tolist() == [2, 2, 0, ABSTAIN]
    assert found.ranked == [[2, 1], [2], [], []]
    assert [first_arm(three, one) for one in rows] == [2, 2, 1, 2], "of no advice the best effect"
    assert found.against.tolist()[1] == [True, False]


def test_what_is_closed_makes_room_for_the_next_that_there_is_evidence_for():
    """A rule that forbids lets the next one stand; what cannot be judged ends the search."""
    assert standing(["a", "b"], {}) == "a" and standing(["a", "b"], {"b": "blocked"}) == "a"
    assert standing(["a", "b", "c"], {"a": "blocked", "b": "blocked"}) == "c"
    assert standing(["a", "b"], {"a": "unknown"}) is None
    assert standing(["a", "b", "c"], {"a": "blocked", "b": "unknown"}) is None
    assert standing(["a"], {"a": "blocked"}) is None and standing([], {}) is None


def test_pseudo_observations_by_hand():
    """Events at 1 and 3, horizon 4: means 2, and 3 and 1 without one; so 1 and 3. Nobody censored: the own time."""
    assert pseudo_times(np.array([1.0, 3.0]), np.array([True, True]), 4.0).tolist() == [1.0, 3.0]
    times = np.random.default_rng(0).exponential(5, 40)
    assert np.allclose(pseudo_times(times, np.ones(40, bool), 6.0), np.minimum(times, 6.0))


def test_pseudo_observations_make_up_for_censoring():
    """Their mean is the mean event-free time up to the horizon; plain times are far too short."""
    random = np.random.default_rng(1)
    event, stop = random.exponential(5, 4000), random.exponential(6, 4000)
    times, seen = np.minimum(event, stop), event <= stop
    truth = 5 * (1 - np.exp(-6 / 5))
    assert np.mean(pseudo_times(times, seen, 6.0)) == pytest.approx(truth, abs=0.12)
    assert np.minimum(times, 6.0).mean() < truth - 0.5
    facts = msgspec.structs.replace(OUTPUT.effect, kind="survival", horizon=6.0)
    output = msgspec.structs.replace(OUTPUT, effect=facts)
    targets = np.column_stack([times, seen, np.zeros(4000), np.zeros(4000)])
    assert np.allclose(outcome_of(targets, output), pseudo_times(times, seen, 6.0))


@pytest.mark.parametrize("wrong", ["outcome", "propensity"])
def test_scores_are_right_if_one_of_both_is(wrong):
    """Doubly robust: with the outcomes, or the chances, put wrong the mean score still is the mean outcome."""
    trial = simulate(40_000, seed=0, confounded=True)
    mu = np.column_stack([trial.base - trial.effect / 2, trial.base + trial.effect / 2])
    e = np.column_stack([1 - trial.propensity, trial.propensity])
    mu, e = (mu * 0, e) if wrong == "outcome" else (mu, np.full_like(e, 0.5))
    gamma = robust_scores(trial.y, trial.arm, mu, e)
    truth = [trial.value(np.zeros(len(trial))), trial.value(np.ones(len(trial)))]
    assert gamma.mean(0) == pytest.approx(truth, abs=0.04)
    assert trial.y[trial.arm == 1].mean() - trial.y[trial.arm == 0].mean() > trial.effect.mean() + 0.2


def test_chances_are_levelled_where_patients_are_treated_more_often():
    """The same patients treated by twice the odds: level is found again; where nothing changed, nothing moves."""
    trial, random = simulate(6000, seed=7, confounded=True), np.random.default_rng(0)
    odds = 2 * trial.propensity / (1 - trial.propensity)
    now = (random.random(6000) < odds / (1 + odds)).astype(int)
    e = np.column_stack([1 - trial.propensity, trial.propensity])
    assert levelled(now, e)[:, 1] == pytest.approx(odds / (1 + odds), abs=0.04)
    assert levelled(trial.arm, e)[:, 1] == pytest.approx(trial.propensity, abs=0.04)
    assert levelled(now[:60], e[:60]) == pytest.approx(e[:60]), "too few to tell"


def test_weighting_balances_what_drives_the_treatment():
    """x1 and x2 differ before and not after; weights cost patients."""
    trial = simulate(8000, seed=2, confounded=True)
    e = np.column_stack([1 - trial.propensity, trial.propensity])
    before, after = standardised_differences(trial.x, trial.arm, e)
    assert before[:2].min() > 0.3 and after.max() < 0.08
    assert (effective_size(trial.arm, e) < np.bincount(trial.arm)).all()
    assert effective_size(trial.arm, np.full_like(e, 0.5)) == pytest.approx(np.bincount(trial.arm))


def test_the_policy_tree_finds_the_rule_and_says_it():
    """Two questions decide; the best tree of depth 2 asks them, and one question is not enough."""
    random = np.random.default_rng(3)
    x = random.random((1500, 4)).astype(np.float32)
    x[::7, 2] = np.nan
    good = (x[:, 0] > 0.5) & (x[:, 1] <= 0.4)
    gamma = np.column_stack([np.zeros(1500), np.where(good, 1.0, -1.0)]) + 0.3 * random.normal(size=(1500, 2))
    tree, rule = grow(x, gamma), grow(x, gamma, depth=1)
    assert np.mean(tree.choose(x) == good) > 0.93 > np.mean(rule.choose(x) == good)
    rules = tree.rules(["age (a)", "weight (kg)", "gap", "noise"])
    chosen = [said for said, arm in zip(rules, tree.arms, strict=True) if arm == 1]
    assert len(chosen) == 1 and "age (a) > 0." in chosen[0] and "weight (kg) <= 0." in chosen[0]
    assert grow(x * 0, gamma).rules(["a", "b", "c", "d"])[0] == "everybody"


def test_a_rule_on_a_word_is_said_as_a_word():
    """A column of a category reads as its word, not as a threshold."""
    x = np.repeat([[0.0], [1.0]], 100, axis=0).astype(np.float32)
    gamma = np.column_stack([np.zeros(200), np.where(x[:, 0] > 0.5, 1.0, -1.0)])
    assert grow(x, gamma, depth=1).rules(["sex = F"])[::2] == ["sex is not F", "sex = F"]


def test_two_limits_of_one_column_are_said_as_one():
    """The narrower of two on one side; both where they lie on either side."""
    tree = Policy(np.array([0, 0, 0]), np.array([62.16, 50.5, 71.0], np.float32), np.array([0, 1, 0, 1]))
    assert tree.rules(["age (a)"]) == ["age (a) <= 50.5", "age (a) > 50.5 and <= 62.16", "age (a) > 62.16 and <= 71",
                                       "age (a) > 71"]  # fmt: skip
