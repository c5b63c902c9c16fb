"""Cases and cohorts: light records of what there is to read, before and after it is read.

    items  = forms.list_items(path)              # what the data set says there is
    cohort = prepare(items, transforms, folder)  # every item read once: a Case, or a coded Refused

Pixels never live in a cohort. Prepared images stand in one file of fixed-size records on disk (`Shelf`) and are read
with `pread`, so memory does not grow with the number of cases.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medserve.errors import Fault
from medserve.types import Array, Part

Label = int | float | tuple[float, ...] | None  # class index | number | one 0/1/nan per label | unlabelled


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to read. `file` is what messages name; `row` picks a record of an .npz (`part`, index)."""

    id: str
    file: Path
    row: tuple[str, int] | None = None
    label: Label = None
    patient: str | None = None  # pseudonymous key (see `pseudonym`), None: not declared
    part: Part | None = None  # official part, when the data has one
    groups: Mapping[str, str] = field(default_factory=dict)  # subgroup columns: sex, site ...
    drawn: str | None = None  # what a bootstrap draws whole, where it is not the patient
    family: str = ""  # the value of the column by which the parts are dealt


@dataclass(frozen=True, slots=True)
class Case:
    """One item that was read; `index` is its record on the shelf."""

    id: str
    file: str
    index: int
    label: Label
    patient: str
    part: Part | None
    groups: Mapping[str, str]
    sha256: bytes  # of the source bytes
    pixels: bytes  # digest of the decoded values: equal means the same image whatever the file
    hash: int  # 64-bit perceptual hash
    modality: str | None
    unit: str | None
    colour: bool
    blank: bool
    shape: tuple[int, ...]
    header: Mapping[str, str]
    drawn: str | None = None  # see `Item`


@dataclass(frozen=True, slots=True)
class Refused:
    file: str
    code: str
    message: str


class Shelf:
    """Fixed-size records in one file, read by position; nothing is mapped or cached in the process.

    `shape` is one record, for instance (1, 28, 28) uint8 for a picture, (37,) float32 for a case of columns.
    """

    def __init__(self, path: Path, shape: Sequence[int], *, write: bool = False, dtype: str = "uint8") -> None:
        self.path, self.shape, self.dtype = path, tuple(shape), np.dtype(dtype)
        self.record = int(np.prod(self.shape)) * self.dtype.itemsize  # bytes
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC if write else os.O_RDONLY
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise Fault("shelf-unreadable", f"Cannot open {path.name}: {error.strerror}.") from error

    def __len__(self) -> int:
        return os.fstat(self._fd).st_size // self.record

    def put(self, index: int, value: Array) -> None:
        assert value.shape == self.shape and value.dtype == self.dtype
        data, done = memoryview(np.ascontiguousarray(value).tobytes()), 0
        try:
            while done < self.record:  # a nearly full disk takes a part, and refuses the rest
                done += os.pwrite(self._fd, data[done:], index * self.record + done)
        except OSError as error:
            raise Fault(
                "disk-full",
                f"Cannot write {self.path}: {error.strerror}.",
                hint="Free some space and run the same command again.",
            ) from error

    def take(self, indices: Sequence[int] | Array) -> Array:
        """Returns: (B, *shape), in the order asked."""
        out = np.empty((len(indices), *self.shape), self.dtype)
        for row, index in enumerate(indices):
            data = os.pread(self._fd, self.record, int(index) * self.record)
            out[row] = np.frombuffer(data, self.dtype).reshape(self.shape)
        return out

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Cohort:
    """All cases of one data set with where they come from. `thumbs`: (1, 64, 64) grey thumbnails in the same order.

    labels: class names in index order; for task "number" the one target name.
    fields, values, troubles: of record cases: their inputs, the parsed values on disk, and what could not be used. A
        record cohort has no thumbnails, and no shelf before its fields are fitted.
    """

    name: str
    task: str
    labels: tuple[str, ...]
    cases: tuple[Case, ...]
    refused: tuple[Refused, ...]
    files: int
    shelf: Shelf | None
    thumbs: Shelf | None
    digest: str  # sha256 over ids, labels and source digests
    source: Mapping[str, Any] = field(default_factory=dict)  # source, licence, citation, public, synthetic ...
    independent: bool = False  # no patient key was declared: each case counts as its own patient
    fields: tuple[Any, ...] = ()
    values: Any = None  # data.blobs.Blobs
    troubles: tuple[Any, ...] = ()  # data.records.Trouble
    families: tuple[str, ...] = ()  # of each case, where the split is by families: `family` says which
    family: str = ""
    rule: Mapping[str, Any] = field(default_factory=dict)  # of the split, as declared: by, test, seed, column, order
    drawn: str = ""  # the column whose values a bootstrap draws whole, where it is not the patient

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def is_records(self) -> bool:
        return self.values is not None

    @property
    def molecule(self) -> str:
        """The name of the input, where a case is one molecule and nothing else; otherwise ""."""
        return str(self.fields[0].name) if [f.kind for f in self.fields] == ["molecule"] else ""

    @property
    def called(self) -> tuple[str, str]:
        """What messages call the content of a case, one and several."""
        if self.molecule:
            return "molecule", "molecules"
        return ("record", "records") if self.is_records and self.thumbs is None else ("picture", "pictures")
