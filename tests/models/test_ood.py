"""What is unlike the training data lies far from it, and the threshold keeps its promise."""

import numpy as np
import pytest
import torch
from torch import nn

from medserve.errors import BadData
from medserve.models import ood
from medserve.models.battery import KINDS, far_ood_battery
from medserve.models.build import build_net
from medserve.types import ArraySamples, Named


def films(n: int, seed: int, side: int = 24) -> np.ndarray:
    """(n, 1, side, side) uint8: bright shoulders, dark lungs, a heart on one side; each a little different."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    out = []
    for _ in range(n):
        dx, dy, size = rng.normal(0, 0.04, 3)
        lung = sum(np.exp(-(((x - c - dx) / 0.25) ** 2 + ((y + dy) / (0.6 + size)) ** 2)) for c in (-0.45, 0.45))
        heart = np.exp(-(((x - 0.15 - dx) / 0.2) ** 2 + ((y - 0.3 - dy) / 0.3) ** 2))
        page = 150 + 40 * y - 95 * lung + 60 * heart + rng.normal(0, 6, x.shape) + rng.normal(0, 8)
        out.append(np.clip(page, 0, 255))
    return np.stack(out)[:, None].astype(np.uint8)


@pytest.fixture(scope="module")
def measured():
    """A distance by a small untrained network (texture it sees already); its distances of new films; their battery."""
    torch.manual_seed(0)
    net = build_net(Named("residual", {"dial": "tiny"}), channels=1, size=24, outputs=1)
    train = ArraySamples(films(300, 0), np.arange(300) % 2)
    distance = ood.fit(*ood.describe(net, train, [0.5], [0.2]), train.targets)

    def measure(images: np.ndarray) -> np.ndarray:
        embeddings, pictures = ood.describe(net, ArraySamples(images, np.zeros(len(images))), [0.5], [0.2])
        return distance.measure(torch.from_numpy(np.concatenate([embeddings, pictures], 1))).numpy()

    new = films(100, 1)
    return measure, measure(new), far_ood_battery(new)


def test_training_like_pictures_lie_near_one(measured):
    """The distance is per feature: new pictures of the same kind measure about 1."""
    _, inside, _ = measured
    assert 0.5 < np.median(inside) < 2


@pytest.mark.parametrize("kind", [*KINDS, "rotated"])
def test_every_far_kind_is_told_apart(measured, kind):
    """Every kind of the battery is separated with AUROC >= .95 and at most 20 % false alarms at 95 % found."""
    measure, inside, battery = measured
    found = ood.separation(inside, measure(battery[kind]))
    assert found["auroc"] >= 0.95 and found["fpr95"] <= 0.20, found


def test_the_grid_sees_layout_and_nothing_of_exposure():
    """The grid of a mirrored picture is the mirrored grid; a brighter picture of half the contrast has the same."""
    film = torch.from_numpy(films(1, 3)).float() / 255
    grid = ood.picture_features(film)[0, 6:].reshape(8, 8)  # 24 pixels in cells of 3
    mirrored = ood.picture_features(film.flip(-1))[0, 6:].reshape(8, 8)
    exposed = ood.picture_features(film * 0.5 + 0.4)[0, 6:].reshape(8, 8)
    assert torch.allclose(mirrored, grid.flip(-1), atol=1e-5) and not torch.allclose(mirrored, grid, atol=0.1)
    assert torch.allclose(exposed, grid, atol=0.3) and grid.std() > 0.8
    facts, brighter = ood.picture_features(film)[0, :6], ood.picture_features(film * 0.5 + 0.4)[0, :6]
    assert not torch.allclose(facts, brighter, atol=0.05)


def test_the_battery_keeps_shape_and_is_repeatable():
    """Each kind gives as many pictures of the same shape and type, repeatably, and leaves its input alone."""
    images = films(6, 2)
    before = images.copy()
    for shape in ((6, 1, 24, 24), (2, 3, 24, 24), (2, 1, 8, 24, 24)):
        given = np.resize(images, shape)
        first, again = far_ood_battery(given, seed=3), far_ood_battery(given, seed=3)
        assert set(first) == {*KINDS, "rotated"}
        for kind, made in first.items():
            assert made.shape == given.shape and made.dtype == np.uint8
            assert np.array_equal(made, again[kind]) and not np.array_equal(made, given)
    assert np.array_equal(images, before)
    assert "rotated" not in far_ood_battery(images[..., :20])


def test_shuffled_keeps_the_histogram():
    """The shuffled pictures hold the very same pixels, so brightness alone cannot betray them."""
    images = films(4, 5)
    shuffled = far_ood_battery(images)["shuffled"]
    assert np.array_equal(np.sort(images.reshape(4, -1)), np.sort(shuffled.reshape(4, -1)))


def test_the_threshold_is_the_conformal_quantile():
    """99 distances 1..99 at 2 % false alarms: k = ceil(100 * .98) = 98, so the threshold is 98."""
    found = ood.threshold_at(np.arange(1, 100), false_alarm=0.02)
    assert (found.threshold, found.false_alarm, found.n) == (98.0, 0.02, 99)


def test_too_few_cases_promise_what_they_can():
    """9 cases cannot promise 2 %: the largest distance is taken, and 1 in 10 is what it promises."""
    found = ood.threshold_at(np.arange(9), false_alarm=0.02)
    assert (found.threshold, found.false_alarm) == (8.0, pytest.approx(0.1))
    with pytest.raises(BadData):
        ood.threshold_at(np.array([]))


def test_false_alarms_on_new_pictures_stay_near_the_promise(measured):
    """The rate on pictures never seen, averaged over thresholds from disjoint calibration sets, is about 10 %."""
    measure, *_ = measured
    seen = measure(films(320, 7)).reshape(8, 40)
    rates = [
        (np.delete(seen, row, 0) > ood.threshold_at(seen[row], false_alarm=0.1).threshold).mean() for row in range(8)
    ]
    assert 0.05 < np.mean(rates) < 0.15


def test_too_few_training_cases_are_refused():
    """A covariance of a handful of cases would be a fiction."""
    with pytest.raises(BadData) as error:
        ood.fit(np.zeros((19, 4)), np.zeros((19, 2)))
    assert error.value.code == "too-few-for-distance" and error.value.hint


def test_no_centre_stands_for_fewer_than_ten_cases():
    """A class of two patients has no mean of its own in a package; rare classes share one, or have none."""
    x = np.random.default_rng(0).normal(size=(60, 5))
    centres = [len(ood.fit(x, x[:, :3], np.repeat([0, 1, 2, 3], counts)).centres)
               for counts in ([30, 26, 2, 2], [30, 14, 8, 8], [15, 15, 15, 15])]  # fmt: skip
    assert centres == [2, 3, 4]


def test_a_feature_that_never_varied_stays_bounded():
    """A constant training feature (no white pixel ever) must not turn the first white pixel into infinity."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(100, 3))
    distance = ood.fit(embeddings, np.zeros((100, 1)))
    far = distance.measure(torch.tensor([[0.0, 0.0, 0.0, 0.01]]))
    assert torch.isfinite(far).all() and far.item() < 100


def test_separation_by_hand():
    """inside 1..4, outside 3, 5: 3 beats two and ties one (2.5 of 4), 5 beats all; at the cut 3, two of four alarm."""
    assert ood.separation(np.array([1, 2, 3, 4]), np.array([3, 5])) == {"auroc": pytest.approx(0.8125), "fpr95": 0.5}


def test_describing_leaves_the_network_as_it_was():
    """Training mode and running statistics are untouched."""
    net = build_net(Named("residual", {"dial": "tiny"}), channels=1, size=24, outputs=1).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ood.describe(net, ArraySamples(films(4, 0), np.zeros(4)), [0.5], [0.2])
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert isinstance(net, nn.Module)
