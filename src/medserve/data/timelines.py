"""The events of a data set, found by patient: read once, kept in an unnamed file on disk, handed out case by case.

index = TimelineIndex.read(root, said, {"132539", ...}, patient="RecordID", until=48)
index.raw(table, row)             # {"events": [...], "prediction_time": 48}, or None where the patient has none
index.static("132539")            # {"Age": "54", ...}: what the source says once
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from medserve.data.blobs import Blobs
from medserve.data.declaration import Input
from medserve.data.forms.table import Table
from medserve.data.readers.records import Account, read_timelines, sniff_records
from medserve.data.readers.records._time import iso_hours
from medserve.errors import BadData, Refusal
from medserve.types import Event

ROLES = {"time": "time", "code": "code", "value": "value", "unit": "event_unit"}  # role -> key of the declaration
MOST_REASONS = 5
DATED = 100_000  # hours, 1981: beyond it times are dates


@dataclass
class TimelineIndex:
    """patient: the table's column of patients. until: a column of prediction times, or hours from the record's start.

    others: patients of the source that no case asks for.
    """

    patient: str
    until: str | float | None
    account: Account = field(default_factory=Account)
    _events: Blobs = field(default_factory=Blobs, repr=False)
    _where: dict[str, int] = field(default_factory=dict)
    _static: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: int = 0

    @classmethod
    def read(
        cls, root: Path, said: Input, wanted: Collection[str] | None, *, patient: str, until: str | float | None
    ) -> "TimelineIndex":
        """
        Args:
            wanted: patients of the cases, as the table names them; None: all of the source.

        Raises: BadData "file-missing", "form-unknown", "column-missing", and those of the readers.
        """
        index = cls(patient, until)
        path = root / said.table if said.table else root
        if not path.resolve().is_relative_to(root.resolve()):
            raise BadData("file-missing", f"{said.table} lies outside the data set.")
        form = said.form or ("events" if said.time and said.code else sniff_records(path))
        if form is None:
            raise BadData(
                "form-unknown", f"{path.name}: its events are in no known form.",
                hint="Write `form: fhir-ndjson | fhir-bundle | omop | physionet2012`, or name the columns of a table: "
                "`table, patient, time, code, value`.",
            )  # fmt: skip
        columns = {"patient": said.patient or patient}
        columns |= {role: name for role, key in ROLES.items() if (name := getattr(said, key))}
        only = None if wanted is None else frozenset(wanted)
        for who, static, events in read_timelines(path, form, columns=columns, account=index.account):
            if only is not None and who not in only:
                index.others += 1
                continue
            index._where[who] = index._events.add(events)
            index._static[who] = dict(static)
        return index

    @property
    def patients(self) -> tuple[str, ...]:
        """As the source names them."""
        return tuple(self._where)

    def events(self, who: str) -> list[Event] | None:
        if who not in self._where:
            return None
        return msgspec.convert(self._events.get(self._where[who]), list[Event])

    def static(self, who: str) -> Mapping[str, Any]:
        return self._static.get(who, {})

    def raw(self, table: Table, row: int) -> dict[str, Any] | None:
        """What the field `timeline` parses."""
        events = self.events(table.columns[self.patient][row])
        if events is None:
            return None
        if self.until is None:
            return {"events": events}
        return {"events": events, "prediction_time": self._until(events, table, row)}

    def _until(self, events: list[Event], table: Table, row: int) -> float:
        """On the clock of the events. Raises: Refusal "prediction-time"."""
        said: Any = self.until
        if isinstance(said, str):
            said = table.column(said, "`prediction_time`")[row]
        start = events[0].time if events else 0.0
        dated = start > DATED
        try:
            return float(said) + (start if dated else 0.0)
        except ValueError:
            when = iso_hours(said)
        if when is None or not dated:
            raise Refusal(
                "prediction-time",
                f"Row {row + 2}: the prediction time is missing, or not on the clock of the events.",
                hint="Give hours from the start of the record, or a date where the events have dates.",
            )
        return when

    def notes(self, name: str) -> list[str]:
        """What a person should see of the reading."""
        account = self.account
        said = []
        if account.skipped:
            reasons = sorted(account.skipped.items(), key=lambda item: -item[1])[:MOST_REASONS]
            listed = "; ".join(f"{n} of {table}: {reason}" for (table, reason), n in reasons)
            said.append(
                f"{name}: {sum(account.skipped.values())} entries were skipped ({account.share:.1%}): {listed}."
            )
        if self.others:
            said.append(f"{name}: {self.others} patients of the source belong to no case.")
        return said
