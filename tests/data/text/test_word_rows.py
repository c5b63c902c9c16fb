"""Words and sentences of a text, by their places in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medserve.data.text.words import plain_words, sentences, words


def cut(text: str) -> list[str]:
    return [text[a:b] for a, b in words(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Ataxia-telangiectasia (A-T)", ["Ataxia", "-", "telangiectasia", "(", "A", "-", "T", ")"]),
        ("CRP 12.5 mg/L, 1,000 cells", ["CRP", "12.5", "mg", "/", "L", ",", "1,000", "cells"]),
        ("Alzheimer's BRCA1", ["Alzheimer", "'", "s", "BRCA1"]),
        ("双肺X线", ["双", "肺", "X", "线"]),
        ("me\u0301nie\u0300re", ["me\u0301nie\u0300re"]),
        ("a\u200bb \x00 c", ["a", "b", "c"]),
    ],
)
def test_words(text, wanted):
    """Marks stand alone, numbers stay whole, an accent belongs to its letter, invisible characters are no words."""
    assert cut(text) == wanted


def test_an_accent_is_the_same_however_it_was_typed():
    typed, composed = "Me\u0301nie\u0300re", "M\u00e9ni\u00e8re"
    assert plain_words(typed, words(typed)) == plain_words(composed, words(composed)) == [composed]


@given(st.text(alphabet=st.sampled_from("aB1 .,-'é\u0301双\u200b\n\x00😀_"), max_size=40))
def test_places_rise_and_lose_nothing_but_spaces(text):
    """Each place holds its word, places do not overlap, and what lies between holds no letter and no digit."""
    spans, at = words(text), 0
    for a, b in spans:
        assert at <= a < b <= len(text) and not any(c.isalnum() for c in text[at:a])
        assert not any(c.isspace() for c in text[a:b])
        at = b
    assert not any(c.isalnum() for c in text[at:])
    parts = sentences(text, spans)
    assert [i for a, b in parts for i in range(a, b)] == list(range(len(spans)))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Cancer was seen. It grew.", 2),
        ("Seen by Dr. Smith. He left.", 2),
        ("At 2.5 mg. the E. coli grew", 1),
        ("History:\n\nNone", 2),
        ("双肺未见异常。心影正常。", 2),
        ("Is it? 3 of them.", 2),
        ("", 0),
    ],
)
def test_sentences(text, count):
    """Short forms, initials and numbers end none; blank lines and Chinese full stops do."""
    assert len(sentences(text, words(text))) == count
