"""Which files a table's row means: by path, by file name, by name without extension, by DICOM identifier.

index = FileIndex(root, files)
index.find("IMG_0007")              # [root/images/IMG_0007.dcm]
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from medserve.data.forms.files import NIFTI, relative


class FileIndex:
    """The files of a data set by every name that a table may use for them."""

    def __init__(self, root: Path, files: Iterable[Path]) -> None:
        self.root = root
        self._paths: dict[str, Path] = {}
        self._names: dict[str, list[Path]] = defaultdict(list)
        self._stems: dict[str, list[Path]] = defaultdict(list)
        self._folders: dict[str, list[Path]] = defaultdict(list)
        for path in files:
            name = relative(path, root)
            self._paths[name] = path
            self._names[path.name.lower()].append(path)
            self._stems[stem(path.name).lower()].append(path)
            for above in PurePosixPath(name).parents:
                if above.name:
                    self._folders[above.as_posix()].append(path)

    def find(self, cell: str) -> list[Path]:
        """Files that a cell names: one; several when it names a folder; none; or several that share the name.

        A cell with folders in it must fit the end of the file's path, so `a/1.png` is never `b/1.png`.
        """
        name = cell.replace("\\", "/").removeprefix("./").rstrip("/")
        if not name:
            return []
        if name in self._paths:
            return [self._paths[name]]
        if name in self._folders:
            return self._folders[name]
        last = name.rsplit("/", 1)[-1].lower()
        found = self._names.get(last) or self._stems.get(last) or []
        if "/" in name and not name.startswith("/"):
            wanted = tuple(p.lower() for p in name.split("/")[:-1] if p not in (".", ".."))
            found = [p for p in found if _ends(p, wanted)]
        return found

    def is_folder(self, cell: str) -> bool:
        return cell.replace("\\", "/").removeprefix("./").rstrip("/") in self._folders

    def hits(self, cells: list[str]) -> int:
        return sum(bool(self.find(c)) for c in cells)


class DirectIndex(FileIndex):
    """For a table on its own: cells are paths from the table's folder, or absolute; only named files are looked at."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, ())

    def find(self, cell: str) -> list[Path]:
        if not cell or "\0" in cell or len(cell) > 1024:
            return []
        path = self.root / cell.replace("\\", "/")
        try:
            return [path] if path.is_file() else []
        except OSError:
            return []


def stem(name: str) -> str:
    """A file name without its extension; `.nii.gz` is one extension, the last number of a UID is none."""
    for ending in (*NIFTI, ".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".ima"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def dicom_ids(files: Iterable[Path]) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """(by SOPInstanceUID, by PatientID) of the DICOM files among `files`; headers are read up to the pixels.

    The raw identifiers stay in the caller's hands for the matching and go no further.
    """
    from pydicom import config, dcmread
    from pydicom.errors import InvalidDicomError

    uids: dict[str, list[Path]] = defaultdict(list)
    people: dict[str, list[Path]] = defaultdict(list)
    tags = ["SOPInstanceUID", "PatientID"]
    with config.disable_value_validation():
        for path in files:
            try:
                ds = dcmread(path, stop_before_pixels=True, specific_tags=tags)
                uid, person = str(ds.get("SOPInstanceUID", "")), str(ds.get("PatientID", "")).strip()
            except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, AttributeError, TypeError):
                continue  # the reader will say what is wrong with it
            if uid:
                uids[uid].append(path)
            if person:
                people[person].append(path)
    return uids, people


def _ends(path: Path, wanted: tuple[str, ...]) -> bool:
    above = tuple(p.lower() for p in path.parts[:-1])
    return not wanted or above[-len(wanted) :] == wanted
