"""A split and its event are kept together, and the salt that assigns patients outlives every change of it."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from throwaway_postgres import new_database

from medserve.access.audit import Event, Ledger
from medserve.settings import Settings
from medserve.store.traffic import SplitRow, Splits


@pytest.fixture(params=("sqlite", "postgresql"))
def settings(request, tmp_path) -> Iterator[Settings]:
    with nullcontext("") if request.param == "sqlite" else new_database() as url:
        yield Settings(home=tmp_path / "home", database=url)


def test_a_split_goes_back_to_the_one_before(settings):
    """Twice back is where it was; the salt stays; another connection reads the same."""
    splits, ledger, event = Splits(settings), Ledger.open(settings), Event(action="models.traffic", outcome="allow")
    row = SplitRow("", "chest", {"1": 90, "2": 10}, ["3"], {"versions": {"1": 100}, "shadow": []})
    with ledger.with_effect(event) as db:
        kept = splits.set(db, row)
    assert kept.salt and splits.rows() == [kept]
    with ledger.with_effect(event) as db:
        back = splits.set(db, kept.back("k-1"))
    assert (back.versions, back.shadow, back.salt, back.changed_by) == ({"1": 100}, [], kept.salt, "k-1")
    again = replace(back.back("k-2"), changed_at=kept.changed_at, changed_by=kept.changed_by)
    assert again == kept and Splits(settings).rows() == [back]


def test_a_change_whose_event_is_not_written_is_none(settings):
    splits, ledger = Splits(settings), Ledger.open(settings)
    with pytest.raises(ZeroDivisionError), ledger.with_effect(Event(action="a", outcome="allow")) as db:
        splits.set(db, SplitRow("", "chest", {"1": 100}))
        splits.withdraw(db, "", "chest", "2", "sha256:x", "k-1")
        raise ZeroDivisionError
    assert splits.rows() == [] and splits.withdrawn() == set()
    with ledger.with_effect(Event(action="a", outcome="allow")) as db:
        splits.withdraw(db, "", "chest", "2", "sha256:x", "k-1")
        splits.withdraw(db, "", "chest", "2", "sha256:x", "k-1")
    assert splits.withdrawn() == {("chest", "sha256:x")}
