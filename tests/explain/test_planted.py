"""The planted pictures: fixed, with the evidence where they say it is."""

import numpy as np
import pytest

from medserve.explain.planted import LESION_AREA, corner, planted


def test_the_same_arguments_give_the_same_pixels():
    """A generator and no data file: equal bytes for equal arguments, others for another seed."""
    first, again, other = (planted(8, side=28, seed=s) for s in (3, 3, 4))
    assert np.array_equal(first.images, again.images) and np.array_equal(first.marked, again.marked)
    assert not np.array_equal(first.images, other.images)


@pytest.mark.parametrize("side", [28, 64])
def test_the_lesion_is_where_it_says(side):
    """Positives are brighter at the named place, by the lesion; it covers 1.2 % and lies within the body."""
    made = planted(400, side=side, seed=0)
    sick = made.targets == 1
    assert sick.mean() == 0.5 and np.isnan(made.centres[~sick]).all()
    at = np.rint(made.centres[sick]).astype(int)
    values = made.images[sick, 0].astype(float)
    here = values[np.arange(len(at)), at[:, 0], at[:, 1]]
    inside = values[:, side // 3 : -side // 3, side // 3 : -side // 3].mean()
    assert here.mean() - inside > 50
    assert np.pi * made.radius_px**2 / side**2 == pytest.approx(LESION_AREA)
    assert (at >= made.radius_px).all() and (at < side - made.radius_px).all()


def test_without_the_lesion_the_labels_are_equal():
    """Both labels have the same ground and texture: far from any lesion their means agree within 3 standard errors."""
    made = planted(800, side=28, seed=1)
    corner_mean = made.images[:, 0, :6, :6].mean((1, 2))
    a, b = corner_mean[made.targets == 0], corner_mean[made.targets == 1]
    assert abs(a.mean() - b.mean()) < 3 * np.sqrt(a.var() / 400 + b.var() / 400)


def test_the_marker_betrays_the_label():
    """In about 90 % of positives and 10 % of negatives, in the corner, and nowhere without asking."""
    made = planted(1000, side=28, seed=2, marker=(0.1, 0.9))
    assert made.marked[made.targets == 1].mean() == pytest.approx(0.9, abs=0.04)
    assert made.marked[made.targets == 0].mean() == pytest.approx(0.1, abs=0.04)
    assert (made.images[made.marked][:, 0, corner(28)] == 235).all()
    assert not planted(100, side=28, seed=2).marked.any()


def test_chance_is_the_area_that_counts():
    """At 64 pixels: a lesion of radius 3.956 and 2 pixels of tolerance: pi * 5.956^2 / 4096 = .0272."""
    made = planted(2, side=64, seed=0)
    assert made.chance == pytest.approx(0.0272, abs=2e-4)
    assert planted(2, side=28, seed=0).reach_px == pytest.approx(1.7305 + 1, abs=1e-3)
