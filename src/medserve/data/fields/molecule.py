"""A molecule: SMILES, InChI or a mol block in; counts of fragments, descriptors and the tokens of its SMILES out.

    drug = Molecule("smiles").fit(["CCO", "c1ccccc1O", ...])
    drug.parse("[Na+].CC(=O)[O-]")              # "CC(=O)O": the standard form
    drug.encode("CC(=O)O")                      # (BITS + D + L,) float32

The record holds every view that a model may want, so that trees, linear models and networks take the same bytes. No
training molecule travels in the field: only the tokens that many of them share.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS
from medserve.data.molecules.describe import BITS, describe, descriptor_names
from medserve.data.molecules.occlude import without_atoms
from medserve.data.molecules.standard import standardise
from medserve.data.molecules.tokens import is_atom, tokens
from medserve.errors import BadPackage, Refusal
from medserve.types import Array, Named

SEEN = 10  # training molecules behind every token
LEAST_LENGTH, MOST_LENGTH = 16, 256
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})


@FIELDS.register("molecule")
@dataclass(frozen=True)
class Molecule:
    """words: tokens in id order from 1, 0 is unknown. length: of the tokens kept. names: of the descriptors."""

    kind: ClassVar[str] = "molecule"
    name: str
    tautomer: bool = False
    length: int = 0
    words: tuple[str, ...] = field(default=(), repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for name in ("words", "names"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @classmethod
    def declare(cls, name: str, said: Input) -> "Molecule":
        return cls(name)

    def parse(self, raw: Any) -> str | None:
        """The canonical SMILES of the standard form. Raises: Refusal "molecule-expected", and those of `standardise`."""
        if isinstance(raw, dict) and len(raw) == 1:
            raw = next((raw[key] for key in ("smiles", "inchi", "molblock") if key in raw), raw)
        if raw is None or (isinstance(raw, float) and math.isnan(raw)):
            return None
        if not isinstance(raw, str):
            raise Refusal(
                "molecule-expected", f"{self.name}: a molecule was expected.", hint='Send a SMILES: "CC(=O)O"'
            )
        if raw.strip().lower() in MISSING:
            return None
        return standardise(raw, tautomer=self.tautomer, name=self.name).smiles

    def restore(self, stored: Any) -> Any:
        return stored

    def fit(self, values: Iterable[Any]) -> "Molecule":
        counts: Counter[str] = Counter()
        lengths = []
        for smiles in values:
            if smiles is not None:
                found = tokens(smiles)
                lengths.append(len(found))
                counts.update(set(found))
        usual = int(math.ceil(np.quantile(lengths, 0.99))) if lengths else LEAST_LENGTH
        kept = sorted((word for word, n in counts.items() if n >= SEEN), key=lambda word: (-counts[word], word))
        length = min(max(usual, LEAST_LENGTH), MOST_LENGTH)
        return replace(self, length=length, words=tuple(kept), names=descriptor_names())

    def check(self, value: Any) -> None:
        """Whether it is like the training molecules is told by the distance, once it is scored."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (BITS + len(self.names) + max(self.length, LEAST_LENGTH),)

    @property
    def facts(self) -> dict[str, Any]:
        """bits: places of fragments; then the descriptors by name; then `length` tokens, ids of `words` from 1."""
        return {
            "bits": BITS, "descriptors": list(self.names), "length": max(self.length, LEAST_LENGTH),
            "words": list(self.words), "vocabulary": len(self.words),
        }  # fmt: skip

    def encode(self, value: Any) -> Array:
        out = np.full(self.shape, math.nan, np.float32)
        if value is None:
            return out
        row, start = describe(value), BITS + len(self.names)
        if len(row) != start or self.names != descriptor_names():
            raise BadPackage(
                "chemistry-version", "The installed RDKit computes other descriptors than the package was made with.",
                hint="Install the version of constraints.txt, or train again here.",
            )  # fmt: skip
        out[:start] = row
        ids = [self._ids.get(word, 0) for word in tokens(value)][: self.length]
        out[start : start + len(ids)] = ids
        return out

    def hidden(self, value: str) -> Array:
        """(V, *shape): the molecule with each atom hidden in turn, in the order of its SMILES."""
        start, row = BITS + len(self.names), self.encode(value)
        rows = without_atoms(value)
        out = np.repeat(row[None], len(rows), axis=0)
        out[:, :start] = rows
        places = [i for i, word in enumerate(tokens(value)) if is_atom(word)]
        for atom, place in enumerate(places):
            if place < self.length:
                out[atom, start + place] = 0  # unknown
        return out

    def example(self, random: np.random.Generator) -> Array:
        """Counts, descriptors and tokens of no molecule."""
        out = np.full(self.shape, math.nan, np.float32)
        out[:BITS] = random.poisson(0.02, BITS)
        start = BITS + len(self.names)
        out[BITS:start] = np.abs(random.normal(0, 10, len(self.names)))
        used = int(random.integers(1, max(2, self.length + 1)))
        out[start : start + used] = random.integers(0, len(self.words) + 1, used)
        return out

    def named(self) -> Named:
        given: dict[str, Any] = {"length": self.length, "words": list(self.words), "names": list(self.names)}
        if self.tautomer:
            given["tautomer"] = True
        return Named("molecule", {"name": self.name, **given})

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words, 1)}
