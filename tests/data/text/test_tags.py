"""Files of tagged words are read or refused with their line; entities are counted strictly."""

import pytest

from medserve.data.text.features import Lexicon, abbreviations, brief, describe, digest, marked, normal, shape
from medserve.data.text.tags import as_bio, entities, read_conll, score_entities
from medserve.errors import BadData

FILE = "-DOCSTART- O\n\nFamilial\tNN\tO\tB-Disease\ncancer NN O I-Disease\n. . O O\n\n\nNone O\n"


def test_reading(tmp_path):
    """Tabs or spaces; the last column counts; blank lines and document marks end a sentence."""
    path = tmp_path / "a.txt"
    path.write_text(FILE)
    first, second = read_conll(path)
    assert first.words == ("Familial", "cancer", ".") and first.tags == ("B-Disease", "I-Disease", "O")
    assert second.words == ("None",) and second.tags == ("O",)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"word\n", "tags-line"),
        (b"word B\n", "tags-line"),
        (b"word O\nword X-Disease\n", "tags-line"),
        (b"w" * 20_000 + b" O\n", "tags-line"),
        (b"\xff\xfe O\n", "tags-encoding"),
        (b"\n\n", "tags-empty"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, data, code):
    """With a stable code, and the line where there is one."""
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(BadData) as caught:
        read_conll(path)
    assert caught.value.code == code and "a.txt" in str(caught.value)


def test_other_schemes_become_bio():
    """IOB1 begins with I, BIOES has single and last ones."""
    assert as_bio(["I-A", "I-A", "I-B", "O", "I-A"]) == ["B-A", "I-A", "B-B", "O", "B-A"]
    assert as_bio(["S-A", "B-A", "I-A", "E-A", "O"]) == ["B-A", "B-A", "I-A", "I-A", "O"]


def test_entities():
    """Two that touch are two; a stray I begins one."""
    assert entities(["B-A", "B-A", "I-A", "O", "I-B"]) == [(0, 1, "A"), (1, 3, "A"), (4, 5, "B")]


def test_scores_by_hand():
    """3 wanted, 4 given, 2 right: precision 1/2, recall 2/3, F1 4/7; a wrong end or a wrong name is not right."""
    true = [["B-A", "I-A", "O"], ["B-A", "O", "B-B"]]
    given = [["B-A", "I-A", "B-A"], ["B-A", "I-A", "B-B"]]
    score = score_entities(true, given)
    assert (score.precision, score.recall, score.f1) == pytest.approx((1 / 2, 2 / 3, 4 / 7))
    assert score.low <= score.f1 <= score.high and score.entities == 3
    assert score_entities(true, [["B-B", "I-B", "O"], ["O", "O", "B-A"]]).f1 == 0


def test_shapes():
    assert shape("BRCA1-null") == "AAAA0-aaaa" and brief("BRCA1-null") == "A0-a"
    assert normal(["Colon", "Tumours"]) == "colon tumour" and normal(["diabetes", "axis"]) == "diabete axis"


def test_abbreviations():
    """The short form's letters are found in order in the words before the bracket."""
    words = ["families", "with", "ataxia", "-", "telangiectasia", "(", "AT", ")", "were", "seen", "(", "n", ")"]
    assert abbreviations(words) == ["", "", "long", "long", "long", "", "short", *[""] * 6]


def test_listed_phrases_are_marked_the_longest_first():
    lexicon = Lexicon({digest("colon cancer"): "D", digest("cancer"): "D"})
    assert marked(["Colon", "cancers", "and", "cancer"], lexicon) == ["B-D", "I-D", "O", "B-D"]


def test_description_sees_two_words_to_each_side():
    """Changing a word further away changes nothing."""
    words = ["a", "b", "c", "d", "e", "f", "g"]
    base = describe(words, Lexicon())
    other = describe([*words[:6], "Z9"], Lexicon())
    assert base[3] == other[3] and base[4] != other[4]
