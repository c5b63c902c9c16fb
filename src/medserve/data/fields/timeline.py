"""A patient's history up to the moment of prediction, as a grid of channels and time bins.

    stay = Timeline("stay", until_h=48).fit(train_values)
    value = stay.parse([[0.5, "HR", 88], [1.2, "Temp", 36.9, "Cel"]])    # [time in hours, code, value, unit, text]
    stay.encode(value)                                                   # (channels, bins) float32, NaN: not known

What is later than the prediction time is dropped while parsing, before anything can look at it. A channel is a code
that training saw in at least `SEEN` cases: measured ones hold the mean of each bin in the unit of most training
events, the others hold 1 where they happened. Values that no living patient shows become missing in training data and
are refused when served.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import msgspec
import numpy as np

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS
from medserve.data.fields._codes_seen import Seen, key_of
from medserve.data.readers.records._time import iso_hours
from medserve.data.units import convert
from medserve.errors import BadData, Refusal, neighbours
from medserve.types import Array, Event, Named

BINS = 48
MOST_EVENTS = 100_000  # of one timeline
MOST_ENTRIES = 20_000  # of one Bundle
SLIPS = 0.02  # share of the measured values that may be impossible before a case is refused
MAX_CODE = 512  # characters
WINDOW_AT = 0.9  # the window holds this share of the training timelines whole
EVENT_KEYS = frozenset({"time", "code", "value", "unit", "text"})


class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the grid. Figures are of at least `SEEN` training cases.

    present: something that happened, not a measurement. low, high: what is possible, in `unit`.
    centre, spread: of the values; share: of the bins that hold one. The three make up examples only.
    """

    code: str
    name: str
    unit: str | None = None
    present: bool = False
    low: float | None = None
    high: float | None = None
    centre: float = 1.0
    spread: float = 0.0
    share: float = 0.1

    def possible(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


class History(msgspec.Struct, array_like=True, frozen=True):
    """What `parse` gives: events by time, none after `until` (hours on the same clock)."""

    until: float
    events: list[Event]


@FIELDS.register("timeline")
@dataclass(frozen=True)
class Timeline:
    """until_h: hours from the start of the record to the prediction, where a case does not say its own
    `prediction_time`; without both, the last event is the present. window_h: looked back from there.

    outside, strange, wrong_unit: events of the training part that are out of range, of a code that is not kept, or in a
    unit that measures something else.
    """

    kind: ClassVar[str] = "timeline"
    name: str
    window_h: float | None = None
    bins: int = BINS
    until_h: float | None = None
    channels: tuple[Channel, ...] = ()
    outside: int = 0
    strange: int = 0
    wrong_unit: int = 0

    def __post_init__(self) -> None:
        made = tuple(c if isinstance(c, Channel) else msgspec.convert(c, Channel) for c in self.channels)
        object.__setattr__(self, "channels", made)

    @classmethod
    def declare(cls, name: str, said: Input) -> "Timeline":
        return cls(name, said.window)

    def parse(self, raw: Any) -> History | None:
        """A list of events ([time, code, value, unit, text], the last three optional; or the same as a mapping), a FHIR
        Bundle of one patient, or {"events": either, "prediction_time": hours or a date}.

        Raises: Refusal "timeline-invalid".
        """
        if raw is None or isinstance(raw, History):
            return raw
        said: Any = None
        if isinstance(raw, dict) and "resourceType" not in raw:
            if "events" not in raw or not set(raw) <= {"events", "prediction_time"}:
                raise self._invalid('a list of events, a FHIR Bundle, or {"events", "prediction_time"} was expected')
            raw, said = raw["events"], raw.get("prediction_time")
        if isinstance(raw, dict):
            events, dated = self._bundle(raw), True
        else:
            events, dated = self._events(raw)
        return self._cut(sorted(events, key=lambda e: e.time), dated, said)

    def _cut(self, events: list[Event], dated: bool, said: Any) -> History:
        until = math.inf if said is None else _hours(said)
        if until is None:
            raise self._invalid("the prediction time is neither hours nor a date")
        if said is None and events:
            start = events[0].time if dated else 0.0
            until = events[-1].time if self.until_h is None else start + self.until_h
        elif said is None:
            until = self.until_h or 0.0
        return History(until, [event for event in events if event.time <= until])

    def _bundle(self, raw: dict[str, Any]) -> list[Event]:
        from medserve.data.readers.records.fhir import bundle_timelines

        entries = raw.get("entry")
        if isinstance(entries, list) and len(entries) > MOST_ENTRIES:
            raise self._invalid(f"the Bundle holds {len(entries)} entries; at most {MOST_ENTRIES} are read")
        try:
            found = list(bundle_timelines(raw))
        except BadData as error:
            raise self._invalid(error.message.rstrip(".")) from error
        if len(found) > 1:
            raise self._invalid(f"the Bundle holds {len(found)} patients, where one was expected")
        return found[0][2] if found else []

    def _events(self, raw: Any) -> tuple[list[Event], bool]:
        if not isinstance(raw, list | tuple):
            raise self._invalid("a list of events was expected")
        if len(raw) > MOST_EVENTS:
            raise self._invalid(f"{len(raw)} events; at most {MOST_EVENTS} are read")
        events, kinds = [], set()
        for number, item in enumerate(raw, 1):
            if not isinstance(item, Event):
                item = self._event(item, number)
                kinds.add(isinstance(item[0], str))
                time = _hours(item[0])
                if time is None:
                    raise self._invalid(f"event {number}: the time is neither hours nor a date")
                item = Event(time, *item[1:])
            elif not math.isfinite(item.time):
                raise self._invalid(f"event {number}: the time is not finite")
            events.append(item)
        if len(kinds) > 1:
            raise self._invalid("some times are hours and some are dates")
        return events, kinds == {True}

    def _event(self, item: Any, number: int) -> tuple[Any, ...]:
        """(time as said, code, value, unit, text), checked but for the time."""
        if isinstance(item, dict):
            unknown = sorted(str(key) for key in item if key not in EVENT_KEYS)
            if unknown:
                raise self._invalid(
                    f"event {number}: no key {unknown[0][:60]!r} ({neighbours(unknown[0], EVENT_KEYS)})"
                )
            item = [item.get(key) for key in ("time", "code", "value", "unit", "text")]
        if not isinstance(item, list | tuple) or not 2 <= len(item) <= 5:
            raise self._invalid(f"event {number}: [time, code, value, unit, text] was expected")
        time, code, value, unit, text = [*item, None, None, None][:5]
        if not isinstance(code, str) or not 0 < len(code) <= MAX_CODE:
            raise self._invalid(f"event {number}: the code is a text of 1 to {MAX_CODE} characters")
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise self._invalid(f"event {number}: the value is a number, or null")
        if any(word is not None and not isinstance(word, str) for word in (unit, text)):
            raise self._invalid(f"event {number}: the unit and the text are texts, or null")
        try:
            number_said = None if value is None else float(value)
        except OverflowError:
            number_said = math.inf
        if number_said is not None and not math.isfinite(number_said):
            number_said = None if number_said != number_said else self._infinite(number)
        return time, code, number_said, unit or None, text

    def _infinite(self, number: int) -> float:
        raise self._invalid(f"event {number}: the value is not finite")

    def _invalid(self, what: str) -> Refusal:
        return Refusal("timeline-invalid", f"{self.name}: {what}.", hint='Write [[0.5, "loinc|8867-4", 88, "/min"]].')

    def restore(self, stored: Any) -> Any:
        return stored if stored is None or isinstance(stored, History) else msgspec.convert(stored, History)

    def fit(self, values: Iterable[Any]) -> "Timeline":
        """Raises: BadData "timeline-codes": no code was seen in enough cases."""
        seen = Seen.of(values)
        window = self.window_h or seen.window(WINDOW_AT)
        made = [Channel(**said) for said in seen.channels(self.bins, window)]
        if not made:
            raise BadData(
                "timeline-codes",
                f"{self.name}: no code stands in enough of the training part's {seen.cases} timelines.",
                hint="Check which column holds the codes; a channel needs 10 cases.",
            )
        counts: dict[str, Any] = seen.counts(made)
        return replace(self, window_h=window, channels=tuple(made), **counts)

    def check(self, value: Any) -> None:
        """Raises: Refusal "timeline-empty", "unknown-code" (no event is of a known code), "wrong-unit",
        "value-out-of-range"."""
        if value is None or not self.channels:
            return
        start = value.until - (self.window_h or math.inf)
        events = [event for event in value.events if event.time >= start]
        if not events:
            hours = f" in the {self.window_h:g} hours" if self.window_h else ""
            raise Refusal(
                "timeline-empty",
                f"{self.name}: nothing happened{hours} before the prediction time.",
                hint="Send the events up to the prediction time, or leave the input out.",
            )
        known = measured = 0
        outside: list[Channel] = []
        for event in events:
            at = self._at.get(key_of(event))
            if at is None:
                continue
            known += 1
            channel = self.channels[at]
            if channel.present or event.value is None:
                continue
            value_said = _convert(event.value, event.unit, channel)  # "wrong-unit"
            measured += 1
            outside += [] if channel.possible(value_said) else [channel]
        if (
            len(outside) > SLIPS * measured
        ):  # one slip of the pen in a long stay counts as missing, as it did in training
            channel = outside[0]
            raise Refusal(
                "value-out-of-range",
                f"{self.name}: {channel.name} is outside {channel.low:g} to {channel.high:g}"
                f"{f' {channel.unit}' if channel.unit else ''}.",
                hint="Check the value and its unit; leave the event out when it is a slip.",
            )
        if not known:
            first = events[0].code
            raise Refusal(
                "unknown-code",
                f"{self.name}: no event is of a code that training knew "
                f"({neighbours(first[:80], [c.code for c in self.channels][:12])}).",
                hint="Codes are written as system|code, such as loinc|8867-4, or as the training data wrote them.",
            )

    def account(self, value: Any) -> Counter[str]:
        """Of one case's events: "kept", "outside", "wrong_unit", "strange" (a code that is not kept), "earlier" (than
        the window)."""
        found: Counter[str] = Counter()
        for event in value.events if value is not None else ():
            found[self._place(event, value.until)[0]] += 1
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.channels), self.bins)

    @property
    def facts(self) -> dict[str, Any]:
        """names, codes, units, present: one a channel. hours: of one bin."""
        return {
            "names": [c.name for c in self.channels],
            "codes": [c.code for c in self.channels],
            "units": [c.unit for c in self.channels],
            "present": [c.present for c in self.channels],
            "hours": (self.window_h or 1.0) / self.bins,
        }

    def encode(self, value: Any) -> Array:
        grid = np.full(self.shape, np.nan, np.float32)
        if value is None:
            return grid
        places: list[int] = []
        values: list[float] = []
        for event in value.events:
            what, at, number = self._place(event, value.until)
            if what == "kept":
                places.append(at)
                values.append(number)
        if places:
            total = np.bincount(places, values, grid.size)
            count = np.bincount(places, minlength=grid.size)
            grid.ravel()[:] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
            present = [c.present for c in self.channels]
            grid[present] = np.where(np.isnan(grid[present]), np.nan, 1)
        return grid

    def _place(self, event: Event, until: float) -> tuple[str, int, float]:
        """What becomes of an event, its place in the flat grid, and its value there."""
        at = self._at.get(key_of(event))
        if event.time > until or at is None:
            return "strange" if at is None else "later", -1, 0.0
        window = self.window_h or 1.0
        since = event.time - (until - window)
        if since < 0:
            return "earlier", -1, 0.0
        channel, number = self.channels[at], 1.0
        if not channel.present:
            if event.value is None:
                return "strange", -1, 0.0
            try:
                number = _convert(event.value, event.unit, channel)
            except Refusal:
                return "wrong_unit", -1, 0.0
            if not channel.possible(number):
                return "outside", -1, 0.0
        return "kept", at * self.bins + min(int(since / window * self.bins), self.bins - 1), number

    @cached_property
    def _at(self) -> dict[str, int]:
        return {channel.code: at for at, channel in enumerate(self.channels)}

    def example(self, random: np.random.Generator) -> Array:
        there = random.random(self.shape) < np.array([[c.share] for c in self.channels]).reshape(-1, 1)
        centre = np.array([c.centre for c in self.channels]).reshape(-1, 1)
        spread = np.array([c.spread for c in self.channels]).reshape(-1, 1)
        low = np.array([-np.inf if c.low is None else c.low for c in self.channels]).reshape(-1, 1)
        high = np.array([np.inf if c.high is None else c.high for c in self.channels]).reshape(-1, 1)
        values = np.clip(random.normal(centre, spread, self.shape), low, high)
        return np.where(there, values, np.nan).astype(np.float32)

    def named(self) -> Named:
        given: dict[str, Any] = {"window_h": self.window_h, "until_h": self.until_h}
        params = {key: value for key, value in given.items() if value is not None}
        counts = {"outside": self.outside, "strange": self.strange, "wrong_unit": self.wrong_unit}
        channels: Sequence[Any] = [msgspec.to_builtins(c) for c in self.channels]
        return Named("timeline", {"name": self.name, "bins": self.bins, **params, "channels": channels, **counts})


def _hours(said: Any) -> float | None:
    if isinstance(said, str):
        return iso_hours(said)
    if isinstance(said, bool) or not isinstance(said, int | float):
        return None
    try:
        return float(said) if math.isfinite(said) else None
    except OverflowError:
        return None


def _convert(value: float, unit: str | None, channel: Channel) -> float:
    """In the channel's unit; a value without a unit is taken to be in it. Raises: Refusal "wrong-unit"."""
    if unit is None or unit == channel.unit:
        return value
    line = _line(unit, channel.unit)
    if line is None:
        return convert(value, unit, channel.unit, what=channel.name)
    return line[0] + line[1] * value


@lru_cache(4096)
def _line(unit: str, wanted: str | None) -> tuple[float, float] | None:
    """value in wanted = a + b * value in unit; None: not convertible, or not along a line (logarithmic units)."""
    try:
        zero, one, two = (convert(float(x), unit, wanted, what="") for x in range(3))
    except Refusal:
        return None
    return (zero, one - zero) if math.isclose(two - one, one - zero, rel_tol=1e-9, abs_tol=1e-12) else None
