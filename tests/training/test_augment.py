"""Augmentation of batches."""

import pytest
import torch

from medserve.training.augment import augment
from medserve.training.plan import Augment

STILL = Augment(shift=0, scale=0, rotate_deg=0, contrast=0, brightness=0, gamma=0, erase=0)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(*shape):
    return torch.rand(*shape, generator=random(5))


def change(x, seed=0, **how):
    return augment(
        x, Augment(**{**{name: getattr(STILL, name) for name in STILL.__struct_fields__}, **how}), random(seed)
    )


@pytest.mark.parametrize("shape", [(6, 1, 28, 28), (6, 3, 20, 31), (4, 1, 9, 10, 11)])
def test_the_contract_holds_for_every_shape(shape):
    """Same shape, values in [0, 1], the same draw twice, another seed another draw, the caller's tensor untouched."""
    x = batch(*shape)
    kept = x.clone()
    first, again, other = (augment(x, Augment(), random(seed)) for seed in (1, 1, 2))
    assert first.shape == x.shape and first.min() >= 0 and first.max() <= 1 and first.isfinite().all()
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.equal(x, kept)


@pytest.mark.parametrize("shape", [(3, 1, 16, 16), (2, 2, 12, 20), (2, 1, 6, 7, 8)])
def test_no_range_means_no_change(shape):
    """With every range at zero a picture comes back as it was."""
    x = batch(*shape)
    assert torch.allclose(augment(x, STILL, random()), x, atol=1e-5)


def test_a_quarter_turn_turns_pixels_not_the_grid():
    """A rotation of +-90 degrees of a square equals rot90 one way or the other."""
    x = batch(1, 1, 9, 9)
    for seed in range(40):
        angle = (torch.rand(1, generator=random(seed)) * 2 - 1).item() * 90
        if abs(abs(angle) - 90) < 3:
            break
    else:
        pytest.fail("no seed turns far enough")
    turned = change(x, seed, rotate_deg=90.0 * 90 / abs(angle))
    assert any(torch.allclose(turned, torch.rot90(x, k, (2, 3)), atol=1e-3) for k in (1, 3))


def test_a_rotation_keeps_an_oblong_picture_in_shape():
    """A disc in a 20 x 40 picture stays a disc: as wide as it is tall."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(40.0), indexing="ij")
    disc = (((y - 9.5) ** 2 + (x - 19.5) ** 2) < 36).float()[None, None].repeat(8, 1, 1, 1)
    for picture in change(disc, rotate_deg=45.0):
        ink = picture[0] > 0.5
        tall, wide = ink.any(1).sum().item(), ink.any(0).sum().item()
        assert abs(tall - wide) <= 1 and abs(tall - 12) <= 1


def test_mirroring_happens_only_when_asked():
    """Asked, about half of the pictures are mirrored; else a left-right gradient always points the same way."""
    gradient = torch.linspace(0, 1, 16).repeat(64, 1, 16, 1)
    asked = change(gradient, mirror_left_right=True)
    mirrored = (asked[:, 0, :, 0] > asked[:, 0, :, -1]).all(1).float().mean()
    assert 0.25 < mirrored < 0.75
    plain = augment(gradient, Augment(erase=0), random())
    assert (plain[:, 0, 4:12, 3] < plain[:, 0, 4:12, 12]).all()


def test_erasing_hits_the_share_it_says():
    """At 0.25 about a quarter of the pictures lose one rectangle, of at most 20 % of the area and some pixels."""
    white = torch.ones(400, 1, 32, 32)  # a drawn grey is below 1
    erased = (change(white, erase=0.25) != 1).flatten(1).float().mean(1)
    assert 0.18 < (erased > 0).float().mean() < 0.32
    assert erased.max() < 0.22


def test_a_volume_shifts_by_whole_voxels():
    """A volume with one bright voxel keeps it, at most 30 % of the side away; nothing is blurred or wraps around."""
    x = torch.zeros(20, 1, 10, 10, 10)
    x[:, :, 5, 5, 5] = 1
    places = change(x, shift=0.3).nonzero()[:, 2:]
    assert len(places) == 20 and change(x, shift=0.3).sum() == 20
    assert (places - 5).abs().max() == 3 and len(places.unique(dim=0)) > 10
    assert change(torch.ones(9, 1, 10, 10, 10), shift=0.3).min() == 0
