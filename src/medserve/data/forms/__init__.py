"""The forms a data set may come in; one path, recognised.

    listing = list_items(Path("pneumoniamnist.npz"), key=pseudonym_key(settings))

A MedMNIST-style `.npz`; a folder per class (also below train/, val/, test/); a folder of files with a table of labels;
a table of cases (CSV, Parquet, JSON lines), or of the files that hold them; UCR time series; files of tagged words; a
folder with a `dataset.yaml`.
No pixel is read here.
"""

from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from medserve.data.declaration import Dataset, parse
from medserve.data.forms.arrays import list_npz
from medserve.data.forms.conll import conll_files, list_conll
from medserve.data.forms.files import TABLES, looks_like_image, not_image, relative, walk
from medserve.data.forms.folders import class_folders, list_folders
from medserve.data.forms.listing import Listing, part_of
from medserve.data.forms.records import is_record_table, list_records, list_ucr, ucr_files
from medserve.data.forms.tables import list_table, usable
from medserve.data.forms.visits import list_visits
from medserve.data.forms.write import write_yaml
from medserve.data.pseudonym import DEFAULT_KEY
from medserve.errors import BadData, Usage
from medserve.types import PARTS, Part

__all__ = ["Listing", "list_items", "write_yaml"]
DECLARATION = ("dataset.yaml", "dataset.yml")
_TABLE_NAMES = ("labels", "label", "metadata", "manifest", "annotations", "index", "data", "cases")
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".gz")


def list_items(path: Path, *, key: bytes = DEFAULT_KEY) -> Listing:
    """What there is to read at `path`.

    Args:
        key: of the patients' pseudonyms, see `pseudonym_key`.

    Raises: Usage "data-missing": nothing stands there. BadData: "zip-archive", "form-unknown", "folder-empty", and the
        codes of the forms ("npz-...", "table-...", "column-missing", "declaration-...").
    """
    path = Path(path)
    if not path.exists():
        raise Usage("data-missing", f"No file or folder {path}.", hint="Check the path of the data set.")
    path = path.absolute()
    if path.is_dir():
        return _list_folder(path, key)
    if path.name.lower() in DECLARATION:
        return _list_folder(path.parent, key)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return list_npz(path, None, key)
    if suffix in TABLES and is_record_table(path):
        return list_records(path.parent, [(path, None)], None, key, path=path)
    if suffix in TABLES:
        return list_table(path.parent, [(path, None)], None, None, key, path=path)
    if suffix in _ARCHIVES:
        raise BadData(
            "zip-archive", f"{path.name} is an archive.", hint="Unpack it into a folder and give that folder instead."
        )
    raise BadData(
        "form-unknown",
        f"{path.name} is no form of data set that is known.",
        hint="Give an .npz, a folder per class, a folder with a table of labels, a CSV or Parquet table, or a folder "
        "with a dataset.yaml.",
    )


def _list_folder(root: Path, key: bytes) -> Listing:
    files = walk(root)
    if not files:
        raise BadData("folder-empty", f"{root.name} holds no files.", hint="Give a folder that holds the images.")
    said = next((f for f in files if f.parent == root and f.name.lower() in DECLARATION), None)
    if said is not None:
        files.remove(said)
        return _list_declared(root, files, parse(said.read_bytes(), name=said.name), key)
    if ucr_files(files):
        return list_ucr(root, files, key)
    if tagged := conll_files(root, files):
        return list_conll(root, files, tagged, None, key)
    arrays = [f for f in files if f.suffix.lower() == ".npz"]
    tables = _tables(root, files)
    if tables and not arrays and not _images(files, tables) and all(is_record_table(t) for t, _ in tables):
        return list_records(root, tables, None, key, path=root)
    if tables and (usable(tables, root, files) or class_folders(_images(files, tables), root) < 2):
        chosen = {t for t, _ in tables}
        return list_table(root, tables, [f for f in files if f not in chosen], None, key, path=root)
    if len(arrays) == 1 and len(files) <= 3:
        return _with_others(list_npz(arrays[0], None, key), root, files, arrays[0])
    return list_folders(root, files, None, key)


def _list_declared(root: Path, files: list[Path], declared: Dataset, key: bytes) -> Listing:
    """A folder with its declaration; `files` narrows what belongs to the data set."""
    marks = declared.target is not None and declared.target.kind == "tags" and declared.table is None
    if marks and (tagged := conll_files(root, files)):
        return list_conll(root, files, tagged, declared, key, read=1)
    if declared.target is not None and declared.target.kind == "medicines":
        return list_visits(root, declared, key, path=root, read=1)
    table = root / declared.table if declared.table else None
    bare = not declared.inputs and table in files and table is not None and table.suffix.lower() in TABLES
    if declared.records or (bare and table and is_record_table(table, target=declared.target is not None)):
        named_tables = [(root / declared.table, None)] if declared.table else _tables(root, files)
        for named, _ in named_tables:
            if named not in files:
                raise BadData(
                    "label-file-missing", f"dataset.yaml names the table {named.name}, which is not there.",
                    hint="`table` is a path from the folder of dataset.yaml.",
                )  # fmt: skip
        return list_records(root, named_tables, declared, key, path=root, read=1)
    if declared.table is not None:
        table = root / declared.table
        if table not in files:
            raise BadData(
                "label-file-missing", f"dataset.yaml names the table {declared.table}, which is not there.",
                hint="`table` is a path from the folder of dataset.yaml.",
            )  # fmt: skip
        others = [f for f in files if f != table and _chosen(f, root, declared.files)]
        return list_table(root, [(table, None)], others, declared, key, path=root, read=1)
    chosen = [f for f in files if _chosen(f, root, declared.files)]
    if not chosen:
        raise BadData(
            "folder-empty", f"No file fits `files: {declared.files}`.", hint="It is a pattern such as images/**/*.dcm."
        )
    arrays = [f for f in chosen if f.suffix.lower() == ".npz"]
    if len(arrays) == 1 and (len(chosen) == 1 or class_folders(_images(chosen, []), root) == 0):
        return _with_others(list_npz(arrays[0], declared, key), root, [*chosen, root / "dataset.yaml"], arrays[0])
    tables = _tables(root, chosen)
    if tables and (declared.patient or (declared.target and declared.target.column)):
        others = [f for f in chosen if f not in {t for t, _ in tables}]
        return list_table(root, tables, others, declared, key, path=root, read=1)
    return list_folders(root, chosen, declared, key, read=1)


def _chosen(file: Path, root: Path, pattern: str | None) -> bool:
    """`**/` stands for any folders, none included."""
    if pattern is None:
        return True
    name = relative(file, root)
    return fnmatch(name, pattern) or fnmatch(name, pattern.replace("**/", ""))


def _tables(root: Path, files: list[Path]) -> list[tuple[Path, Part | None]]:
    """The tables of a folder: one per part, the one called labels, or the only one."""
    found = [f for f in files if f.parent == root and f.suffix.lower() in TABLES]
    by_part: list[tuple[Path, Part | None]] = [(f, part) for f in found if (part := part_of(f.stem)) is not None]
    if len(by_part) > 1:
        return sorted(by_part, key=lambda t: PARTS.index(t[1] or "train"))
    for name in _TABLE_NAMES:
        named = [f for f in found if f.stem.lower() == name]
        if named:
            return [(named[0], None)]
    return [(found[0], None)] if len(found) == 1 else []


def _images(files: list[Path], tables: list[tuple[Path, Part | None]]) -> list[Path]:
    others = {t for t, _ in tables}
    return [f for f in files if f not in others and looks_like_image(f)]


def _with_others(listing: Listing, root: Path, files: list[Path], array: Path) -> Listing:
    """An array file in a folder: the other files are counted too."""
    others = [f for f in files if f != array and f.name.lower() not in DECLARATION]
    refused = [not_image(relative(f, root)) for f in others]
    return replace(listing, path=root, files=len(files), refused=refused)
