"""A word out of a list: sex, ward, diagnosis code. The list is that of the training part.

    sex = Category("sex").fit(["F", "M", "M", None])
    sex.encode("F")                                  # [0.]

A short list is closed: a word that training never saw is refused. A long one (codes, beyond `CLOSED`) keeps the words
seen often enough, and all others share one place.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS
from medserve.errors import Refusal, neighbours
from medserve.types import Array, Named

CLOSED = 32  # words; a longer list is open
MOST = 2000  # words kept of an open list
SEEN = 10  # cases behind every word of an open list: rarer ones might name a person
MISSING = frozenset({"", "?", "na", "n/a", "nan", "null"})


@FIELDS.register("category")
@dataclass(frozen=True, slots=True)
class Category:
    """levels: in index order, the most frequent first; `other` is the index after the last, for open lists."""

    kind: ClassVar[str] = "category"
    name: str
    levels: tuple[str, ...] = ()
    open: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))

    @classmethod
    def declare(cls, name: str, said: Input) -> "Category":
        return cls(name, tuple(said.classes or ()))

    def parse(self, raw: Any) -> str | None:
        """Raises: Refusal "category-expected"."""
        if raw is None:
            return None
        if isinstance(raw, bool | int | float):
            raw = f"{raw:g}" if isinstance(raw, float) else str(raw)
        if not isinstance(raw, str) or len(raw) > 512:
            raise Refusal("category-expected", f"{self.name}: one word was expected.", hint='Send a string: "F".')
        word = raw.strip()
        return None if word.lower() in MISSING else word

    def restore(self, stored: Any) -> Any:
        return stored

    def fit(self, values: Iterable[Any]) -> "Category":
        if self.levels:  # declared
            return self
        counts = Counter(v for v in values if v is not None)
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        if len(ordered) <= CLOSED:
            return replace(self, levels=tuple(ordered))
        return replace(self, levels=tuple(w for w in ordered[:MOST] if counts[w] >= SEEN), open=True)

    def check(self, value: Any) -> None:
        """Raises: Refusal "unknown-code": training never saw this word."""
        if value is not None and not self.open and value not in self.levels:
            raise Refusal(
                "unknown-code",
                f"{self.name}: {value!r} is not a known value ({neighbours(value, self.levels)}).",
                hint=f"Known: {', '.join(self.levels[:12])}{' ...' if len(self.levels) > 12 else ''}.",
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (1,)

    @property
    def facts(self) -> dict[str, Any]:
        """levels: how many indices there are, `other` included. words: of the first ones, for people."""
        return {"levels": len(self.levels) + 1, "words": list(self.levels[:CLOSED])}

    def place(self, value: Any) -> float:
        """The one number that `encode` gives."""
        if value is None:
            return math.nan
        return float(self.levels.index(value) if value in self.levels else len(self.levels))

    def encode(self, value: Any) -> Array:
        return np.array([self.place(value)], np.float32)

    def example(self, random: np.random.Generator) -> Array:
        return np.array([random.integers(0, max(1, len(self.levels)))], np.float32)

    def named(self) -> Named:
        return Named("category", {"name": self.name, "levels": list(self.levels), "open": self.open})
