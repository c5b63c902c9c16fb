"""The folder in which long work keeps its parts."""

import pytest

from medserve.errors import Usage
from medserve.road.kept import Kept


def kept(folder, plan=b"one"):
    return Kept(folder, plan, code="screen", word="screen")


def test_a_folder_with_parts_goes_on_with_the_same_plan_alone(tmp_path):
    """Another plan is refused; the first one finds its parts again."""
    one = kept(tmp_path / "k")
    (tmp_path / "k" / "part-1").write_bytes(b"done")
    with pytest.raises(Usage) as told:
        kept(tmp_path / "k")
    assert told.value.code == "screen-running"
    one.close()
    with pytest.raises(Usage) as told:
        kept(tmp_path / "k", b"two")
    assert told.value.code == "screen-other"
    kept(tmp_path / "k").close()
    assert (tmp_path / "k" / "part-1").exists()


def test_work_that_kept_nothing_leaves_nothing_and_hinders_nobody(tmp_path):
    """A command that failed at once, and its mended form, in one place; one that was killed there before, too."""
    kept(tmp_path / "k").close()
    assert not (tmp_path / "k").exists()
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "plan.json").write_bytes(b"killed")
    kept(tmp_path / "k", b"two").close()
