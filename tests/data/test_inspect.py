"""Promises of data/inspect.py and data/sheet.py."""

import json
import re

import numpy as np
import pytest
from made_cohorts import fields, make_cohort, recoded

from medserve.data.cohort import Refused
from medserve.data.inspect import inspect
from medserve.data.sheet import PER_CLASS, render_sheet, write_sheet
from medserve.errors import Fault


@pytest.fixture
def cohort(tmp_path):
    """80 cases in official train, val and test with one exact repeat inside train, one leak, one conflict."""
    pictures = fields(80)
    pictures[1] = pictures[3]
    pictures[50] = pictures[0]
    pictures[5] = recoded(pictures[4])
    official = ["train"] * 40 + ["val"] * 20 + ["test"] * 20
    refused = [Refused("<b>broken</b>.png", "file-truncated", "It ends early.")]
    return make_cohort(
        tmp_path, [0, 1] * 40, official=official, pictures=pictures, refused=refused, name="films & more"
    )


def test_inspect_says_what_is_there(cohort):
    """The keys that scripts rely on; every file is read or refused; the whole is one JSON object."""
    result = json.loads(json.dumps(inspect(cohort)))
    assert {"files", "read", "refused", "cases", "kinds", "problems", "leaks"} <= result.keys()
    assert result["files"] == result["read"] + len(result["refused"]) == 81
    assert [(r["file"], r["code"]) for r in result["refused"]] == [("<b>broken</b>.png", "file-truncated")]
    assert result["refused"][0]["message"]
    assert result["cases"] == 80 and result["kinds"]["size"] == {"64x64": 80}
    assert result["parts"]["val"]["classes"] == {"normal": 10, "ill": 10}
    assert result["planned"] == {"train": 40, "val": 10, "calibration": 10, "test": 20}


def test_leaks_carry_the_official_names_and_repeats_stay_apart(cohort):
    """Across parts: a leak, by case id and part. Inside a part: a repeat, counted among the problems."""
    result = inspect(cohort)
    leak = {"kind": "bytes", "a": "case-0", "b": "case-50", "part_a": "train", "part_b": "val", "similarity": 1.0}
    assert result["leaks"] == [leak]
    assert [(r["kind"], r["a"], r["b"], r["same_label"]) for r in result["repeats"]] == [
        ("bytes", "case-1", "case-3", True),
        ("near-duplicate", "case-4", "case-5", False),
    ]
    count = {p["code"]: p["count"] for p in result["problems"]}
    assert count["exact-duplicate"] == 1 and count["near-duplicate"] == 1 and count["label-conflict"] == 1


@pytest.mark.parametrize(
    ("labels", "task", "names"),
    [
        ([float(i) for i in range(40)], "number", ("age",)),
        ([(1.0, float(i % 2)) for i in range(40)], "multilabel", ("a", "b")),
        ([0] * 40, "binary", ("normal", "ill")),
        ([None] * 40, "binary", ("normal", "ill")),
        ([0, 1, None], "binary", ("normal", "ill")),
    ],
)
def test_any_data_set_can_be_looked_at(tmp_path, labels, task, names):
    """Numbers, several labels, one class, no labels, three cases: inspected and drawn, never refused."""
    made = make_cohort(tmp_path, labels, pictures=fields(len(labels)), task=task, names=names)
    result = inspect(made)
    assert "<html" in render_sheet(made, json.loads(json.dumps(result)))


def test_the_page_stands_alone_and_shows_what_was_found(cohort, tmp_path):
    """No script, no address outside the page, names escaped; each pair and each class with its pictures."""
    page = render_sheet(cohort, inspect(cohort))
    assert not re.search(r"""<script|<link|@import|(?:src|href)=(?!["'](?:data:|\#))""", page)
    assert "films &amp; more" in page and "&lt;b&gt;broken" in page and "<b>broken" not in page
    assert page.count('class="pair"') == 3 and page.count("<img") == 2 * 3 + 2 * PER_CLASS
    assert page.count("<svg") == 3 and all(code in page for code in ("label-conflict", "exact-duplicate"))
    write_sheet(tmp_path / "sheet.html", cohort, inspect(cohort))
    assert (tmp_path / "sheet.html").read_text() == page
    (tmp_path / "taken").mkdir()
    with pytest.raises(Fault):
        write_sheet(tmp_path / "taken", cohort, inspect(cohort))


def test_inspect_without_near_duplicates_is_only_faster(cohort):
    """near=False leaves out near repeats and keeps everything else."""
    quick = inspect(cohort, near=False)
    assert quick["leaks"] == inspect(cohort)["leaks"]
    assert [r["kind"] for r in quick["repeats"]] == ["bytes"]
    assert np.isfinite([leak["similarity"] for leak in quick["leaks"]]).all()
