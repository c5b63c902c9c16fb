"""A film within a record, as networks and as simple models see it; and what a missing input does to the distance."""

import numpy as np
import pytest
import torch

from medserve.data.fields import Block
from medserve.models import ood
from medserve.models.record import ENCODERS, FEATURES, FIT_VALUES, families, rows_to_fit  # noqa: F401
from medserve.models.record.casenet import CaseNet
from medserve.models.record.image import augment_films
from medserve.types import ArraySamples

FILM = Block("film", "image", 1, (1, 20, 24), {"levels": 255})
AGE = Block("age", "number", 0, (1,))


@pytest.fixture
def films() -> torch.Tensor:
    return torch.rand(12, 1, 20, 24, generator=torch.Generator().manual_seed(0))


def test_a_view_is_finite_and_scaled_by_the_training_part(films):
    """Mean and spread of what is there; a missing film reads as the mean one; the same view whatever stands beside."""
    torch.manual_seed(0)
    view = ENCODERS["image-cnn"](FILM)
    films[3] = torch.nan
    view.fit(films)
    known = films[torch.isfinite(films)]
    assert float(view.mean) == pytest.approx(float(known.mean()), abs=1e-5)
    assert float(1 / view.scale) == pytest.approx(float(known.std(correction=0)), abs=1e-5)
    view.eval()
    with torch.no_grad():
        found = view(films)
        assert found.shape == (12, view.width) and torch.isfinite(found).all()
        assert torch.allclose(view(films[:1]), found[:1], atol=1e-5)
        assert torch.allclose(view(torch.full_like(films[:1], float(known.mean()))), found[3:4], atol=1e-4)


def test_training_moves_films_but_never_mirrors_them():
    """A bright left half stays left; no film comes out as it was; nothing is left undefined."""
    torch.manual_seed(1)
    films = torch.zeros(64, 1, 20, 24)
    films[..., :12] = 1.0
    changed = augment_films(films)
    assert torch.isfinite(changed).all() and (changed != films).flatten(1).any(1).all()
    assert (changed[..., :6].mean((1, 2, 3)) > changed[..., 18:].mean((1, 2, 3)) + 0.5).all()


def test_features_are_the_thumbnail_the_mean_and_the_spread(films):
    """16 x 16 area means, named by place; NaN all through where the film is missing."""
    made = FEATURES["image"](FILM)
    films[2] = torch.nan
    found = made(films)
    assert found.shape == (12, len(made.names)) == (12, 16 * 16 + 2)
    assert torch.isnan(found[2]).all() and torch.isfinite(found[[0, 1, 3]]).all()
    assert float(found[0, :256].mean()) == pytest.approx(float(films[0].mean()), abs=1e-5)
    assert made.names[17] == "film, row 2 of 16, column 2 of 16" and made.names[-2:] == ("film, mean", "film, spread")
    assert float(found[0, -1]) == pytest.approx(float(films[0].std(correction=0)), abs=1e-4)


def test_what_was_not_sent_is_not_unlike_the_training_data(films):
    """Training never lacked a film: a case without one still lies near, a film of another kind does not."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    many = random.normal(0.5, 0.1, (80, 1 + FILM.size)).astype(np.float32)
    net = CaseNet([AGE, FILM], 1, {}, 0.0, 0.0)
    net.fit(ArraySamples(many, np.zeros(80)))
    distance = ood.fit(*ood.describe(net, ArraySamples(many, np.zeros(80)), [0.0], [1.0]))
    lacking, foreign = many[:4].copy(), many[:4].copy()
    lacking[:, 1:] = np.nan
    foreign[:, 1:] = np.repeat([0.0, 1.0], FILM.size // 2)
    net.eval()
    with torch.no_grad():
        told = [distance(net(torch.from_numpy(x)).embedding, torch.from_numpy(x)) for x in (many, lacking, foreign)]
    limit = float(told[0].max())
    assert torch.isfinite(told[1]).all() and (told[1] <= limit).all() and (told[2] > limit).all()


def test_long_records_are_fitted_on_fewer_cases():
    """All cases of short records; so many of long ones that half a gigabyte holds them; the same draw every time."""
    assert np.array_equal(rows_to_fit(500, 10), np.arange(500))
    rows = rows_to_fit(20_000, 3 * 64 * 64)
    assert len(rows) == FIT_VALUES // (3 * 64 * 64) and (np.diff(rows) > 0).all()
    assert np.array_equal(rows, rows_to_fit(20_000, 3 * 64 * 64))
