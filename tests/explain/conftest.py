"""What the tests of this folder share: the matched filter as an architecture and as a model, and an empty home."""

from pathlib import Path

import pytest
from matched import SIDE, Matched

from medserve.explain.planted import planted
from medserve.models.nets import MODELS
from medserve.models.served import ServedNet
from medserve.settings import Settings


@pytest.fixture(scope="session", autouse=True)
def matched_architecture() -> None:
    if "test-matched" not in MODELS:
        MODELS.register("test-matched")(lambda channels, size, outputs: Matched(channels, outputs))


@pytest.fixture(scope="session")
def served() -> ServedNet:
    scale = planted(100, side=SIDE, seed=1).images / 255
    return ServedNet(Matched(1, 1), [float(scale.mean())], [float(scale.std())])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")
