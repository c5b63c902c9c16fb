"""A table of labels: read as columns of text, its columns guessed or declared.

    table = read_table(Path("labels.csv"))
    roles = guess(table, hits)                  # {"file": "image", "label": "diagnosis", "patient": "PatientID", ...}

Every cell is text here, so that "007" stays a patient's number; what is missing is "".
"""

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from medserve.data.molecules.files import STRUCTURE, SUFFIXES, read_molecules
from medserve.errors import BadData, neighbours

MAX_BYTES = 2**30
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
_WORDS = {
    "file": """file filename filepath path image imagepath imagefile imagename imageid img imgpath imgname dicom
        dicompath dcm imageindex scan volume nifti id sopinstanceuid""",
    "uid": "sopinstanceuid instanceuid sopuid",
    "label": "label labels target class category diagnosis dx finding findings findinglabels outcome pathology y",
    "patient": "patient patientid subject subjectid participant participantid person personid mrn case caseid",
    "part": "split part partition subset fold set datasplit",
    "group": """sex gender patientsex patientgender age ageband patientage agegroup site hospital institution centre
        center scanner manufacturer device view viewposition race ethnicity laterality""",
}
FILE, UID, LABEL, PATIENT, PART, GROUPS = (tuple(words.split()) for words in _WORDS.values())
AGE_EDGES = (18, 40, 60, 80)


@dataclass(frozen=True, slots=True)
class Table:
    """columns: name -> cells, all of one length."""

    name: str
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def column(self, name: str, role: str) -> list[str]:
        """Raises: BadData "column-missing", with the neighbours."""
        if name not in self.columns:
            raise BadData(
                "column-missing",
                f"{self.name}: no column {name!r} for {role} ({neighbours(name, self.columns)}).",
                hint="Column names are case-sensitive.",
            )
        return self.columns[name]


def read_table(path: Path, *, keep: Collection[str] = ()) -> Table:
    """A CSV (comma, semicolon or tab; UTF-8 or Latin-1), a Parquet file, one JSON object a line (.jsonl), or a file of
    molecules (SDF, MOL2, SMILES), whole.

    Args:
        keep: columns whose cells stay as they are, spaces at their ends too: texts that places are counted in.

    Raises: BadData "table-unreadable", "table-empty".
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadData("table-unreadable", f"{path.name} is larger than {MAX_BYTES} bytes.")
        suffix = path.suffix.lower()
        readers = {".parquet": _parquet, ".jsonl": _jsonl} | dict.fromkeys(SUFFIXES, read_molecules)
        columns = readers.get(suffix, _csv)(path)
        keep = [*keep, STRUCTURE] if suffix in SUFFIXES else keep
    except OSError as error:
        raise BadData("table-unreadable", f"{path.name}: {error.strerror}.", hint="Check the file.") from error
    if not columns or not next(iter(columns.values())):
        hint = "One molecule a record." if suffix in SUFFIXES else "One row for each case, under a row of names."
        raise BadData("table-empty", f"{path.name} has no rows.", hint=hint)
    return Table(path.name, {n: cells if n in keep else [_clean(c) for c in cells] for n, cells in columns.items()})


def _jsonl(path: Path) -> dict[str, list[str]]:
    import msgspec

    columns: dict[str, list[str]] = {}
    count = 0
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=dict[str, object])
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
            raise BadData(
                "table-unreadable", f"{path.name}, line {number}: not one JSON object.", hint="One object a line."
            ) from error
        for name in row:
            columns.setdefault(name, [""] * count)
        for name, cells in columns.items():
            value = row.get(name)
            cells.append(json.dumps(value) if isinstance(value, list | dict) else _text(value))
        count += 1
    return columns


def _csv(path: Path) -> dict[str, list[str]]:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        raise BadData("table-unreadable", f"{path.name} is not text.", hint="Save it as CSV or Parquet.")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        names = [n.strip() for n in next(rows, [])]
        if len(set(names)) != len(names):
            raise BadData("table-unreadable", f"{path.name} names a column twice.", hint="Give each column one name.")
        columns: dict[str, list[str]] = {n: [] for n in names}
        for number, row in enumerate(rows, 2):
            if not row:
                continue
            if len(row) != len(names):
                raise BadData(
                    "table-unreadable",
                    f"{path.name}, row {number}: {len(row)} cells under {len(names)} names.",
                    hint="Put cells that hold the separator in quotes.",
                )
            for name, cell in zip(names, row, strict=True):
                columns[name].append(cell)
    except csv.Error as error:
        raise BadData("table-unreadable", f"{path.name} is not a CSV table: {error}.") from error
    return columns


def _parquet(path: Path) -> dict[str, list[str]]:
    import polars as pl

    try:
        frame = pl.read_parquet(path)
        return {n: [_text(v) for v in frame[n].to_list()] for n in frame.columns}
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise BadData(
            "table-unreadable", f"{path.name} is not a Parquet table.", hint="Write it again, or use CSV."
        ) from error


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list | tuple):
        if any(isinstance(v, list | tuple | dict) for v in value):
            return json.dumps(value)
        return "|".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _clean(cell: str) -> str:
    cell = cell.strip()
    return "" if cell.lower() in MISSING - {"none"} else cell


def plain(name: str) -> str:
    """ "Patient_ID" -> "patientid": how column names are compared."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def first_named(columns: Iterable[str], words: Iterable[str]) -> str | None:
    """The column that bears the earliest of these words."""
    by_plain = {plain(c): c for c in reversed(list(columns))}
    return next((by_plain[w] for w in words if w in by_plain), None)


def guess(table: Table, hits: Callable[[list[str]], int]) -> dict[str, str]:
    """Roles of columns by their names and cells.

    Args:
        hits: how many of some cells name a file of the data set.

    Returns: role -> column for those of file, label, patient, part that are found. The file column is the one whose
        cells name the most files; a tie goes to the name that sounds like one.
    """
    roles: dict[str, str] = {}
    step = max(1, len(table) // 64)
    scores = {name: hits([c for c in cells[::step] if c]) for name, cells in table.columns.items()}
    best = max(scores.values(), default=0)
    if best:
        named = [n for n, score in scores.items() if score == best]
        roles["file"] = first_named(named, FILE) or named[0]
    rest = [n for n in table.columns if n != roles.get("file")]
    for role, words in (("label", LABEL), ("patient", PATIENT), ("part", PART)):
        found = first_named([n for n in rest if n not in roles.values()], words)
        if found:
            roles[role] = found
    if "file" not in roles:  # files may all be missing: then the name alone speaks
        found = first_named([n for n in table.columns if n not in roles.values()], FILE)
        if found:
            roles["file"] = found
    return roles


def flag_columns(table: Table, taken: Iterable[str]) -> list[str]:
    """Columns of flags that have no other role: several labels, or one. Zeros and ones, -1 or nothing for unknown."""
    words = {*FILE, *PATIENT, *PART, *GROUPS}
    taken = set(taken)
    return [n for n, cells in table.columns.items() if n not in taken and plain(n) not in words and _flags(cells)]


def _flags(cells: list[str]) -> bool:
    found = {c.removesuffix(".0") for c in cells}
    return "1" in found and found <= {"0", "1", "-1", ""} and len(found) > 1


def group_columns(table: Table, taken: Iterable[str]) -> list[str]:
    taken = set(taken)
    return [n for n in table.columns if plain(n) in GROUPS and n not in taken]


def group_value(column: str, cell: str) -> str:
    """The subgroup of a cell; ages become bands, so that a rare age names nobody."""
    if plain(column) not in ("age", "patientage") or not cell:
        return cell
    number = re.match(r"^0*(\d{1,3})(?:\.\d+)?[Yy]?$", cell)
    if number is None:
        return cell
    age = int(number.group(1))
    low = max((e for e in AGE_EDGES if e <= age), default=0)
    high = min((e for e in AGE_EDGES if e > age), default=0)
    return f"{low}-{high - 1}" if high else f"{low}+"
