"""The forms a data set may come in; one path, recognised.

    listing = list_items(Path("pneumoniamnist.npz"), key=pseudonym_key(settings))

A MedMNIST-style `.npz`; a folder per class (also below train/, val/, test/); a folder of files with a table of labels;
a CSV or Parquet manifest; a folder with a `dataset.yaml`. No pixel is read here.
"""

from pathlib import Path

from medserve.data.declaration import Dataset, parse
from medserve.data.forms.arrays import list_npz
from medserve.data.forms.files import TABLES, walk
from medserve.data.forms.folders import class_folders, list_folders
from medserve.data.forms.listing import Listing
from medserve.data.pseudonym import DEFAULT_KEY
from medserve.errors import BadData, Usage

__all__ = ["Listing", "list_items"]
DECLARATION = ("dataset.yaml", "dataset.yml")


def list_items(path: Path, *, key: bytes = DEFAULT_KEY) -> Listing:
    """What there is to read at `path`.

    Args:
        key: of the patients' pseudonyms, see `pseudonym_key`.

    Raises: Usage "data-missing": nothing stands there. BadData: "zip-archive", "form-unknown", and the codes of the
        forms ("npz-...", "table-...", "declaration-...").
    """
    path = Path(path)
    if not path.exists():
        raise Usage("data-missing", f"No file or folder {path}.", hint="Check the path of the data set.")
    if path.is_dir():
        return _list_folder(path.absolute(), key)
    if path.name.lower() in DECLARATION:
        return _list_folder(path.absolute().parent, key)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return list_npz(path.absolute(), None, key)
    if suffix in (".zip", ".tar", ".tgz", ".7z", ".rar"):
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
    declared: Dataset | None = None
    said = next((f for f in files if f.parent == root and f.name.lower() in DECLARATION), None)
    if said is not None:
        declared = parse(said.read_bytes(), name=said.name)
        files.remove(said)
    return list_folders(root, files, declared, key, read=int(said is not None))
