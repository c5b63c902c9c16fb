"""The pictures of a map: readable by eye and by program."""

import base64
import io

import numpy as np
from PIL import Image

from medserve.explain.overlay import colours, pack, relative, render


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def hot(shape: tuple[int, ...], at: tuple[int, ...]) -> np.ndarray:
    heat = np.zeros(shape, np.float32)
    heat[at] = 3.0
    return heat


def test_evidence_is_coloured_and_the_rest_stays_grey():
    """Only the place with evidence leaves the grey axis; a small picture is enlarged."""
    drawn = opened(render(np.full((1, 28, 28), 100, np.uint8), hot((28, 28), (5, 20)))).astype(int)
    assert min(drawn.shape[:2]) >= 256 and drawn.shape[2] == 3
    spread = drawn.max(axis=2) - drawn.min(axis=2)
    zoom = len(drawn) // 28
    assert spread[5 * zoom + zoom // 2, 20 * zoom + zoom // 2] > 40
    assert spread[20 * zoom, 5 * zoom] == 0


def test_evidence_against_is_not_coloured():
    """A map without one positive value leaves the picture as it is."""
    image = np.random.default_rng(0).integers(0, 255, (1, 300, 300)).astype(np.uint8)
    drawn = opened(render(image, np.full((300, 300), -1.0)))
    assert np.array_equal(drawn[..., 0], image[0]) and np.array_equal(drawn[..., 2], image[0])


def test_a_volume_shows_the_slice_of_its_peak():
    """The drawn slice is the one that holds the strongest evidence."""
    volume = np.stack([np.full((32, 32), 10 * z, np.uint8) for z in range(5)])[None]
    drawn = opened(render(volume, hot((5, 32, 32), (3, 4, 4))))
    assert drawn[-1, -1, 0] == 30


def test_colour_pictures_keep_their_colours():
    """Where there is no evidence an RGB picture is unchanged."""
    image = np.random.default_rng(1).integers(0, 255, (3, 256, 256)).astype(np.uint8)
    assert np.array_equal(opened(render(image, np.zeros((256, 256)))), image.transpose(1, 2, 0))


def test_raw_forms_hold_the_map():
    """The packed floats are exact; what is drawn is relative to the maximum."""
    heat = np.array([[0.0, 0.5], [-1.0, 2.0]], np.float32)
    assert relative(heat).tolist() == [[0, 0.25], [0, 1]]
    packed = pack(heat)
    again = np.frombuffer(base64.b64decode(packed["data"]), "<f4").reshape(packed["shape"])
    assert np.array_equal(again, heat)
    assert not relative(np.full((2, 2), np.nan)).any()


def test_colours_grow_lighter():
    """Lightness rises with the evidence (perceptually uniform), from near black to pale yellow."""
    light = colours(np.linspace(0, 1, 64)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light) > 0).all() and light[0] < 5 and light[-1] > 230
