"""Which images an epoch draws."""

import threading
import time

import numpy as np
import pytest

from medserve.training.sampling import AHEAD, class_weights, epoch_rows, read_ahead
from medserve.types import ArraySamples


def draw(targets, count, **more):
    return epoch_rows(np.asarray(targets), count=count, **{"task": "binary", "seed": 7, "epoch": 0} | more)


def test_every_class_is_drawn_equally_often():
    """9 to 1 in the data, 1 to 1 in the epoch; an odd count differs by one at most."""
    targets = np.array([0] * 10 + [1] * 90)
    for count in (128, 129):
        seen = np.bincount(targets[draw(targets, count)])
        assert seen.sum() == count and abs(seen[0] - seen[1]) <= 1


def test_no_image_returns_before_its_class_had_a_turn():
    """Drawing as many as there are is a permutation; three epochs' worth shows each image exactly three times."""
    rows = draw(np.zeros(50, int), 150)
    assert (np.bincount(rows) == 3).all()
    assert sorted(draw(np.zeros(50, int), 50)) == list(range(50))


def test_the_order_depends_on_seed_and_epoch_alone():
    """The same arguments give the same rows; another epoch or seed gives others."""
    targets = np.arange(40) % 2
    assert np.array_equal(draw(targets, 64), draw(targets, 64))
    assert not np.array_equal(draw(targets, 64), draw(targets, 64, epoch=1))
    assert not np.array_equal(draw(targets, 64), draw(targets, 64, seed=8))


@pytest.mark.parametrize("task", ["multilabel", "number"])
def test_without_classes_the_draw_is_plain(task):
    """Tasks without one class a case are shuffled, whatever their targets; their weights are one."""
    targets = np.random.default_rng(0).random((30, 2) if task == "multilabel" else 30).astype(np.float32)
    assert sorted(draw(targets, 30, task=task)) == list(range(30))
    assert (class_weights(targets, task) == 1).all()


def test_class_weights_by_hand():
    """3 of class 0 and 1 of class 1: 4/(2*3) = 2/3 each, and 4/(2*1) = 2; the mean is 1."""
    assert class_weights(np.array([0, 0, 0, 1]), "binary") == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


def test_reading_ahead_keeps_order_and_stays_bounded():
    """All slices arrive in order, and no more than the queue plus one in hand is read before they are wanted."""
    taken = []

    class Slow:
        targets = np.zeros(100)

        def __len__(self):
            return 100

        def take(self, rows):
            taken.append(len(rows))
            return rows[:, None]

    batches = read_ahead(Slow(), np.arange(100), 5)
    rows, images = next(batches)
    time.sleep(0.1)
    assert len(taken) <= AHEAD + 2
    rest = [rows, *(r for r, _ in batches)]
    assert np.array_equal(np.concatenate(rest), np.arange(100)) and np.array_equal(images[:, 0], rows)


def test_an_error_while_reading_is_raised_where_it_is_needed():
    """A reader's error is not lost in its thread, and leaving early ends the thread."""

    class Broken(ArraySamples):
        def take(self, rows):
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(read_ahead(Broken(np.zeros((4, 1)), np.zeros(4)), np.arange(4), 2))
    batches = read_ahead(ArraySamples(np.zeros((400, 1)), np.zeros(400)), np.arange(400), 2)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name == "medserve-read-ahead"]


def test_cases_of_one_value_follow_each_other():
    """`together`: every case once before any comes back, each group in pieces, which are shuffled, in another order
    every epoch: 40 cases of each of 20 groups are 60 pieces of 16, 16 and 8, few of which meet by chance."""
    groups = np.repeat(np.arange(20), 40)
    orders = [
        epoch_rows(np.zeros(800), task="number", count=900, seed=1, epoch=epoch, balance=False, together=groups)
        for epoch in (0, 1)
    ]
    for order in orders:
        assert len(order) == 900 and sorted(order[:800]) == list(range(800))
        runs = np.diff(np.flatnonzero(np.diff(groups[order[:800]], prepend=-1, append=-1)))
        assert 50 <= len(runs) <= 60 and not (runs % 8).any()
    assert (orders[0] != orders[1]).any()
