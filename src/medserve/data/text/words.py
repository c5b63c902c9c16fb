"""A text as words and sentences for the marking of entities: where each stands, in characters of the text as sent.

    found = words("No colon cancer. BRCA1 was normal.")       # [(0, 2), (3, 8), (9, 15), (15, 16), (17, 22), ...]
    sentences(text, found)                                    # [(0, 4), (4, 8)]: first word, word after the last

A word is a run of letters and digits; a number keeps its decimal point; every Chinese character and every other mark
stands alone, apostrophes and hyphens too. Invisible characters are no words. The text is never changed, so that a place
among the words is a place in what was sent. Training and serving call these two functions and no other.
"""

import re
import unicodedata

from medserve.data.text.tokens import composed

_CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_MARK = "\u0300-\u036f"  # accents that stand behind their letter
_WORD = re.compile(rf"\d+(?:[.,]\d+)+|[{_CJK}]|[^\W_{_CJK}](?:[^\W_{_CJK}]|[{_MARK}])*|[^\w\s]|_")
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn")
_ENDS, _FULL_ENDS = frozenset(".!?"), frozenset("。！？")
_SHORT = frozenset(
    [
        "dr",
        "mr",
        "mrs",
        "ms",
        "prof",
        "st",
        "vs",
        "fig",
        "figs",
        "no",
        "al",
        "approx",
        "ca",
        "cf",
        "eq",
        "ref",
        "refs",
        "resp",
        "sp",
        "e.g",
        "i.e",
    ]
)
_BLANK_LINE = re.compile(r"\n\s*\n")


def words(text: str) -> list[tuple[int, int]]:
    """(start, end) of every word, in order, in code points."""
    found = [m.span() for m in _WORD.finditer(text)]
    return [
        (a, b) for a, b in found if b - a > 1 or text[a].isalnum() or unicodedata.category(text[a]) not in _INVISIBLE
    ]


def plain_words(text: str, spans: list[tuple[int, int]]) -> list[str]:
    """The words themselves, composed (NFC): an accent is the same however it was typed."""
    if text.isascii():
        return [text[a:b] for a, b in spans]
    return [composed(text[a:b]) for a, b in spans]


def sentences(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(first word, word after the last) of every sentence.

    A sentence ends at a full stop that a space and a capital or a digit follow, unless a short form or an initial
    stands before it; at a Chinese full stop; at a blank line.
    """
    edges = [0]
    for i in range(1, len(spans)):
        if _ends(text, spans, i):
            edges.append(i)
    return list(zip(edges, [*edges[1:], len(spans)], strict=True)) if spans else []


def _ends(text: str, spans: list[tuple[int, int]], i: int) -> bool:
    """Whether a sentence begins at word i."""
    (a, b), (start, _) = spans[i - 1], spans[i]
    if text[a] in _FULL_ENDS:
        return True
    gap = text[b:start]
    if not gap:
        return False
    if "\n" in gap and _BLANK_LINE.search(gap):
        return True
    if text[a] not in _ENDS or not (text[start].isupper() or text[start].isdigit()):
        return False
    before = text[slice(*spans[i - 2])].lower() if i > 1 else ""
    initial = len(before) == 1 and before.isalpha()
    return text[a] != "." or not (before in _SHORT or initial)
