"""The thumbnail baseline."""

import numpy as np
import pytest
import torch

from medserve.errors import BadData
from medserve.models.build import build_net
from medserve.models.image.linear import area_matrix
from medserve.models.spec import OutputSpec
from medserve.training.baseline import fit_baseline
from medserve.training.loop import predict_logits
from medserve.types import ArraySamples

SCALE = {"mean": [0.4], "std": [0.25]}


def ramps(n, seed, kinds=3):
    """Noise with a bright band whose height is the target."""
    random = np.random.default_rng(seed)
    y = random.integers(0, kinds, n)
    x = random.integers(0, 150, (n, 1, 20, 20)).astype(np.uint8)
    for row, k in enumerate(y):
        x[row, :, 6 * k : 6 * k + 6] += 70
    return ArraySamples(x, y)


def fitted(task, targets, *, labels=("a", "b", "c"), **more):
    train, val = ramps(120, 0), ramps(60, 1)
    output = OutputSpec(task=task, labels=list(labels), **more)
    parts = [ArraySamples(part.images, targets(part.targets)) for part in (train, val)]
    named, net = fit_baseline(*parts, output, 0, **SCALE)
    return named, net, output, parts[1]


def test_averaging_by_hand():
    """3 to 2: stretches of 1.5, so thirds; and 28 to 16 keeps the mean of every picture."""
    assert area_matrix(3, 2) == pytest.approx(np.array([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]))
    assert area_matrix(28, 16).sum(1) == pytest.approx(np.ones(16))
    assert area_matrix(28, 16).mean(0) == pytest.approx(np.full(28, 1 / 28))


def test_each_task_is_answered():
    """Binary, multiclass, ordinal, multilabel with unknown labels, and a number are all learnt from the thumbnails."""
    _, net, _, val = fitted("binary", lambda y: (y > 0).astype(np.int64), labels=("a", "b"))
    assert ((predict_logits(net, val, **SCALE)[:, 0] > 0) == val.targets).mean() > 0.95
    _, net, _, val = fitted("multiclass", lambda y: y)
    assert (predict_logits(net, val, **SCALE).argmax(1) == val.targets).mean() > 0.95
    _, net, output, val = fitted("ordinal", lambda y: y)
    logits = predict_logits(net, val, **SCALE)
    assert logits.shape[1] == output.width == 2 and ((logits > 0).sum(1) == val.targets).mean() > 0.9

    def several(y):
        out = np.stack([y == 0, y > 0, y == 9], 1).astype(np.float32)
        out[::5, 0] = np.nan
        return out

    _, net, _, val = fitted("multilabel", several)
    logits = predict_logits(net, val, **SCALE)
    known = np.isfinite(val.targets[:, 0])
    assert ((logits[:, 0] > 0) == val.targets[:, 0])[known].mean() > 0.95
    assert (logits[:, 2] < 0).all(), "a label that never occurs is never found"
    _, net, output, val = fitted("number", lambda y: y * 10.0 + 5, labels=("dose",), mean=15.0, sd=8.0)
    value = predict_logits(net, val, **SCALE)[:, 0] * output.sd + output.mean
    assert np.abs(value - val.targets).mean() < 3


def test_it_is_a_package_like_any_other():
    """The catalog rebuilds it from its name, and the weights alone reproduce every logit; volumes too."""
    for shape in ((1, 20, 20), (2, 9, 9, 9)):
        random = np.random.default_rng(0)
        data = ArraySamples(random.integers(0, 255, (24, *shape)).astype(np.uint8), np.arange(24) % 2)
        scale = {"mean": [0.5] * shape[0], "std": [0.3] * shape[0]}
        named, net = fit_baseline(data, data, OutputSpec(task="binary", labels=["a", "b"]), 0, **scale)
        again = build_net(named, channels=shape[0], size=shape[1:], outputs=1)
        again.load_state_dict(net.state_dict())
        assert torch.equal(*(torch.from_numpy(predict_logits(each, data, **scale)) for each in (net, again)))
        assert net(torch.zeros(1, *shape)).maps is None


def test_one_class_is_refused():
    """Nothing can be told apart from one class alone."""
    data = ArraySamples(ramps(10, 0).images, np.zeros(10, np.int64))
    with pytest.raises(BadData) as error:
        fit_baseline(data, data, OutputSpec(task="binary", labels=["a", "b"]), 0, **SCALE)
    assert error.value.code == "one-class-only"
