"""A library of molecules, one after the other: millions of rows, of which only one is in memory.

    library = Library.open(Path("enamine.csv.gz"), column="smiles", label="active")
    library.count()                       # rows, for a bar with the time left
    for entry in library.entries(start=5000): ...     # Entry(row=5000, name="Z1", text="CCO", label="1")

CSV and TSV, SMILES files (.smi), SDF, MOL2, each also with .gz, and Parquet. A row that cannot be read stays a row: its
text is None, and those after it are not lost. Which column holds the structure is guessed by its name, or said.
"""

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from medserve.data.forms.table import plain
from medserve.data.molecules.columns import NAMES as STRUCTURES
from medserve.data.molecules.columns import SAMPLE, other_columns, structure_column
from medserve.data.molecules.files import NAME, STRUCTURE, read_block
from medserve.errors import BadData, neighbours

NAMES = ("name", "id", "title", "compound", "compoundid", "moleculeid", "molid", "cmpdchemblid", "chemblid", "zincid",
         "catalogid", "drugid", "drugname")  # fmt: skip
SLICE = 10_000  # rows of a Parquet file in memory
MOST_RECORD = 2**20  # bytes of one record of an SDF; of a longer one nothing is kept
MOST_NAME = 200
_CSV, _SMI, _SDF, _MOL2, _PARQUET = "csv", "smi", "sdf", "mol2", "parquet"
_FORMS = {".csv": _CSV, ".tsv": _CSV, ".txt": _CSV, ".smi": _SMI, ".smiles": _SMI, ".sdf": _SDF, ".sd": _SDF,
          ".mol2": _MOL2, ".parquet": _PARQUET}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One row. row: counted from 0. text: SMILES, InChI or a mol block; None where the row cannot be read."""

    row: int
    name: str
    text: str | None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Library:
    """Columns are "" where there is none; of an SDF, `name` and `label` are fields of a record."""

    path: Path
    form: str
    column: str = ""
    name: str = ""
    label: str = ""
    delimiter: str = ","

    @classmethod
    def open(cls, path: Path, *, column: str = "", name: str = "", label: str = "") -> "Library":
        """
        Args:
            column, name, label: that are asked for; those of structure and name are guessed where nothing is said.

        Raises: BadData "table-unreadable", "table-empty", "column-missing".
        """
        suffixes = [s.lower() for s in path.suffixes]
        form = _FORMS.get(suffixes[-2] if suffixes[-1:] == [".gz"] and suffixes[1:] else "".join(suffixes[-1:]), "")
        if not form or (form == _PARQUET and suffixes[-1] == ".gz"):
            raise BadData(
                "table-unreadable", f"{path.name} is no library of molecules by its name.",
                hint="Give .csv, .tsv, .smi, .sdf or .mol2, also with .gz behind it; or .parquet.",
            )  # fmt: skip
        found = cls(path, form, column, name, label)
        with found._whole():
            found = found._with_columns()
        if next(found.entries(), None) is None:
            raise BadData("table-empty", f"{path.name} holds no molecule.", hint="One molecule a row.")
        return found

    def count(self) -> int:
        """How many rows there are; of a CSV whose cells hold line breaks, a little more.

        Raises: BadData "table-unreadable".
        """
        with self._whole():
            return self._count()

    def _count(self) -> int:
        if self.form == _PARQUET:
            import polars as pl

            return int(pl.scan_parquet(self.path).select(pl.len()).collect().item())
        with _binary(self.path) as file:
            if self.form in (_SDF, _MOL2):
                mark = b"$$$$" if self.form == _SDF else b"@<TRIPOS>MOLECULE"
                return max(1, sum(line.startswith(mark) for line in file))
            lines, last = 0, b"\n"
            while block := file.read(2**20):
                lines, last = lines + block.count(b"\n"), block[-1:]
        return max(1, lines + (last != b"\n") - (self.form == _CSV))

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """From row `start` on, in the order of the file. Raises: BadData "table-unreadable", such as a torn .gz."""
        with self._whole():
            yield from self._entries(start)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, zlib.error) as error:
            raise BadData("table-unreadable", f"{self.path.name}: {error}.", hint="Check the file.") from error

    def _entries(self, start: int) -> Iterator[Entry]:
        if self.form == _PARQUET:
            yield from self._parquet(start)
            return
        with _text(self.path) as file:
            lines = iter(lambda: file.readline(MOST_RECORD), "")  # a line without end is cut into several
            rows = {_CSV: self._csv, _SMI: self._smi, _SDF: self._sdf, _MOL2: self._mol2}[self.form](lines)
            for number, (name, text, label) in enumerate(rows):
                if number >= start:
                    yield Entry(number, _name(name) or str(number + 1), text, label)

    def _with_columns(self) -> "Library":
        if self.form in (_SMI, _MOL2):
            for said, role in ((self.column, "the structure"), (self.label, "the label")):
                if said:
                    raise BadData(
                        "column-missing", f"{self.path.name}: a file of this kind has no column {said!r} for {role}.",
                        hint="Columns are of tables: CSV, TSV, Parquet; and of SDF.",
                    )  # fmt: skip
            return self
        if self.form == _SDF:
            return self
        if self.form == _PARQUET:
            import polars as pl

            try:
                names = pl.scan_parquet(self.path).collect_schema().names()
            except pl.exceptions.PolarsError as error:
                raise BadData("table-unreadable", f"{self.path.name} is no Parquet file.") from error
            delimiter = ""
        else:
            with _text(self.path) as file:
                first = file.readline(MOST_RECORD)
            if not first:
                raise BadData("table-empty", f"{self.path.name} is empty.", hint="One molecule a row.")
            if "\0" in first:
                raise BadData("table-unreadable", f"{self.path.name} is not text.", hint="Save it as CSV or Parquet.")
            delimiter = max(",;\t", key=first.count)
            names = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
        column = self._find(names, self.column, (), "the structure") or (names[0] if len(names) == 1 else "")
        if not column and any(plain(name) in STRUCTURES for name in names):
            column = structure_column(self._sample(names, delimiter))
        if not column:
            raise BadData(
                "column-missing", f"{self.path.name}: no column is called like a structure ({', '.join(names[:8])}).",
                hint="Name it: --column NAME",
            )  # fmt: skip
        name = self._find(names, self.name, NAMES, "the name")
        label = self._find(names, self.label, (), "the label")
        return Library(self.path, self.form, column, name if name != column else "", label, delimiter or ",")

    def suggest(self) -> str:
        """Another column of the table, whose cells are molecules; "" for none."""
        if self.form not in (_CSV, _PARQUET):
            return ""
        return next(iter(other_columns(self._sample((), self.delimiter), but=self.column)), "")

    def _sample(self, names: Sequence[str], delimiter: str) -> dict[str, list[str]]:
        """The first cells of every column."""
        if self.form == _PARQUET:
            import polars as pl

            head = pl.scan_parquet(self.path).head(SAMPLE).collect()
            texts = head.select(pl.col(pl.String))
            return {name: [cell or "" for cell in texts[name]] for name in texts.columns}
        with _text(self.path) as file:
            rows = csv.reader(itertools.islice(file, SAMPLE + 1), delimiter=delimiter)
            try:
                read = [[cell.strip() for cell in row] for row in rows if row]
            except csv.Error:
                return {name: [] for name in names}
        return dict(zip(read[0], map(list, itertools.zip_longest(*read[1:], fillvalue="")), strict=False))

    def _find(self, names: Sequence[str], said: str, guesses: Iterable[str], role: str) -> str:
        """Raises: BadData "column-missing"."""
        if said:
            if said in names:
                return said
            raise BadData(
                "column-missing", f"{self.path.name}: no column {said!r} for {role} ({neighbours(said, names)}).",
                hint="Column names are case-sensitive.",
            )  # fmt: skip
        by_plain = {plain(name): name for name in reversed(names)}
        return next((by_plain[guess] for guess in guesses if guess in by_plain), "")

    def _csv(self, lines: Iterator[str]) -> Iterator[tuple[str, str | None, str]]:
        rows = csv.reader(lines, delimiter=self.delimiter)
        names = [cell.strip() for cell in next(rows)]
        at = [names.index(column) if column else -1 for column in (self.name, self.column, self.label)]
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error:  # a cell beyond all bounds; the next row is read as usual
                yield "", None, ""
                continue
            if row:
                name, text, label = (row[i].strip() if 0 <= i < len(row) else "" for i in at)
                torn = any(cell.strip() for cell in row[len(names) :])  # any cell may then be another's
                yield name, None if torn else text, label

    def _smi(self, lines: Iterator[str]) -> Iterator[tuple[str, str | None, str]]:
        for line in lines:
            parts = line.split(None, 1)
            if parts and not line.startswith("#"):
                yield parts[1].strip() if len(parts) > 1 else "", parts[0], ""

    def _sdf(self, lines: Iterator[str]) -> Iterator[tuple[str, str | None, str]]:
        for record in _records(lines, "$$$$", ends=True):
            if record is None:
                yield "", None, ""
            elif record.strip():
                fields = read_block(record)
                yield fields.get(self.name) or fields[NAME], fields[STRUCTURE], fields.get(self.label, "")

    def _mol2(self, lines: Iterator[str]) -> Iterator[tuple[str, str | None, str]]:
        for record in _records(lines, "@<TRIPOS>MOLECULE", ends=False):
            if record is None:
                yield "", None, ""
            elif record.startswith("@<TRIPOS>"):
                yield record.split("\n", 2)[1].strip(), record, ""

    def _parquet(self, start: int) -> Iterator[Entry]:
        import polars as pl

        wanted = [column for column in (self.column, self.name, self.label) if column]
        lazy = pl.scan_parquet(self.path).select(pl.col(c).cast(pl.String, strict=False) for c in dict.fromkeys(wanted))
        while len(frame := lazy.slice(start, SLICE).collect()):
            columns: dict[str, list[Any]] = frame.to_dict(as_series=False)
            blank = [""] * len(frame)
            names, labels = columns.get(self.name, blank), columns.get(self.label, blank)
            for i, (text, name, label) in enumerate(zip(columns[self.column], names, labels, strict=True), start):
                yield Entry(i, _name(name or "") or str(i + 1), (text or "").strip(), label or "")
            start += len(frame)


def _records(texts: Iterator[str], mark: str, *, ends: bool) -> Iterator[str | None]:
    """Texts between marks; None for one that is too long to be kept. ends: a mark ends a record, else it begins one."""
    lines: list[str] = []
    size = 0
    for line in texts:
        if line.startswith(mark):
            if lines or size:
                yield None if size > MOST_RECORD else "".join(lines)
            lines, size = ([], 0) if ends else ([line], len(line))
            continue
        size += len(line)
        if size > MOST_RECORD:
            lines.clear()
        else:
            lines.append(line)
    if any(line.strip() for line in lines) or size > MOST_RECORD:
        yield None if size > MOST_RECORD else "".join(lines)


def _name(text: str) -> str:
    return " ".join(text.split())[:MOST_NAME]


def _binary(path: Path) -> IO[bytes]:
    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    found: IO[bytes] = opened(path, "rb")
    return found


def _text(path: Path) -> IO[str]:
    """Without a byte order mark; what is no UTF-8 shows as such, in its own row."""
    newline = "" if ".csv" in path.name.lower() or ".tsv" in path.name.lower() else None
    return io.TextIOWrapper(_binary(path), encoding="utf-8-sig", errors="replace", newline=newline)
