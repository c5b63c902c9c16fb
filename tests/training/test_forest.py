"""Random forests: scikit-learn's own numbers as tensors, honest scores of cases that were learned from."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import roc_auc_score

from medserve.data.fields import Block
from medserve.models.spec import OutputSpec
from medserve.training import _forest
from medserve.training.classical import fit_classical
from medserve.types import ArraySamples, Named

BINARY = OutputSpec(task="binary", labels=["no", "yes"])
THREE = OutputSpec(task="multiclass", labels=["a", "b", "c"])
NUMBER = OutputSpec(task="number", labels=["y"], mean=0.5, sd=2.0)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(_forest, "TREES", 40)
    monkeypatch.setattr(_forest, "FEWEST", 30)


def fitted(x, y, output, **known):
    blocks = [Block(f"x{i}", "number", i, (1,)) for i in range(x.shape[1])]
    at = int(0.7 * len(x))
    parts = ArraySamples(x[:at], y[:at]), ArraySamples(x[at:], y[at:])
    return fit_classical(Named("record-forest", {"blocks": blocks}), *parts, output, 7, **known)


def gaps(count=300, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 12)).astype(np.float32)
    score = x[:, 0] - x[:, 1]
    x[random.random(x.shape) < 0.1] = np.nan
    return x, score


@pytest.mark.parametrize("output", [BINARY, THREE, NUMBER])
def test_the_tensors_give_the_numbers_of_scikit_learn(monkeypatch, output):
    """Missing values, values at a threshold, every kind of target: the same shares and means."""
    made = []
    real = {True: RandomForestRegressor, False: RandomForestClassifier}[output.task == "number"]

    def keeping(number, trees, columns, count, seed, *, bag):
        one = real(trees, max_features=columns, oob_score=bag, random_state=seed, n_jobs=1)
        made.append(one)
        return one

    monkeypatch.setattr(_forest, "_model", keeping)
    monkeypatch.setattr(_forest, "COLUMNS", {True: (0.5,), False: (0.5,)})
    x, score = gaps()
    y = {"binary": score > 0, "multiclass": np.digitize(score, (-1, 1)), "number": 2 * score + 0.5}[output.task]
    _, net, _ = fitted(x, y.astype(np.float32 if output is NUMBER else int), output)
    edges = np.repeat(x[:1], 40, 0)
    for i, one in enumerate(made[0].estimators_):
        edges[i, max(0, one.tree_.feature[0])] = one.tree_.threshold[0]
    asked = np.concatenate([x, edges, np.full((1, 12), np.nan, np.float32)])
    logits = net(torch.from_numpy(asked)).logits.double()
    if output is NUMBER:
        wanted, found = made[0].predict(asked)[:, None], logits
    else:
        wanted = (made[0].predict_proba(asked) * 40 + 0.5) / (40 + 0.5 * len(made[0].classes_))
        found = torch.softmax(logits, 1) if output is THREE else torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1)
    assert np.abs(found.numpy() - wanted).max() < 1e-5


def test_cases_are_judged_by_trees_that_had_not_seen_them():
    """Labels by chance: the forest remembers them, and its held-out scores know nothing."""
    random = np.random.default_rng(1)
    x, y = random.normal(size=(300, 5)).astype(np.float32), random.integers(0, 2, 300)
    _, net, history = fitted(x, y, BINARY)
    assert roc_auc_score(y, net(torch.from_numpy(x)).logits[:, 0]) > 0.95
    assert abs(roc_auc_score(y, net.crossed[:, 0]) - 0.5) < 0.12
    assert history["on"] == "out of bag" and history["val_loss"] > 0.65 and len(history["tried"]) == 2


def test_no_patient_is_in_the_bag_and_out_of_it():
    """Copies of one patient's case must not tell each other's label."""
    random = np.random.default_rng(2)
    who = np.repeat(np.arange(60), 5)
    x, y = random.normal(size=(60, 5)).astype(np.float32)[who], random.integers(0, 2, 60)[who]
    at = int(0.7 * len(x))
    _, net, history = fitted(x, y, BINARY, patients=who[:at], others=who[at:])
    assert abs(roc_auc_score(y, net.crossed[:, 0]) - 0.5) < 0.25 and history["on"] == "cross-validation"
    _, loose, _ = fitted(x, y, BINARY)
    assert roc_auc_score(y, loose.crossed[:, 0]) > 0.9


def test_labels_with_gaps_have_a_forest_each():
    """A label known for a third of the cases is learned from these; one of a single value is a constant."""
    x, score = gaps(400)
    y = np.column_stack([score > 0, score > 1, np.zeros(len(x))]).astype(np.float32)
    y[np.random.default_rng(3).random(len(x)) < 0.66, 0] = np.nan
    _, net, _ = fitted(x, y, OutputSpec(task="multilabel", labels=["a", "b", "c"]))
    told = net(torch.from_numpy(x)).logits.numpy()
    assert np.isfinite(net.crossed).all() and roc_auc_score(score > 0, told[:, 0]) > 0.8
    assert (told[:, 2] == told[0, 2]).all() and told[0, 2] < -3
