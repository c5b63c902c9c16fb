"""The rows of a table, joined to their files: an item per labelled file, a refusal for what does not fit.

rows = files_of_rows(table, roles, index, files)        # what each row names
found = join_rows(rows, labels, root, people, facts, parts)
found.items, found.refused
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medserve.data.cohort import Item, Refused
from medserve.data.forms import table as tb
from medserve.data.forms.files import looks_like_image, not_image, relative
from medserve.data.forms.labels import Labels, Unlabelled
from medserve.data.forms.match import FileIndex, dicom_ids
from medserve.errors import BadData
from medserve.types import Part

Row = tuple[str, list[Path], tuple[str, str] | None]  # (the cell, its files, or what is wrong)


@dataclass(slots=True)
class Joined:
    """`seen`: the labels that each file got, by its name; `repeats`: rows that say again what an earlier one said."""

    root: Path
    items: list[Item] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    seen: dict[str, list[str]] = field(default_factory=dict)
    repeats: int = 0

    def add(
        self, file: Path, row: int, labels: Labels, patient: str | None, part: Part | None, groups: Mapping
    ) -> None:
        """One file of one row. A second, different label gives a second item: the cleaning step judges it."""
        name = relative(file, self.root)
        try:
            label = labels.label(row)
        except Unlabelled as error:
            if name not in self.seen:
                self.refused.append(Refused(name, error.code, error.message))
                self.seen[name] = []
            return
        before = self.seen.setdefault(name, [])
        if repr(label) in before:
            self.repeats += 1
            return
        before.append(repr(label))
        id = name if len(before) == 1 else f"{name}@{len(before)}"
        self.items.append(Item(id, file, None, label, patient, part, groups))

    def finish(self, files: Sequence[Path]) -> None:
        """One refusal per file, none for a file that has a label after all; files that no row names."""
        labelled = {name for name, labels in self.seen.items() if labels}
        self.refused = list({r.file: r for r in reversed(self.refused) if r.file not in labelled}.values())[::-1]
        mentioned = set(self.seen) | {r.file for r in self.refused}
        for file in files:
            name = relative(file, self.root)
            if name not in mentioned:
                image = looks_like_image(file.relative_to(self.root))
                missing = Refused(name, "label-missing", "No row names this file.")
                self.refused.append(missing if image else not_image(name))


def join_rows(
    rows: Sequence[Row],
    labels: Labels,
    root: Path,
    patients: Sequence[str | None],
    groups: Sequence[Mapping[str, str]],
    parts: Sequence[Part | None],
) -> Joined:
    """Items of all rows, in order; patients, groups and parts have one entry a row."""
    joined = Joined(root)
    for row, (cell, found, problem) in enumerate(rows):
        if problem:
            joined.refused.append(Refused(cell, *problem))
        for file in found:
            joined.add(file, row, labels, patients[row], parts[row], groups[row])
    return joined


def files_of_rows(table: tb.Table, roles: dict[str, str], index: FileIndex, files: list[Path] | None) -> list[Row]:
    if "file" in roles:
        cells = table.columns[roles["file"]]
        by_uid = tb.plain(roles["file"]) in tb.UID and not index.hits(cells[:64])
        if not by_uid:
            return [_row(cell, index, row) for row, cell in enumerate(cells)]
    elif "patient" in roles:
        cells, by_uid = table.columns[roles["patient"]], False
    else:
        raise BadData(
            "columns-unknown",
            f"{table.name}: no column names the files; it has {', '.join(table.columns)}.",
            hint="Name it `file`, or write a dataset.yaml: inputs: {image: {kind: image, column: NAME}}.",
        )
    uids, people = dicom_ids([f for f in files or () if looks_like_image(f)])
    known = uids if by_uid else people
    rows: list[Row] = []
    for row, cell in enumerate(cells):
        found = known.get(cell, [])
        column = roles["file"] if by_uid else roles["patient"]  # the identifier itself stays unsaid
        missing = ("label-file-missing", f"Row {row + 2}, column {column!r}: no file of the folder carries it.")
        rows.append((f"{table.name} row {row + 2}", found, None if found else missing))
    return rows


def _row(cell: str, index: FileIndex, row: int) -> Row:
    if not cell:
        return f"row {row + 2}", [], ("label-file-missing", f"Row {row + 2} names no file.")
    found = index.find(cell)
    if not found:
        return cell, [], ("label-file-missing", f"Row {row + 2} names {cell}, which is not there.")
    if len(found) > 1 and not index.is_folder(cell):
        return cell, [], ("label-ambiguous", f"Row {row + 2} names {cell}; {len(found)} files are called so.")
    return cell, found, None
