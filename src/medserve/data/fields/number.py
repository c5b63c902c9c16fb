"""A number with a unit: converted to the declared unit, checked against the range that is physiologically possible.

age = Number("age", unit="a", low=0, high=120)
age.parse({"value": 756, "unit": "mo"})         # 63.0
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS
from medserve.data.units import convert
from medserve.errors import Refusal
from medserve.types import Array, Named

LARGEST = float(np.finfo(np.float32).max)  # a record is float32
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "."})


@FIELDS.register("number")
@dataclass(frozen=True, slots=True)
class Number:
    """unit: UCUM. low, high: values outside are refused. centre, spread: of the training part, for examples only."""

    kind: ClassVar[str] = "number"
    name: str
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    centre: float = 0.0
    spread: float = 1.0

    @classmethod
    def declare(cls, name: str, said: Input) -> "Number":
        low, high = said.range or (None, None)
        return cls(name, said.unit, low, high)

    def parse(self, raw: Any) -> float | None:
        """A number, text that says one, or {"value": ..., "unit": UCUM}.

        Raises: Refusal "number-expected", "wrong-unit", "value-out-of-range".
        """
        if type(raw) is float and -LARGEST <= raw <= LARGEST and self._within(raw):  # what most requests say
            return raw
        unit = None
        if isinstance(raw, dict):
            if not set(raw) <= {"value", "unit"}:
                raise Refusal(
                    "number-expected",
                    f'{self.name}: a number or {{"value", "unit"}} was expected.',
                    hint="Write 63 or 63.5.",
                )
            raw, unit = raw.get("value"), raw.get("unit")
        value = _number(raw, self.name)
        if value is None:
            return None
        if unit is not None and unit != self.unit:
            value = convert(value, unit, self.unit, what=self.name)
        if not self._within(value):
            said = f"{self.low if self.low is not None else '-inf'} to {self.high if self.high is not None else 'inf'}"
            raise Refusal(
                "value-out-of-range",
                f"{self.name} = {value:g} is outside {said}{f' {self.unit}' if self.unit else ''}.",
                hint="Check the value and its unit; leave it out when it is not known.",
            )
        return value

    def _within(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def restore(self, stored: Any) -> Any:
        return stored

    def fit(self, values: Iterable[Any]) -> "Number":
        known = np.array([v for v in values if v is not None], float)
        if not len(known):
            return self
        low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
        return replace(self, centre=float(middle), spread=max(float(high - low) / 1.349, 1e-6))

    def check(self, value: Any) -> None:
        """Everything is said by `parse`."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (1,)

    @property
    def facts(self) -> dict[str, Any]:
        return {"unit": self.unit} if self.unit else {}

    def place(self, value: Any) -> float:
        """The one number that `encode` gives."""
        return math.nan if value is None else float(value)

    def encode(self, value: Any) -> Array:
        return np.array([self.place(value)], np.float32)

    def example(self, random: np.random.Generator) -> Array:
        value = random.normal(self.centre, self.spread)
        return np.array([np.clip(value, self.low, self.high)], np.float32)

    def named(self) -> Named:
        given = {"unit": self.unit, "low": self.low, "high": self.high}
        params = {k: v for k, v in given.items() if v is not None}
        return Named("number", {"name": self.name, **params, "centre": self.centre, "spread": self.spread})


def _number(raw: Any, name: str) -> float | None:
    if raw is None or (isinstance(raw, str) and raw.strip().lower() in MISSING):
        return None
    try:
        value = float(raw)
    except (TypeError, ValueError, OverflowError):
        value = math.inf
    if isinstance(raw, float) and math.isnan(raw):
        return None
    if isinstance(raw, bool) or not abs(value) <= LARGEST:
        raise Refusal(
            "number-expected", f"{name}: a number was expected.", hint="Write 63 or 63.5; leave it out when missing."
        )
    return value
