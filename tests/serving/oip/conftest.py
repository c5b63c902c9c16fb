"""One service for the clients of Open Inference Protocol: pictures (two versions), a table, a text; HTTP and gRPC."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from made_tensors import NOTE, TABLE, write_records
from tensor_service import Tensors, tensors
from tiny_package import spec, write_package

from medserve.settings import Settings


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> tuple[Settings, list[Path]]:
    """Packages of tiny 1 and 2, ward and notes."""
    root = tmp_path_factory.mktemp("tensors")
    settings = Settings(home=root / "home")
    made = [write_package(root / f"tiny-{version}", settings, spec(version=version)) for version in ("1", "2")]
    made += [write_records(root / name, settings, name, fields) for name, fields in (("ward", TABLE), ("notes", NOTE))]
    return settings, made


@pytest.fixture(scope="module")
def running(folders) -> Iterator[Tensors]:
    with tensors(*folders) as running:
        yield running
