"""Cells of text -> labels: what kind of target they are, its classes, and each row's `Label`.

target = Labels.of(table, columns=["diagnosis"], declared=None)
target.task, target.classes, target.label(row)
"""

import math
from collections import Counter
from dataclasses import dataclass

from medserve.data.cohort import Label
from medserve.data.declaration import Target
from medserve.data.forms.amounts import DROP, Amount, WrongUnit, amount_of, is_bound
from medserve.data.forms.listing import class_task, order_classes
from medserve.data.forms.table import Table
from medserve.data.trial import Treatment, check_times
from medserve.errors import BadData
from medserve.types import LOWEST

MOST_CLASSES = 20  # more whole numbers than these are a quantity, not classes
NO_LABELS = frozenset({"", "no finding", "no findings", "none", "normal"})


class Unlabelled(Exception):
    """A row without a usable label; `code` and the message say why, without the cell."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class Survival:
    """Two columns over a table: the time until the event or the end of observation, and which of the two it was."""

    table: Table
    columns: tuple[str, ...]
    unit: str | None
    task: str = "survival"

    @property
    def classes(self) -> tuple[str, ...]:
        return (self.columns[1],)

    @classmethod
    def of(cls, table: Table, declared: Target) -> "Survival":
        """Raises: BadData "column-missing", "declaration-value"."""
        if not isinstance(declared.column, str) or declared.event is None:
            raise BadData("declaration-value", "A survival target has one `column` of times and an `event` column.")
        for name, role in ((declared.column, "the time"), (declared.event, "the event")):
            table.column(name, role)
        return cls(table, (declared.column, declared.event), declared.unit)

    def label(self, row: int) -> Label:
        """(time, event). Raises: Unlabelled."""
        time, event = (self.table.columns[name][row] for name in self.columns)
        if not time or not event:
            raise Unlabelled("label-missing", f"Row {row + 2}: no time or no event.")
        value, happened = _number(time), _EVENT.get(event.lower().removesuffix(".0"))
        if value is None or value < 0 or happened is None:
            raise Unlabelled(
                "label-invalid", f"Row {row + 2}: a time of at least 0 and an event of 0 or 1 are expected."
            )
        return (value, happened)


@dataclass(frozen=True, slots=True)
class Effect:
    """The outcome of a trial and the arm it was seen under; `classes` are the arms, the reference first."""

    table: Table
    outcome: "Labels | Survival"
    treatment: Treatment
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    task: str = "effect"

    @property
    def unit(self) -> str | None:
        return self.outcome.unit

    @classmethod
    def of(cls, table: Table, outcome: "Labels | Survival", treatment: Treatment) -> "Effect":
        """Raises: BadData "column-missing", "treatment-unit", "treatment-arms", and those of `check_times`."""
        for name in treatment.columns:
            table.column(name, "`treatment`")
        if outcome.task != "binary" and outcome.unit is None:
            raise BadData(
                "treatment-unit", f"{table.name}: the outcome has no unit.",
                hint='Write `unit:` under `target`, "1" for a number without one.',
            )  # fmt: skip
        check_times(treatment, table)
        cells = [c for c in table.columns[treatment.column] if c]
        arms = tuple(treatment.arms) if treatment.arms else order_classes(cells)
        if len(arms) < 2:
            raise BadData(
                "treatment-arms", f"{table.name}: column {treatment.column!r} holds one arm only.",
                hint="An effect is a difference between at least two arms.",
            )  # fmt: skip
        columns = tuple(dict.fromkeys((*outcome.columns, treatment.column)))
        return cls(table, outcome, treatment, columns, arms)

    def label(self, row: int) -> Label:
        """(outcome or time, seen, arm, negative control or NaN). Raises: Unlabelled."""
        found = self.outcome.label(row)
        time, seen = found if isinstance(found, tuple) else (found, 1.0)
        arm = self.table.columns[self.treatment.column][row]
        if arm not in self.classes:
            code = "label-unknown" if arm else "label-missing"
            raise Unlabelled(code, f"Row {row + 2}, column {self.treatment.column!r}: none of the arms.")
        name = self.treatment.negative_control
        control = None if name is None else _number(self.table.columns[name][row])
        return (
            float(time or 0.0),
            float(seen),
            float(self.classes.index(arm)),
            math.nan if control is None else control,
        )


@dataclass(frozen=True, slots=True)
class Itself:
    """No column: what is learned is the input itself, for models that write more of its kind."""

    columns: tuple[str, ...] = ()
    unit: str | None = None
    task: str = "generate"
    classes: tuple[str, ...] = ("log-likelihood a letter",)

    def label(self, row: int) -> Label:
        return 0.0


def _range(declared: Target | None) -> tuple[float, float]:
    """What values may be: as declared, and positive where they are learnt on another scale."""
    low, high = (declared and declared.range) or (-math.inf, math.inf)
    return max(low, LOWEST[(declared and declared.scale) or ""]), high


_EVENT = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}


@dataclass(frozen=True, slots=True)
class Labels:
    """One target over a table. `separator` is set where one cell lists several labels."""

    table: Table
    columns: tuple[str, ...]
    task: str
    classes: tuple[str, ...]
    separator: str | None = None
    unit: str | None = None
    censored: str | None = None
    range: tuple[float, float] = (-math.inf, math.inf)  # of a number

    @classmethod
    def of(cls, table: Table, columns: list[str], declared: Target | None) -> "Labels":
        """
        Raises: BadData "declaration-value": the declared kind or classes do not fit the column. "labels-censored":
            some values are bounds, and what becomes of them is not declared.
        """
        kind, classes = (declared.kind, declared.classes) if declared else (None, None)
        unit, separator = (declared.unit, declared.separator) if declared else (None, "|")
        if len(columns) > 1:
            if kind not in (None, "multilabel"):
                raise BadData(
                    "declaration-value", f"{table.name}: several columns make a multilabel target, not {kind}."
                )
            if classes and len(classes) != len(columns):
                raise BadData("declaration-value", f"{table.name}: {len(classes)} classes for {len(columns)} columns.")
            return cls(table, tuple(columns), "multilabel", tuple(classes or columns))
        cells = [c for c in table.column(columns[0], "the target") if c]
        if kind == "multilabel" or (kind is None and any(separator in c for c in cells)):
            names = {n.strip() for c in cells for n in c.split(separator)}
            found = order_classes(n for n in names if n.lower() not in NO_LABELS)
            return cls(table, tuple(columns), "multilabel", tuple(classes or found), separator)
        if kind == "number" or (kind is None and not classes and _quantity(cells)):
            said = declared.censored if declared else None
            bounds = sum(is_bound(c) for c in cells)
            if bounds and said is None:
                raise BadData(
                    "labels-censored",
                    f"{table.name}, column {columns[0]!r}: {bounds} of {len(cells)} values are bounds (such as '>10').",
                    hint="Write under target: `kind: number, censored: drop` to leave these cases out, or `censored:"
                    " bound` to take the bound for the value.",
                )
            return cls(table, tuple(columns), "number", (columns[0],), unit=unit, censored=said, range=_range(declared))
        names_in_order = tuple(classes) if classes else order_classes(cells)
        return cls(table, tuple(columns), kind or class_task(names_in_order), names_in_order)

    @property
    def notes(self) -> list[str]:
        """Sentences about what was read: how many values were bounds, and what became of them."""
        cells = self.table.columns[self.columns[0]] if self.task == "number" else []
        sides = Counter(found.bound for c in cells if (found := _amount(c, self.unit)) is not None and found.bound)
        if not sides:
            return []
        done = "left out" if self.censored == DROP else "taken for the value"
        told = " and ".join(f"{sides[side]} {word}" for side, word in ((">", "lower"), ("<", "upper")) if sides[side])
        return [
            f"{sum(sides.values())} values of {self.columns[0]} are bounds ({told}); they were {done}, as declared."
        ]

    def label(self, row: int) -> Label:
        """Raises: Unlabelled."""
        cells = [self.table.columns[c][row] for c in self.columns]
        if len(cells) > 1:
            return self._flags(cells, row)
        cell = cells[0]
        if self.separator is not None:
            return self._several(cell, row)
        if not cell:
            raise Unlabelled("label-missing", f"Row {row + 2}, column {self.columns[0]!r}: no label.")
        if self.task == "number":
            return self._quantity(cell, row)
        if cell in self.classes:
            return self.classes.index(cell)
        raise Unlabelled("label-unknown", f"Row {row + 2}, column {self.columns[0]!r}: none of the declared classes.")

    def _quantity(self, cell: str, row: int) -> Label:
        value, where = _number(cell), f"Row {row + 2}, column {self.columns[0]!r}"
        if value is not None:
            return self._within(value, where)
        try:
            found = amount_of(cell, self.unit)
        except WrongUnit as error:
            raise Unlabelled("label-unit", f"{where}: another unit than the declared {self.unit or 'none'}.") from error
        if found is None:
            raise Unlabelled("label-invalid", f"{where}: not a number.")
        if found.bound and self.censored == DROP:
            raise Unlabelled("label-censored", f"{where}: a bound, left out as declared.")
        return self._within(found.value, where)

    def _within(self, value: float, where: str) -> float:
        low, high = self.range
        if not low <= value <= high:
            raise Unlabelled("label-range", f"{where}: outside the declared range of {low:g} to {high:g}.")
        return value

    def _flags(self, cells: list[str], row: int) -> Label:
        values = [
            math.nan if c.removesuffix(".0") in ("", "-1") else _number(c) for c in cells
        ]  # -1: CheXpert's "unsure"
        if any(v is None or not (math.isnan(v) or v in (0, 1)) for v in values):
            raise Unlabelled(
                "label-invalid", f"Row {row + 2}: the label columns hold 0, 1, or -1 or nothing for unknown."
            )
        if all(c == "" for c in cells):
            raise Unlabelled("label-missing", f"Row {row + 2}: no label in any column.")
        return tuple(float(v) for v in values if v is not None)

    def _several(self, cell: str, row: int) -> Label:
        if not cell:
            raise Unlabelled("label-missing", f"Row {row + 2}, column {self.columns[0]!r}: no label.")
        names = {n.strip() for n in cell.split(self.separator)}
        unknown = {n for n in names - set(self.classes) if n.lower() not in NO_LABELS}
        if unknown:
            raise Unlabelled(
                "label-unknown", f"Row {row + 2}, column {self.columns[0]!r}: none of the declared classes."
            )
        return tuple(float(name in names) for name in self.classes)


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _amount(cell: str, unit: str | None) -> Amount | None:
    try:
        return amount_of(cell, unit) if cell else None
    except WrongUnit:
        return None


def _quantity(cells: list[str]) -> bool:
    """Numbers that are measured rather than counted out: decimals, or more whole ones than classes would be; bounds
    among them are numbers too."""
    values = [_number(c.lstrip("<>=≤≥ ") if is_bound(c) else c) for c in cells]
    if not values or any(v is None for v in values):
        return False
    return any(v != int(v) for v in values if v is not None) or len(set(values)) > MOST_CLASSES
