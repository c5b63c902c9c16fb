"""Which language a text is in, as far as that can be said without a model: by its script and its commonest words.

    language_of("The patient was admitted with a cough.")     # "en"
    language_of("患者因咳嗽入院")                               # "zh"
    language_of("BP 120/80")                                   # None: cannot be told

It answers only where the evidence is plain. Notes are full of abbreviations, so a text without common words of any
language is not called foreign.
"""

import re
from collections.abc import Iterable

LOOKED_AT = 4000  # characters
LEAST_LETTERS = 8
LEAST_WORDS = 3  # common words, different ones, that a language must show
_WORD = re.compile(r"[^\W\d_]+")

# Frequent short words that the other languages of the list do not share.
_COMMON = {
    "en": "the of and with was were for is are this that to from by on at not has had have be been which or no his",
    "de": "der die das und ist nicht mit den von ein eine einer auf für bei wurde wird sich auch dem im zu keine nach",
    "fr": "le les des une est dans pour pas avec sur par qui du au aux été sont ce cette et chez sans il elle ont",
    "es": "el los las una es por con para del que se no su al como más fue y en lo sin sobre años",
    "it": "il di che è per con una della del non gli le sono alla nel dei si da anche dal ha al più",
    "pt": "os um uma é não com para do da em por dos das que foi ao na no se mais como sem à são",
    "nl": "het een van en is niet met voor op de zijn werd door bij aan ook naar wordt geen dat te",
}  # fmt: skip
COMMON = {name: frozenset(words.split()) for name, words in _COMMON.items()}
# Scripts by block; the language stands for all that are written so.
_SCRIPTS = (
    ("ja", "\u3040", "\u30ff"), ("ko", "\uac00", "\ud7af"), ("zh", "\u3400", "\u9fff"), ("ru", "\u0400", "\u04ff"),
    ("ar", "\u0600", "\u06ff"), ("he", "\u0590", "\u05ff"), ("el", "\u0370", "\u03ff"), ("hi", "\u0900", "\u097f"),
    ("th", "\u0e00", "\u0e7f"),
)  # fmt: skip


def language_of(text: str) -> str | None:
    """ISO 639-1 code, or None where it cannot be told. text: cleaned; its first `LOOKED_AT` characters count."""
    text = text[:LOOKED_AT].lower()
    counts = dict.fromkeys((name for name, _, _ in _SCRIPTS), 0)
    latin = 0
    for c in text:
        if "a" <= c <= "z" or "\u00c0" <= c <= "\u024f":
            latin += 1
        elif c >= "\u0370":
            for name, low, high in _SCRIPTS:
                if low <= c <= high:
                    counts[name] += 1
                    break
    letters = latin + sum(counts.values())
    if letters < LEAST_LETTERS:
        return None
    if counts["ja"] > 0.1 * (counts["ja"] + counts["zh"]):  # Japanese mixes both; Chinese has no kana
        counts["ja"] += counts["zh"]
        counts["zh"] = 0
    name = max(counts, key=lambda n: counts[n])
    # A character of another script says more than a letter: Chinese notes carry Latin abbreviations and units.
    if counts[name] * 3 >= latin and counts[name] >= LEAST_LETTERS // 2:
        return name
    return _by_words(_WORD.findall(text))


def _by_words(words: list[str]) -> str | None:
    seen = set(words)
    share = {name: sum(w in common for w in words) / max(1, len(words)) for name, common in COMMON.items()}
    best = sorted(share, key=lambda n: -share[n])
    first, second = best[0], best[1]
    if len(seen & COMMON[first]) < LEAST_WORDS or share[first] < 0.05 or share[first] < 1.5 * share[second]:
        return None
    return first


def majority(languages: Iterable[str | None]) -> str | None:
    """The language of more than half of the texts that show one, else None."""
    counts: dict[str, int] = {}
    for name in languages:
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    best = max(counts, key=lambda n: counts[n], default=None)
    return best if best is not None and 2 * counts[best] > sum(counts.values()) else None
