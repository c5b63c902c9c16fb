from collections.abc import Iterator
from pathlib import Path

import pytest

from medserve.settings import Settings
from medserve.store.segments import SMALLEST
from medserve.store.vault import Vault


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def vault(settings: Settings) -> Iterator[Vault]:
    vault = Vault.open(settings, segment_bytes=SMALLEST)
    yield vault
    vault.close()
