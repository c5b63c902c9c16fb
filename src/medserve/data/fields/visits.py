"""A patient's history in visits: the grid of a timeline whose columns are the last visits instead of hours.

    history = Visits("history", visits=8).fit(train_values)
    value = history.parse({"events": [...], "prediction_time": 420_011.5})
    history.encode(value)                       # (channels, 8) float32, NaN: not known

The last column is the present visit, without its medicines; those before it are the visits before, and the first column
holds all that is older. Every medicine among the labels has a channel, and all other codes as in any timeline. What
a visit is stands in `medserve.data.visits`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import msgspec
import numpy as np

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS
from medserve.data.fields._codes_seen import Seen
from medserve.data.fields.timeline import Channel, History, Timeline
from medserve.data.visits import GAP_H, is_medicine, numbered, parted
from medserve.errors import BadData, Refusal
from medserve.types import Array, Event, Named

VISITS = 8
EVER_H = 1e6  # hours, a hundred years: nothing is too old for the first column


class PartedHistory(History, array_like=True, frozen=True):
    """earlier: how many of `events`, the first ones, stand before the present visit."""

    earlier: int


@FIELDS.register("visits")
@dataclass(frozen=True)
class Visits(Timeline):
    """gap_h: hours without an event that part two visits. medicines: codes that have a channel in any case."""

    kind: ClassVar[str] = "timeline"
    gap_h: float = GAP_H
    medicines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "medicines", tuple(self.medicines))
        object.__setattr__(self, "window_h", EVER_H)

    @classmethod
    def declare(cls, name: str, said: Input) -> "Visits":
        return cls(name, bins=said.visits or VISITS, gap_h=said.gap or GAP_H)

    def _cut(self, events: list[Event], dated: bool, said: Any) -> History:
        found = super()._cut(events, dated, said)
        earlier, today = parted(found.events, found.until, self.gap_h)
        return PartedHistory(found.until, [*earlier, *today], len(earlier))

    def restore(self, stored: Any) -> Any:
        return stored if stored is None or isinstance(stored, PartedHistory) else msgspec.convert(stored, PartedHistory)

    def fit(self, values: Iterable[Any]) -> "Visits":
        """Raises: BadData "timeline-codes": no code was seen in enough cases."""
        seen = Seen.of(values)
        made = [Channel(**said) for said in seen.channels(self.bins, EVER_H, always=frozenset(self.medicines))]
        if not made:
            raise BadData(
                "timeline-codes", f"{self.name}: no code stands in enough of the training part's {seen.cases} visits.",
                hint="Check which column holds the codes; a channel needs 10 cases.",
            )  # fmt: skip
        counts: dict[str, Any] = seen.counts(made)
        return replace(self, channels=tuple(made), **counts)

    def check(self, value: Any) -> None:
        """As of a timeline. Raises: Refusal "timeline-empty": nothing but the medicines of this visit is known."""
        if value is not None and self.channels and not value.events:
            raise Refusal(
                "timeline-empty", f"{self.name}: nothing is known before this visit's prescriptions.",
                hint="Send the diagnoses of the visit, with a time up to the prediction time, or earlier visits.",
            )  # fmt: skip
        super().check(value)

    @property
    def facts(self) -> dict[str, Any]:
        """As of a timeline; `hours` counts visits, and `visits` says so."""
        return super().facts | {"hours": 1.0, "visits": self.bins}

    def encode(self, value: Any) -> Array:
        grid = np.full(self.shape, np.nan, np.float32)
        if value is None:
            return grid
        total, count = np.zeros(self.shape), np.zeros(self.shape)
        before = numbered(value.events[: value.earlier], self.gap_h)
        last = before[-1] if before else 0
        columns = [max(0, self.bins - 2 - last + number) for number in before]
        columns += [self.bins - 1] * (len(value.events) - value.earlier)
        for event, column in zip(value.events, columns, strict=True):
            what, at, number = self._place(event, value.until)
            if what == "kept":
                channel = at // self.bins
                total[channel, column] += number
                count[channel, column] += 1
        known = count > 0
        grid[known] = (total / np.maximum(count, 1))[known]
        present = [c.present for c in self.channels]
        grid[present] = np.where(np.isnan(grid[present]), np.nan, 1)
        return grid

    def last_prescribed(self, value: Any) -> frozenset[str] | None:
        """Codes of the medicines of the last earlier visit that had any; None where there was none."""
        if value is None:
            return None
        events = value.events[: value.earlier]
        visit, at = numbered(events, self.gap_h), -1
        found: set[str] = set()
        for event, number in zip(reversed(events), reversed(visit), strict=True):
            if found and number != at:
                break
            if is_medicine(event):
                found.add(event.code)
                at = number
        return frozenset(found) or None

    def named(self) -> Named:
        plain = super().named()
        params = {k: v for k, v in plain.params.items() if k != "window_h"}
        return Named("visits", params | {"gap_h": self.gap_h, "medicines": list(self.medicines)})
