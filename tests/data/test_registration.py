"""Promises of data/registration.py."""

import numpy as np
import pytest
from made_cohorts import fields
from PIL import Image

from medserve.data.registration import agreement, band_pass, shared_patterns


def _moved(picture, *, box):
    """The part of a 128 x 128 picture inside `box`, as a 64 x 64 thumbnail."""
    return np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.BILINEAR, box=box))


@pytest.mark.parametrize("box", [(2, 0, 128, 126), (3, 3, 125, 125), (0, 4, 124, 128), (4, 4, 124, 124)])
def test_a_small_shift_and_scale_is_found(box):
    """A crop of up to 3 % a side still agrees, although it does not before it is laid over."""
    pictures = fields(20, size=128)
    whole = band_pass(np.stack([_moved(p, box=(0, 0, 128, 128)) for p in pictures]))
    part = band_pass(np.stack([_moved(p, box=box) for p in pictures]))
    likeness, _ = agreement(whole, part)
    straight = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(whole, part, strict=True)]
    assert likeness.min() > 0.98
    assert np.median(straight) < np.median(likeness)


def test_brightness_and_contrast_do_not_count():
    """Half the contrast and another brightness: the same picture."""
    pictures = np.stack(fields(10))
    changed = (pictures * 0.5 + 60).astype(np.uint8)
    likeness, own = agreement(band_pass(pictures), band_pass(changed))
    assert likeness.min() > 0.99 and np.array_equal(likeness, own)


def test_unrelated_pictures_do_not_agree():
    """Two random pictures agree by chance only; none comes near to a copy."""
    pictures = band_pass(np.stack(fields(200)))
    assert agreement(pictures[:100], pictures[100:])[0].max() < 0.9


def test_what_all_pictures_share_does_not_count():
    """Films of one anatomy agree as a whole, whoever was imaged; beyond the shared patterns only copies do."""
    anatomy = fields(1, seed=9)[0].astype(float)
    films = [np.clip(anatomy + 0.12 * (f - 128.0), 0, 255).astype(np.uint8) for f in fields(300)]
    pictures = band_pass(np.stack(films))
    shared = shared_patterns(pictures)
    whole, own = agreement(pictures[:150], pictures[150:], shared)
    assert np.median(whole) > 0.95 and own.max() < 0.7
    noise = np.random.default_rng(0).normal(0, 1, (150, 64, 64))
    copies = np.clip(np.stack(films[:150]) + noise, 0, 255).astype(np.uint8)
    assert agreement(pictures[:150], band_pass(copies), shared)[1].min() > 0.85


def test_a_few_pictures_share_nothing_that_can_be_learned():
    """Below 32 pictures no pattern is taken for common."""
    assert shared_patterns(band_pass(np.stack(fields(31)))) is None
    patterns = shared_patterns(band_pass(np.stack(fields(64))))
    assert patterns is not None and np.allclose(patterns.T @ patterns, np.eye(patterns.shape[1]), atol=1e-4)
