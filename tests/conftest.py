"""One small run of the whole road, shared by the tests of `road` and `cli` that look at its result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medserve.data.phantoms import make_phantoms
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.settings import Settings


@dataclass(frozen=True)
class Run:
    data: Path
    package: Path
    settings: Settings
    result: dict[str, Any]


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("data") / "phantoms", 160, size=32, seed=3)


@pytest.fixture(scope="session")
def run(phantoms, tmp_path_factory) -> Run:
    """The recipe, whatever validation says, for two epochs and without an audit."""
    folder = tmp_path_factory.mktemp("road")
    settings = Settings(home=folder / "home")
    options = Options(recipe="residual-quick", epochs=2, audit="none", keep="recipe", seed=1, name="phantom-chest")
    return Run(
        phantoms,
        folder / "model",
        settings,
        train_package(phantoms, folder / "model", settings=settings, options=options),
    )
