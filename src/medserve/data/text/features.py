"""What a tagger sees of each word: itself and its neighbours, its ends, its shape, and lists learned in training.

    described = describe(["Familial", "APC", "tumours"], lexicon)       # one list of attributes a word

The same in training and serving, without a dictionary. Attributes are plain strings; a trained model keeps 64-bit
digests of those it uses, and its lists are kept as digests too.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medserve.data.text.tokens import tokens

LONGEST_PHRASE = 8  # words of a listed phrase
_UPPER, _LOWER, _DIGIT = re.compile(r"[A-Z]"), re.compile(r"[a-z]"), re.compile(r"\d")
_RUN = re.compile(r"(.)\1+")


@dataclass(frozen=True)
class Lexicon:
    """phrases: digest of a phrase's normal form -> how its words are marked."""

    phrases: Mapping[int, str] = field(default_factory=dict)


def digest(text: str) -> int:
    """64 bits of BLAKE2b, signed."""
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little", signed=True
    )


def normal(words: Sequence[str]) -> str:
    """Lower-cased stems, for lists: "Tumours" and "tumour" are one."""
    return " ".join(stem(word.lower()) for word in words)


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


def marked(words: Sequence[str], lexicon: Lexicon) -> list[str]:
    """Where listed phrases stand, the longest first: "B-NAME", "I-NAME" or "O" a word."""
    found = ["O"] * len(words)
    if not lexicon.phrases:
        return found
    stems = [stem(word.lower()) for word in words]
    i = 0
    while i < len(words):
        for length in range(min(LONGEST_PHRASE, len(words) - i), 0, -1):
            name = lexicon.phrases.get(digest(" ".join(stems[i : i + length])))
            if name is not None:
                found[i] = f"B-{name}"
                found[i + 1 : i + length] = [f"I-{name}"] * (length - 1)
                i += length
                break
        else:
            i += 1
    return found


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


def describe(words: Sequence[str], lexicon: Lexicon) -> list[list[str]]:
    """Attributes of every word of one sentence."""
    own = [_own(word) for word in words]
    near = [_near(word) for word in words]
    lists, short = marked(words, lexicon), abbreviations(words)
    lower = [stem(word.lower()) for word in words]
    inside = _brackets(words)
    made = []
    for i, attributes in enumerate(own):
        row = ["bias", *attributes, f"L={lists[i]}"]
        if short[i]:
            row.append(f"abbr={short[i]}")
        if inside[i]:
            row.append("bracket")
        for step in (-2, -1, 1, 2):
            j = i + step
            if 0 <= j < len(words):
                row += [f"{step}{attribute}" for attribute in near[j]]
                row.append(f"{step}L={lists[j]}")
                if short[j]:
                    row.append(f"{step}abbr={short[j]}")
            elif step in (-1, 1):
                row.append(f"{step}edge")
        if i > 0:
            row.append(f"-1,0={lower[i - 1]}|{lower[i]}")
            row.append(f"L-1,0={lists[i - 1]}|{lists[i]}")
        if i + 1 < len(words):
            row.append(f"0,1={lower[i]}|{lower[i + 1]}")
            row.append(f"L0,1={lists[i]}|{lists[i + 1]}")
        if 0 < i < len(words) - 1:
            row.append(f"-1,1={lower[i - 1]}|{lower[i + 1]}")
        made.append(row)
    return made


def _own(word: str) -> list[str]:
    lower = word.lower()
    row = [f"w={word}", f"l={stem(lower)}", f"s={shape(word)}", f"b={brief(word)}", f"n={min(len(word), 12)}"]
    for k in range(1, min(5, len(lower)) + 1):
        row += [f"p{k}={lower[:k]}", f"e{k}={lower[-k:]}"]
    padded = f"<{stem(lower)}>"
    row += sorted({f"g={padded[i : i + k]}" for k in (3, 4, 5) for i in range(len(padded) - k + 1)})
    if len(word) > 1 and word.isupper():
        row.append("caps")
    parts = tokens(word)
    if len(parts) > 1:
        row += [f"part={stem(part)}" for part in parts]
    return row


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
