"""Fields: the inputs of a case on their way into its record.

    fields  = [Number("age", unit="a", low=0, high=120), Category("sex")]      # as declared or guessed
    value   = fields[0].parse("63")                     # in the field's own unit; a Refusal says what is wrong
    fields  = [field.fit(train_values) for ...]         # on the training part, nothing else
    record  = Records(fields)({"age": "63", "sex": "F"})        # (F,) float32, NaN where nothing is known

A case that is not one picture is a mapping from input names to raw values. Each input has a field; the fields' arrays,
end to end, are the record. Models see records only, as blocks; whatever else they need (scaling, imputation,
embedding) stands in their graph. A new kind of input is one class registered in `FIELDS`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

import msgspec
import numpy as np

from medserve.catalog import Catalog
from medserve.data.declaration import Input
from medserve.types import Array, Named

MOST_PLAIN, MOST_COMPILED = 64 * 1024, 512  # bytes and inputs: a name that is looked for is compared with the others
SCALARS = ("number", "category")  # kinds whose value is one number of the record


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a field's array stands in the record, and what a model must know of it.

    shape: of the array; it takes prod(shape) places from `start`. facts: plain JSON, such as {"levels": 7}.
    """

    name: str
    kind: str
    start: int
    shape: tuple[int, ...]
    facts: dict[str, Any] = {}

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


def together(blocks: "Sequence[Block]") -> list[tuple[Block, ...]]:
    """Inputs that are hidden, or counted as absent, as one: all numbers and categories; every other by itself."""
    scalars = tuple(b for b in blocks if b.kind in SCALARS)
    return ([scalars] if scalars else []) + [(b,) for b in blocks if b.kind not in SCALARS]


def absent_from(blocks: "Sequence[Block]", records: Array) -> list[tuple[str, ...]]:
    """Of each record (N, F), the names of the inputs that it lacks, by groups of `together`."""
    if np.isfinite(records).all():
        return [()] * len(records)
    gone = [
        (group, ~np.any([np.isfinite(records[:, b.start : b.start + b.size]).any(axis=1) for b in group], axis=0))
        for group in together(blocks)
    ]
    return [tuple(b.name for group, rows in gone if rows[i] for b in group) for i in range(len(records))]


def words_of(blocks: "Sequence[Block]", name: str, records: Array) -> list[str | None]:
    """Of each record (N, F) the word of the category `name`; None where it is missing, or not among those listed."""
    block = next(b for b in blocks if b.name == name)
    words: list[str] = block.facts["words"]
    places = np.nan_to_num(records[:, block.start], nan=-1.0).astype(int).tolist()
    return [words[place] if 0 <= place < len(words) else None for place in places]


class Field(Protocol):
    """One input. Frozen; plain JSON parameters; equal parameters and value, equal bytes."""

    kind: ClassVar[str]
    name: str

    @classmethod
    def declare(cls, name: str, said: Input) -> Self:
        """Not fitted yet; `parse` already works."""
        ...

    def parse(self, raw: Any) -> Any:
        """What a table, a file or the wire says -> the value in the field's unit; None: missing.

        The value is plain: what `msgspec.msgpack` can write and `restore` brings back.

        Raises: Refusal, naming the field and what was expected.
        """
        ...

    def restore(self, stored: Any) -> Any:
        """A value again, from what `msgspec.msgpack` made of it."""
        ...

    def fit(self, values: Iterable[Any]) -> Self:
        """The field as it stands in a package. values: of the TRAINING part, None where missing; may be long."""
        ...

    def check(self, value: Any) -> None:
        """Raises: Refusal: the value can be read, but the model must not answer on it ("unknown-code" ...)."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that `encode` gives; known once fitted."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What a model must know beyond the shape."""
        ...

    def encode(self, value: Any) -> Array:
        """float32 of `shape`, NaN where missing; never fails on a value that `parse` gave."""
        ...

    def example(self, random: np.random.Generator) -> Array:
        """Something that `encode` could have given, made up from the parameters alone: no patient's value."""
        ...

    def named(self) -> Named:
        """The transform as a package stores it: Named(kind, parameters)."""
        ...


FIELDS: Catalog[Any] = Catalog("kind of input")  # kind -> class with `declare` and keyword parameters


@dataclass(frozen=True)
class Records:
    """Fitted fields in order: a case's values in, its record out."""

    fields: tuple[Field, ...]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        found, start = [], 0
        for field in self.fields:
            block = Block(field.name, field.kind, start, tuple(field.shape), field.facts)
            found.append(block)
            start += block.size
        return tuple(found)

    @cached_property
    def plain(self) -> bool:
        """Numbers and categories alone: a case takes microseconds."""
        return all(field.kind in SCALARS for field in self.fields)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(field.name for field in self.fields)

    @cached_property
    def _decode(self) -> Callable[[bytes], Array | None]:
        from medserve.data.fields._rows import row_decoder

        return row_decoder(self.fields) if self.plain and len(self.fields) <= MOST_COMPILED else lambda data: None

    def decode(self, data: bytes) -> Array | None:
        """The record of a short JSON body in its plainest form, many times as fast as its values one by one; None
        where it is anything else, or wrong."""
        return self._decode(data) if len(data) <= MOST_PLAIN else None

    @property
    def length(self) -> int:
        return sum(block.size for block in self.blocks)

    def encode(self, values: Mapping[str, Any]) -> Array:
        """(length,) float32 from parsed values."""
        if self.plain:
            return np.array([field.place(values.get(field.name)) for field in self.fields], np.float32)  # type: ignore[attr-defined]
        parts = [np.asarray(field.encode(values.get(field.name)), np.float32).ravel() for field in self.fields]
        return np.concatenate(parts)

    def parse(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Every input parsed and checked. Raises: Refusal "input-unknown", and those of the fields."""
        for name in raw:
            if name not in self._names:
                raise unknown_input(name, self._names)
        values = {field.name: field.parse(raw.get(field.name)) for field in self.fields}
        for field in self.fields:
            field.check(values[field.name])
        return values

    def __call__(self, raw: Mapping[str, Any]) -> Array:
        return self.encode(self.parse(raw))

    def within(self, max_pixels: int) -> "Records":
        """The same with a limit on the pixels of each picture that is read."""
        limited = (replace(f, max_pixels=max_pixels) if hasattr(f, "max_pixels") else f for f in self.fields)  # type: ignore[type-var]
        return Records(tuple(limited))

    def examples(self, count: int, seed: int = 0) -> Array:
        """(count, length) float32, made up."""
        random = np.random.default_rng(seed)
        rows = [[np.ravel(field.example(random)) for field in self.fields] for _ in range(count)]
        return np.stack([np.concatenate(row) for row in rows]).astype(np.float32)

    def named(self) -> list[Named]:
        return [field.named() for field in self.fields]

    @classmethod
    def build(cls, named: Sequence[Named]) -> "Records":
        """From a package. Raises: NotFound, Usage "transform-parameters"."""
        register_all()
        return cls(tuple(_make(entry) for entry in named))


def _make(entry: Named) -> Field:
    from medserve.errors import Usage

    try:
        made: Field = FIELDS[entry.name](**entry.params)
    except TypeError as error:
        raise Usage("transform-parameters", f"{entry.name}: {error}.") from error
    return made


def unknown_input(name: str, known: Iterable[str]) -> Exception:
    from medserve.errors import Refusal, neighbours

    return Refusal(
        "input-unknown",
        f"The model takes no input {name[:60]!r} ({neighbours(name, sorted(known))}).",
        hint="GET /v1/models/NAME lists the inputs.",
    )


def register_all() -> None:
    """Import every module that registers a kind; none of them is heavy."""
    from medserve.data.fields import (  # noqa: F401
        category,
        image,
        molecule,
        number,
        protein,
        text,
        timeline,
        visits,
        waveform,
        words,
    )
