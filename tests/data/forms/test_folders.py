"""A folder per class: classes, parts, and every file accounted for."""

import numpy as np
import pytest
from PIL import Image

from medserve.data.forms import list_items
from medserve.errors import BadData, Usage


def png(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (12, 12), np.uint8)
    Image.fromarray(values).save(path)
    return path


def test_classes_are_folders_and_the_negative_comes_first(tmp_path):
    """Of two classes, the one that says "no" has index 0; deeper files belong to their class."""
    for name in ("abnormal/1.png", "abnormal/deep/2.png", "normal/3.png"):
        png(tmp_path / name)
    listing = list_items(tmp_path)
    assert (listing.form, listing.task, listing.labels) == ("folder-per-class", "binary", ("normal", "abnormal"))
    assert {i.id: i.label for i in listing.items} == {"abnormal/1.png": 1, "abnormal/deep/2.png": 1, "normal/3.png": 0}


@pytest.mark.parametrize(
    ("folder", "part"),
    [("train", "train"), ("Validation", "val"), ("dev", "val"), ("testing", "test"), ("cal", "calibration")],
)
def test_part_folders_are_honoured(tmp_path, folder, part):
    """train/ val/ test/ above the classes are official parts, under their usual names."""
    png(tmp_path / folder / "a" / "1.png")
    png(tmp_path / folder / "b" / "2.png")
    assert {(i.part, i.label) for i in list_items(tmp_path).items} == {(part, 0), (part, 1)}


def test_every_file_is_read_or_refused(tmp_path):
    """Notes, hidden files and files outside the classes are refused with a code; the counts add up."""
    png(tmp_path / "a" / "1.png")
    png(tmp_path / "b" / "2.png")
    png(tmp_path / "stray.png")
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"x")
    listing = list_items(tmp_path)
    assert {r.file: r.code for r in listing.refused} == {
        "stray.png": "label-missing",
        "README.md": "not-an-image",
        "a/.DS_Store": "hidden-file",
    }
    assert listing.files == len(listing.items) + len(listing.refused) == 5


def test_a_folder_without_labels_is_still_listed(tmp_path):
    """`inspect` can look at a bare folder of images."""
    png(tmp_path / "1.png")
    listing = list_items(tmp_path)
    assert (listing.labels, listing.items[0].label, listing.form) == ((), None, "files")


def test_declared_classes_order_the_folders(tmp_path):
    """A declaration may name and order the class folders; an undeclared folder is an error."""
    png(tmp_path / "early" / "1.png")
    png(tmp_path / "late" / "2.png")
    declared = tmp_path / "dataset.yaml"
    declared.write_text("name: x\ntarget: {kind: ordinal, classes: [none, early, late]}\n")
    listing = list_items(tmp_path)
    assert (listing.task, listing.labels, [i.label for i in listing.items]) == (
        "ordinal",
        ("none", "early", "late"),
        [1, 2],
    )
    declared.write_text("name: x\ntarget: {classes: [early]}\n")
    with pytest.raises(BadData, match="late"):
        list_items(tmp_path)


def test_what_is_no_data_set_says_what_would_be(tmp_path):
    """A missing path, an empty folder, an archive, another file."""
    with pytest.raises(Usage) as missing:
        list_items(tmp_path / "nowhere")
    assert missing.value.code == "data-missing"
    (tmp_path / "x.zip").write_bytes(b"PK")
    (tmp_path / "x.exe").write_bytes(b"MZ")
    (tmp_path / "empty").mkdir()
    for name, code in {"x.zip": "zip-archive", "x.exe": "form-unknown", "empty": "folder-empty"}.items():
        with pytest.raises(BadData) as caught:
            list_items(tmp_path / name)
        assert caught.value.code == code and caught.value.hint
