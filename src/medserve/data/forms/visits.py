"""Records whose cases are visits: what was prescribed at each, out of the events of its patient.

    listing = list_visits(root, declared, key, path=root)      # target: {kind: medicines}
    listing.labels                          # ("atc|C09AA05", "rxnorm|6809", ...): every code that was prescribed
    listing.raw(listing.items[0])           # {"history": {"events": [...], "prediction_time": hours}, "sex": "F"}

A visit at which nothing was prescribed is no case; its events stay in the history of the later ones. The declared
`table` has one row a patient, with what does not change: sex, year of birth, site.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medserve.data.cohort import Item, Refused
from medserve.data.declaration import Dataset
from medserve.data.forms import table as tb
from medserve.data.forms.listing import Listing
from medserve.data.forms.tables import facts_of, group_columns_of, parts_of, rule_of
from medserve.data.pseudonym import pseudonym
from medserve.data.timelines import TimelineIndex
from medserve.data.visits import GAP_H, Visit, visits_of
from medserve.errors import BadData
from medserve.types import Part

HELD = "patient"  # the column of a source whose form says itself who is who


@dataclass
class RawVisits:
    """where: of each case its patient and its prediction time. rows: of each patient the row of the table."""

    history: str
    index: TimelineIndex
    where: list[tuple[str, float]]
    columns: dict[str, str]  # other inputs -> column
    table: tb.Table | None
    rows: Mapping[str, int]

    def __call__(self, item: Item) -> Mapping[str, Any]:
        assert item.row is not None
        who, until = self.where[item.row[1]]
        found: dict[str, Any] = {self.history: {"events": self.index.events(who), "prediction_time": until}}
        for name, column in self.columns.items():
            if self.table is not None and column in self.table.columns:
                found[name] = self.table.columns[column][self.rows[who]] or None
            else:
                found[name] = self.index.static(who).get(column)
        return found


def list_visits(root: Path, declared: Dataset, key: bytes, *, path: Path, read: int = 0) -> Listing:
    """
    Args:
        read: files of the data set that were read already (its declaration).

    Raises: BadData "medicines-none": nothing is prescribed at any visit; "columns-unknown", "column-missing",
        "patient-twice", and those of reading the events.
    """
    name, said = next((k, v) for k, v in declared.inputs.items() if v.kind == "timeline")
    who = said.patient or declared.patient
    if who is None and said.form is None and said.time is not None:
        raise BadData(
            "columns-unknown", "A table of events needs `patient`, the column that says whose an event is.",
            hint="Write `patient: COLUMN` into dataset.yaml.",
        )  # fmt: skip
    table = None if declared.table is None else tb.read_table(root / declared.table)
    rows = {} if table is None else _rows(table, declared)
    others = {k: v.column or k for k, v in declared.inputs.items() if k != name}
    index = TimelineIndex.read(root, said, None if table is None else set(rows), patient=who or HELD, until=None)
    for one, column in others.items():
        known = table is not None and column in table.columns
        if not known and all(index.static(p).get(column) is None for p in index.patients[:200]):
            (table or tb.Table(said.table or root.name, {})).column(column, f"`inputs.{one}`")  # raises
    found = [(p, visit) for p in index.patients for visit in visits_of(index.events(p) or [], said.gap or GAP_H)]
    if not found:
        raise BadData(
            "medicines-none", f"{said.table or root.name}: no event is of a medicine.",
            hint="Write their codes as atc|B01AA03 or rxnorm|11289; docs/medicines.md says what is read.",
        )  # fmt: skip
    labels = tuple(sorted({code for _, visit in found for code in visit.medicines}))
    groups, parts = _of_patients(table, declared)
    items = [
        _item(root / (said.table or ""), number, p, visit, labels, key, rows.get(p), groups, parts)
        for number, (p, visit) in enumerate(found)
    ]
    silent = len(index.patients) - len({p for p, _ in found})
    notes = index.notes(name)
    notes += [f"{silent} patients were never prescribed anything, and are no cases."] if silent else []
    return Listing(
        path=path,
        name=declared.name or root.name,
        form="visits",
        task="multilabel",
        labels=labels,
        items=items,
        files=len(items) + read,
        refused=list[Refused](),
        source=declared.described | {"warnings": notes},
        independent=False,
        kind="record",
        inputs=dict(declared.inputs),
        raw=RawVisits(name, index, [(p, visit.at) for p, visit in found], others, table, rows),
        medicines=True,
        split=rule_of(declared),
        subgroups=tuple(declared.subgroups),
        tables=() if table is None else (table.name,),
        columns={"patient": who or HELD, "label": "medicines of the visit"},
        declaration=declared,
        key=key,
    )


def _rows(table: tb.Table, declared: Dataset) -> dict[str, int]:
    """Patient -> row. Raises: BadData "columns-unknown", "patient-twice"."""
    if declared.patient is None:
        raise BadData(
            "columns-unknown", f"{table.name}: `patient` names the column that says whose a row is.",
            hint="Write `patient: COLUMN` into dataset.yaml.",
        )  # fmt: skip
    cells = table.column(declared.patient, "`patient`")
    rows = {cell: row for row, cell in enumerate(cells) if cell}
    if len(rows) < sum(bool(cell) for cell in cells):
        raise BadData(
            "patient-twice", f"{table.name}: a patient has several rows, where one was expected.",
            hint="What changes from visit to visit belongs among the events.",
        )  # fmt: skip
    return rows


def _of_patients(table: tb.Table | None, declared: Dataset) -> tuple[list[dict[str, str]], list[Part | None]]:
    """Subgroups and official part of each row of the table of patients."""
    if table is None:
        if declared.subgroups or isinstance(declared.split, str):
            raise BadData(
                "columns-unknown", "Subgroups and parts are columns of the table of patients, which is not declared.",
                hint="Write `table: patients.csv` into dataset.yaml.",
            )  # fmt: skip
        return [], []
    roles = {"part": declared.split} if isinstance(declared.split, str) else {}
    for role, column in roles.items():
        table.column(column, f"`{role}`")
    return facts_of(table, group_columns_of(table, roles, declared)), parts_of(
        table, roles, [None] * len(table), declared
    )


def _item(
    file: Path, number: int, who: str, visit: Visit, labels: tuple[str, ...], key: bytes, row: int | None,
    groups: list[dict[str, str]], parts: list[Part | None],
) -> Item:  # fmt: skip
    label = tuple(float(code in visit.medicines) for code in labels)
    told = (None, {}) if row is None else (parts[row], groups[row])
    return Item(f"visit {number + 1}", file, ("visits", number), label, pseudonym(key, who), *told)
