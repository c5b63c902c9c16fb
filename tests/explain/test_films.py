"""A picture within a record: the map finds the place that the model looks at, whatever stands beside it."""

import io

import numpy as np
import pytest
from PIL import Image

from medserve.data.fields import Block
from medserve.errors import Refusal
from medserve.explain.films import CELLS, film_hidden, film_levels
from medserve.explain.records import explain_record, methods_of

BLOCKS = (
    Block("age", "number", 0, (1,)),
    Block("film", "image", 1, (1, 28, 28), {"levels": 255}),
    Block("sex", "category", 785, (1,), {"levels": 3, "words": ["F", "M"]}),
)
BACKGROUND = np.full((1, 786), np.nan, np.float32)


def score(rows: np.ndarray) -> np.ndarray:
    """A model that looks at rows 9 to 12, columns 17 to 20 of the film, and at the age."""
    films = np.nan_to_num(rows[:, 1:785]).reshape(-1, 28, 28)
    return (0.1 * rows[:, :1] + 20 * films[:, 8:12, 16:20].mean((1, 2))[:, None]).astype(np.float32)


@pytest.fixture
def record() -> np.ndarray:
    film = np.full((28, 28), 60, np.uint8)
    film[8:12, 16:20] = 230
    film[20:26, 2:8] = 250  # bright as well, and of no account
    return np.concatenate([[63.0], film.ravel() / 255, [1.0]]).astype(np.float32)


def test_the_place_that_counts_is_named_first(record):
    """The one cell of the patch leads by far; the bright bystander weighs next to nothing; the picture is drawn."""
    assert methods_of(BLOCKS) == ["shapley", "occlusion"]
    told = explain_record("occlusion", score, record, BACKGROUND, BLOCKS, 0, label="yes")
    assert len(told.items) == CELLS**2 and told.base is None
    best = told.items[0]
    assert (best["input"], best["part"]) == ("film", "rows 9 to 12, columns 17 to 20") and best["weight"] > 1
    weights = {item["part"]: item["weight"] for item in told.items}
    assert abs(weights["rows 21 to 24, columns 5 to 8"]) < 0.1 * best["weight"]
    assert told.heat is not None and told.heat.shape == (28, 28)
    assert told.total == pytest.approx(float(score(record[None])[0, 0]))
    drawn = np.asarray(Image.open(io.BytesIO(told.png)).convert("RGB"), np.int16)
    zoom = drawn.shape[0] // 28
    middle, plain = drawn[10 * zoom, 18 * zoom], drawn[23 * zoom, 5 * zoom]
    assert middle.max() - middle.min() > 40 and plain.max() - plain.min() < 10  # in colour; still grey


def test_the_cells_cover_every_pixel_once_and_nothing_else(record):
    """Their places, end to end, are the columns of the film."""
    told = explain_record("occlusion", score, record, BACKGROUND, BLOCKS, 0)
    assert sorted(np.concatenate(told.places).tolist()) == list(range(1, 785))


def test_hiding_the_film_leaves_the_rest_alone(record):
    """Blurred levels in the film's place; age and sex as they were; the caller's record untouched."""
    before = record.copy()
    away = film_hidden(record, BLOCKS[1])
    assert np.array_equal(record, before) and away[0] == record[0] and away[-1] == record[-1]
    assert np.ptp(away[1:785]) < 0.7 * np.ptp(record[1:785])
    assert np.array_equal(film_levels(record, BLOCKS[1]).ravel(), np.rint(record[1:785] * 255).astype(np.uint8))


def test_a_case_without_a_film_is_told_so(record):
    """No map of nothing: a coded refusal that names what to do."""
    record[1:785] = np.nan
    with pytest.raises(Refusal) as caught:
        explain_record("occlusion", score, record, BACKGROUND, BLOCKS, 0)
    assert caught.value.code == "input-missing" and caught.value.hint
