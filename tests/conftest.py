"""Small runs of the whole road, of pictures and of molecules, shared by the tests that look at their results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from made_molecules import write_cohort

from medserve.data.phantoms import make_phantoms
from medserve.progress import SILENT
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


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> tuple[Settings, dict[str, Any]]:
    """A model of invented molecules with or without a nitro group: the home that signed it, and what training said."""
    folder = tmp_path_factory.mktemp("molecules")
    settings, data = Settings(home=folder / "home"), write_cohort(folder / "data")
    options = Options(audit="quick", keep="recipe")
    return settings, train_package(data, folder / "package", settings=settings, options=options, progress=SILENT)
