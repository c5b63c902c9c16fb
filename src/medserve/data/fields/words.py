"""A text whose words are to be marked (task tags): a row of the record for each word.

    note = Words("note").fit(["Familial colon cancer.", ...])
    note.encode("Familial colon cancer.")            # (length, 96) float32: attributes and phrases of each word
    Pieces.pretrained("note", vocabulary)            # the same text in the word pieces of an encoder: (length, 10)

Raw is what `Text` takes. The text is kept as it was sent, so that the places of its words are places in it
(`data.text.words`). A text of more words than the record holds is refused, never cut: an entity that nobody looked for
would pass as one that is not there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS
from medserve.data.fields.text import Text, _attached
from medserve.data.text.features import LONGEST_PHRASE, PHRASES, SLOTS, phrases_at, slots_of
from medserve.data.text.language import language_of, majority
from medserve.data.text.pieces import wordpieces
from medserve.data.text.words import plain_words, sentences, words
from medserve.errors import Refusal
from medserve.types import Array, Named

MOST = 512  # words of one text
LEAST = 256  # words that a record holds at least: models trained on sentences are asked about abstracts
ATTRIBUTES = 88  # of one word; one in 1,600 English words has more
COLUMNS = ATTRIBUTES + LONGEST_PHRASE


@dataclass(frozen=True)
class Words:
    """length: words of one text, at most. language: declared, or that of the training texts; None: not checked."""

    kind: ClassVar[str] = "text"
    name: str
    language: str | None = None
    length: int = MOST

    @classmethod
    def declare(cls, name: str, said: Input) -> Self:
        return cls(name, said.language)

    def parse(self, raw: Any) -> str | None:
        """The text as it was sent. Raises: Refusal "text-expected", "text-too-long", "text-empty"."""
        if Text(self.name).parse(raw) is None:
            return None
        text: str = _attached(raw, self.name) if isinstance(raw, dict) else raw
        if (count := len(words(text))) > MOST:
            raise self._too_long(count, MOST)
        return text

    def restore(self, stored: Any) -> Any:
        return stored

    def fit(self, values: Iterable[Any]) -> "Words":
        longest, languages = LEAST, []
        for text in values:
            if text is not None:
                longest = max(longest, len(words(text)))
                languages.append(language_of(text))
        return replace(self, length=min(longest, MOST), language=self.language or majority(languages))

    def check(self, value: Any) -> None:
        """Raises: Refusal "text-language", "text-too-long": more words than the model takes."""
        Text(self.name, self.language).check(value)
        if value is not None and (count := len(words(value))) > self.length:
            raise self._too_long(count, self.length)

    def _too_long(self, count: int, most: int) -> Refusal:
        return Refusal(
            "text-too-long",
            f"{self.name}: the text has {count} words; at most {most} are read.",
            hint="Send it in parts, cut between sentences.",
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length, COLUMNS)

    @property
    def facts(self) -> dict[str, Any]:
        return {"language": self.language, "attributes": ATTRIBUTES}

    def encode(self, value: Any) -> Array:
        """Row by row: slots of the word's attributes, then the phrases that begin at it; NaN where there is none."""
        rows = np.full(self.shape, np.nan, np.float32)
        if value is None:
            return rows
        spans = words(value)
        plain = plain_words(value, spans)
        for a, b in sentences(value, spans):
            if a >= self.length:
                break
            kept = rows[a:b]
            kept[:, :ATTRIBUTES] = slots_of(plain[a:b], ATTRIBUTES)[: len(kept)]
            kept[:, ATTRIBUTES:] = phrases_at(plain[a:b])[: len(kept)]
        return rows

    def example(self, random: np.random.Generator) -> Array:
        rows = np.full(self.shape, np.nan, np.float32)
        used = int(random.integers(2, self.length + 1))
        for row in rows[:used]:
            count = int(random.integers(30, ATTRIBUTES + 1))
            row[:count] = random.integers(0, SLOTS, count)
        rows[:used, ATTRIBUTES:] = random.integers(0, PHRASES, (used, LONGEST_PHRASE))
        return rows

    def named(self) -> Named:
        return Named("words", {"name": self.name, "language": self.language, "length": self.length})


@dataclass(frozen=True)
class Pieces(Words):
    """Words as pieces of a pretrained encoder. length: pieces of one text, its two marks included.

    vocabulary: in id order, as in the encoder's `vocab.txt`. lowercase: as the encoder was trained.
    """

    length: int = MOST
    vocabulary: tuple[str, ...] = field(default=(), repr=False)
    lowercase: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))

    @classmethod
    def pretrained(
        cls, name: str, vocabulary: Sequence[str], language: str | None = None, length: int = MOST, *,
        lowercase: bool = True,
    ) -> "Pieces":  # fmt: skip
        return cls(name, language, length, tuple(vocabulary), lowercase)

    def fit(self, values: Iterable[Any]) -> "Pieces":
        longest, languages = min(LEAST, self.length), []
        for text in values:
            if text is not None:
                longest = max(longest, len(self._pieces(text)[0]))
                languages.append(language_of(text))
        return replace(self, length=min(longest, self.length), language=self.language or majority(languages))

    def check(self, value: Any) -> None:
        """Raises: Refusal "text-language", "text-too-long": more pieces than the encoder takes."""
        super().check(value)
        if value is not None and (count := len(self._pieces(value)[0])) > self.length:
            raise Refusal(
                "text-too-long",
                f"{self.name}: the text has {count} word pieces; at most {self.length} are read.",
                hint="Send it in parts, cut between sentences.",
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length, 2 + LONGEST_PHRASE)

    @property
    def facts(self) -> dict[str, Any]:
        return {"language": self.language, "vocabulary": len(self.vocabulary) - 1, "attributes": 2}

    def encode(self, value: Any) -> Array:
        """Column 0: ids of the pieces, between the encoder's marks. Column 1: at place t, where word t begins among
        them; after it the phrases that begin at word t."""
        rows = np.full(self.shape, np.nan, np.float32)
        if value is None:
            return rows
        ids, first = self._pieces(value)
        ids, first = ids[: self.length], [at for at in first if at < self.length]
        rows[: len(ids), 0], rows[: len(first), 1] = ids, first
        spans = words(value)
        plain = plain_words(value, spans)
        for a, b in sentences(value, spans):
            kept = rows[a : min(b, len(first)), 2:]
            kept[:] = phrases_at(plain[a:b])[: len(kept)]
        return rows

    def example(self, random: np.random.Generator) -> Array:
        rows = np.full(self.shape, np.nan, np.float32)
        used = int(random.integers(3, self.length + 1))
        rows[:used, 0] = random.integers(0, len(self.vocabulary), used)
        starts = np.arange(1, used - 1)
        rows[: len(starts), 1] = starts
        rows[: len(starts), 2:] = random.integers(0, PHRASES, (len(starts), LONGEST_PHRASE))
        return rows

    def named(self) -> Named:
        params = {"name": self.name, "language": self.language, "length": self.length}
        return Named("pieces", params | {"vocabulary": list(self.vocabulary), "lowercase": self.lowercase})

    @cached_property
    def _tokenizer(self) -> Any:
        return wordpieces(self._ids, lowercase=self.lowercase, name=self.name)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self.vocabulary)}

    def _pieces(self, text: str) -> tuple[list[int], list[int]]:
        """(ids with both marks, index of each word's first piece). A word that has none takes the unknown piece."""
        known = self._ids
        ids, first = [known["[CLS]"]], []
        plain = plain_words(text, words(text))
        for found in self._tokenizer.encode_batch(plain, add_special_tokens=False) if plain else ():
            first.append(len(ids))
            ids += found.ids or [known["[UNK]"]]
        return [*ids, known["[SEP]"]], first


FIELDS.register("words")(Words)
FIELDS.register("pieces")(Pieces)
