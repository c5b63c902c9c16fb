"""A text as rows of words: what it refuses, what it keeps, and that its rows stand for the words as they were sent."""

import numpy as np
import pytest

from medserve.data.fields import Records
from medserve.data.fields.words import ATTRIBUTES, LEAST, MOST, Pieces, Words
from medserve.data.text.features import phrase, slot
from medserve.errors import Refusal

TEXT = " Colon cancers were seen. Cancer\u0301 of the lung? 双肺 BRCA1 "
PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "colon", "cancer", "##s", "were", "seen", ".", "of", "the", "lung", "?")


@pytest.fixture
def note() -> Words:
    return Words("note").fit(["The patient was seen in the clinic and had no fever.", None])


def code(call, *given) -> str:
    with pytest.raises(Refusal) as caught:
        call(*given)
    assert "note" in caught.value.message
    return caught.value.code


def test_the_text_stays_as_it_was_sent(note):
    """Spaces and combining accents too: places are counted in it."""
    assert note.parse(TEXT) == TEXT and note.parse(None) is None and note.parse("") is None


def test_refusals(note):
    """No word, no text, another language, more words than are read: before any score."""
    assert code(note.parse, "?!") == "text-empty" and code(note.parse, 5) == "text-expected"
    assert code(note.parse, "word " * (MOST + 1)) == "text-too-long"
    assert note.language == "en" and note.length == LEAST
    german = "Der Patient hatte keine Beschwerden und ist mit der Behandlung nicht zufrieden."
    assert code(note.check, german) == "text-language"
    assert code(note.check, "seen " * (LEAST + 1)) == "text-too-long"
    note.check("seen " * LEAST)


def test_rows_are_words(note):
    """One row a word, attributes first, then the phrases that begin there; a sentence does not see the next one."""
    rows = note.encode(TEXT)
    assert rows.shape == note.shape == (LEAST, ATTRIBUTES + 8) and np.isfinite(rows[:, 0]).sum() == 13
    assert slot("l=colon") in rows[0] and slot("1l=cancer") in rows[0] and slot("1edge") in rows[4]
    assert rows[0, ATTRIBUTES + 1] == phrase(["colon", "cancer"])
    assert np.isnan(rows[4, ATTRIBUTES + 1]) and np.isfinite(rows[3, ATTRIBUTES + 1])
    other = note.encode(TEXT.replace("lung", "skin"))
    assert np.array_equal(rows[:5], other[:5], equal_nan=True)
    assert np.isnan(note.encode(None)).all()


@pytest.mark.parametrize("kind", [Words, Pieces])
def test_a_package_brings_back_the_same_field(kind):
    """Equal parameters and text, equal bytes; an example has the shape and lies within the numbers' range."""
    made = Words("note", "en", 300) if kind is Words else Pieces.pretrained("note", PIECES, "en", 40)
    (again,) = Records.build([made.named()]).fields
    assert again == made and np.array_equal(again.encode(TEXT), made.encode(TEXT), equal_nan=True)
    example = made.example(np.random.default_rng(0))
    assert example.shape == made.shape and example[np.isfinite(example)].max() < 2**24


def test_pieces_know_where_each_word_begins():
    """Every word points at its first piece; a word of unknown pieces takes [UNK]; beyond the encoder: refused."""
    field = Pieces.pretrained("note", PIECES, None, 12)
    rows = field.encode("Colon cancers 双 were seen")
    ids, first = rows[:, 0], rows[np.isfinite(rows[:, 1]), 1].astype(int)
    assert [PIECES[int(i)] for i in ids[np.isfinite(ids)]] == ["[CLS]", "colon", "cancer", "##s", "[UNK]", "were",
                                                                "seen", "[SEP]"]  # fmt: skip
    assert first.tolist() == [1, 2, 4, 5, 6] and rows[0, 3] == phrase(["colon", "cancer"])
    assert code(field.check, "cancers of the lung were seen . cancers seen") == "text-too-long"
    assert Pieces.pretrained("note", PIECES, None, 40).fit(["seen"] * 3).shape == (40, 10)
