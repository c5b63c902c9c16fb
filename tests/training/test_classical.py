"""The simple models, fitted: good on real data, honest probabilities, every kind of target, and rebuilt from JSON."""

import json
from types import SimpleNamespace

import interpret.glassbox
import msgspec
import numpy as np
import pytest
import torch
from lifelines.utils import concordance_index
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from medserve.data.fields import Block
from medserve.data.pseudonym import pseudonym
from medserve.errors import BadData, Usage
from medserve.models.nets import MODELS
from medserve.models.record.features import folds
from medserve.models.record.trees import Forest, shape_of
from medserve.models.spec import OutputSpec
from medserve.training import _boosting, _glassbox
from medserve.training._cox import cox_gradient, cox_loss, martingale
from medserve.training.classical import fit_classical
from medserve.types import ArraySamples, Named

NAMES = ("record-linear", "record-trees", "record-forest", "record-additive")
BINARY = OutputSpec(task="binary", labels=["no", "yes"])


def numbers(count):
    return [Block(f"x{i}", "number", i, (1,)) for i in range(count)]


def fitted(name, x, y, output, blocks=None, cut=0.7, **more):
    at = int(cut * len(x))
    parts = ArraySamples(x[:at], y[:at]), ArraySamples(x[at:], y[at:])
    return fit_classical(Named(name, {"blocks": blocks or numbers(x.shape[1])}), *parts, output, 7, **more)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(_glassbox, "BAGS", 1)
    monkeypatch.setattr(_glassbox, "PAIRS", 2)


@pytest.fixture(scope="module")
def cancer():
    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.target))
    return data.data[order].astype(np.float32), data.target[order]


@pytest.mark.parametrize(("name", "columns"), [("record-linear", 30), ("record-trees", 30), ("record-additive", 6)])
def test_breast_cancer(cancer, name, columns):
    """569 real cases: well above .95 on the last 150, which nobody saw; the parameters are plain JSON."""
    x, y = cancer[0][:, :columns], cancer[1]
    architecture, net, history = fitted(name, x[:419], y[:419], BINARY)
    out = net(torch.from_numpy(x[419:]))
    assert roc_auc_score(y[419:], out.logits[:, 0]) >= 0.97
    assert abs(torch.sigmoid(out.logits).mean() - y[419:].mean()) < 0.06
    assert history["learner"] == name and history["val_loss"] < 0.3
    params = json.loads(msgspec.json.encode(architecture.params))
    json.dumps(history)
    again = MODELS[architecture.name](columns, (), 1, **params)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(torch.from_numpy(x)).logits, net(torch.from_numpy(x)).logits)


def test_additive_tables_give_the_numbers_of_the_machine(monkeypatch):
    """Missing values, values at a bin's edge and beyond all of them; curves and pairs."""
    made = []
    real = interpret.glassbox.ExplainableBoostingClassifier

    class Kept(real):
        def fit(self, *args, **kwargs):
            made.append(self)
            return super().fit(*args, **kwargs)

    monkeypatch.setattr(interpret.glassbox, "ExplainableBoostingClassifier", Kept)
    random = np.random.default_rng(0)
    x = random.normal(size=(700, 3)).astype(np.float32)
    x[random.random(x.shape) < 0.1] = np.nan
    product = np.nan_to_num(x[:, 0]) * np.nan_to_num(x[:, 1])
    y = (3 * product + np.nan_to_num(x[:, 2], nan=1.0) > 0.3).astype(int)
    architecture, net, history = fitted("record-additive", x, y, BINARY)
    assert history["pairs"] == net.pairs == 2
    machine = made[0]
    edges = [np.asarray(level, np.float32) for levels in machine.bins_ for level in levels]
    more = np.repeat(x[:1], max(map(len, edges)), 0)
    for column in range(3):
        level = edges[2 * column] if len(edges) == 6 else edges[column]
        more[: len(level), column] = level
    x = np.concatenate([x, more, np.full((1, 3), 1e20, np.float32), np.full((1, 3), np.nan, np.float32)])
    mine = net(torch.from_numpy(x)).logits[:, 0].numpy()
    assert np.abs(mine - machine.decision_function(x.astype(float))).max() <= 1e-5
    assert all(len(curve.scores) == len(curve.edges) + 1 for curve in net.curves())


def signal(count=700, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 3)).astype(np.float32)
    return x, 1.5 * x[:, 0] - x[:, 1], random


@pytest.mark.parametrize("name", NAMES)
def test_several_classes(name):
    x, score, random = signal()
    y = np.digitize(score + 0.5 * random.normal(size=len(x)), [-1, 1])
    _, net, _ = fitted(name, x, y, OutputSpec(task="multiclass", labels=["a", "b", "c"]))
    logits = net(torch.from_numpy(x)).logits
    assert logits.shape == (len(x), 3) and (logits.argmax(1).numpy() == y).mean() > 0.7


@pytest.mark.parametrize("name", NAMES)
def test_ordinal_steps_are_in_order(name):
    x, score, random = signal()
    y = np.digitize(score + 0.5 * random.normal(size=len(x)), [-1, 1])
    _, net, _ = fitted(name, x, y, OutputSpec(task="ordinal", labels=["a", "b", "c"]))
    logits = net(torch.from_numpy(x)).logits
    assert logits.shape == (len(x), 2) and logits[:, 0].mean() > logits[:, 1].mean()
    assert roc_auc_score(y > 1, logits[:, 1]) > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_unknown_labels_teach_nothing(name):
    """A label that is known for a third of the cases is learnt from these; one with a single value is a constant."""
    x, score, random = signal()
    y = np.column_stack([score > 0, score > 1, np.zeros(len(x))]).astype(np.float32)
    hidden = random.random(len(x)) < 0.66
    y[hidden, 0] = np.nan
    _, net, _ = fitted(name, x, y, OutputSpec(task="multilabel", labels=["a", "b", "c"]))
    logits = net(torch.from_numpy(x)).logits
    assert logits.shape == (len(x), 3) and torch.isfinite(logits).all()
    assert roc_auc_score(score > 0, logits[:, 0]) > 0.93
    assert logits[:, 2].max() < -1.5


@pytest.mark.parametrize("name", NAMES)
def test_a_number_in_its_own_scale(name):
    x, score, random = signal()
    y = (100 + 20 * score + random.normal(size=len(x))).astype(np.float32)
    output = OutputSpec(task="number", labels=["dose"], mean=float(y.mean()), sd=float(y.std()))
    _, net, _ = fitted(name, x, y, output)
    told = net(torch.from_numpy(x)).logits[:, 0].numpy() * output.sd + output.mean
    assert np.corrcoef(told, y)[0, 1] > 0.95 and abs(told.mean() - y.mean()) < 3


SURVIVAL = SimpleNamespace(task="survival", labels=["death"])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "record-forest"])
def test_time_to_event(name):
    """The logit is a log hazard ratio: 1.5 for a unit of x0 and -1 for one of x1, with half of the times cut short."""
    x, score, random = signal(900)
    time = random.exponential(np.exp(-score))
    stop = random.exponential(1.0, len(x))
    y = np.column_stack([np.minimum(time, stop), time <= stop]).astype(np.float32)
    _, net, _ = fitted(name, x, y, SURVIVAL)
    hazard = net(torch.from_numpy(x)).logits[:, 0].numpy()
    assert concordance_index(y[:, 0], -hazard, y[:, 1]) > 0.78
    if name == "record-linear":
        slope = (net.head.weight[0, :3] * net.scale.scale).tolist()
        assert slope == pytest.approx([1.5, -1.0, 0.0], abs=0.2)


def test_cox_by_hand():
    """Three cases, times 1, 2, 2; events at 1 and once at 2: log(e^a / (e^a + e^b + e^c)) + log(e^b / (e^b + e^c))."""
    a, b, c = 0.3, -0.2, 1.0
    targets = torch.tensor([[1.0, 1], [2, 1], [2, 0]]).double()
    logits = torch.tensor([a, b, c], dtype=torch.float64, requires_grad=True)
    loss = cox_loss(logits, targets)
    first = a - np.log(np.exp([a, b, c]).sum())
    second = b - np.log(np.exp([b, c]).sum())
    assert float(loss.detach()) == pytest.approx(-(first + second) / 2)
    loss.backward()
    gradient, hessian = cox_gradient(logits.detach().numpy(), targets.numpy())
    assert gradient == pytest.approx(2 * logits.grad.numpy())
    assert (hessian > 0).all()
    # Nelson-Aalen: 1/3 at time 1, and 1/2 more at time 2
    assert martingale(targets.numpy()).tolist() == pytest.approx([1 - 1 / 3, 1 - 5 / 6, -5 / 6])


def test_a_long_list_of_noise_is_not_believed():
    """300 codes that mean nothing beside one number that does: the trees do not trust the codes' fitted risk."""
    random = np.random.default_rng(0)
    x = np.column_stack([random.normal(size=1500), random.integers(0, 300, 1500)]).astype(np.float32)
    y = (random.random(1500) < 1 / (1 + np.exp(-1.5 * x[:, 0]))).astype(int)
    blocks = [Block("x", "number", 0, (1,)), Block("code", "category", 1, (1,), {"levels": 300, "words": []})]
    _, net, history = fitted("record-trees", x, y, BINARY, blocks, patients=np.arange(1050))
    alone = fitted("record-trees", x[:, :1].copy(), y, BINARY)[2]
    assert history["val_loss"] < alone["val_loss"] + 0.02


def test_few_cases_get_drawn_thresholds_averaged(monkeypatch):
    """Thirty weak columns, 500 cases: drawn thresholds predict 2,000 new cases better than the best of the sample."""
    random = np.random.default_rng(1)
    x = random.normal(size=(2500, 30)).astype(np.float32)
    y = (random.random(2500) < 1 / (1 + np.exp(-x[:, :15].sum(1) / 3))).astype(int)
    parts = x[:350], y[:350], x[350:500], y[350:500]

    def judged():
        forests, _ = _boosting.boost(*parts, BINARY, 7)
        forest = Forest(30, 1, **shape_of(forests))
        forest.fill(forests)
        return roc_auc_score(y[500:], forest(torch.from_numpy(x[500:]))[:, 0])

    averaged = judged()
    monkeypatch.setattr(_boosting, "FORESTS", 1)
    drawn = judged()
    monkeypatch.setattr(_boosting, "FEW", 0)
    best = judged()
    assert averaged > drawn > best + 0.01, (averaged, drawn, best)


def test_forests_that_saw_validation_are_judged_by_those_that_did_not():
    """Labels by chance: the forest remembers its cases, and what stands for validation scores knows nothing of them."""
    random = np.random.default_rng(3)
    x, y = random.normal(size=(400, 5)).astype(np.float32), random.integers(0, 2, 400)
    _, net, history = fitted("record-trees", x, y, BINARY)
    assert net.crossed is not None and net.crossed.shape == (400, 1)
    assert roc_auc_score(y[280:], net(torch.from_numpy(x)[280:]).logits[:, 0]) > 0.62
    assert abs(roc_auc_score(y, net.crossed[:, 0]) - 0.5) < 0.1
    assert history["val_loss"] > 0.65


def test_crossed_scores_hang_less_on_the_seed(monkeypatch):
    """They are means of several forests, as the served ones are: other seeds give nearly the same."""
    random = np.random.default_rng(6)
    x = random.normal(size=(160, 6)).astype(np.float32)
    y = (random.random(160) < 1 / (1 + np.exp(1 - x[:, 0] - x[:, 1]))).astype(int)
    fold = np.arange(160) % 3

    def agreement() -> float:
        crossed = [_boosting.boost_all(x[:99], y[:99], x[99:], y[99:], BINARY, seed, fold)[2][:, 0] for seed in (0, 1)]
        return float(np.corrcoef(*crossed)[0, 1])

    several = agreement()
    monkeypatch.setattr(_boosting, "UNSEEN", 1)
    assert several > agreement()


def test_a_patient_stays_in_one_fold():
    """Cases of one patient are copies: cross-validation must not learn their labels from each other."""
    random = np.random.default_rng(4)
    once, who = random.normal(size=(100, 5)).astype(np.float32), np.repeat(np.arange(100), 5)
    x, y = once[who], random.integers(0, 2, 100)[who]
    known = {"patients": who[:350], "others": who[350:]}
    _, net, _ = fitted("record-trees", x, y, BINARY, **known)
    assert abs(roc_auc_score(y, net.crossed[:, 0]) - 0.5) < 0.2
    _, loose, _ = fitted("record-trees", x, y, BINARY)
    assert roc_auc_score(y, loose.crossed[:, 0]) > 0.9


def test_folds_do_not_know_what_patients_are_called():
    """Another installation's key gives other names in another order, and the same folds."""
    who = np.repeat(np.arange(50), 3)
    here, there = (np.array([pseudonym(key, str(number)) for number in who]) for key in (b"here" * 8, b"there" * 7))
    assert not np.array_equal(np.argsort(here), np.argsort(there))
    assert np.array_equal(folds(150, 3, here), folds(150, 3, there))


def test_numbers_and_classes_cross_too():
    """One logit a number, one a class; larger sets keep their validation part."""
    random = np.random.default_rng(5)
    x = random.normal(size=(300, 3)).astype(np.float32)
    output = OutputSpec(task="number", labels=["y"], mean=0.0, sd=1.0)
    _, net, _ = fitted("record-trees", x, (x[:, 0] * 2).astype(np.float32), output)
    assert np.corrcoef(net.crossed[:, 0], x[:, 0])[0, 1] > 0.9
    three = OutputSpec(task="multiclass", labels=["a", "b", "c"])
    _, net, _ = fitted("record-trees", x, np.digitize(x[:, 0], (-0.5, 0.5)), three)
    assert (net.crossed.argmax(1) == np.digitize(x[:, 0], (-0.5, 0.5))).mean() > 0.8
    assert not _boosting.crosses(_boosting.FEW, output)


def test_says_what_it_cannot_do():
    x, y = np.zeros((10, 1), np.float32), np.zeros(10, int)
    with pytest.raises(Usage) as usage:
        fitted("case-net", x, y, BINARY)
    assert usage.value.code == "not-classical"
    with pytest.raises(BadData) as empty:
        fitted("record-linear", x, y, BINARY, cut=1.0)
    assert empty.value.code == "part-empty"
    with pytest.raises(BadData) as quiet:
        fitted("record-trees", x, np.zeros((10, 2), np.float32), SURVIVAL)
    assert quiet.value.code == "no-target"
