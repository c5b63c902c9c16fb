"""The maps themselves: what cam and occlusion promise, and how any method is called."""

import subprocess
import sys

import numpy as np
import pytest

from medserve.errors import NotFound, Usage
from medserve.explain.cam import cam
from medserve.explain.explainers import EXPLAINERS, explain, target_of
from medserve.explain.maps import blur, peak, resize
from medserve.explain.occlusion import occlusion
from medserve.models.spec import OutputSpec
from medserve.types import Array, Scores

SPOT = (slice(8, 12), slice(16, 20))


def spot_logits(images: Array) -> Array:
    """A model that looks at one spot: logit 0 its mean, logit 1 the opposite."""
    mean = images[(..., *SPOT)].reshape(len(images), -1).mean(1) / 50
    return np.stack([mean, -mean], axis=1).astype(np.float32)


class SpotModel:
    def score(self, images: Array, *, cam: bool = False) -> Scores:
        return Scores(spot_logits(images))


@pytest.fixture
def picture() -> Array:
    image = np.random.default_rng(0).integers(0, 80, (1, 28, 28)).astype(np.uint8)
    image[(0, *SPOT)] = 220
    return image


def test_occlusion_peaks_where_the_model_looks(picture):
    """The map's peak is inside the only place that moves the logit, and the sign follows the logit."""
    heat = explain("occlusion", SpotModel(), picture, 0)
    row, column = peak(heat)
    assert heat.shape == (28, 28) and heat.dtype == np.float32
    assert 8 <= row < 12 and 16 <= column < 20
    assert np.allclose(explain("occlusion", SpotModel(), picture, 1), -heat, atol=1e-5)


def test_occlusion_leaves_the_picture_alone_and_is_silent_when_nothing_matters(picture):
    """The caller's array is untouched; a constant model gives a map of zeros."""
    before = picture.copy()
    heat = occlusion(lambda b: np.ones((len(b), 1), np.float32), picture[None], np.array([0]))
    assert np.array_equal(picture, before)
    assert not heat.any()


def test_occlusion_of_a_volume():
    """A volume gives a map of its own shape, peaking at the voxels that matter."""
    volume = np.full((1, 1, 12, 16, 16), 20, np.uint8)
    volume[0, 0, 4:6, 9:12, 3:6] = 250
    heat = occlusion(
        lambda b: b[:, 0, 4:6, 9:12, 3:6].reshape(len(b), -1).mean(1)[:, None] / 10.0, volume, np.array([0])
    )
    z, y, x = peak(heat[0])
    assert 3 <= z <= 6 and 8 <= y <= 12 and 2 <= x <= 6


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_occlusion_does_not_depend_on_the_batch(picture, batch):
    """How many pictures are scored at once is a matter of speed only."""
    column = np.array([0])
    heat = occlusion(spot_logits, picture[None], column, batch=batch)
    assert np.allclose(heat, occlusion(spot_logits, picture[None], column), atol=1e-5)


def test_cam_picks_the_column_and_keeps_the_centre():
    """Each row gets its own logit's map; a hot cell stays where it was after resizing."""
    maps = np.zeros((2, 3, 7, 7), np.float32)
    maps[0, 1, 2, 5] = 1
    maps[1, 2, 6, 0] = 1
    heat = cam(maps, np.array([1, 2]), (28, 28))
    assert heat.shape == (2, 28, 28)
    assert 8 <= peak(heat[0])[0] < 12 and 20 <= peak(heat[0])[1] < 24
    assert peak(heat[1]) in {(27, 0), (26, 0), (26, 1), (27, 1)}


def test_a_model_without_maps_says_what_to_ask_for():
    """No maps: a coded error whose hint names a method that works."""
    with pytest.raises(Usage, match="occlusion") as error:
        explain("cam", SpotModel(), np.zeros((1, 28, 28), np.uint8), 0)
    assert error.value.code == "explanation-unavailable"
    with pytest.raises(NotFound):
        EXPLAINERS["grad-cam"]


def test_resize_by_hand():
    """Doubling [0, 4]: centres at -.25, .25, .75, 1.25 of the input -> 0, 1, 3, 4."""
    assert np.allclose(resize(np.array([[0.0, 4.0]]), (1, 4)), [[0, 1, 3, 4]])
    assert np.allclose(blur(np.full((5, 5), 7.0), 2.0), 7.0)


@pytest.mark.parametrize(
    ("task", "labels", "logits", "column", "label"),
    [
        ("binary", ["normal", "pneumonia"], [-3.0], 0, "pneumonia"),
        ("multiclass", ["a", "b", "c"], [0.0, 2.0, 1.0], 1, "b"),
        ("multilabel", ["a", "b"], [-1.0, -0.5], 1, "b"),
        ("ordinal", ["0", "1", "2", "3"], [3.0, 1.0, -2.0], 1, "2"),
        ("ordinal", ["0", "1", "2"], [-3.0, -4.0], 0, "1"),
        ("number", ["age"], [0.3], 0, "age"),
    ],
)
def test_what_a_map_explains(task, labels, logits, column, label):
    """The finding for two labels, else the likeliest label or level."""
    assert target_of(OutputSpec(task=task, labels=labels), np.array(logits)) == (column, label)


def test_serving_methods_import_no_training_framework():
    """cam, occlusion and overlay load where torch, scikit-learn and matplotlib are absent."""
    program = (
        "import sys\n"
        "for name in ('torch', 'sklearn', 'matplotlib', 'captum', 'scipy'): sys.modules[name] = None\n"
        "import medserve.explain.explainers, medserve.explain.overlay\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
