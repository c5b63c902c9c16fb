"""Promises of data/seal.py."""

from dataclasses import replace

from made_cohorts import fields, make_cohort

from medserve.data.seal import open_test, openings, part_digest
from medserve.data.split import PartView, split
from medserve.settings import Settings


def test_the_seal_knows_the_pictures_and_nothing_else(tmp_path):
    """Order, names and folders do not change the digest; another picture does."""
    cohort = make_cohort(tmp_path, [0, 1] * 20, pictures=fields(40))
    cases = split(cohort).test.cases
    renamed = [replace(case, id=f"x{case.id}", file=f"elsewhere/{case.file}") for case in reversed(cases)]
    assert part_digest(cases) == part_digest(renamed) and part_digest(cases).startswith("sha256:")
    assert part_digest(cases) != part_digest(cases[1:])
    assert part_digest(cases) != part_digest([replace(cases[0], pixels=b"another"), *cases[1:]])


def test_each_opening_is_counted_by_part(tmp_path):
    """The count goes up with each opening, for any model, and outlives the process; another part starts at 1."""
    settings = Settings(home=tmp_path / "home")
    cohort = make_cohort(tmp_path / "data", [0, 1] * 20, pictures=fields(40))
    test = split(cohort).test
    assert [open_test(test, settings, model) for model in ("sha256:a", "sha256:b", "sha256:a")] == [1, 2, 3]
    again = PartView("test", cohort, test.rows[::-1])
    assert openings(again, settings) == 3 and open_test(again, Settings(home=tmp_path / "home"), "sha256:c") == 4
    assert open_test(split(cohort).val, settings, "sha256:a") == 1
