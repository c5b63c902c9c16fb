"""A molecule: SMILES, InChI or a mol block in; counts of fragments, descriptors and the letters of its SMILES out, and
its graph where a model asks for it.

    drug = Molecule("smiles").fit(["CCO", "c1ccccc1O", ...])
    drug.parse("[Na+].CC(=O)[O-]")              # "CC(=O)O": the standard form
    drug.encode("CC(=O)O")                      # (BITS + D + L,) float32
    drug.written(record)                        # "CC(=O)O" again

The record holds every view that a model may want, so that trees, linear models and networks take the same bytes, and an
explanation can draw what was asked. No training molecule travels in the field.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS
from medserve.data.molecules.describe import BITS, count_fragments, describe, descriptor_names
from medserve.data.molecules.graph import LEAST_ATOMS, MOST_ATOMS, drawn_graph, graph_of, graph_size, nameless
from medserve.data.molecules.occlude import without_atoms
from medserve.data.molecules.standard import standardise
from medserve.data.molecules.tokens import atom_spans
from medserve.data.text.pieces import tokenizer
from medserve.errors import BadPackage, Refusal
from medserve.types import Array, Named

LEAST_LENGTH, MOST_LENGTH = 64, 512  # letters of a SMILES
LEAST_PIECES = 32  # of an encoder's tokenizer
LETTERS = 127  # ASCII
REMEMBERED = 512  # a table of pairs holds each molecule many times
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})


@FIELDS.register("molecule")
@dataclass(frozen=True)
class Molecule:
    """length: letters kept, a quarter more than the longest training molecule has. names: of the descriptors. graph:
    whether atoms and bonds are kept too; atoms: how many, a quarter more than the largest training molecule has.

    fragments: the record holds counts of fragments and letters, and no descriptors, which take most of the time.
    letters: the record holds the letters alone, for models that write molecules; `alphabet` are those of the training
    part, in order.
    tokenizer: of a pretrained encoder of SMILES, its tokenizer.json; pieces: how many the record holds, a quarter more
    than the longest training molecule has; before fitting, as many as the encoder reads.
    """

    kind: ClassVar[str] = "molecule"
    name: str
    tautomer: bool = False
    length: int = 0
    names: tuple[str, ...] = field(default=(), repr=False)
    graph: bool = False
    atoms: int = 0
    fragments: bool = False
    letters: bool = False
    alphabet: str = ""
    tokenizer: str = field(default="", repr=False)
    pieces: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))

    @classmethod
    def declare(cls, name: str, said: Input) -> "Molecule":
        return cls(name, fragments=not said.descriptors, tautomer=said.tautomer)

    def parse(self, raw: Any) -> str | None:
        """Canonical SMILES of the standard form. Raises: Refusal "molecule-expected", and those of `standardise`."""
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
        return _standard(raw, self.tautomer, self.name)

    def restore(self, stored: Any) -> Any:
        return stored

    def fit(self, values: Iterable[Any]) -> "Molecule":
        longest = largest = most = 0
        seen: set[str] = set()
        for smiles in values:
            if smiles is not None:
                seen.update(smiles)
                longest = max(longest, len(smiles))
                largest = max(largest, len(atom_spans(smiles))) if self.graph else 0
                most = max(most, len(self._reader.encode(smiles))) if self.pieces else 0
        length = min(max(longest + longest // 4 + 1, LEAST_LENGTH), MOST_LENGTH)  # a full row is one that was cut
        if self.letters:
            return replace(self, length=length, alphabet="".join(sorted(seen)))
        atoms = min(max(largest + largest // 4, LEAST_ATOMS), MOST_ATOMS) if self.graph else 0
        pieces = min(max(most + most // 4, LEAST_PIECES), self.pieces)
        names = () if self.fragments else descriptor_names()
        return replace(self, length=length, names=names, atoms=atoms, pieces=pieces)

    def check(self, value: Any) -> None:
        """Whether it is like the training molecules is told by the distance, once it is scored.

        Raises: Refusal "molecule-too-large": its graph or its pieces have no room in the block.
        """
        if value is not None and self.pieces and (count := len(self._reader.encode(value))) > self.pieces:
            raise Refusal(
                "molecule-too-large",
                f"{self.name}: its SMILES is {count} pieces; this model reads {self.pieces}.",
                hint="Ask a model of fragments, which takes any molecule.",
            )
        if value is not None and self.atoms and _graph(value, self.atoms) is None:
            raise Refusal(
                "molecule-too-large",
                f"{self.name}: {len(atom_spans(value))} atoms; this model takes {self.atoms}, and their bonds.",
                hint="Ask a model of fragments, which takes any molecule.",
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._letters + max(self.length, LEAST_LENGTH),)

    @property
    def _letters(self) -> int:
        """Where the letters begin."""
        if self.letters:
            return 0
        return BITS + len(self.names) + (graph_size(self.atoms) if self.atoms else 0) + self.pieces

    @cached_property
    def _reader(self) -> Any:
        return tokenizer(self.tokenizer, name=self.name)

    def _ids(self, smiles: str, atoms: Iterable[int] = ()) -> Array:
        """(pieces,) ids, NaN behind the last, or all NaN where there is no room; `atoms` are hidden by the mask."""
        out = np.full(self.pieces, math.nan, np.float32)
        read = self._reader.encode(smiles)
        if len(read) > self.pieces:
            return out
        ids, spans, mask = list(read.ids), atom_spans(smiles), self._mask
        for first, last in (spans[i] for i in atoms):
            for k, (a, b) in enumerate(read.offsets):
                if a < last and first < b:
                    ids[k] = mask
        out[: len(ids)] = ids
        return out

    @cached_property
    def _mask(self) -> int:
        """The id that stands for what is not told."""
        known = (self._reader.token_to_id(name) for name in ("<mask>", "[MASK]", "<unk>", "[UNK]"))
        return next((i for i in known if i is not None), 0)

    @property
    def facts(self) -> dict[str, Any]:
        """bits: places of fragments; then the descriptors by name; then the graph of up to `atoms`; then the ids of
        up to `pieces`, the highest of which is `vocabulary`; then `length` letters, by their ASCII code."""
        if self.letters:
            told = {"bits": 0, "descriptors": [], "length": max(self.length, LEAST_LENGTH)}
            return told | {"alphabet": self.alphabet}
        facts = {"bits": BITS, "descriptors": list(self.names), "length": max(self.length, LEAST_LENGTH)}
        if self.pieces:
            top = self._reader.get_vocab_size() - 1
            facts |= {"pieces": self.pieces, "vocabulary": top, "tokenizer_json": self.tokenizer}
        return facts | ({"atoms": self.atoms} if self.atoms else {})

    def encode(self, value: Any) -> Array:
        out = np.full(self.shape, math.nan, np.float32)
        if value is None:
            return out
        row, start = np.empty(0, np.float32), self._letters
        if not self.letters:
            row = _counted(value) if self.fragments else _described(value)
        if not (self.letters or self.fragments) and self.names != descriptor_names():
            raise BadPackage(
                "chemistry-version", "The installed RDKit computes other descriptors than the package was made with.",
                hint="Install the version of constraints.txt, or train again here.",
            )  # fmt: skip
        out[: len(row)] = row
        if self.atoms:
            graph = _graph(value, self.atoms)  # one without room has no graph, and `check` refuses it
            out[len(row) : start - self.pieces] = math.nan if graph is None else graph
        if self.pieces:
            out[start - self.pieces : start] = self._ids(value)
        letters = np.frombuffer(value.encode("ascii", errors="replace"), np.uint8)[: len(out) - start]
        out[start : start + len(letters)] = letters
        return out

    def hidden(self, value: str, atoms: Iterable[Iterable[int]] | None = None) -> Array:
        """(K, *shape): the molecule with some atoms hidden; each atom in turn where `atoms` names none."""
        described, start, row = BITS + len(self.names), self._letters, self.encode(value)
        spans = atom_spans(value)
        sets = [(i,) for i in range(len(spans))] if atoms is None else [tuple(some) for some in atoms]
        out = np.repeat(row[None], len(sets), axis=0)
        out[:, :described] = without_atoms(value, sets, descriptors=not self.fragments)
        for k, some in enumerate(sets):
            if self.atoms:
                nameless(out[k, described : start - self.pieces], some, self.atoms)
            if self.pieces:
                out[k, start - self.pieces : start] = self._ids(value, some)
            for i in some:
                at = slice(start + spans[i][0], start + spans[i][1])
                out[k, at] = np.where(np.isfinite(out[k, at]), 0, np.nan)  # a letter that means nothing
        return out

    def example(self, random: np.random.Generator) -> Array:
        """Counts, descriptors, graph and letters of no molecule."""
        out = np.full(self.shape, math.nan, np.float32)
        start = BITS + len(self.names)
        if not self.letters:
            out[:BITS] = random.poisson(0.02, BITS)
            out[BITS:start] = np.abs(random.normal(0, 10, len(self.names)))
        if self.atoms:
            out[start : self._letters - self.pieces] = drawn_graph(random, self.atoms)
        start = self._letters
        if self.pieces:
            used = int(random.integers(1, self.pieces + 1))
            top = self._reader.get_vocab_size()
            out[start - self.pieces : start - self.pieces + used] = random.integers(0, top, used)
        used = int(random.integers(1, len(out) - start + 1))
        out[start : start + used] = random.integers(33, LETTERS, used)
        return out

    def named(self) -> Named:
        given: dict[str, Any] = {"length": self.length, "names": list(self.names)}
        if self.letters:
            given = {"length": self.length, "letters": True, "alphabet": self.alphabet}
        given |= {"fragments": True} if self.fragments else {}
        given |= {"graph": True, "atoms": self.atoms} if self.graph else {}
        given |= {"tokenizer": self.tokenizer, "pieces": self.pieces} if self.pieces else {}
        return Named("molecule", {"name": self.name, **given} | ({"tautomer": True} if self.tautomer else {}))


@lru_cache(REMEMBERED)
def _standard(raw: str, tautomer: bool, name: str) -> str:
    return standardise(raw, tautomer=tautomer, name=name).smiles


@lru_cache(REMEMBERED)
def _described(smiles: str) -> Array:
    """Shared by everyone who asks: not to be written to."""
    return describe(smiles)


@lru_cache(REMEMBERED)
def _graph(smiles: str, atoms: int) -> Array | None:
    """Of `check`, then of `encode`."""
    return graph_of(smiles, atoms)


@lru_cache(REMEMBERED)
def _counted(smiles: str) -> Array:
    return count_fragments(smiles)


def written(block_values: Array, length: int) -> str | None:
    """The SMILES in the letters of a record's block; None where it was longer than what is kept, or is missing."""
    letters = block_values[-length:]
    known = np.isfinite(letters)
    if not known.any() or known.all():
        return None
    return bytes(letters[known].astype(np.uint8)).decode("ascii")
