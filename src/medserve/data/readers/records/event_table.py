"""A table of events, one a row, in CSV or Parquet, in any order of patients: what MIMIC and most warehouses give.

    columns = {"patient": "subject_id", "time": "charttime", "code": "itemid", "value": "valuenum", "unit": "valueuom"}
    for patient, static, events in read(Path("events.csv"), account, columns): ...

Times are dates, hours ("12.5") or clock times ("12:30"); the first row decides which, and a later one of another sort
is counted as skipped. A value that is no number becomes the event's text.
"""

import csv
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from medserve.data.readers.records._account import Account
from medserve.data.readers.records._spill import Spill, Timeline
from medserve.data.readers.records._time import clock_hours, finite, iso_hours
from medserve.errors import BadData, neighbours

ROLES = ("patient", "time", "code", "value", "unit", "text")
NEEDED = ROLES[:3]
MAX_LINE = 2**20  # characters
MAX_WORD = 512
BATCH = 20_000  # rows of a Parquet file in memory


def read(path: Path, account: Account, columns: Mapping[str, str]) -> Iterator[Timeline]:
    """
    Args:
        columns: role (patient, time, code; value, unit, text where there are) -> name in the table.

    Raises: BadData "events-columns": a role or a column that does not exist; "events-time": the first time is none;
        "file-unreadable".
    """
    wanted = _check(columns)
    rows = _parquet(path, wanted) if path.suffix.lower() in (".parquet", ".pq") else _csv(path, wanted)
    with Spill(account) as spill:
        hours: Callable[[str], float | None] | None = None
        add, read_rows = spill.add, 0
        for row in rows:
            if row is None:
                account.skip("event", "malformed")
                continue
            patient, time, code, value, unit, text = row
            if not patient or not code or len(patient) > MAX_WORD or len(code) > MAX_WORD:
                account.skip("event", "no-patient" if not patient else "no-code" if not code else "too-long")
                continue
            if hours is None and time:
                hours = _clock(time, path.name)
            when = hours(time) if hours is not None and time else None
            if when is None:
                account.skip("event", "no-time")
                continue
            number: float | None = None
            if value:
                try:
                    number = float(value)
                except ValueError:
                    text = text or value
                if number is not None and number - number != 0:  # NaN and infinities are no measurements
                    account.skip("event", "no-number")
                    continue
            add((patient, when, code, number, unit or None, text or None))
            read_rows += 1
        account.read["event"] += read_rows
        yield from spill.patients()


def _check(columns: Mapping[str, str]) -> list[str | None]:
    for role in columns:
        if role not in ROLES:
            raise BadData("events-columns", f"A table of events has no role {role!r} ({neighbours(role, ROLES)}).")
    for role in NEEDED:
        if not columns.get(role):
            raise BadData("events-columns", f"Which column holds the {role}?", hint=f"Name it: {{{role}: COLUMN}}.")
    return [columns.get(role) for role in ROLES]


def _places(path: Path, names: list[str], wanted: list[str | None]) -> list[int]:
    for name in wanted:
        if name is not None and name not in names:
            raise BadData("events-columns", f"{path.name}: no column {name!r} ({neighbours(name, names)}).")
    return [-1 if name is None else names.index(name) for name in wanted]


def _csv(path: Path, wanted: list[str | None]) -> Iterator[list[str] | None]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            lines = iter(partial(file.readline, MAX_LINE), "")
            reader = csv.reader(lines)
            at = _places(path, next(reader, []), wanted)
            last = max(at)
            while True:
                try:
                    for row in reader:
                        yield [row[i] if i >= 0 else "" for i in at] if len(row) > last else None
                    return
                except csv.Error:
                    yield None
    except FileNotFoundError as error:
        raise BadData("file-missing", f"{path.name}: there is no such file.") from error
    except OSError as error:
        raise BadData("file-unreadable", f"{path.name}: {error.strerror}.") from error


def _parquet(path: Path, wanted: list[str | None]) -> Iterator[list[str] | None]:
    import polars as pl

    try:
        frame = pl.scan_parquet(path)
        names = frame.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadData("file-unreadable", f"{path.name}: it is not a Parquet file, or damaged.") from error
    _places(path, names, wanted)
    empty = pl.lit("")
    picked = [empty.alias(role) if name is None else _text(pl, name, role)
              for role, name in zip(ROLES, wanted, strict=True)]  # fmt: skip
    try:
        for batch in frame.select(picked).collect_batches(chunk_size=BATCH, maintain_order=True):
            yield from map(list, batch.iter_rows())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadData("file-unreadable", f"{path.name}: it cannot be read to its end.") from error


def _text(pl: Any, name: str, role: str) -> Any:
    """As text: what CSV would hold."""
    return pl.col(name).cast(pl.String).fill_null("").alias(role)


def _clock(first: str, name: str) -> Callable[[str], float | None]:
    for clock in (finite, clock_hours, iso_hours):
        if clock(first) is not None:
            return clock
    raise BadData("events-time", f"{name}: the first time is neither hours, hh:mm nor a date.",
                  hint="Write ISO 8601 dates, such as 2020-05-01T12:30:00.")  # fmt: skip
