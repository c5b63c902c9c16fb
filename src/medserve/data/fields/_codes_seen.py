"""Which codes a training part holds, in which units, and how its values lie: what a timeline's channels are made of.

    seen = Seen.of(histories)           # or one case after another:
    seen.add(events, until)             # for every training case
    seen.channels(bins=48, window=48)   # the codes kept, with their figures

One pass in bounded memory: of every code a fixed sample of values is kept, never which case they came from.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from medserve.data.readers.records.codes import COMMON
from medserve.data.units import convert
from medserve.errors import Refusal
from medserve.types import Event

SEEN = 10  # cases behind every channel: rarer codes might name a person
MOST = 64  # measured channels, and as many of things that only happen
SAMPLE = 2048  # values kept of a code
MOST_CODES = 200_000  # followed; beyond that a new code is counted, not followed
WIDER = 1.0  # ranges by quantile reach this many times the 1st-to-99th-percentile distance beyond it


def key_of(event: Event) -> str:
    """The channel's code: a coded result ("smoking status = never") is a thing of its own."""
    if event.value is None and event.text and "|" in event.text and len(event.text) <= 128:
        return f"{event.code}={event.text}"
    return event.code


class _Code:
    __slots__ = ("cases", "events", "numbers", "sample", "units")

    def __init__(self) -> None:
        self.cases = self.events = self.numbers = 0
        self.units: Counter[str | None] = Counter()
        self.sample: list[tuple[float, str | None]] = []


class Seen:
    """Counts and samples of one training part."""

    def __init__(self) -> None:
        self.cases = 0
        self.events = 0
        self._codes: dict[str, _Code] = {}
        self._lengths: list[float] = []
        self._random = random.Random(7)  # the same sample on every machine

    @classmethod
    def of(cls, histories: Iterable[Any]) -> "Seen":
        """Of values of a timeline; a case that has none is None."""
        seen = cls()
        for value in histories:
            if value is not None:
                seen.add(value.events, value.until)
        return seen

    def add(self, events: Sequence[Event], until: float) -> None:
        """One case. events: by time, none after `until`."""
        if not events:
            return
        self.cases += 1
        self.events += len(events)
        self._keep(self._lengths, max(0.0, until - events[0].time), self.cases)
        codes = self._codes
        met = set()
        for event in events:
            key = key_of(event)
            code = codes.get(key)
            if code is None:
                if len(codes) >= MOST_CODES:
                    continue
                code = codes[key] = _Code()
            met.add(key)
            code.events += 1
            if event.value is not None:
                code.numbers += 1
                code.units[event.unit] += 1
                self._keep(code.sample, (event.value, event.unit), code.numbers)
        for key in met:
            codes[key].cases += 1

    def _keep(self, sample: list[Any], item: Any, number: int) -> None:
        """Reservoir sampling: each of `number` items so far is as likely to be in the sample."""
        if len(sample) < SAMPLE:
            sample.append(item)
        elif (at := int(self._random.random() * number)) < SAMPLE:
            sample[at] = item

    def window(self, share: float) -> float:
        """Hours that hold this share of the timelines whole, to two digits; at least one hour."""
        hours = max(1.0, float(np.quantile(self._lengths, share)) if self._lengths else 1.0)
        step = 10 ** (math.floor(math.log10(hours)) - 1)
        return float(f"{math.ceil(hours / step - 1e-9) * step:.6g}")

    def channels(self, bins: int, window: float, *, always: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
        """Parameters of the channels: measured ones first, each group by the number of cases.

        Args:
            always: codes of things that happen which have a channel beside the others, however rare.
        """
        kept = [(key, code) for key, code in self._codes.items() if code.cases >= SEEN and key not in always]
        kept.sort(key=lambda pair: (-pair[1].cases, -pair[1].events, pair[0]))
        measured = [pair for pair in kept if 2 * pair[1].numbers > pair[1].events][:MOST]
        happened = [pair for pair in kept if 2 * pair[1].numbers <= pair[1].events][:MOST]
        out = []
        for key, code in measured:
            share = min(1.0, code.events / max(1, self.cases * bins))
            out.append({"code": key, "name": _name(key), "share": _digits(share), **_figures(key, code)})
        for key, code in happened:
            share = min(1.0, code.events / max(1, self.cases * bins))
            out.append({"code": key, "name": _name(key), "present": True, "share": _digits(share)})
        for key in sorted(always):
            events = self._codes[key].events if key in self._codes else 0
            share = min(1.0, events / max(1, self.cases * bins))
            out.append({"code": key, "name": _name(key), "present": True, "share": _digits(share)})
        return out

    def counts(self, channels: Sequence[Any]) -> dict[str, int]:
        """outside, strange, wrong_unit; the first from the samples, scaled to all events of its code."""
        known = {channel.code: channel for channel in channels}
        strange = self.events - sum(self._codes[key].events for key in known if key in self._codes)
        outside = wrong = 0.0
        for key, channel in known.items():
            code = self._codes.get(key)
            if code is None or channel.present or not code.sample:
                continue
            values = _converted(code, channel.unit)
            weight = code.numbers / len(code.sample)
            wrong += weight * (len(code.sample) - len(values))
            outside += weight * sum(not channel.possible(value) for value in values)
        return {"outside": round(outside), "strange": strange, "wrong_unit": round(wrong)}


def _name(key: str) -> str:
    known = COMMON.get(key)
    return known.name if known else key


def _converted(code: _Code, wanted: str | None) -> list[float]:
    factors: dict[str | None, Any] = {}
    values = []
    for value, unit in code.sample:
        if unit is None or unit == wanted:
            values.append(value)
            continue
        if factors.get(unit, 1) is None:
            continue
        try:
            values.append(convert(value, unit, wanted, what=""))
            factors[unit] = 1
        except Refusal:
            factors[unit] = None
    return values


def _figures(key: str, code: _Code) -> dict[str, Any]:
    """Unit, range, centre and spread, rounded so that no single value shows.

    The range of a common measurement is the physiological one, when the training data are in a unit that fits it.
    """
    unit = next((u for u, _ in code.units.most_common() if u is not None), None)
    values = np.array(_converted(code, unit), float)
    values = values if len(values) else np.zeros(1)
    common = COMMON.get(key)
    low, high = _possible(common, unit) if common else (None, None)
    if low is not None and high is not None:
        inside = values[(values >= low) & (values <= high)]
        if len(inside) < 0.8 * len(values):  # the source writes it in another unit than it says
            low = high = None
        else:
            values = inside
    first, q25, q50, q75, last = np.quantile(values, (0.01, 0.25, 0.5, 0.75, 0.99))
    if low is None or high is None:
        reach = WIDER * float(last - first) or max(1.0, abs(float(q50)))
        low, high = _digits(float(first) - reach), _digits(float(last) + reach)
    spread = max(float(q75 - q25) / 1.349, 0.1 * float(last - first), 1e-6)
    return {"unit": unit, "low": low, "high": high, "centre": _digits(float(q50)), "spread": _digits(spread)}


def _possible(common: Any, unit: str | None) -> tuple[float | None, float | None]:
    if unit is None or common.unit is None or unit == common.unit:
        return common.low, common.high
    try:
        return tuple(convert(x, common.unit, unit, what="") for x in (common.low, common.high))  # type: ignore[return-value]
    except Refusal:
        return None, None


def _digits(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits}g}")
