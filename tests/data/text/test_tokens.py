"""Tokens are the same everywhere, and carry no long number."""

import pytest

from medserve.data.text.tokens import clean, spans, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No pneumonia, CRP 12.5 mg/L.", ["no", "pneumonia", ",", "crp", "12.5", "mg", "/", "l", "."]),
        ("Patient's CA-125 is 3,400", ["patient's", "ca", "-", "125", "is", "3,400"]),
        ("双肺未见异常, CT平扫", [*"双肺未见异常", ",", "ct", *"平扫"]),
        ("MRN 0012345 on 12/03/2024", ["mrn", "#", "on", "12", "/", "03", "/", "2024"]),
        ("seen by [**Name**] ___", ["seen", "by", "[", "*", "*", "name", "*", "*", "]", "_", "_", "_"]),
        ("\u00b5g 5\u00b0C", ["\u00b5g", "5", "\u00b0", "c"]),
        ("", []),
    ],
)  # fmt: skip
def test_tokens(text, expected):
    """Words, decimal numbers, single characters of Chinese, marks; five digits and more say nothing."""
    assert tokens(text) == expected


def test_spans_are_where_the_tokens_stand():
    """As many spans as tokens, each one the token's own text."""
    text = clean("A\u0308rzte fanden K+ 5.1 mmol/L; 血钾 5.1")
    assert [text[a:b].lower() for a, b in spans(text)] == tokens(text)


def test_cleaning_composes_and_drops_what_cannot_be_seen():
    """NFC; NUL, zero-width and direction marks go, line ends stay."""
    assert clean("o\u0308dema\x00\u200b\u202e\nx\ty") == "\u00f6dema\nx\ty"


def test_a_long_text_takes_linear_time():
    """A megabyte of one letter, of apostrophes or of digits is read in one go."""
    for text in ("a" * 10**6, "a'" * (5 * 10**5), "1," * (5 * 10**5), "_" * 10**6):
        assert sum(len(t) for t in tokens(text)) <= 10**6
