"""A protein: the letters of its amino acids in; their numbers, up to a window, out.

    target = Protein("target").fit(["MKTAYIAKQR...", ...])
    target.parse(">P00533\nMRPSG...")           # "MRPSG..."
    target.encode("MRPSG")                      # (1 + window,) float32: 5, then 13 18 16 19 7, NaN after the last

The first number is the length of the whole sequence, so that an answer can say that it was cut. A sequence beyond the
window is refused, unless the data set declares the window itself (`residues: 1200`): then the first residues are read
and every answer on a longer one says so. No training sequence travels in the field.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS
from medserve.data.proteins.sequence import LETTERS, read_sequence, too_long
from medserve.errors import Refusal
from medserve.types import Array, Named

LEAST_WINDOW, MOST_WINDOW = 16, 5000  # residues
NUMBERS = 26  # a letter is its place in the alphabet, from 1; 0: a residue that is not told


@FIELDS.register("protein")
@dataclass(frozen=True)
class Protein:
    """window: residues read, a quarter more than the longest training sequence has; or, with `cut`, as declared."""

    kind: ClassVar[str] = "protein"
    name: str
    window: int = 0
    cut: bool = False

    @classmethod
    def declare(cls, name: str, said: Input) -> "Protein":
        return cls(name) if said.residues is None else cls(name, said.residues, True)

    def parse(self, raw: Any) -> str | None:
        """The sequence in capitals; None and "" are missing. Raises: Refusal "protein-expected", "protein-..."."""
        if raw is None or raw == "" or (isinstance(raw, float) and math.isnan(raw)):
            return None
        if not isinstance(raw, str):
            raise Refusal(
                "protein-expected", f"{self.name}: the sequence of a protein was expected.",
                hint='Send one-letter codes: "MVHLTPEEK"',
            )  # fmt: skip
        return read_sequence(raw, name=self.name)

    def restore(self, stored: Any) -> Any:
        return stored

    def fit(self, values: Iterable[Any]) -> "Protein":
        if self.cut:
            return self
        longest = max((len(one) for one in values if one is not None), default=0)
        return replace(self, window=min(max(longest + longest // 4, LEAST_WINDOW), MOST_WINDOW))

    def check(self, value: Any) -> None:
        """Raises: Refusal "protein-too-long": beyond the window, where cutting is not declared."""
        if value is not None and not self.cut and len(value) > self.shape[0] - 1:
            raise too_long(self.name, self.shape[0] - 1)

    def cuts(self, value: str | None) -> bool:
        """Whether only its beginning is read, as declared."""
        return self.cut and value is not None and len(value) > self.window

    @property
    def shape(self) -> tuple[int, ...]:
        return (1 + max(self.window, LEAST_WINDOW),)

    @property
    def facts(self) -> dict[str, Any]:
        return {"window": self.shape[0] - 1, "letters": NUMBERS}

    def encode(self, value: Any) -> Array:
        out = np.full(self.shape, math.nan, np.float32)
        if value is None:
            return out
        kept = np.frombuffer(value[: len(out) - 1].encode("ascii"), np.uint8)
        out[0] = len(value)
        out[1 : 1 + len(kept)] = kept - (ord("A") - 1)
        return out

    def example(self, random: np.random.Generator) -> Array:
        """Letters of no protein."""
        out = np.full(self.shape, math.nan, np.float32)
        used = int(random.integers(1, len(out)))
        out[0] = used
        out[1 : 1 + used] = random.choice([ord(c) - ord("A") + 1 for c in sorted(LETTERS)], used)
        return out

    def named(self) -> Named:
        return Named("protein", {"name": self.name, "window": self.window, "cut": self.cut})


def residues(block_values: Array) -> str:
    """The letters that stand in a record's block, X for one that is not told."""
    letters = block_values[1:]
    return "".join("X" if n == 0 else chr(int(n) + ord("A") - 1) for n in letters[np.isfinite(letters)])


def cut_off(block_values: Array) -> int:
    """How many residues of the sequence lie beyond the window; 0 for a missing one."""
    return max(0, int(block_values[0]) - (len(block_values) - 1)) if np.isfinite(block_values[0]) else 0
