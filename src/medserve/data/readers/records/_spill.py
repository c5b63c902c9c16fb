"""Rows of many patients in any order -> one patient at a time, in bounded memory.

    with Spill() as spill:
        spill.add((patient, 12.5, "HR", 80.0, "/min", None))     # an event
        spill.add((patient, None, "sex", None, None, "female"))  # without a time: a static input
        for patient, static, events in spill.patients(): ...

A few rows stay in memory. More go to files, one for each hash of the patient, in a folder that only this user can
read and that is removed at the end; then one file is in memory at a time. A file that grew too long is split again.
"""

import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from medserve.data.readers.records._account import Account
from medserve.types import Event

Row = tuple[str, float | None, str, float | None, str | None, str | None]
Timeline = tuple[str, dict[str, Any], list[Event]]

BUCKETS = 256
HELD = 40_000  # rows in memory before the first one goes to a file
BUCKET_BYTES = 8 * 2**20  # of a file that is still read whole
DEEPEST = 3
MOST_EVENTS = 1_000_000  # of one patient; a longer record is cut, and counted

_ENCODER = msgspec.json.Encoder()
_LINES = msgspec.json.Decoder(Row)


class Spill:
    """Groups rows by patient. Not for several threads."""

    def __init__(self, account: Account | None = None, held: int = HELD, depth: int = 0) -> None:
        self._account = account if account is not None else Account()
        self._most, self._depth = held, depth
        self._rows: list[Row] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.rows = 0

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._rows = []
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= self._most:
            self._flush()

    def extend(self, rows: Iterable[Row]) -> None:
        """Of one resource or one patient, not of a whole source."""
        self._rows.extend(rows)
        if len(self._rows) >= self._most:
            self._flush()

    def patients(self, said: Callable[[str], str] | None = None) -> Iterator[Timeline]:
        """Each patient once, events by time (rows of one time in the order of the source).

        Args:
            said: what to make of every code, unit and text, when they could not be known while reading.
        """
        self.rows += len(self._rows)
        if self._folder is None:
            yield from self._group(self._rows, said)
            return
        self._flush()
        for path in sorted(Path(self._folder.name).iterdir()):
            if path.stat().st_size > BUCKET_BYTES and self._depth < DEEPEST:
                yield from self._again(path, said)
            else:
                yield from self._group(_LINES.decode_lines(path.read_bytes()), said)
            path.unlink()

    def _again(self, path: Path, said: Callable[[str], str] | None) -> Iterator[Timeline]:
        with Spill(self._account, self._most, self._depth + 1) as deeper, path.open("rb") as lines:
            for line in lines:
                deeper.add(_LINES.decode(line))
            yield from deeper.patients(said)

    def _flush(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="records-")
        folder = Path(self._folder.name)
        buckets: dict[int, list[Row]] = {}
        salt = self._depth * 0x9E3779B1 & 0xFFFFFFFF
        for row in self._rows:
            buckets.setdefault(zlib.crc32(row[0].encode(), salt) % BUCKETS, []).append(row)
        for number, rows in buckets.items():
            with (folder / f"{number:03d}").open("ab") as file:
                file.write(_ENCODER.encode_lines(rows))
        self.rows += len(self._rows)
        self._rows = []

    def _group(self, rows: Iterable[Row], said: Callable[[str], str] | None) -> Iterator[Timeline]:
        statics: dict[str, dict[str, Any]] = {}
        events: dict[str, list[Event]] = {}
        for patient, time, code, value, unit, text in rows:
            if said is not None:
                code, unit, text = said(code), unit and said(unit), text and said(text)
            if time is None:
                statics.setdefault(patient, {})[code] = text if value is None else value
            else:
                held = events.get(patient)
                if held is None:
                    held = events[patient] = []
                if len(held) < MOST_EVENTS:
                    held.append(Event(time, code, value, unit, text))
                else:
                    self._account.skip("patient", "too-many-events")
        for patient in dict.fromkeys((*statics, *events)):
            yield patient, statics.get(patient, {}), sorted(events.pop(patient, []), key=_time)


def _time(event: Event) -> float:
    return event.time
