"""Tables whose rows are cases: numbers, categories and texts in their columns, or paths of what belongs to them.

    listing = list_records(root, [(root / "icu.csv", None)], declared, key, path=root)
    listing.inputs["age"]                     # Input(kind="number", unit="a", range=[0, 120])
    listing.raw(listing.items[0])             # {"age": "63", "sex": "F", ...}

What is not declared is guessed from the cells, shown by `medserve inspect`, and can be written out and corrected.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from medserve.data.cohort import Item, Refused
from medserve.data.declaration import Dataset, Input
from medserve.data.forms import table as tb
from medserve.data.forms.conll import Tags
from medserve.data.forms.files import relative, walk
from medserve.data.forms.labels import Effect, Itself, Labels, Survival, Unlabelled
from medserve.data.forms.listing import Listing, class_task, is_number, order_classes, warn_positive
from medserve.data.forms.match import DirectIndex, FileIndex
from medserve.data.forms.tables import (
    facts_of,
    group_columns_of,
    join_tables,
    parts_of,
    pseudonyms,
    roles_of,
    rule_of,
    target_columns,
)
from medserve.data.molecules.columns import ENOUGH, other_columns, share, structure_column
from medserve.data.molecules.files import STRUCTURE
from medserve.data.proteins.sequence import FASTA_SUFFIXES
from medserve.data.readers.waves.ucr import read_ucr
from medserve.errors import BadData, Refusal
from medserve.types import Part, Wave

GUESSED_CATEGORIES = 0.5  # of the rows: a column of words with more different ones than this names its rows
WORDS_OF_TEXT = 5  # words a cell, on average, from which a column is text
PROTEINS = ("protein", "proteinsequence", "targetsequence", "aminoacids", "fasta")
FEW_NUMBERS = 2  # different numbers, at most, that are read as two categories
_PICTURE_FILES = (".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii", ".nii.gz", ".bmp")
_FILE_KINDS = ("waveform", "image")
_TEXT_FILES = {"text": (".txt",), "protein": FASTA_SUFFIXES}


@dataclass
class RawTable:
    """Cells of a table by row; cells that name files are read when their case is."""

    root: Path
    table: tb.Table
    columns: dict[str, tuple[str, Input]]  # input -> (column, what is declared of it)
    timelines: dict[str, Any] = field(default_factory=dict)  # input -> its `TimelineIndex`

    def __call__(self, item: Item) -> Mapping[str, Any]:
        row = item.row[1] if item.row else 0
        found: dict[str, Any] = {}
        for name, (column, said) in self.columns.items():
            if said.kind == "timeline":
                found[name] = self.timelines[name].raw(self.table, row)
                continue
            cell: Any = self.table.columns[column][row] if column in self.table.columns else self._once(column, row)
            if cell and said.kind in _FILE_KINDS:
                cell = self._file(cell, said.kind, column, row)
            elif (
                said.kind in _TEXT_FILES and cell and len(cell) < 256 and cell.lower().endswith(_TEXT_FILES[said.kind])
            ):
                cell = self._path(cell, column, row).read_text(encoding="utf-8", errors="replace")
            found[name] = cell if cell != "" else None
        return found

    def _once(self, name: str, row: int) -> Any:
        """What the source of a timeline says once of a patient (age, sex); None where none does."""
        for index in self.timelines.values():
            value = index.static(self.table.columns[index.patient][row]).get(name)
            if value is not None:
                return value
        return None

    def _path(self, cell: str, column: str, row: int) -> Path:
        path = (self.root / cell).resolve()
        if not path.is_relative_to(self.root.resolve()) or not _there(path):
            raise Refusal(
                "file-missing", f"Row {row + 2}, column {column!r} names {cell}, which is not there.",
                hint="Paths are relative to the folder of the table.",
            )  # fmt: skip
        return path

    def _file(self, cell: str, kind: str, column: str, row: int) -> Any:
        path = self._path(cell, column, row)
        if kind == "waveform":
            from medserve.data.readers.waves import read_wave

            return read_wave(path, name=cell)
        return path


def list_records(
    root: Path,
    tables: Sequence[tuple[Path, Part | None]],
    declared: Dataset | None,
    key: bytes,
    *,
    path: Path,
    read: int = 0,
) -> Listing:
    """
    Args:
        tables: of cases, with the official part that a table's own name gives.
        read: files of the data set that were read already (its declaration).

    Raises: BadData "table-...", "column-missing", "columns-unknown", "part-unknown", "declaration-value".
    """
    if not tables:
        raise BadData(
            "columns-unknown", "Several tables, and none is named as the one that holds the cases.",
            hint="Write `table: NAME.csv` into dataset.yaml.",
        )  # fmt: skip
    tagged = declared.tagged if declared else None  # the column of the text whose words are to be marked
    table, from_names = join_tables(tables, keep=() if tagged is None else (tagged,))
    said = declared.inputs if declared else {}
    by_column = {i.column or name: name for name, i in said.items() if i.kind != "timeline"}
    told_once = {} if len(by_column) == len(said) else {c: n for c, n in by_column.items() if c not in table.columns}
    for column, name in by_column.items():
        if column not in told_once:
            table.column(column, f"`inputs.{name}`")
    roles = roles_of(table, FileIndex(root, ()), declared)
    roles.pop("file", None)
    if roles.get("patient") in by_column or (declared and declared.independent):
        roles.pop("patient", None)
    labels = _labels(table, roles, declared)
    groups = group_columns_of(table, roles, declared)
    parts = parts_of(table, roles, from_names, declared)
    taken = {*labels.columns, *roles.values(), *((declared.prediction_time,) if declared else ())}
    inputs, notes = (said, []) if said else guess_inputs(table, taken)
    if not inputs:
        raise BadData(
            "columns-unknown", f"{table.name}: no column is left as an input.", hint="Declare `inputs` in dataset.yaml."
        )
    raw = RawTable(root, table, {name: (i.column or name, i) for name, i in inputs.items()})
    extra, account = _timelines(raw, root, table, roles, declared)
    for column, name in told_once.items():
        if all(raw._once(column, row) is None for row in range(min(len(table), 200))):
            table.column(column, f"`inputs.{name}`")  # raises, with the neighbours
    whole = declared.intervals if declared else None
    rule = rule_of(declared)
    family = rule["column"] if rule and rule["by"] == "column" else None
    if whole:
        table.column(whole, "`intervals`")
    drawn = pseudonyms(table, {"patient": whole} if whole else {}, key)
    items, refused = _items(
        table, tables[0][0], labels, pseudonyms(table, roles, key), parts, facts_of(table, groups),
        drawn, table.column(family, "`split`") if family else [""] * len(table),
    )  # fmt: skip
    warnings = [*notes, *account, *(labels.notes if isinstance(labels, Tags | Labels) else [])]
    if labels.task == "binary" and not (declared and declared.target and declared.target.classes):
        warnings += warn_positive(labels.classes)
    return Listing(
        path=path,
        name=(declared.name if declared else None) or (root.name if path.is_dir() else path.stem),
        form="records",
        task=labels.task,
        labels=labels.classes,
        items=items,
        files=len(items) + len(refused) + len(tables) + read + extra,
        refused=refused,
        source=(declared.described if declared else {}) | {"warnings": warnings},
        independent="patient" not in roles,
        kind="record",
        inputs=dict(inputs),
        raw=raw,
        unit=labels.unit,
        split=rule,
        subgroups=tuple(groups),
        tables=tuple(t.name for t, _ in tables),
        columns=roles | {"label": ", ".join(labels.columns)},
        declaration=declared,
        key=key,
    )


def _labels(
    table: tb.Table, roles: dict[str, str], declared: Dataset | None
) -> Labels | Survival | Tags | Itself | Effect:
    """What is to be learned; of a data set with a treatment, the outcome under the arm that was given."""
    found = _target(table, roles, declared)
    if declared is None or declared.treatment is None:
        return found
    assert isinstance(found, Labels | Survival), "the declaration allows no other"
    return Effect.of(table, found, declared.treatment)


def _target(table: tb.Table, roles: dict[str, str], declared: Dataset | None) -> Labels | Survival | Tags | Itself:
    target = declared.target if declared else None
    if target is not None and declared is not None and declared.tagged is not None:
        return Tags.of(table, target, declared.tagged)
    if target is not None and target.kind == "generate":
        return Itself()
    if target is not None and target.kind == "survival":
        return Survival.of(table, target)
    try:
        columns = target_columns(table, roles, declared)
    except BadData as error:
        if (molecule := _structure(table)) and declared is None:
            raise BadData(error.code, error.message, hint=_molecule_yaml(table, molecule)) from error
        raise
    return Labels.of(table, columns, target)


def _molecule_yaml(table: tb.Table, molecule: str) -> str:
    """What to write for a table of molecules of which no column is called like a label."""
    known = {name: [cell for cell in cells if cell] for name, cells in table.columns.items()}
    numbers = [name for name, cells in known.items() if cells and all(map(is_number, cells))]
    column = f"one of {', '.join(numbers[:8])}" if numbers else "COLUMN"
    return (
        f"Write a dataset.yaml beside it: `table: {table.name}`, `independent: true`, "
        f"`inputs: {{{molecule}: {{kind: molecule}}}}`, `target: {{column: NAME, kind: number}}` with NAME {column}."
    )


def _items(
    table: tb.Table,
    file: Path,
    labels: Labels | Survival | Tags | Itself | Effect,
    patients: Sequence[str | None],
    parts: Sequence[Part | None],
    groups: Sequence[Mapping[str, str]],
    drawn: Sequence[str | None],
    family: Sequence[str],
) -> tuple[list[Item], list[Refused]]:
    items, refused = [], []
    for row in range(len(table)):
        id = f"row {row + 2}"
        try:
            label = labels.label(row)
        except Unlabelled as error:
            refused.append(Refused(f"{table.name} {id}", error.code, error.message))
            continue
        more = (patients[row], parts[row], groups[row], drawn[row], family[row])
        items.append(Item(id, file, ("rows", row), label, *more))
    return items, refused


def _timelines(
    raw: RawTable, root: Path, table: tb.Table, roles: dict[str, str], declared: Dataset | None
) -> tuple[int, list[str]]:
    """Timelines that belong to the cases; how many files they stand in, and what was skipped of them."""
    wanted = {name: said for name, (_, said) in raw.columns.items() if said.kind == "timeline"}
    if not wanted:
        return 0, []
    from medserve.data.timelines import TimelineIndex

    patient = roles.get("patient")
    if patient is None:
        raise BadData(
            "columns-unknown", "A timeline needs `patient`, the column by which its events find their case.",
            hint="Write `patient: COLUMN` into dataset.yaml.",
        )  # fmt: skip
    notes: list[str] = []
    for name, said in wanted.items():
        until = declared.prediction_time if declared else None
        index = TimelineIndex.read(root, said, set(table.columns[patient]), patient=patient, until=until)
        raw.timelines[name] = index
        notes += index.notes(name)
    return len(wanted), notes


def guess_inputs(table: tb.Table, taken: set[Any]) -> tuple[dict[str, Input], list[str]]:
    """Kinds of the columns that have no other role, by their cells; and sentences about those left out."""
    molecule = _structure(table, taken)
    if molecule:
        return _guess_molecule(table, taken, molecule)
    inputs: dict[str, Input] = {}
    left_out = []
    for name, cells in table.columns.items():
        known = [c for c in cells if c]
        if name in taken or not known:
            continue
        numbers = sum(is_number(c) for c in known)
        different = len(set(known))
        words = sum(len(c.split()) for c in known[:200]) / min(200, len(known))
        if tb.plain(name) in PROTEINS and words < 2 and not numbers:
            inputs[name] = Input(kind="protein")
            continue
        if numbers == len(known) and different > FEW_NUMBERS:
            inputs[name] = Input(kind="number")
        elif words >= WORDS_OF_TEXT:
            inputs[name] = Input(kind="text")
        elif different > max(20, GUESSED_CATEGORIES * len(known)):
            left_out.append(name)
        else:
            inputs[name] = Input(kind="category")
    kinds = ", ".join(
        f"{sum(i.kind == k for i in inputs.values())} {k}" for k in ("number", "category", "text", "protein")
    )
    notes = [f"Inputs were guessed ({kinds}); see --write-yaml, and declare units and ranges."]
    if left_out:
        notes.append(f"Left out, since they name their rows: {', '.join(left_out[:8])}.")
    return inputs, notes


def _structure(table: tb.Table, taken: Collection[Any] = ()) -> str:
    """The column that holds molecules, by its name; "" for none."""
    free = {name: cells for name, cells in table.columns.items() if name not in taken and any(cells)}
    return STRUCTURE if STRUCTURE in free else structure_column(free)


def _guess_molecule(table: tb.Table, taken: set[Any], molecule: str) -> tuple[dict[str, Input], list[str]]:
    """The molecule alone, and a protein beside it: what else stands in a row (identifiers, weights, predictions of
    others) is seldom meant to be asked for with each molecule."""
    inputs = {molecule: Input(kind="molecule")}
    for name, cells in table.columns.items():
        if name not in taken and tb.plain(name) in PROTEINS and any(cells):
            inputs[name] = Input(kind="protein")
    said = ", ".join(f"{name} as {one.kind}" for name, one in inputs.items())
    notes = [f"Inputs were guessed ({said}); see --write-yaml."]
    rest = [name for name, cells in table.columns.items() if name not in taken and name not in inputs and any(cells)]
    if rest:
        notes.append(f"Left out beside the molecule: {', '.join(rest[:8])}; declare `inputs` to take them.")
    if share(table.columns[molecule]) < ENOUGH and (others := other_columns(table.columns, but=molecule)):
        notes.append(f"Most of {molecule!r} is no molecule; {others[0]!r} holds molecules: declare it under `inputs`.")
    return inputs, notes


def is_record_table(path: Path, *, target: bool = False) -> bool:
    """Whether a table's rows are cases themselves, rather than names of image files.

    Args:
        target: what to predict is declared; otherwise a column must be called so.
    """
    try:
        table = tb.read_table(path)
    except BadData:
        return False
    index = DirectIndex(path.parent)
    step = max(1, len(table) // 64)
    for name, cells in table.columns.items():
        some = [c for c in cells[::step] if c]
        if index.hits(some) or any(c.lower().endswith(_PICTURE_FILES) for c in some):
            return False
        if tb.plain(name) in tb.UID:
            return False
    roles = tb.guess(table, lambda cells: 0)
    rest = [n for n in table.columns if n not in (roles.get("label"), roles.get("patient"), roles.get("part"))]
    told = target or "label" in roles or _structure(table)
    if not told or len([n for n in rest if tb.plain(n) not in tb.FILE]) < 1:
        return False
    files = [f for f in walk(path.parent)[:2000] if f.suffix.lower() in _PICTURE_FILES]
    return not FileIndex(path.parent, files).hits([c for n in rest for c in table.columns[n][::step] if c])


def _there(path: Path) -> bool:
    """A file, or the stem of a WFDB record."""
    return path.is_file() or path.with_name(path.name + ".hea").is_file()


# -- UCR time series: NAME_TRAIN.tsv and NAME_TEST.tsv, a label and the samples in each row ---------------------------


def ucr_files(files: Sequence[Path]) -> dict[Part, Path]:
    """The pair of files of a UCR data set, or nothing."""
    found: dict[Part, Path] = {}
    for file in files:
        stem = file.stem.upper()
        if file.suffix.lower() in (".tsv", ".txt"):
            if stem.endswith("_TRAIN"):
                found["train"] = file
            elif stem.endswith("_TEST"):
                found["test"] = file
    same = {f.stem.upper().rpartition("_")[0] for f in found.values()}
    return found if len(found) == 2 and len(same) == 1 else {}


@dataclass(frozen=True)
class RawSeries:
    """Rows of samples, by part."""

    rows: dict[str, list[Wave]]

    def __call__(self, item: Item) -> Mapping[str, Any]:
        assert item.row is not None
        wave = self.rows[item.row[0]][item.row[1]]
        return {"series": {"leads": ["series"], "hz": wave.hz, "unit": wave.unit, "values": wave.values.tolist()}}


def list_ucr(root: Path, files: Sequence[Path], key: bytes) -> Listing:
    """Raises: BadData "wave-unreadable", "wave-empty", "wave-too-large"."""
    pair = ucr_files(files)
    rows: dict[str, list[Wave]] = {}
    marks: dict[str, list[str]] = {}
    for part, file in pair.items():
        marks[part], rows[part] = read_ucr(file)
    classes = order_classes({m for found in marks.values() for m in found})
    items = [
        Item(f"{part} {i + 1}", pair[part], (part, i), classes.index(mark), None, part)  # type: ignore[index,arg-type]
        for part, found in marks.items()
        for i, mark in enumerate(found)
    ]
    others = [f for f in files if f not in pair.values()]
    said = partial(Refused, code="not-a-series", message="Neither of the two files of a UCR data set.")
    return Listing(
        path=root,
        name=pair["train"].stem.rpartition("_")[0],
        form="ucr",
        task=class_task(classes),
        labels=classes,
        items=items,
        files=len(items) + len(others) + len(pair),
        refused=[said(relative(f, root)) for f in others],
        source={"warnings": warn_positive(classes)},
        independent=True,
        kind="record",
        inputs={"series": Input(kind="waveform", hz=0.0)},
        raw=RawSeries(rows),
        key=key,
    )
