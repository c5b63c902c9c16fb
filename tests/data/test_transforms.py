"""Transforms: the same bytes for the same picture, physical ranges, and nothing that is not declared."""

import numpy as np
import pytest
from PIL import Image

from medserve.data.readers import picture_from_array
from medserve.data.transforms import (
    TRANSFORMS,
    Normalise,
    Resize,
    Show,
    ToColour,
    ToGrey,
    build,
    default_transforms,
    prepare_one,
    thumbnail,
)
from medserve.errors import BadData, NotFound, Usage
from medserve.types import ArraySamples, Named, Picture

RNG = np.random.default_rng(3)
GREY = RNG.integers(0, 256, (28, 28), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (50, 40, 3), dtype=np.uint8)


def pipeline(shape, *, colour=False, unit=None):
    return build(default_transforms(shape=shape, colour=colour, unit=unit))


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (127 + 60 * np.sin(y * 6 / height) + 60 * np.cos(x * 6 / width)).astype(np.uint8)


def test_eight_bit_grey_of_the_right_size_is_left_alone():
    """An array row goes through byte by byte."""
    tensor = pipeline((1, 28, 28))(picture_from_array(GREY))
    assert tensor.shape == (1, 28, 28) and tensor.tobytes() == GREY.tobytes()


def test_hounsfield_units_show_a_fixed_range():
    """-1000 HU is black, 1000 white, 0 the middle (127.5, rounded up), whatever window the file carries."""
    values = np.array([[-2000, -1000, 0], [500, 1000, 3000]], np.int16)
    picture = Picture(values, (-160, 239), modality="CT", unit="HU", header={"window": "file"})
    show = build(default_transforms(shape=(1, 2, 3), colour=False, unit="HU"))
    assert show(picture).tolist() == [[[0, 0, 128], [191, 255, 255]]]


def test_the_window_of_the_file_is_what_is_shown():
    values = np.array([[0, 100, 150, 200, 4000]], np.uint16)
    picture = Picture(values, (100, 200), header={"window": "file"})
    assert Show()(picture).values.tolist() == [[0, 0, 128, 255, 255]]


def test_percentiles_where_the_format_has_no_say():
    """1 % outliers at both ends do not darken the rest."""
    values = np.linspace(1000, 2000, 10_000).reshape(100, 100).astype(np.uint16)
    values[0, 0], values[-1, -1] = 0, 65535
    shown = Show()(Picture(values, (0, 65535), header={"window": "none"})).values
    assert shown[50, 50] in range(120, 136) and shown.min() == 0 and shown.max() == 255


def test_a_blank_picture_is_flat():
    assert len(np.unique(Show()(Picture(np.full((4, 4), 700, np.int16), (700, 700))).values)) == 1


def test_grey_and_colour():
    """Luma of ITU-R BT.601 within a level; grey has three equal channels; axes are (C, H, W)."""
    picture = picture_from_array(COLOUR)
    grey = ToGrey()(picture).values
    assert np.abs(grey - COLOUR @ [0.299, 0.587, 0.114]).max() <= 1
    three = ToColour()(picture_from_array(GREY)).values
    assert all(np.array_equal(three[..., c], GREY) for c in range(3))
    assert pipeline((3, 50, 40), colour=True)(picture).tobytes() == COLOUR.transpose(2, 0, 1).tobytes()


def test_resize_is_antialiased():
    """A fine chequerboard becomes its mean, not a moiré; smooth images follow Pillow's float resize."""
    board = np.indices((256, 256)).sum(axis=0) % 2 * np.uint8(255)
    small = Resize(32, 32)(picture_from_array(board.astype(np.uint8))).values
    assert np.abs(small.astype(int) - 127).max() <= 2
    values = smooth(512, 512)
    expected = np.asarray(Image.fromarray(values.astype(np.float32)).resize((224, 224), Image.Resampling.BILINEAR))
    assert np.abs(Resize(224, 224)(picture_from_array(values)).values - expected).max() <= 2


def test_pad_keeps_proportions():
    """20 x 40 in 40 x 40: ten black rows above and below."""
    padded = Resize(40, 40, mode="pad")(picture_from_array(np.full((20, 40), 9, np.uint8))).values
    assert not padded[:10].any() and not padded[30:].any() and (padded[10:30] == 9).all()


def test_volumes():
    """(C, D, H, W); the depth of a ramp is interpolated and averaged, its mean kept."""
    ramp = np.repeat(np.arange(0, 240, 8, dtype=np.uint8)[:, None, None], 20, 1).repeat(20, 2)
    picture = picture_from_array(ramp, volume=True)
    tensor = pipeline((1, 10, 16, 16))(picture)
    assert tensor.shape == (1, 10, 16, 16)
    assert abs(tensor.mean() - ramp.mean()) < 1 and (np.diff(tensor[0, :, 0, 0].astype(int)) > 0).all()
    assert pipeline((1, 30, 20, 20))(picture).tobytes() == ramp.tobytes()
    with pytest.raises(Usage):
        pipeline((1, 16, 16))(picture)


@pytest.mark.parametrize("size", [(28, 28), (224, 200)])
def test_a_thumbnail_shows_the_picture(size):
    """From the prepared image or from the picture itself, nearly the same 64 x 64."""
    picture = picture_from_array(smooth(300, 280))
    tensor, thumb = prepare_one(picture, pipeline((1, *size)))
    assert tensor.shape == (1, *size) and thumb.shape == (64, 64) and thumb.dtype == np.uint8
    assert np.abs(thumb.astype(int) - thumbnail(picture)).max() <= 3
    assert prepare_one(picture_from_array(COLOUR), pipeline((3, 28, 28), colour=True))[1].shape == (64, 64)
    assert thumbnail(picture_from_array(np.stack([GREY] * 5), volume=True)).shape == (64, 64)


def test_the_same_picture_gives_the_same_bytes():
    values = RNG.normal(0, 300, (100, 90)).astype(np.float32)
    before = values.copy()
    named = [Named("to-grey"), Named("show"), Named("resize", {"height": 32, "width": 32})]
    picture = picture_from_array(values)
    assert build(named)(picture).tobytes() == build(named)(picture).tobytes()
    assert np.array_equal(values, before)  # the caller's array is left alone


def test_unknown_names_and_parameters_list_their_neighbours():
    with pytest.raises(NotFound, match="resize"):
        build([Named("resise")])
    with pytest.raises(Usage, match="height"):
        build([Named("show"), Named("resize", {"hight": 3, "width": 3})])
    for bad in (
        [Named("resize", {"height": 8, "width": 8})],
        [Named("show"), Named("resize", {"height": 8})],
        [Named("show", {"low": 5})],
        [Named("show", {"low": 5, "high": 5})],
        [Named("show"), Named("resize", {"height": 0, "width": 8})],
        [Named("show"), Named("resize", {"height": "8", "width": 8})],
        [Named("show"), Named("resize", {"height": 8, "width": 8, "mode": "crop"})],
        [Named("normalise", {"mean": [0.5], "std": [0.2]}), Named("show")],
        [Named("show"), Named("normalise", {"mean": [0.5], "std": [0.0]})],
    ):
        with pytest.raises(Usage):
            build(bad)
    with pytest.raises(Usage, match="show"):
        build([Named("to-grey")])(Picture(np.zeros((2, 2), np.int16), (0, 1)))


def test_normalise_is_fitted_exactly_and_carried_along():
    """The mean and spread of all pixels in [0, 1], whatever the batch; the pipeline leaves applying it to the graph."""
    images = RNG.integers(0, 256, (70, 2, 9, 9), dtype=np.uint8)
    fitted = Normalise.fit(ArraySamples(images, np.zeros(70)))
    assert fitted.mean == pytest.approx(images.mean(axis=(0, 2, 3)) / 255)
    assert fitted.std == pytest.approx(images.std(axis=(0, 2, 3)) / 255)
    assert Normalise.fit(ArraySamples(images, np.zeros(70)), batch=7) == fitted
    named = [*default_transforms(shape=(1, 28, 28), colour=False, unit=None), fitted.named()]
    assert build(named).normalise == fitted and build(named).named == tuple(named)
    assert build(named)(picture_from_array(GREY)).tobytes() == GREY.tobytes()
    assert set(n.name for n in named) <= set(TRANSFORMS)


def test_normalise_of_nothing_and_of_one_value():
    with pytest.raises(BadData):
        Normalise.fit(ArraySamples(np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0)))
    flat = Normalise.fit(ArraySamples(np.full((3, 1, 2, 2), 51, np.uint8), np.zeros(3)))
    assert flat.mean == pytest.approx((0.2,)) and flat.std[0] > 0
