"""What `medserve generate` writes beside its result, and what it leaves when it cannot."""

from collections import Counter

import pytest

from medserve.errors import Usage
from medserve.progress import SILENT
from medserve.road.generate import Drawn, _drawn, check_out


def test_the_table_may_stand_in_a_new_folder_but_not_under_the_name_of_its_page(tmp_path):
    """The folder is made; .json and .html are the names of what stands beside the table."""
    check_out(tmp_path / "a" / "b" / "new.csv")
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(Usage) as told:
        check_out(tmp_path / "new.html")
    assert told.value.code == "out-name" and "new.csv" in told.value.hint
    (tmp_path / "there.csv").touch()
    with pytest.raises(Usage) as told:
        check_out(tmp_path / "there.csv")
    assert told.value.code == "out-exists"


def test_nothing_is_left_of_a_run_that_drew_nothing(tmp_path):
    """A wrong temperature leaves no file; a run that was stopped later goes on with what it drew."""

    def refuse(index, many):
        raise Usage("temperature-range", "The temperature lies between 0.1 and 3.")

    def draw(index, many):
        if index:
            raise KeyboardInterrupt
        return Drawn([("CCO", True)] * many, Counter())

    path = tmp_path / ".new.csv.drawn"
    with pytest.raises(Usage):
        _drawn(path, {}, 10, SILENT, refuse)
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt):
        _drawn(path, {}, 5000, SILENT, draw)
    again = _drawn(path, {}, 5000, SILENT, lambda index, many: Drawn([("C", True)] * many, Counter()))
    assert len(again.kept) == 5000 and again.kept[0] == ("CCO", True) and again.kept[-1] == ("C", True)
