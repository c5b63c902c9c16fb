"""A distance that another package computes: in a process of its own, and said to be missing where it is."""

import importlib.util

import pytest

from medserve.road import frechet as made
from medserve.road.frechet import FEWEST, frechet

MANY = ["CCO"] * FEWEST


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the `fcd` package: writes what it does."""

    def write(text: str) -> None:
        (tmp_path / "fcd.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()

    return write


def test_it_gets_both_sides_and_gives_one_number(package):
    """What it prints on the way does not disturb."""
    package("print('loading')\ndef get_fcd(a, b, device=None):\n    print('working')\n    return len(a) / len(b)\n")
    assert frechet(MANY, MANY * 2) == (0.5, f"against {2 * FEWEST:,} molecules of --reference")


def test_a_package_that_fails_is_no_number(package):
    """The run goes on without it."""
    package("def get_fcd(a, b, device=None):\n    raise ValueError\n")
    assert frechet(MANY, MANY) == (None, "not available: the installed fcd package failed")


def test_why_there_is_no_number_is_said(package, monkeypatch):
    """Not asked, too few, not installed."""
    package("")
    assert frechet(MANY, None)[1].startswith("not asked")
    assert "512" in frechet(MANY[:9], MANY)[1]
    monkeypatch.setattr(made.importlib.util, "find_spec", lambda name: None)
    assert "pip install fcd" in frechet(MANY, MANY)[1]
