"""Files of a folder: all of them, in a stable order, each to be read or refused.

found, refused = walk(folder)
"""

import os
from collections.abc import Collection
from pathlib import Path

from medserve.data.cohort import Refused

_OTHER = """
.md .txt .rst .html .htm .pdf .doc .docx .ppt .pptx .xls .xlsx .ods .json .jsonl .ndjson .xml .yaml .yml .toml .ini
.cfg .py .r .m .ipynb .sh .bat .log .db .sqlite .h5 .hdf5 .pkl .pickle .pt .pth .joblib .zip .gz .tar .tgz .7z .rar
.csv .tsv .parquet .npz .npy .sdf .sd .mol2 .smi .smiles .mp4 .avi
.wav .edf .hea .dat .mat .sas7bdat .sav .exe .dll .so .lock
"""
NOT_IMAGES = frozenset(_OTHER.split())
TABLES = (".csv", ".tsv", ".parquet", ".jsonl", ".sdf", ".sd", ".mol2", ".smi", ".smiles")
NIFTI = (".nii", ".nii.gz")
_JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx", "license", "licence", "readme", "sha256sums", "md5sums"})


def walk(folder: Path) -> list[Path]:
    """Every file below `folder`, by name, links to folders not followed."""
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(root, name) for name in sorted(names)]
    return found


def looks_like_image(path: Path) -> bool:
    """False for files whose name says that they are something else; the reader judges the rest by their bytes."""
    name = path.name.lower()
    if name.endswith(NIFTI):
        return True
    return not name.startswith(".") and path.suffix.lower() not in NOT_IMAGES and name not in _JUNK


def not_image(name: str) -> Refused:
    if name.rsplit("/", 1)[-1].startswith("."):
        return Refused(name, "hidden-file", "A hidden file; such files are not read.")
    return Refused(name, "not-an-image", "Not a file of images, by its name.")


def relative(path: Path, root: Path) -> str:
    """The name of a file in messages and ids: its path below the data set, with forward slashes."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()


def split_images(files: Collection[Path], root: Path) -> tuple[list[Path], list[Refused]]:
    """(files to read, files refused by name)."""
    images = [p for p in files if looks_like_image(p.relative_to(root))]
    chosen = set(images)
    return images, [not_image(relative(p, root)) for p in files if p not in chosen]
