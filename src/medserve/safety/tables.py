"""One line of a rule table -> one rule, or an error that names the file and the line.

    rules = read_table(path.read_bytes(), "interactions.csv")     # [Interaction(...), ...]

Every table is CSV (UTF-8, comma, the first line names the columns). A column too many, a column too few, an empty
cell that must not be, an unknown word: each refuses the whole table, for a rule that was skipped would look like none.
"""

import csv
import io
import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from medserve.data.readers.records.codes import COMMON
from medserve.data.units import convert
from medserve.errors import BadData, Refusal, neighbours
from medserve.safety.rules import (
    ANY_CLASS,
    NONE,
    SAME,
    Allergy,
    Contraindication,
    DoseLimit,
    Drug,
    Duplicate,
    Group,
    Interaction,
    Meaning,
    Measure,
)
from medserve.safety.words import SEVERITIES, Codes, tidy

MAX_BYTES = 64 * 2**20  # of one table
MAX_TEXT = 500  # characters of one cell
COMPARATORS = ("<", "<=", ">", ">=")
# Checked by hand, so that the grammar of units, which takes a second to load, is loaded only for others.
KNOWN_UNITS = frozenset({measure.unit for measure in COMMON.values()} | {"a", "wk", "ms", "mL/min", "mg/d", "g/d"})
Row = dict[str, str]


class Line:
    """One line of a table while it is read."""

    def __init__(self, file: str, number: int, row: Row) -> None:
        self.file, self.number, self._row = file, number, row

    def bad(self, column: str, why: str, hint: str = "") -> NoReturn:
        raise BadData("rules-row", f"{self.file}, line {self.number}, column {column}: {why}.", hint=hint)

    def __getitem__(self, column: str) -> str:
        return self._row[column]

    def text(self, column: str) -> str:
        """What must not be empty."""
        return self[column] or self.bad(column, "is empty")

    def word(self, column: str, known: tuple[str, ...]) -> str:
        said = self[column]
        if said not in known:
            self.bad(column, f"{said[:40]!r} is none of its words ({neighbours(said, known)})")
        return said

    def codes(self, column: str, *, words: tuple[str, ...] = (), systems: tuple[str, ...] = ()) -> Codes:
        """A list of `system|code`, parted by semicolons; `words` stand without a system."""
        found = []
        for part in filter(None, (one.strip() for one in self[column].split(";"))):
            code = part if part in words else tidy(part)
            if code is None or (systems and code not in words and code.partition("|")[0] not in systems):
                allowed = f" of {', '.join(systems)}" if systems else ""
                self.bad(column, f"{part[:60]!r} is no code{allowed}", "Write system|code, for instance atc|B01AA03.")
            found.append(code)
        return tuple(found)

    def need(self, column: str, *, words: tuple[str, ...] = (), systems: tuple[str, ...] = ()) -> Codes:
        return self.codes(column, words=words, systems=systems) or self.bad(column, "is empty")

    def number_of(self, column: str) -> float | None:
        said = self[column]
        if not said:
            return None
        try:
            value = float(said)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.bad(column, f"{said[:40]!r} is not a number")
        return value

    def unit(self, column: str, like: str = "") -> str:
        """A unit of UCUM, in which `like` can be written."""
        said = self.text(column)
        if said not in KNOWN_UNITS or like not in (said, ""):
            try:
                convert(1.0, said, like or f"{said}.1", what=column)
            except Refusal:
                self.bad(column, f"{said[:40]!r} is no unit of this kind (UCUM)", f"For instance {like or 'mmol/L'}.")
        return said

    def empty(self, *columns: str) -> None:
        for column in columns:
            if self[column]:
                self.bad(column, "must be empty here")


DRUGS = ("atc", "rxnorm", "group")


def _drug(line: Line) -> Drug:
    (code, *more) = line.need("code", systems=DRUGS[:2])
    if more:
        line.bad("code", "holds more than one code", "Further ones stand in `also`.")
    names = tuple(filter(None, (one.strip() for one in line["synonyms"].split(";"))))
    return Drug(
        code, line.text("name"), line.codes("class", systems=("atc",)), names, line.codes("also"),
        line.codes("ingredients", systems=DRUGS[:2]), line.number,
    )  # fmt: skip


def _group(line: Line) -> Group:
    members = line.need("members", systems=DRUGS[:2])
    return Group(f"group|{line.text('group')}", line.text("name"), members, line.number)


def _measure(line: Line) -> Measure:
    unit, low, high = line.text("unit"), line.number_of("low"), line.number_of("high")
    line.unit("unit")
    if low is None or high is None or not low < high:
        line.bad("low", "low and high are two rising numbers")
    return Measure(
        f"measure|{line.text('measure')}", line.text("name"), unit, low, high, line.need("codes"), line.number
    )


def _meaning(line: Line) -> Meaning:
    (code, *more) = line.need("code")
    (means, *others) = line.need("means", words=(NONE,))
    if more or others:
        line.bad("code", "one code has one meaning on a line")
    return Meaning(code, means, line.text("name"), line.number)


def _said(line: Line, severities: tuple[str, ...] = SEVERITIES) -> dict[str, Any]:
    return {
        "id": line.text("id"), "severity": line.word("severity", severities), "text": line.text("text"),
        "citation": line.text("citation"), "line": line.number,
    }  # fmt: skip


def _interaction(line: Line) -> Interaction:
    return Interaction(a=line.need("a", systems=DRUGS), b=line.need("b", systems=DRUGS), **_said(line))


def _contraindication(line: Line) -> Contraindication:
    kind = line.word("kind", ("condition", "lab", "age", "pregnancy"))
    when, comparator, unit, value = line.codes("when"), line["comparator"], line["unit"], line.number_of("value")
    ever = line.word("ever", ("", "yes", "no")) == "yes"
    if kind == "condition":
        line.need("when")
        line.empty("comparator", "value", "unit")
    else:
        if ever:
            line.bad("ever", "is for conditions")
        if kind == "lab":
            line.need("when", systems=("loinc", "measure"))
        else:
            line.empty("when")
        if kind != "pregnancy" or comparator or value is not None or unit:
            comparator = line.word("comparator", COMPARATORS)
            if value is None:
                line.bad("value", "is empty")
            like = {"age": "a", "pregnancy": "wk"}.get(kind, "")
            line.unit("unit", like)
            value = convert(value, unit, like, what="value") if like else value
    return Contraindication(
        drug=line.need("drug", systems=DRUGS), kind=kind, when=when, comparator=comparator, value=value,  # type: ignore[arg-type]
        unit=unit, ever=ever, **_said(line),
    )  # fmt: skip


def _limit(line: Line) -> DoseLimit:
    kind = line.word("kind", ("renal", "hepatic", "age"))
    low, high = line.number_of("low"), line.number_of("high")
    classes: Codes = tuple(filter(None, (one.strip() for one in line["child_pugh"].split(";"))))
    if kind == "hepatic":
        line.empty("when", "low", "high")
        if not classes or set(classes) - set("ABC"):
            line.bad("child_pugh", "is a list of A, B, C")
    else:
        line.empty("child_pugh")
        line.need("when", systems=("loinc", "measure")) if kind == "renal" else line.empty("when")
        if (low is None and high is None) or (low is not None and high is not None and not low < high):
            line.bad("low", "low and high are two rising numbers, one of which may be left out")
    action = line.word("action", ("avoid", "max"))
    if action == "max":
        most = line.number_of("max_dose")
        if most is None or most <= 0:
            line.bad("max_dose", "is a dose above 0")
        unit = line.text("unit")
        if not unit.endswith("/d"):
            line.bad("unit", "is a dose a day", "For instance mg/d.")
        line.unit("unit")
        said = _said(line, ("",))
    else:
        line.empty("max_dose", "unit")
        most, unit, said = None, "", _said(line)
    return DoseLimit(
        drug=line.need("drug", systems=DRUGS), kind=kind, when=line.codes("when"),  # type: ignore[arg-type]
        low=-math.inf if low is None else low, high=math.inf if high is None else high, child_pugh=classes,
        most=most, unit=unit, **said,
    )  # fmt: skip


def _allergy(line: Line) -> Allergy:
    allergen, drug = (line.need(one, words=(SAME,), systems=DRUGS) for one in ("allergen", "drug"))
    if (SAME in allergen) != (SAME in drug) or (SAME in drug and len(drug + allergen) > 2):
        line.bad("drug", f"{SAME!r} stands alone, in both columns")
    return Allergy(allergen=allergen, drug=drug, **_said(line))


def _duplicate(line: Line) -> Duplicate:
    cls = line.need("class", words=(SAME, ANY_CLASS), systems=("atc", "group"))
    said = _said(line, (*SEVERITIES, NONE))
    if said["severity"] == NONE and any(not code.startswith("atc|") or len(code) != 9 for code in cls):
        line.bad("class", "what is allowed is a class of ATC level 4", "For instance atc|N03AX.")
    return Duplicate(cls=cls, **said)


_ID = ("id", "severity", "text", "citation")
TABLES: dict[str, tuple[tuple[str, ...], Callable[[Line], Any]]] = {
    "drugs.csv": (("code", "name", "class", "synonyms", "also", "ingredients"), _drug),
    "groups.csv": (("group", "name", "members"), _group),
    "measures.csv": (("measure", "name", "unit", "low", "high", "codes"), _measure),
    "codes.csv": (("code", "means", "name"), _meaning),
    "interactions.csv": ((*_ID, "a", "b"), _interaction),
    "contraindications.csv": ((*_ID, "drug", "kind", "when", "comparator", "value", "unit", "ever"), _contraindication),
    "limits.csv": ((*_ID, "drug", "kind", "when", "low", "high", "child_pugh", "action", "max_dose", "unit"), _limit),
    "allergies.csv": ((*_ID, "allergen", "drug"), _allergy),
    "duplicates.csv": ((*_ID, "class"), _duplicate),
}
RULES = ("interactions.csv", "contraindications.csv", "limits.csv", "allergies.csv", "duplicates.csv")


def read_table(data: bytes, file: str) -> list[Any]:
    """
    Raises: BadData "rules-size", "rules-encoding", "rules-columns", "rules-row", naming the file and the line.
    """
    columns, made = TABLES[file]
    return [made(line) for line in _lines(data, file, columns)]


def _lines(data: bytes, file: str, columns: tuple[str, ...]) -> Iterator[Line]:
    if len(data) > MAX_BYTES:
        raise BadData("rules-size", f"{file} is larger than {MAX_BYTES} bytes.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadData("rules-encoding", f"{file}, line {line}: is not UTF-8.", hint="Save it as UTF-8.") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        named = [one.strip() for one in next(reader, [])]
        if sorted(named) != sorted(columns):
            wrong = [one for one in named if one not in columns or named.count(one) > 1]
            lack = [one for one in columns if one not in named]
            said = f"{file}, line 1: unknown or doubled columns {wrong}, missing columns {lack}."
            raise BadData("rules-columns", said, hint=f"Its columns are: {', '.join(columns)}.")
        for cells in reader:
            at = Line(file, reader.line_num, {})
            if len(cells) != len(named):
                at.bad(named[0], f"the line has {len(cells)} cells, not {len(named)}")
            row = {name: cell.strip() for name, cell in zip(named, cells, strict=True)}
            for name, cell in row.items():
                if len(cell) > MAX_TEXT and name not in ("members", "drug", "a", "b", "also", "codes", "when"):
                    at.bad(name, f"is longer than {MAX_TEXT} characters")
                if not cell.isprintable():
                    at.bad(name, "holds a character that cannot be printed")
            yield Line(file, reader.line_num, row)
    except csv.Error as error:
        raise BadData(
            "rules-row", f"{file}, line {reader.line_num}: {error}.", hint="It is CSV with commas."
        ) from error
