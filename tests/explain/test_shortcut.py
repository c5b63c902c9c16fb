"""The scanner: red on a planted shortcut by itself, green on a model that looks at the lesion."""

import numpy as np
import pytest
from matched import OUTPUT, SIDE

from medserve.explain import trials
from medserve.explain.gradients import NetModel
from medserve.explain.planted import corner, planted
from medserve.explain.shortcut import demonstrate, erase, outside_body, regions, scan
from medserve.models.spec import OutputSpec
from medserve.types import ArraySamples, Named, Scores

SHORT = trials.Trial("quick", train=480, epochs=8, seeds=(0,), point=20, limit_s=120)


def test_the_demonstration_turns_red_by_itself(served, settings, monkeypatch):
    """A network trained where a corner marker betrays the label: red, worse than a coin when the marker is reversed,
    and erasing it in marked negatives lowers the probability."""
    monkeypatch.setattr(trials, "QUICK", SHORT)
    shown = demonstrate(served, Named("thumbnail-linear"), shape=(1, SIDE, SIDE), settings=settings, quick=True)
    assert shown["level"] == "red"
    assert shown["auroc"]["same"] > 0.8 > 0.5 > shown["auroc"]["reversed"]
    assert shown["erased"] < -0.2
    assert shown["checks"][0]["where"] == "upper left corner"
    assert shown["peak_on_marker"]["occlusion"] > 0.5
    assert list(settings.folder("cache/planted").glob("quick-shortcut-thumbnail-linear-*.json"))


def test_a_model_that_looks_at_the_lesion_is_green(served):
    """No intervention raises an alarm on a sound model, over five sets, and its maps stay mostly on the body."""
    for seed in range(5):
        checks = scan(NetModel(served), planted(120, side=SIDE, seed=seed).samples, output=OUTPUT, maps=8, seed=seed)
        assert [check["level"] for check in checks[:2]] == ["green", "green"], checks
        assert checks[2]["level"] != "red" and checks[2]["value"] < 0.4


class CornerModel:
    """Reads the upper left corner and nothing else."""

    def __init__(self, classes: int = 1) -> None:
        self.classes = classes

    def score(self, images, *, cam=False):
        z = (images[:, 0, :4, :4].mean((1, 2)) - 60) / 10
        columns = [z] if self.classes == 1 else [z, -z, np.full_like(z, -9.0)]
        return Scores(np.stack(columns, axis=1).astype("f4"))


@pytest.mark.parametrize(
    ("output", "classes"),
    [
        (OUTPUT, 1),
        (OutputSpec(task="multiclass", labels=["a", "b", "c"]), 3),
        (OutputSpec(task="multilabel", labels=["a", "b", "c"]), 3),
        (OutputSpec(task="number", labels=["age"]), 1),
    ],
)
def test_a_corner_reader_is_caught_whatever_the_task(output, classes):
    """Erasing and exchanging the corner both turn red and name it; most of the map lies outside the body."""
    samples = planted(120, side=SIDE, seed=3, marker=(0.5, 0.5)).samples
    erased, exchanged, outside = scan(CornerModel(classes), samples, output=output, maps=10)
    assert (erased["level"], erased["where"]) == ("red", "upper left corner")
    assert (exchanged["level"], exchanged["where"]) == ("red", "upper left corner")
    assert outside["level"] == "red" and outside["value"] > 0.4


def test_erasing_looks_only_at_the_surroundings():
    """What stood in the corner leaves no trace, the rest is untouched, and a flat picture stays flat."""
    made = planted(4, side=SIDE, seed=0)
    marked = made.images.copy()
    marked[:, :, corner(SIDE)] = 255
    region = dict(regions((SIDE, SIDE)))["upper left corner"]
    assert np.array_equal(erase(marked, region), erase(made.images, region))
    changed = erase(made.images, region) != made.images
    changed[(..., *region)] = False
    assert not changed.any()
    flat = np.full((1, 1, SIDE, SIDE), 77, np.uint8)
    assert np.array_equal(erase(flat, region), flat)


def test_no_ground_no_figure():
    """A picture that the body fills has no outside: not measured, and said so."""
    full = np.random.default_rng(0).integers(90, 200, (40, 1, SIDE, SIDE)).astype(np.uint8)
    assert outside_body(full[0]) is None
    ground = outside_body(planted(2, side=SIDE, seed=0).images[0])
    assert ground is not None and ground[0, 0] and not ground[SIDE // 2, SIDE // 2]
    check = scan(CornerModel(), ArraySamples(full, np.zeros(40)), output=OUTPUT)[-1]
    assert check["value"] is None and "Not measured" in check["message"]
