"""Tables of labels: columns guessed or declared, every file and every row accounted for."""

import numpy as np
import polars as pl
import pytest
from PIL import Image

from medserve.data.forms import list_items, write_yaml
from medserve.data.phantoms import make_phantoms
from medserve.errors import BadData


@pytest.fixture
def films(tmp_path):
    """Six images in images/, without a table."""
    (tmp_path / "images").mkdir()
    for k in range(6):
        values = np.random.default_rng(k).integers(0, 255, (12, 12), np.uint8)
        Image.fromarray(values).save(tmp_path / "images" / f"f{k}.png")
    return tmp_path


def table(folder, head, rows, name="labels.csv", sep=","):
    (folder / name).write_text("\n".join([head, *rows]).replace(",", sep) + "\n", encoding="utf-8")
    return folder


def test_columns_are_guessed(films):
    """File, label, patient, part and subgroups are found by name and by what the cells name."""
    rows = [
        f"images/f{k}.png,P{k // 2},{('ill', 'normal')[k % 2]},{('train', 'test')[k // 4]},{20 + k},F" for k in range(6)
    ]
    listing = list_items(table(films, "Path,Patient ID,Diagnosis,split,age,sex", rows))
    assert (listing.form, listing.task, listing.labels) == ("table", "binary", ("normal", "ill"))
    first = listing.items[0]
    assert (first.label, first.part, first.groups) == (1, "train", {"age": "18-39", "sex": "F"})
    assert len({i.patient for i in listing.items}) == 3 and not listing.independent
    assert "P0" not in repr(listing.items)
    assert (listing.files, listing.refused) == (7, [])


@pytest.mark.parametrize(
    "cell", ["images/f{k}.png", "./images/f{k}.png", "images\\f{k}.png", "f{k}.png", "f{k}", "F{k}.PNG"]
)
def test_files_are_found_by_any_of_their_names(films, cell):
    """A path, a file name, a bare name without extension."""
    listing = list_items(table(films, "id,y", [f"{cell.format(k=k)},{k % 2}" for k in range(6)]))
    assert [i.id for i in listing.items] == [f"images/f{k}.png" for k in range(6)]


@pytest.mark.parametrize(("sep", "name"), [(";", "labels.csv"), ("\t", "labels.tsv")])
def test_separators(films, sep, name):
    """Semicolons and tabs are separators too; a byte order mark is no part of a name."""
    table(films, "\ufefffile,label", [f"f{k}.png,{k % 2}" for k in range(6)], name, sep)
    assert len(list_items(films)) == 6


def test_missing_files_and_missing_labels_are_refused_by_name(films):
    """A row without its file, a file without its row, a row without a label: coded, named, counted; the rest works."""
    rows = ["f0.png,0", "f1.png,1", "f2.png,", "f3.png,0", "gone.png,1", "f4.png,1"]
    listing = list_items(table(films, "file,label", rows))
    assert {r.file: r.code for r in listing.refused} == {
        "gone.png": "label-file-missing",
        "images/f2.png": "label-missing",
        "images/f5.png": "label-missing",
    }
    assert len(listing) == 4
    assert listing.files == len(listing.items) + len(listing.refused) + 1  # and the table


def test_two_labels_for_one_file_both_stay(films):
    """A file named twice with two labels gives two items for the cleaning step to judge; a plain repeat gives one."""
    rows = [*(f"f{k}.png,{k % 2}" for k in range(6)), "f0.png,1", "f1.png,1"]
    listing = list_items(table(films, "file,label", rows))
    assert [i.id for i in listing.items if "f0" in i.id] == ["images/f0.png", "images/f0.png@2"]
    assert listing.files == 7 and any("repeat" in w for w in listing.source["warnings"])


@pytest.mark.parametrize(
    ("head", "cells", "task", "labels", "first"),
    [
        ("file,edema,mass", lambda k: f"{k % 2},{int(k > 2)}", "multilabel", ("edema", "mass"), (0.0, 0.0)),
        (
            "file,findings",
            lambda k: ("No Finding", "mass|edema", "mass")[k % 3],
            "multilabel",
            ("edema", "mass"),
            (0.0, 0.0),
        ),
        ("file,target", lambda k: f"{k + 0.25}", "number", ("target",), 0.25),
        ("file,pneumothorax", lambda k: f"{k % 2}", "binary", ("0", "1"), 0),
        ("file,grade", lambda k: "", None, None, None),
        ("file,class", lambda k: "abc"[k % 3], "multiclass", ("a", "b", "c"), 0),
    ],
)
def test_kinds_of_targets(films, head, cells, task, labels, first):
    """Flags, lists in a cell, decimals, one flag, classes; a table without any label says what it has."""
    table(films, head, [f"f{k}.png,{cells(k)}" for k in range(6)])
    if task is None:
        with pytest.raises(BadData, match="grade") as caught:
            list_items(films)
        assert caught.value.code == "columns-unknown"
        return
    listing = list_items(films)
    assert (listing.task, listing.labels, listing.items[0].label) == (task, labels, first)


def test_unknown_stays_unknown(films):
    """An empty cell, or CheXpert's -1, among label columns is NaN, never a negative."""
    listing = list_items(
        table(films, "file,edema,mass", ["f0.png,1.0,", "f1.png,-1,0", *(f"f{k}.png,0,1" for k in range(2, 6))])
    )
    assert np.array_equal([i.label for i in listing.items[:2]], [[1, np.nan], [np.nan, 0]], equal_nan=True)


def test_a_manifest_names_its_files(films):
    """A CSV or Parquet given by itself: paths count from its folder."""
    rows = {"file": [f"images/f{k}.png" for k in range(5)] + ["images/no.png"], "label": [0, 1, 0, 1, 1, 0]}
    pl.DataFrame(rows).write_parquet(films / "part.parquet")
    pl.DataFrame(rows).write_csv(films / "part.csv")
    for name in ("part.parquet", "part.csv"):
        listing = list_items(films / name)
        assert (len(listing), listing.files, listing.name) == (5, 7, "part")
        assert [(r.file, r.code) for r in listing.refused] == [("images/no.png", "label-file-missing")]


def test_tables_per_part(films):
    """train.csv and test.csv are official parts."""
    table(films, "file,label", [f"f{k}.png,{k % 2}" for k in range(4)], "train.csv")
    table(films, "file,label", [f"f{k}.png,{k % 2}" for k in (4, 5)], "test.csv")
    listing = list_items(films)
    assert [i.part for i in listing.items] == ["train"] * 4 + ["test"] * 2 and listing.files == 8


def test_the_declaration_overrides_the_guess(films):
    """Declared columns, classes and rules are taken; a wrong column lists its neighbours."""
    rows = [f"f{k}.png,S{k},{k % 3},{'ab'[k % 2]},{2000 + k}" for k in range(6)]
    table(films, "film,who,stage,site,year", rows, "iwpc.csv")
    declared = films / "dataset.yaml"
    base = "name: d\ntable: iwpc.csv\npatient: who\ninputs: {x: {kind: image, column: film}}\n"
    declared.write_text(base + "target: {column: stage, kind: ordinal, classes: ['0', '1', '2']}\nsubgroups: [site]\n")
    listing = list_items(films)
    assert (listing.task, listing.name, listing.subgroups, listing.files) == ("ordinal", "d", ("site",), 8)
    declared.write_text(base + "target: {column: stage}\nsplit: {by: time, column: year, test: 0.34}\n")
    assert [i.part for i in list_items(films).items] == ["train"] * 4 + ["test"] * 2
    declared.write_text(base + "target: {column: stage}\nsplit: {by: site, column: site, test: 0.5}\n")
    parts = {(i.groups.get("site"), i.part) for i in list_items(films).items}
    assert len(parts) == 2 and {p for _, p in parts} == {"train", "test"}
    declared.write_text(base + "target: {column: stge}\n")
    with pytest.raises(BadData, match="stage") as caught:
        list_items(films)
    assert caught.value.code == "column-missing"


def test_dicom_is_matched_by_its_identifiers(tmp_path):
    """A table keyed by SOPInstanceUID or by PatientID finds its DICOM files; the identifiers are not shown."""
    import pydicom

    make_phantoms(tmp_path, n=6, size=16)
    (tmp_path / "dataset.yaml").unlink()
    files = sorted((tmp_path / "images").iterdir())
    heads = [pydicom.dcmread(f, stop_before_pixels=True) for f in files]
    table(tmp_path, "SOPInstanceUID,label", [f"{h.SOPInstanceUID},{k % 2}" for k, h in enumerate(heads)])
    assert [i.label for i in list_items(tmp_path).items] == [0, 1, 0, 1, 0, 1]
    people = sorted({h.PatientID for h in heads})
    table(tmp_path, "PatientID,label", [*(f"{p},{k % 2}" for k, p in enumerate(people)), "SECRET,0"])
    listing = list_items(tmp_path)
    assert len(listing) == 6 and len({i.patient for i in listing.items}) == len(people)
    assert [r.code for r in listing.refused] == ["label-file-missing"] and "SECRET" not in repr(listing)


def test_broken_tables_are_named(films):
    """Ragged rows, doubled names, bytes that are no text."""
    for text, code in {
        b"file,label\nf0.png\n": "table-unreadable",
        b"file,file\nf0.png,1\n": "table-unreadable",
        b"file,label\n": "table-empty",
        b"a\0b,c\n1,2\n": "table-unreadable",
    }.items():
        (films / "labels.csv").write_bytes(text)
        with pytest.raises(BadData, match="labels.csv") as caught:
            list_items(films / "labels.csv")
        assert caught.value.code == code


def test_what_was_guessed_can_be_written_and_read_back(films):
    """`--write-yaml`: the written declaration gives the same items."""
    rows = [f"f{k}.png,P{k // 2},{('ill', 'normal')[k % 2]},{('train', 'test')[k // 4]}" for k in range(6)]
    first = list_items(table(films, "path,patient,diagnosis,split", rows))
    (films / "dataset.yaml").write_text(write_yaml(first))
    again = list_items(films)
    assert again.items == first.items and again.labels == first.labels and again.name == first.name
