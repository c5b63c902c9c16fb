"""A note, a report, a letter: text in one language, as the ids of its words.

    note = Text("note").fit(["No pneumonia.", "Pneumonia, left lower lobe.", ...])
    note.encode("No pneumonia.")                     # (length,) float32: word ids, 0 unknown, NaN after the last

Raw is a string, or a FHIR DocumentReference (or Attachment) that carries plain text within itself. A word travels in a
package only if at least `SEEN` training texts hold it, so that a name in one patient's note stays home; a patient with
several notes counts several times, so identifiers are to be removed beforehand all the same.

With `tokenizer="wordpiece"` the words are the pieces of a pretrained encoder (`Text.pretrained`), and nothing is
learned but the length. A word that is more than one piece goes on in pieces that start with "##".
"""

import base64
import binascii
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from medserve.data.declaration import Input
from medserve.data.fields import FIELDS
from medserve.data.text.language import language_of, majority
from medserve.data.text.pieces import wordpieces
from medserve.data.text.tokens import clean, tokens
from medserve.errors import Refusal
from medserve.types import Array, Named

MAX_BYTES = 2**20  # of one text, UTF-8
MOST = 20_000  # words
SEEN = 3  # training texts behind every word
LEAST_LENGTH, MOST_LENGTH = 8, 512  # tokens
_PRUNE_AT = 2_000_000  # different words counted at once; beyond, those seen once are forgotten
LANGUAGES = {"en": "English", "zh": "Chinese"}


@FIELDS.register("text")
@dataclass(frozen=True)
class Text:
    """words: in id order from 1 (of "wordpiece": from 0, as the encoder was trained); the most frequent first.

    language: declared, or that of the training texts; None: not checked. length: tokens kept of one text, from its
    start; 0: not known yet. most: the largest length that fitting chooses. lowercase: of word pieces, whether the
    encoder was trained on lower-cased text.
    """

    kind: ClassVar[str] = "text"
    name: str
    language: str | None = None
    length: int = 0
    words: tuple[str, ...] = field(default=(), repr=False)
    tokenizer: Literal["words", "wordpiece"] = "words"
    lowercase: bool = True
    most: int = MOST_LENGTH

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))

    @classmethod
    def declare(cls, name: str, said: Input) -> "Text":
        return cls(name, said.language)

    @classmethod
    def pretrained(
        cls,
        name: str,
        vocabulary: Sequence[str],
        language: str | None = "en",
        length: int = 0,
        lowercase: bool = True,
    ) -> "Text":
        """vocabulary: the pieces in id order, as in an encoder's `vocab.txt`, with [PAD], [UNK], [CLS] and [SEP]."""
        return cls(name, language, length, tuple(vocabulary), "wordpiece", lowercase)

    def parse(self, raw: Any) -> str | None:
        """The cleaned text. None and "" are missing.

        Raises: Refusal "text-expected", "text-too-long", "text-empty": nothing but spaces and marks.
        """
        if raw is None or raw == "" or (isinstance(raw, float) and math.isnan(raw)):
            return None
        if isinstance(raw, dict):
            raw = _attached(raw, self.name)
        if not isinstance(raw, str):
            raise Refusal("text-expected", f"{self.name}: text was expected.", hint='Send a string: "No fever."')
        # A character takes at least one byte, so a long string is refused before it is copied.
        if len(raw) > MAX_BYTES or len(raw.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            raise _too_long(self.name)
        text = clean(raw)
        if not any(c.isalnum() for c in text):
            raise Refusal(
                "text-empty",
                f"{self.name}: the text holds no word.",
                hint="Leave the input out when there is no text.",
            )
        return text

    def restore(self, stored: Any) -> Any:
        return stored

    def fit(self, values: Iterable[Any]) -> "Text":
        counts: Counter[str] = Counter()
        lengths, languages = [], []
        for text in values:
            if text is None:
                continue
            found = self._tokens(text)
            lengths.append(len(found))
            languages.append(language_of(text))
            if self.tokenizer == "words":
                counts.update(set(found))
                if len(counts) > _PRUNE_AT:
                    counts = Counter({word: n for word, n in counts.items() if n > 1})
        length = self.length
        if not length:
            usual = int(math.ceil(np.quantile(lengths, 0.95))) if lengths else LEAST_LENGTH
            length = min(max(usual, LEAST_LENGTH), self.most)
        language = self.language or majority(languages)
        if self.tokenizer == "wordpiece":
            return replace(self, length=length, language=language)
        kept = sorted((word for word, n in counts.items() if n >= SEEN), key=lambda word: (-counts[word], word))
        return replace(self, length=length, language=language, words=tuple(kept[:MOST]))

    def check(self, value: Any) -> None:
        """Raises: Refusal "text-language": plainly another language than the model was trained on."""
        if value is None or self.language is None:
            return
        found = language_of(value)
        if found is not None and found != self.language:
            wanted = LANGUAGES.get(self.language, self.language)
            raise Refusal(
                "text-language",
                f"{self.name}: the text is not in {wanted}, the language of the model.",
                hint=f"Send the text in {wanted}, or ask a model that was trained on its language.",
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (max(self.length, LEAST_LENGTH),)

    @property
    def facts(self) -> dict[str, Any]:
        """vocabulary: the highest id. words: in id order from 1, of word pieces from 0.

        unknown: the id that stands for a token outside the vocabulary.
        """
        said: dict[str, Any] = {"length": self.shape[0], "language": self.language, "tokenizer": self.tokenizer,
                                "words": list(self.words)}  # fmt: skip
        if self.tokenizer == "wordpiece":
            return said | {"vocabulary": len(self.words) - 1, "unknown": self._ids.get("[UNK]", 0)}
        return said | {"vocabulary": len(self.words), "unknown": 0}

    def encode(self, value: Any) -> Array:
        ids = np.full(self.shape, math.nan, np.float32)
        if value is None:
            return ids
        known, unknown = self._ids, 0
        found = self._tokens(value)
        if self.tokenizer == "wordpiece":
            unknown = known.get("[UNK]", 0)
            last = found[-1:]
            found = [*found[: len(ids) - 1], *last] if len(found) > len(ids) else found  # [SEP] stays
        row = [known.get(word, unknown) for word in found[: len(ids)]]
        ids[: len(row)] = row or [unknown]
        return ids

    def shown(self, value: str) -> list[str]:
        """The tokens behind `encode`, in order, for people; at most `length`."""
        return self._tokens(value)[: self.shape[0]]

    def example(self, random: np.random.Generator) -> Array:
        ids = np.full(self.shape, math.nan, np.float32)
        used = int(random.integers(1, len(ids) + 1))
        top = len(self.words) if self.tokenizer == "words" else len(self.words) - 1
        ids[:used] = random.integers(0, max(top, 0) + 1, used)
        return ids

    def named(self) -> Named:
        given = {"name": self.name, "language": self.language, "length": self.length, "words": list(self.words)}
        if self.tokenizer == "wordpiece":
            given |= {"tokenizer": self.tokenizer, "lowercase": self.lowercase}
        return Named("text", given)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words, 1 if self.tokenizer == "words" else 0)}

    @cached_property
    def _pieces(self) -> Any:
        return wordpieces(self._ids, lowercase=self.lowercase, name=self.name)

    def _tokens(self, text: str) -> list[str]:
        if self.tokenizer == "words":
            return tokens(text)
        found: list[str] = self._pieces.encode(text).tokens
        return found


def _too_long(name: str) -> Refusal:
    return Refusal(
        "text-too-long",
        f"{name}: the text is longer than {MAX_BYTES} bytes.",
        hint="Send the part that matters, such as the findings or the history.",
    )


def _attached(raw: dict[str, Any], name: str) -> str:
    """The text within a FHIR R4 DocumentReference (content.attachment.data) or Attachment; nothing is fetched."""
    if raw.get("resourceType") == "DocumentReference":
        parts = raw.get("content")
        found = [p.get("attachment") for p in parts if isinstance(p, dict)] if isinstance(parts, list) else []
    else:
        found = [raw]
    for part in found:
        if not isinstance(part, dict) or not isinstance(part.get("data"), str):
            continue
        said = str(part.get("contentType") or "text/plain").replace(" ", "").lower()
        media, _, parameters = said.partition(";")
        if media != "text/plain" or parameters not in ("", "charset=utf-8", "charset=us-ascii"):
            continue
        if len(part["data"]) > 2 * MAX_BYTES:
            raise _too_long(name)
        try:
            return base64.b64decode("".join(part["data"].split()), validate=True).decode("utf-8")
        except (binascii.Error, ValueError) as error:
            raise Refusal(
                "text-expected",
                f"{name}: the attachment is not UTF-8 text in base64.",
                hint="Send the text itself as a string.",
            ) from error
    raise Refusal(
        "text-expected",
        f"{name}: text was expected, or a DocumentReference whose attachment holds plain text (UTF-8) as data.",
        hint="Send the text itself as a string; a link is not followed.",
    )
