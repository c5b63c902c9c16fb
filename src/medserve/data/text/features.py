"""What a tagger sees of each word: itself and its neighbours, its ends, its shape, and the phrases that begin at it.

    describe(["Familial", "APC", "tumours"])          # attributes of each word, as strings
    slots_of(["Familial", "APC", "tumours"], 88)      # the same as numbers, (3, 88)
    phrases_at(["Familial", "APC", "tumours"])        # (3, 8)

The same in training and serving, without a dictionary. Attributes and phrases enter a record as digests, so that no
word travels: an attribute as one of `SLOTS` numbers, a phrase (of up to eight stems) as one of `PHRASES`. Both are
whole numbers below 2^24, which float32 holds exactly.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from medserve.data.text.tokens import tokens
from medserve.types import Array

LONGEST_PHRASE = 8  # words of a listed phrase
SLOTS, PHRASES = 2**22, 2**24
_UPPER, _LOWER, _DIGIT = re.compile(r"[A-Z]"), re.compile(r"[a-z]"), re.compile(r"\d")
_RUN = re.compile(r"(.)\1+")


def digest(text: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


@lru_cache(2**18)
def slot(attribute: str) -> int:
    """The number of an attribute in a record."""
    return digest(attribute) % SLOTS


def phrase(words: Sequence[str]) -> int:
    """The number of a phrase in a record: "Tumours" and "tumour" are one."""
    return digest(" ".join(stem(word.lower()) for word in words)) % PHRASES


def phrases_at(words: Sequence[str]) -> Array:
    """(T, 8) float32: the phrases of 1 to 8 words that begin at each word of a sentence, NaN beyond its end."""
    phrases = np.full((len(words), LONGEST_PHRASE), np.nan, np.float32)
    stems = [stem(word.lower()) for word in words]
    for i in range(len(words)):
        last = min(LONGEST_PHRASE, len(words) - i)
        phrases[i, :last] = [digest(" ".join(stems[i : i + k])) % PHRASES for k in range(1, last + 1)]
    return phrases


def slots_of(words: Sequence[str], width: int) -> Array:
    """(T, width) float32: the attributes of each word of a sentence, NaN after the last. A word with more of them
    loses the last of its inner letters."""
    slots = np.full((len(words), width), np.nan, np.float32)
    for i, row in enumerate(describe(words)):
        kept = row[:width]
        slots[i, : len(kept)] = [slot(attribute) for attribute in kept]
    return slots


def stem(word: str) -> str:
    """Without a plural's ending."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def shape(word: str) -> str:
    """ "BRCA1" -> "AAAA0", "p53-null" -> "a00-aaaa"."""
    return _DIGIT.sub("0", _LOWER.sub("a", _UPPER.sub("A", word)))[:20]


def brief(word: str) -> str:
    """The shape with runs made one: "A0"."""
    return _RUN.sub(r"\1", shape(word))


def abbreviations(words: Sequence[str]) -> list[str]:
    """For "long form ( LF )" : "short" at LF, "long" at the words whose initials it takes, else "".

    Source: after Schwartz and Hearst, Pac Symp Biocomput 2003, on initials alone.
    """
    found = [""] * len(words)
    for i in range(1, len(words) - 2):
        if words[i] not in "([" or words[i + 2] not in ")]":
            continue
        letters = [c.lower() for c in words[i + 1] if c.isalpha()]
        if not 2 <= len(letters) <= 8 or not words[i + 1][0].isalnum():
            continue
        start = _long_form(words, i - 1, letters)
        if start is not None:
            found[i + 1] = "short"
            found[start:i] = ["long"] * (i - start)
    return found


def _long_form(words: Sequence[str], last: int, letters: list[str]) -> int | None:
    """First word of the long form that ends at `last`: each letter in order, the first one at a word's start."""
    at = len(letters) - 1
    for j in range(last, max(-1, last - 2 * len(letters) - 3), -1):
        word = words[j].lower()
        for c in reversed(word[1:]):
            if at > 0 and c == letters[at]:
                at -= 1
        if word[:1] == letters[at]:
            if at == 0:
                return j
            at -= 1
    return None


def describe(words: Sequence[str]) -> list[list[str]]:
    """Attributes of every word of one sentence, the least telling last."""
    own = [_own(word) for word in words]
    near = [_near(word) for word in words]
    short = abbreviations(words)
    lower = [stem(word.lower()) for word in words]
    inside = _brackets(words)
    made = []
    for i, attributes in enumerate(own):
        row = ["bias", *attributes]
        if short[i]:
            row.append(f"abbr={short[i]}")
        if inside[i]:
            row.append("bracket")
        for step in (-2, -1, 1, 2):
            j = i + step
            if 0 <= j < len(words):
                row += [f"{step}{attribute}" for attribute in near[j]]
                if short[j]:
                    row.append(f"{step}abbr={short[j]}")
            elif step in (-1, 1):
                row.append(f"{step}edge")
        if i > 0:
            row.append(f"-1,0={lower[i - 1]}|{lower[i]}")
        if i + 1 < len(words):
            row.append(f"0,1={lower[i]}|{lower[i + 1]}")
        if 0 < i < len(words) - 1:
            row.append(f"-1,1={lower[i - 1]}|{lower[i + 1]}")
        made.append(row + _inner(words[i]))
    return made


def _own(word: str) -> list[str]:
    lower = word.lower()
    row = [f"w={word}", f"l={stem(lower)}", f"s={shape(word)}", f"b={brief(word)}", f"n={min(len(word), 12)}"]
    for k in range(1, min(5, len(lower)) + 1):
        row += [f"p{k}={lower[:k]}", f"e{k}={lower[-k:]}"]
    if len(word) > 1 and word.isupper():
        row.append("caps")
    parts = tokens(word)
    if len(parts) > 1:
        row += [f"part={stem(part)}" for part in parts]
    return row


def _inner(word: str) -> list[str]:
    """Runs of 3, 4 and 5 letters."""
    padded = f"<{stem(word.lower())}>"
    return list(dict.fromkeys(f"g={padded[i : i + k]}" for k in (3, 4, 5) for i in range(len(padded) - k + 1)))


def _near(word: str) -> list[str]:
    lower = word.lower()
    return [f"l={stem(lower)}", f"b={brief(word)}", f"e3={lower[-3:]}"]


def _brackets(words: Sequence[str]) -> list[bool]:
    made, depth = [], 0
    for word in words:
        depth += word in ("(", "[")
        made.append(depth > 0)
        depth = max(0, depth - (word in (")", "]")))
    return made
