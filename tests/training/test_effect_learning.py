"""Learning an effect from patients whose true effect is known, and the attempts to bring it down."""

import dataclasses

import msgspec
import numpy as np
import pytest
import torch

from medserve.data.fields import Block
from medserve.data.simulated import NAMES, simulate
from medserve.errors import BadData
from medserve.models.record.effect import LINEAR, TREES
from medserve.models.spec import Effect, OutputSpec
from medserve.questions.effect import advise, parted
from medserve.training import refute as refuting
from medserve.training._bayes import factor, regress
from medserve.training.effect import learn
from medserve.training.refute import e_value, refute
from medserve.types import ArraySamples

BLOCKS = [Block(name, "number", i, (1,), {"unit": "1"}) for i, name in enumerate(NAMES)]


def targets_of(y, arm, seen=None, control=None):
    n = len(y)
    return np.column_stack([y, np.ones(n) if seen is None else seen, arm,
                            np.full(n, np.nan) if control is None else control])  # fmt: skip


def output_of(y, labels=("control", "treated"), **facts):
    return OutputSpec(task="effect", labels=list(labels), unit="1", mean=float(np.mean(y)), sd=float(np.std(y)),
                      effect=Effect(**({"outcome": "y", "kind": "number", "better": "higher"} | facts)))  # fmt: skip


@pytest.fixture(scope="module")
def learned():
    trial = simulate(900, seed=5, confounded=True)
    output = output_of(trial.y)
    return learn(BLOCKS, ArraySamples(trial.x.astype(np.float32), targets_of(trial.y, trial.arm)), output, 0), trial


@pytest.mark.parametrize("kind", [LINEAR, TREES])
def test_the_module_says_what_was_learned(kind, learned):
    """The torch module of a package: effects near the truth, chances and outcomes in order, intervals about them."""
    found, _ = learned
    named, net, history = found.make(kind)
    fresh = simulate(1000, seed=8, confounded=True)
    with torch.no_grad():
        logits = net(torch.from_numpy(fresh.x.astype(np.float32))).logits.numpy()
    said = parted(found.output, logits)
    assert named.name == kind and logits.shape[1] == found.output.width
    assert np.sqrt(np.mean((said.effect[:, 0] - fresh.effect) ** 2)) < 0.4
    assert np.corrcoef(said.propensity[:, 1], fresh.propensity)[0, 1] > 0.7
    truth = fresh.base + fresh.effect / 2
    assert np.corrcoef(said.outcome[:, 1], truth)[0, 1] > 0.7
    assert (said.low < said.effect).all() and (said.effect < said.high).all()
    assert set(np.unique(said.leaf)) <= {0, 1, 2, 3} and (said.alike >= 0).mean() > 0.95
    assert history["nuisances"]["propensity"]["chosen"] != "linear", "the chance of treatment bends"
    far = torch.full((1, 6), 40.0)
    with torch.no_grad():
        assert (parted(found.output, net(far).logits.numpy()).alike < 0).all()


def test_the_plain_difference_is_biased_and_the_scores_are_not(learned):
    """Truth 0: the average of the scores is near it, treated less untreated is not."""
    found, trial = learned
    plain = trial.y[trial.arm == 1].mean() - trial.y[trial.arm == 0].mean()
    assert abs(found.psi.mean()) < 0.2 < plain
    assert found.worth(LINEAR)[1] > 0 and not found.unshown(LINEAR)


def test_groups_are_of_at_least_ten_and_add_up(learned):
    """Every patient of an arm stands in one group."""
    found, trial = learned
    groups = found.spec(LINEAR).alike
    assert [sum(one.n for one in arm) for arm in groups] == np.bincount(trial.arm).tolist()
    assert min(one.n for arm in groups for one in arm) >= 10


def test_an_input_that_tells_the_outcome_is_suspected(learned):
    """It may have been measured after the treatment; amber, for it may also be what it says."""
    found, trial = learned
    rows, _ = refute(found, targets_of(trial.y, trial.arm), quick=True)
    assert next(row for row in rows if row["name"] == "measured after")["level"] == "green"
    later = dataclasses.replace(found, x=np.column_stack([trial.y, found.x[:, 1:]]))
    rows, closed = refute(later, targets_of(trial.y, trial.arm), quick=True)
    row = next(row for row in rows if row["name"] == "measured after")
    assert (
        row["level"] == "amber"
        and row["figure"] == f"{found.base.features.names[0]}: rank correlation 1.00"
        and closed == []
    )


def test_an_honest_effect_survives_its_refuters(learned):
    """Placebo, random cause and subsets say nothing against it."""
    found, trial = learned
    rows, closed = refute(found, targets_of(trial.y, trial.arm))
    assert {row["name"] for row in rows} >= {"placebo treatment", "random common cause", "subset stability", "E-value"}
    assert [row["name"] for row in rows if row["level"] == "red"] == [] and closed == []


@pytest.mark.parametrize(
    ("shown", "level", "deals"),
    [((0,), "green", 1), ((1, 0, 0), "green", 3), ((1, 1), "red", 2), ((1, 0, 1), "red", 3)],
)
def test_one_deal_that_shows_an_effect_is_dealt_again(learned, monkeypatch, shown, level, deals):
    """One in twenty does so by chance; most of three do not."""
    noise = np.random.default_rng(0).normal(size=(400, 1))
    noise -= noise.mean()
    found = iter(shown)
    monkeypatch.setattr(refuting, "_averages", lambda *_: noise + next(found))
    row = refuting._placebo(learned[0])
    assert row["level"] == level and row["figure"].count(" to ") == deals


def test_several_arms_are_looked_at_together():
    """Ten averages without an effect: each at 95 % by itself, two runs of five would show one."""
    noise = np.random.default_rng(0).normal(size=(500, 400, 10))
    shown = np.mean([not refuting._holds_nothing(psi) for psi in noise])
    assert 0.02 < shown < 0.08
    assert not refuting._holds_nothing(noise[0] + np.eye(10)[3])


def test_a_negative_control_that_moves_closes_the_model(learned):
    """An outcome before treatment that differs between the arms through something unmeasured: nobody is advised."""
    found, trial = learned
    control = trial.arm + np.random.default_rng(0).normal(size=len(trial))
    rows, closed = refute(found, targets_of(trial.y, trial.arm, control=control), quick=True)
    assert [one.code for one in closed] == ["negative-control"]
    fine, none = refute(found, targets_of(trial.y, trial.arm, control=np.random.default_rng(1).normal(size=len(trial))),
                        quick=True)  # fmt: skip
    assert none == [] and fine[-1]["level"] == "green"


def test_three_arms_and_a_missing_value():
    """Each arm has its own effect; a column with gaps is taken as it is."""
    random = np.random.default_rng(2)
    x = random.random((600, 6)).astype(np.float32)
    arm = random.integers(0, 3, 600)
    y = x[:, 2] + np.choose(arm, [0 * x[:, 0], 2 * x[:, 0], -1.5 + 0 * x[:, 0]]) + 0.5 * random.normal(size=600)
    x[::9, 3] = np.nan
    output = output_of(y, ("none", "a", "b"))
    found = learn(BLOCKS, ArraySamples(x, targets_of(y, arm)), output, 0, compare=False)
    _, net, _ = found.make(LINEAR)
    output = msgspec.structs.replace(output, effect=found.spec(LINEAR))
    asked = torch.tensor([[0.9, 0.5, 0.5, 0.5, 0.5, 0.5], [0.1, 0.5, 0.5, float("nan"), 0.5, 0.5]])
    with torch.no_grad():
        logits = net(asked).logits.numpy()
    effect = parted(output, logits).effect
    assert effect[0] == pytest.approx([1.8, -1.5], abs=0.4) and effect[1] == pytest.approx([0.2, -1.5], abs=0.4)
    assert advise(output, logits[:1]).arm.tolist() == [1] and advise(output, logits[:1]).against.tolist() == [
        [False, True]
    ]
    assert output.effect.required == [name for name in NAMES if name != "x4"]


def test_a_survival_outcome_is_event_free_time():
    """A treatment that halves the hazard adds event-free months up to the horizon, censoring or not."""
    random = np.random.default_rng(4)
    x = random.random((1200, 6)).astype(np.float32)
    arm = random.integers(0, 2, 1200)
    event = random.exponential(1 / (0.1 * np.exp(0.5 * x[:, 0] - 0.693 * arm)))
    stop = random.exponential(20, 1200)
    time, seen = np.minimum(event, stop), (event <= stop).astype(float)
    output = output_of(np.minimum(time, 12), kind="survival", horizon=12.0)
    found = learn(BLOCKS, ArraySamples(x, targets_of(time, arm, seen)), output, 0, compare=False)
    hazard = 0.1 * np.exp(0.5 * x[:, 0].mean())
    truth = [(1 - np.exp(-12 * h)) / h for h in (hazard, hazard / 2)]
    assert found.psi.mean() == pytest.approx(truth[1] - truth[0], abs=0.9)
    assert not found.unshown(LINEAR)


def test_few_patients_and_a_rule_are_refused():
    """By code."""
    trial = simulate(300, seed=0, confounded=False)
    few = (np.arange(300) < 10).astype(int)
    output, x = output_of(trial.y), trial.x.astype(np.float32)
    with pytest.raises(BadData) as error:
        learn(BLOCKS, ArraySamples(x, targets_of(trial.y, few)), output, 0)
    assert error.value.code == "treatment-few-patients"
    with pytest.raises(BadData) as error:
        learn(BLOCKS, ArraySamples(x, targets_of(trial.y, (x[:, 0] > 0.5).astype(int))), output, 0)
    assert error.value.code == "treatment-no-overlap"


def test_weights_that_do_not_matter_are_drawn_to_zero():
    """One of twenty columns counts: its weight is found, the band of the others shrinks."""
    random = np.random.default_rng(0)
    z = random.normal(size=(400, 20))
    z[:, 7] = 0.0
    y = 1.0 + 2 * z[:, 3] + random.normal(size=400)
    weights, covariance = regress(z, y)
    assert weights[4] == pytest.approx(2, abs=0.2) and weights[0] == pytest.approx(1, abs=0.2) and weights[8] == 0
    assert np.abs(np.delete(weights, [0, 4])).mean() < 0.02
    assert np.trace(covariance) < 0.5 * np.trace(np.linalg.inv(np.cov(np.delete(z, 7, 1).T) * 400))
    assert np.allclose(factor(covariance) @ factor(covariance).T, covariance, atol=1e-9)


def test_the_e_value_by_hand():
    """VanderWeele and Ding: a risk ratio of 3.9 gives 7.26, of 1 gives 1; of 1/2 as of 2."""
    assert e_value(3.9) == pytest.approx(7.26, abs=0.01) and e_value(1.0) == 1.0
    assert e_value(0.5) == pytest.approx(e_value(2.0))
