"""A real server on a loopback port, with two versions of one tiny package behind it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx2
from tiny_package import Running, live_server


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    with live_server(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def http(running: Running) -> Iterator[httpx2.Client]:
    with running.http() as client:
        yield client
