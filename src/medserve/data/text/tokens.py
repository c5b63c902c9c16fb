"""Text into tokens: the same in training and serving, without a dictionary, for English and Chinese.

    clean("Pt c/o\\x00 SOB")                  # "Pt c/o SOB"
    tokens("No pneumonia, CRP 12.5 mg/L.")   # ["no", "pneumonia", ",", "crp", "12.5", "mg", "/", "l", "."]
    tokens("双肺未见异常")                    # one token a character
    spans(text)                              # where each of them stands in the text

A word is a run of letters and digits; a number keeps its decimal point; every Chinese character and every mark of
punctuation stands alone. Words are lower-cased. A run of five or more digits (a record number, a telephone number)
becomes "#", because it says who the patient is and nothing about the disease.
"""

import re
import unicodedata

# One alternative each: a decimal number, a CJK character, a word (with an apostrophe inside), any other mark.
_CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_TOKEN = re.compile(rf"\d+(?:[.,]\d+)+|[{_CJK}]|[^\W_{_CJK}]+(?:['\u2019][^\W\d_{_CJK}]+)?|[^\w\s]|_")
_LONG_DIGITS = re.compile(r"\d{5,}")
_DROPPED = ("Cc", "Cf", "Cs", "Co", "Cn")  # controls, invisible format marks, surrogates, private and unassigned
_SPACES = "\t\n\r\x0b\x0c\x85\u2028\u2029"
_MARKS = re.compile(r"[^\w\s\x00-\x7f]{31,}")  # where a long run of combining marks may be
MOST_MARKS = 30  # combining marks in a row, as in the Stream-Safe Text Format: NFC is quadratic in them
ENDS = frozenset(".!?;。！？；")  # of a sentence or clause
SENTENCE_ENDS = frozenset(".!?。！？")


def clean(text: str) -> str:
    """Unicode NFC, line ends and tabs as they are, every other control or invisible character gone."""
    text = composed(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c for c in text if c in _SPACES or unicodedata.category(c) not in _DROPPED)


def composed(text: str) -> str:
    """Unicode NFC; of more than 30 combining marks in a row the first 30. Source: UAX #15, section 13."""
    return unicodedata.normalize("NFC", _MARKS.sub(_fewer, text))


def _fewer(run: re.Match[str]) -> str:
    kept, row = [], 0
    for c in run[0]:
        row = row + 1 if unicodedata.combining(c) else 0
        if row <= MOST_MARKS:
            kept.append(c)
    return "".join(kept)


def spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of every token of a cleaned text, in characters."""
    return [found.span() for found in _TOKEN.finditer(text)]


def tokens(text: str) -> list[str]:
    """The tokens of a cleaned text, in order."""
    return [_LONG_DIGITS.sub("#", word) for word in _TOKEN.findall(text.lower())]
