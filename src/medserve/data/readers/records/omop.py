"""OMOP Common Data Model 5.4: a folder or a zip with one CSV a table, names in upper or lower case.

    for patient, static, events in read(Path("Synthea27Nj_5.4.zip"), account): ...
    events[0]   # Event(time, code="loinc|29463-7", value=48.1, unit="kg")

Codes are those of the vocabulary (LOINC, SNOMED, RxNorm) through CONCEPT, so that a model sees the same codes in FHIR
and in OMOP; a row whose concept is 0 or not in CONCEPT keeps its source value. Columns may be separated by commas or
tabs. Every table is read once, in a stream; of CONCEPT only what the rows named is kept.
Source: OHDSI, Common Data Model v5.4, ohdsi.github.io/CommonDataModel/cdm54.html.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from medserve.data.readers.records._account import Account
from medserve.data.readers.records._files import Source
from medserve.data.readers.records._spill import Row, Spill, Timeline
from medserve.data.readers.records._time import finite, iso_hours
from medserve.data.readers.records.codes import MAX_CODE, vocabulary
from medserve.errors import BadData

SEXES = {"8507": "male", "8532": "female"}
MAX_TEXT = 2**16
EXPOSURE = "exposure"  # the text of what was given, as the FHIR reader names its resource
# Before a concept id, until CONCEPT was read; END: of the end of a visit, PLAIN: a word for people, not a code.
CONCEPT, END, PLAIN = "\x01", "\x02", "\x03"


class Table(NamedTuple):
    """Columns of one table of events, in small letters."""

    concept: str
    time: str
    day: str
    source: str
    end: str | None = None
    end_day: str | None = None
    value: str | None = None
    coded: str | None = None
    worded: str | None = None
    unit: str | None = None
    unit_source: str | None = None


TABLES = {
    "visit_occurrence": Table(
        "visit_concept_id", "visit_start_datetime", "visit_start_date", "visit_source_value",
        "visit_end_datetime", "visit_end_date",
    ),
    "condition_occurrence": Table(
        "condition_concept_id", "condition_start_datetime", "condition_start_date", "condition_source_value"
    ),
    "drug_exposure": Table(
        "drug_concept_id", "drug_exposure_start_datetime", "drug_exposure_start_date", "drug_source_value"
    ),
    "measurement": Table(
        "measurement_concept_id", "measurement_datetime", "measurement_date", "measurement_source_value",
        value="value_as_number", coded="value_as_concept_id", worded="value_source_value",
        unit="unit_concept_id", unit_source="unit_source_value",
    ),
    "observation": Table(
        "observation_concept_id", "observation_datetime", "observation_date", "observation_source_value",
        value="value_as_number", coded="value_as_concept_id", worded="value_as_string",
        unit="unit_concept_id", unit_source="unit_source_value",
    ),
    "procedure_occurrence": Table(
        "procedure_concept_id", "procedure_datetime", "procedure_date", "procedure_source_value"
    ),
}  # fmt: skip


def read(path: Path, account: Account) -> Iterator[Timeline]:
    """Raises: BadData "omop-person": there is no PERSON table; "omop-columns"; "file-unreadable"."""
    with Source(path) as source, Spill(account) as spill:
        files = _tables(source)
        if "person" not in files:
            raise BadData("omop-person", f"{path.name}: there is no PERSON.csv.", hint="Is it an OMOP CDM export?")
        used: set[str] = set()
        for rows in (_persons(source, files, account, used), _deaths(source, files, account)):
            for row in rows:
                spill.add(row)
        for name, table in TABLES.items():
            if name in files:
                _events(source, files[name], name.upper(), table, account, used, spill)
        yield from spill.patients(_Codes(source, files, used))


class _Codes:
    """What a mark of a concept stands for."""

    def __init__(self, source: Source, files: dict[str, str], used: set[str]) -> None:
        self._said: dict[str, str] = {}
        if "concept" in files:
            self._read(source, files["concept"], used)

    def _read(self, source: Source, file: str, used: set[str]) -> None:
        rows, at = _csv(source, file, ("concept_id", "vocabulary_id", "concept_code", "concept_name"))
        concept, system, code, name = at
        for row in rows:
            if len(row) > max(at) and row[concept] in used:
                unit = row[system] == "UCUM"
                plain = row[name] if row[system] in ("Race", "Ethnicity", "Gender") else row[code]
                said = plain if unit or plain is not row[code] else f"{vocabulary(row[system])}|{row[code]}"
                self._said[row[concept]] = said[:MAX_CODE]

    def __call__(self, text: str) -> str:
        if text[:1] not in (CONCEPT, END, PLAIN):
            return text
        number, _, source = text[1:].partition(CONCEPT)
        if text[0] == PLAIN:
            return self._said.get(number) or source or f"omop|{number}"
        said = self._said.get(number) or (f"source|{source}" if source else f"omop|{number}")
        return f"{said}/end" if text[0] == END else said


def _tables(source: Source) -> dict[str, str]:
    """Table in small letters -> member; where one stands twice, the one least deep."""
    found: dict[str, str] = {}
    for name in sorted(source.names, key=lambda n: (n.count("/"), n)):
        stem, dot, suffix = name.rsplit("/", 1)[-1].lower().rpartition(".")
        if dot and suffix == "csv":
            found.setdefault(stem, name)
    return found


def _csv(source: Source, file: str, columns: Sequence[str]) -> tuple[Iterator[list[str]], list[int]]:
    """Rows, and the places of the columns. Raises: BadData "omop-columns"."""
    lines = source.lines(file)
    head = next(lines, "")
    tab = "\t" in head and "," not in head
    names = [name.strip().strip('"').lower() for name in head.strip().split("\t" if tab else ",")]
    missing = [name for name in columns if name not in names]
    if missing:
        raise BadData("omop-columns", f"{file}: there is no column {missing[0]}.", hint="CDM 5.4 names are expected.")
    reader = csv.reader(lines, delimiter="\t" if tab else ",")
    return _rows(reader), [names.index(name) for name in columns]


def _rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """A row that is not CSV comes as one empty cell, which its reader counts."""
    while True:
        try:
            yield from reader
            return
        except csv.Error:
            yield [""]


def _events(source: Source, file: str, table: str, said: Table, account: Account, used: set[str], spill: Spill) -> None:
    columns = ["person_id", said.concept, said.day, said.source]
    rows, at = _csv(source, file, columns)
    person, concept, day, origin = at
    names = _header(source, file)
    time, end, end_day, value, coded, worded, unit, unit_source = (
        names.get(column, -1) if column else -1
        for column in (said.time, said.end, said.end_day, said.value, said.coded, said.worded, said.unit,
                       said.unit_source)
    )  # fmt: skip
    shortest = max(person, concept, day, origin, time, end, end_day, value, coded, worded, unit, unit_source)
    add, read = spill.add, 0
    for row in rows:
        if len(row) <= shortest:
            if row:  # an empty line is no row
                account.skip(table, "malformed")
            continue
        patient = row[person]
        hours = iso_hours(row[time]) if time >= 0 and row[time] else None
        if hours is None:
            hours = iso_hours(row[day])
        if not patient or hours is None:
            account.skip(table, "no-person" if not patient else "no-time")
            continue
        number = row[concept]
        if number in ("", "0") and not row[origin]:
            account.skip(table, "no-code")
            continue
        used.add(number)
        code = f"{CONCEPT}{number}{CONCEPT}{row[origin]}" if number not in ("", "0") else f"source|{row[origin]}"
        code = code[:MAX_CODE]
        amount: float | None = None
        amount_unit, text = None, EXPOSURE if table == "drug_exposure" else None
        if value >= 0:
            amount = finite(row[value]) if row[value] else None
            if amount is not None:
                amount_unit = _concept(row[unit], used) if unit >= 0 else None
                amount_unit = amount_unit or (row[unit_source] or None if unit_source >= 0 else None)
            else:
                text = _concept(row[coded], used) if coded >= 0 else None
                text = text or (row[worded][:MAX_TEXT] or None if worded >= 0 else None)
        add((patient, hours, code, amount, amount_unit, text))
        read += 1
        if end >= 0 or end_day >= 0:
            done = iso_hours(row[end]) if end >= 0 and row[end] else None
            done = iso_hours(row[end_day]) if done is None and end_day >= 0 and row[end_day] else done
            if done is not None:
                add((patient, done, END + code[1:] if code[0] == CONCEPT else f"{code}/end", None, None, None))
    account.read[table] += read


def _header(source: Source, file: str) -> dict[str, int]:
    head = next(source.lines(file), "")
    names = head.strip().replace("\t", ",").split(",")
    return {name.strip().strip('"').lower(): at for at, name in enumerate(names)}


def _concept(said: str, used: set[str]) -> str | None:
    if said in ("", "0"):
        return None
    used.add(said)
    return f"{CONCEPT}{said}{CONCEPT}"


def _persons(source: Source, files: dict[str, str], account: Account, used: set[str]) -> Iterator[Row]:
    rows, at = _csv(source, files["person"], ("person_id", "gender_concept_id", "year_of_birth"))
    names = _header(source, files["person"])
    for row in filter(None, rows):
        if len(row) < len(names) or not row[at[0]]:
            account.skip("PERSON", "no-person" if len(row) >= len(names) else "malformed")
            continue
        patient = row[at[0]]
        account.read["PERSON"] += 1
        yield patient, None, "sex", None, None, SEXES.get(row[at[1]], "unknown")
        if born := _born(row, names, row[at[2]]):
            yield patient, None, "birth_date", None, None, born
        for key in ("race", "ethnicity"):
            column, origin = names.get(f"{key}_concept_id"), names.get(f"{key}_source_value")
            if column is not None and row[column] not in ("", "0"):
                used.add(row[column])
                source_said = row[origin] if origin is not None else ""
                yield patient, None, key, None, None, f"{PLAIN}{row[column]}{CONCEPT}{source_said}"[:MAX_CODE]


def _born(row: list[str], names: dict[str, int], year: str) -> str | None:
    """As much of the date as is known: "1998-04-09", "1998-04" or "1998"."""
    parts = [year.zfill(4)] if year.isdigit() else []
    for name in ("month_of_birth", "day_of_birth"):
        said = row[names[name]] if name in names else ""
        if not parts or not said.isdigit():
            break
        parts.append(said.zfill(2))
    return "-".join(parts) or None


def _deaths(source: Source, files: dict[str, str], account: Account) -> Iterator[Row]:
    if "death" not in files:
        return
    rows, at = _csv(source, files["death"], ("person_id", "death_date"))
    names = _header(source, files["death"])
    time = names.get("death_datetime", at[1])
    for row in filter(None, rows):
        whole = len(row) > max(*at, time)
        hours = (iso_hours(row[time]) if row[time] else iso_hours(row[at[1]])) if whole else None
        if hours is None or not row[at[0]]:
            account.skip("DEATH", "no-time" if whole else "malformed")
            continue
        account.read["DEATH"] += 1
        yield row[at[0]], hours, "death", None, None, None
