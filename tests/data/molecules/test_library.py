"""A library is read row by row in every form, and a torn row costs nothing but itself."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from medserve.data.molecules.library import MOST_RECORD, Entry, Library
from medserve.errors import BadData

BLOCK = """{name}
     made

  2  1  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0
    1.0000    0.0000    0.0000 O   0  0
  1  2  1  0
M  END
"""


def told(path: Path, **said: str) -> list[Entry]:
    return list(Library.open(path, **said).entries())


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["l.csv", "l.csv.gz", "l.tsv", "l.parquet"])
def test_columns_of_a_table_are_guessed_or_said(tmp_path, name):
    """The structure by its name, the name by its name, the label only where it is asked for; also from the middle."""
    path = tmp_path / name
    if name.endswith("parquet"):
        pl.DataFrame({"n": [1, 2], "SMILES": ["CCO", "CO"], "ID": ["a", "b"], "y": [1, 0]}).write_parquet(path)
    else:
        text = "n,SMILES,ID,y\n1, CCO ,a,1\n\n2,CO,b,0\n"
        write(path, text.replace(",", "\t") if "tsv" in name else text)
    assert told(path) == [Entry(0, "a", "CCO"), Entry(1, "b", "CO")]
    library = Library.open(path, column="ID", name="n", label="y")
    assert list(library.entries(1)) == [Entry(1, "2", "b", "0")]
    assert library.count() >= 2


def test_a_column_that_is_not_guessed_is_asked_for(tmp_path):
    """No name tells the structure: an error that lists the columns; one that is not there: with its neighbours."""
    path = write(tmp_path / "l.csv", "ligand,k\nCCO,1\n")
    with pytest.raises(BadData) as error:
        Library.open(path)
    assert error.value.code == "column-missing" and "--column" in error.value.hint
    assert [entry.text for entry in told(path, column="ligand")] == ["CCO"]
    with pytest.raises(BadData, match="ligand"):
        Library.open(path, column="ligands")


def test_a_smiles_file_is_read_with_and_without_names(tmp_path):
    """One a line; comments and empty lines are none."""
    path = write(tmp_path / "l.smi.gz", "# made\nCCO ethanol, pure\n\nCO\n")
    assert told(path) == [Entry(0, "ethanol, pure", "CCO"), Entry(1, "2", "CO")]


def test_a_broken_record_of_an_sdf_leaves_the_others(tmp_path):
    """Torn in the middle, or longer than any molecule: those before and after it are whole, with their fields."""
    good = BLOCK.format(name="a") + "> <y>\nactive\n\n$$$$\n"
    long = "b\n" + ("x" * 79 + "\n") * (MOST_RECORD // 80 + 10) + "$$$$\n"
    torn = "c\n     made\n\n  2  1  0  0\n    0.0 bad\n$$$$\n"
    path = write(tmp_path / "l.sdf", good + long + torn + good.replace("a\n", "d\n", 1))
    found = told(path, label="y")
    assert [(entry.row, entry.name, entry.label) for entry in found] == [
        (0, "a", "active"), (1, "2", ""), (2, "c", ""), (3, "d", "active")
    ]  # fmt: skip
    assert found[1].text is None and found[3].text and "M  END" in found[3].text
    assert Library.open(path).count() == 4


@pytest.mark.parametrize(("name", "data", "code"), [
    ("l.csv", b"", "table-empty"), ("l.csv", b"smiles\n", "table-empty"), ("l.smi", b"\n\n", "table-empty"),
    ("l.sdf", b"", "table-empty"), ("l.xlsx", b"PK", "table-unreadable"), ("l.parquet", b"PAR1", "table-unreadable"),
    ("l.csv.gz", b"smiles\nCCO\n", "table-unreadable"), ("l.csv", b"a\0b\nC\n", "table-unreadable"),
])  # fmt: skip
def test_what_is_no_library_is_refused(tmp_path, name, data, code):
    """Empty files, other kinds, torn archives: a code, never a traceback."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadData) as error:
        Library.open(tmp_path / name)
    assert error.value.code == code


@pytest.mark.parametrize("spoil", [lambda data: data[:-20], lambda data: data[:60] + bytes(40) + data[100:]])
def test_a_torn_or_spoilt_archive_says_so(tmp_path, spoil):
    """While it is counted and while it is read: an error with the file's name, and no crash."""
    path = tmp_path / "l.smi.gz"
    path.write_bytes(spoil(gzip.compress("".join(f"{'C' * (n % 90 + 1)}O m{n * n}\n" for n in range(999)).encode())))
    for ask in (lambda found: found.count(), lambda found: list(found.entries())):
        with pytest.raises(BadData) as error:
            ask(Library.open(path))
        assert error.value.code == "table-unreadable" and "l.smi.gz" in str(error.value)


def test_a_row_of_too_many_cells_is_one_bad_row(tmp_path):
    """A name with a comma and no quotes would put another cell under the structure; an empty one moves nothing."""
    path = write(tmp_path / "l.csv", "name,smiles\n1,C,CCO\nb,CO,\n")
    assert [entry.text for entry in told(path)] == [None, "CO"]


def test_a_cell_beyond_all_bounds_is_one_bad_row(tmp_path):
    """The row is told as unreadable; the next one is read."""
    path = write(tmp_path / "l.csv", 'smiles,id\n"' + "C" * 200_000 + '",a\nCCO,b\n')
    assert told(path) == [Entry(0, "1", None), Entry(1, "b", "CCO")]
