"""What advice is worth on a part with a known truth, and the page that says so."""

import msgspec
import numpy as np
import pytest

from medserve.data.simulated import simulate
from medserve.evaluation.card import make_card
from medserve.evaluation.effect_figures import effects as effects_by_advice
from medserve.evaluation.effect_figures import overlap
from medserve.evaluation.evaluate import evaluate
from medserve.evaluation.report import render
from medserve.models.spec import Coded, Effect, InputSpec, Leaf, ModelSpec, OutputSpec
from medserve.types import Named, Scores

LEAF = {"n": 50, "effect": [0.0], "low": [-1.0], "high": [1.0]}


def spec_of(**facts):
    effect = Effect(outcome="y", kind="number", better="higher", leaves=[
        Leaf(rule="x1 <= 0.5", arm="control", **LEAF), Leaf(rule="nobody", arm="control", **LEAF),
        Leaf(rule="x1 > 0.5", arm="treated", **LEAF), Leaf(rule="nobody", arm="treated", **LEAF),
    ])  # fmt: skip
    output = OutputSpec(task="effect", labels=["control", "treated"], unit="1",
                        effect=msgspec.structs.replace(effect, **facts))  # fmt: skip
    return ModelSpec(name="trial", question="treatment", inputs=[InputSpec(name="x1", kind="number", shape=(1,))],
                     output=output, transforms=[], architecture=Named("effect-linear"))  # fmt: skip


def scored(trial, effect, half=0.3):
    """Scores of a model that knows chances and outcomes, with these effects."""
    e = np.column_stack([1 - trial.propensity, trial.propensity])
    mu = np.column_stack([trial.base - trial.effect / 2, trial.base + trial.effect / 2])
    columns = [effect, effect - half, effect + half, *e.T, *mu.T, 0 * effect, 0 * effect, 2 * (trial.x[:, 0] > 0.5)]
    return Scores(np.column_stack(columns).astype(np.float32))


def judged(trial, effect=None, spec=None, **more):
    n = len(trial)
    targets = np.column_stack([trial.y, np.ones(n), trial.arm, np.full(n, np.nan)])
    scores = scored(trial, trial.effect if effect is None else effect)
    return evaluate(spec or spec_of(), scores, targets, part="test", patients=np.arange(n), draws=200, **more)


@pytest.fixture(scope="module")
def trial():
    return simulate(3000, seed=3, confounded=True)


@pytest.fixture(scope="module")
def result(trial):
    groups = {"half": np.where(trial.x[:, 0] > 0.5, "upper", "lower")}
    return judged(trial, groups=groups, policies={"simple rule": (trial.x[:, 1] > 0.5).astype(int)})


def test_values_of_policies_hold_the_truth(trial, result):
    """The true mean outcome of each policy lies in its interval, and the best policy is worth the most."""
    told = {row["policy"]: row for row in result["effect"]["policies"]}
    truth = {
        "larger effect": trial.value(trial.effect > 0), "treated for all": trial.value(np.ones(3000)),
        "control for all": trial.value(np.zeros(3000)), "usual care": trial.value(trial.propensity),
        "policy tree": trial.value(trial.x[:, 0] > 0.5), "simple rule": trial.value(trial.x[:, 1] > 0.5),
    }  # fmt: skip
    for name, value in truth.items():
        assert told[name]["value"]["low"] - 0.02 <= value <= told[name]["value"]["high"] + 0.02, name
    assert told["usual care"]["gain"]["value"] == 0
    best = max(told, key=lambda name: told[name]["value"]["value"])
    assert best == "larger effect" and told["advice"]["gain"]["low"] > 0
    assert result["metrics"]["gain_over_one_arm"]["low"] > 0


def test_the_plain_difference_is_flagged_where_it_is_biased(trial, result):
    """Confounded: flagged; randomised: not."""
    (row,) = result["effect"]["contrasts"]
    assert row["naive_biased"] and row["average"]["low"] <= trial.effect.mean() <= row["average"]["high"]
    assert "naive-biased" in {claim["code"] for claim in result["claims"]}
    fair = judged(simulate(3000, seed=3, confounded=False))
    assert not fair["effect"]["contrasts"][0]["naive_biased"]


def test_wrong_advice_is_worse_than_what_was_done(trial):
    """The opposite of the truth: a red claim, and those who followed it fared worse."""
    found = judged(trial, effect=-trial.effect)
    assert found["metrics"]["gain_advice"]["high"] < 0 and found["metrics"]["followed_difference"]["high"] < 0
    assert {"advice-harms"} <= {claim["code"] for claim in found["claims"] if claim["level"] == "red"}


def test_shares_and_subgroups_add_up(trial, result):
    """Recommended, recommended against and abstained are everybody; each subgroup has its abstention."""
    m = result["metrics"]
    assert sum(m[k]["value"] for k in ("recommended", "recommended_against", "abstention")) == pytest.approx(1)
    answers = result["answers"]
    assert answers["answered"] + answers["abstained"] == len(trial)
    assert m["abstention"]["value"] == pytest.approx(np.mean(np.abs(trial.effect) <= 0.3), abs=0.01)
    rows = {row["value"]: row["metrics"] for row in result["subgroups"]}
    assert rows["upper"]["average_effect"]["low"] > rows["lower"]["average_effect"]["high"]


def test_a_closed_model_advises_nobody_and_says_so(trial):
    """No advice, no gain, the reason among the claims; what it would have said is still valued."""
    found = judged(trial, spec=spec_of(closed=[Coded("no-benefit-shown", "None was found.")]))
    assert found["metrics"]["abstention"]["value"] == 1 and found["metrics"]["gain_advice"]["value"] == 0
    assert "no-benefit-shown" in {claim["code"] for claim in found["claims"]}
    assert found["effect"]["advice"]["no-benefit-shown"] == len(trial)


def test_the_page_shows_the_trial_the_policies_and_the_pictures(result):
    """The target trial, four drawings, every policy, and no claim of benefit without the warning."""
    result["effect"]["balance"] = [{"column": "x1", "before": 0.5, "after": 0.02}]
    result["effect"]["learners"] = [{"learner": "T-learner", "loss": 3.2}]
    card = make_card(spec=spec_of(), evaluation=result, source={"trial": {"time zero": "surgery"}}, shortcuts=[])
    page = render(result, card)
    assert "surgery" in page and "simple rule" in page and "T-learner" in page and "x1 &gt; 0.5" in page
    assert page.count('<figure><img src="data:image/svg+xml') >= 4
    assert "no unmeasured confounder" in page and "Not clinically validated" in page
    assert card["trial"] == {"time zero": "surgery"}
    assert {"confounding", "no-order"} <= {limit["code"] for limit in card["limits"]}


def test_of_several_arms_each_is_drawn_and_none_stands_for_the_others(trial):
    """Chances, effects and subgroups are told of every arm; a patient counts as inside where no arm is too rare."""
    n = len(trial)
    random = np.random.default_rng(1)
    arm = random.integers(0, 3, n)
    chances = np.full((n, 3), 1 / 3)
    chances[:300] = (0.9, 0.06, 0.04)
    effects = np.column_stack([np.full(n, 1.0), np.full(n, 2.0)])
    mu = np.column_stack([trial.base, trial.base + 1, trial.base + 2])
    y = mu[np.arange(n), arm] + random.normal(size=n)
    none = np.zeros((n, 4))
    logits = np.column_stack([effects, effects - 0.3, effects + 0.3, chances, mu, none]).astype(np.float32)
    spec = spec_of(leaves=[])
    spec = msgspec.structs.replace(spec, output=msgspec.structs.replace(spec.output, labels=["none", "a", "b"]))
    targets = np.column_stack([y, np.ones(n), arm, np.full(n, np.nan)])
    groups = {"half": np.where(trial.x[:, 0] > 0.5, "upper", "lower")}
    got = evaluate(spec, Scores(logits), targets, part="test", patients=np.arange(n), draws=100, groups=groups)
    told = got["effect"]
    assert told["overlap"]["inside"] == pytest.approx(0.9)
    assert list(told["overlap"]["arms"]) == ["none", "a", "b"] and list(told["histogram"]["arms"]) == ["a", "b"]
    assert all(sum(map(sum, arms.values())) == n for arms in told["overlap"]["arms"].values())
    assert sum(told["histogram"]["arms"]["a"]["another recommended"]) > 0
    (row, _) = got["subgroups"]
    assert row["metrics"]["average effect of b"]["value"] == pytest.approx(2, abs=0.3)
    assert overlap(got) is not None and effects_by_advice(got) is not None
