"""What a data set says there is: the result of every form, before any pixel is read.

    listing = list_items(Path("chest"))
    listing.items[0].file, listing.items[0].label, listing.labels

Each file of the data set stands either in `items` (or was read as a table, a declaration) or in `refused`:
`files` is their sum.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from medserve.data.cohort import Item, Refused
from medserve.data.declaration import Dataset, Input
from medserve.data.pseudonym import DEFAULT_KEY
from medserve.types import Part

PART_NAMES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "tr": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "tune": "val",
    "calibration": "calibration",
    "calib": "calibration",
    "cal": "calibration",
    "test": "test",
    "testing": "test",
    "holdout": "test",
}
NEGATIVE = re.compile(
    r"^(0|no|none|neg|negative|normal|healthy|control|benign|absent|false|no[ _-]?findings?|clear|background)$", re.I
)


class RawCases(Protocol):
    """Where the values of record cases stand, before any field has parsed them."""

    def __call__(self, item: Item) -> Mapping[str, Any]:
        """Input name -> raw value, as the field's `parse` takes it. Raises: Refusal: the case cannot be read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One data set, listed.

    form: how it was recognised: "npz", "folder-per-class", "table", "files".
    labels: class names in index order ((negative, positive) for binary); the one target name for a number; empty when
        nothing is labelled.
    files: everything met: the files of the folder, and those that a table names.
    source: source, licence, citation, public, synthetic, and `warnings`, sentences that a person should see.
    independent: declared, or no patient key found yet (DICOM files may still bring one when they are read).
    split: the rule that the data set declares, else None; official parts stand on the items.
    key: of the pseudonyms; `prepare` uses it for identifiers found inside the files.
    medicines: whether the labels are the codes of medicines to be prescribed at a visit (task multilabel).
    inputs, raw: of record cases (kind "record"): what is declared or guessed of each input, and where its values are.
    """

    path: Path
    name: str
    form: str
    task: str
    labels: tuple[str, ...]
    items: list[Item]
    files: int
    refused: list[Refused] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    independent: bool = True
    kind: Literal["image", "volume", "record"] = "image"
    inputs: dict[str, Input] = field(default_factory=dict)
    raw: RawCases | None = field(default=None, repr=False)
    unit: str | None = None  # of a number
    medicines: bool = False
    split: dict[str, Any] | None = None
    subgroups: tuple[str, ...] = ()
    laterality_safe: bool = False
    columns: dict[str, str] = field(default_factory=dict)  # role -> column of the table, as declared or guessed
    tables: tuple[str, ...] = ()  # file names of the tables
    declaration: Dataset | None = None
    key: bytes = field(default=DEFAULT_KEY, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def asked(self) -> str:
        """What recipes answer: the task, or "medicines"."""
        return "medicines" if self.medicines else self.task


def part_of(name: str) -> Part | None:
    """The part that a folder or a cell names ("Validation" -> "val"), or None."""
    return PART_NAMES.get(name.strip().lower())


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in index order: numbers by value, words by alphabet; of two, the one that says "no" comes first."""
    found = sorted(set(names), key=lambda n: (not is_number(n), float(n) if is_number(n) else 0.0, n))
    if len(found) == 2 and NEGATIVE.match(found[1]) and not NEGATIVE.match(found[0]):
        found.reverse()
    return tuple(found)


def class_task(classes: tuple[str, ...]) -> str:
    return "binary" if len(classes) == 2 else "multiclass"


def warn_positive(classes: tuple[str, ...]) -> list[str]:
    """A sentence when nothing in two names tells which is the positive one."""
    if len(classes) != 2 or NEGATIVE.match(classes[0]):
        return []
    return [
        f"The positive class is taken to be {classes[1]!r}; declare `classes: [negative, positive]` to say otherwise."
    ]


def is_number(text: str) -> bool:
    """Whether a cell is written as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
