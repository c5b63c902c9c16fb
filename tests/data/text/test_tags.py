"""Files of tagged words are read or refused with their line; tags become entities and back; the chain's arithmetic."""

import itertools

import numpy as np
import pytest

from medserve.data.text.crf import marginals, viterbi
from medserve.data.text.features import (
    PHRASES,
    SLOTS,
    abbreviations,
    brief,
    describe,
    phrase,
    phrases_at,
    shape,
    slots_of,
)
from medserve.data.text.tags import as_bio, entities, numbered, places, read_conll
from medserve.errors import BadData

FILE = "-DOCSTART- O\n\nFamilial\tNN\tO\tB-Disease\ncancer NN O I-Disease\n. . O O\n\n\n-DOCSTART- O\n\nNone O\n"


def test_reading(tmp_path):
    """Tabs or spaces; the last column counts; blank lines and document marks end a sentence."""
    path = tmp_path / "a.txt"
    path.write_text(FILE)
    first, second = read_conll(path)
    assert first.words == ("Familial", "cancer", ".") and first.tags == ("B-Disease", "I-Disease", "O")
    assert second.words == ("None",) and second.tags == ("O",) and (first.document, second.document) == (1, 2)


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
    """Two that touch are two; a stray I begins one; as words and as numbers."""
    assert entities(["B-A", "B-A", "I-A", "O", "I-B"]) == [(0, 1, "A"), (1, 3, "A"), (4, 5, "B")]
    assert places([1, 1, 2, 0, 4]) == [(0, 1, 0), (1, 3, 0), (4, 5, 1)]
    assert places([1, 4, 2]) == [(0, 1, 0), (1, 2, 1), (2, 3, 0)]


def test_the_longest_of_overlapping_entities_stays():
    """And what was numbered comes back."""
    assert numbered([(1, 2, 0), (0, 3, 1), (3, 4, 0)], 5) == [3, 4, 4, 1, 0]
    assert places(numbered([(0, 2, 1), (2, 3, 1)], 4)) == [(0, 2, 1), (2, 3, 1)]


def test_shapes():
    assert shape("BRCA1-null") == "AAAA0-aaaa" and brief("BRCA1-null") == "A0-a"
    assert phrase(["Colon", "Tumours"]) == phrase(["colon", "tumour"]) != phrase(["colon", "tumor"])


def test_abbreviations():
    """The short form's letters are found in order in the words before the bracket."""
    words = ["families", "with", "ataxia", "-", "telangiectasia", "(", "AT", ")", "were", "seen", "(", "n", ")"]
    assert abbreviations(words) == ["", "", "long", "long", "long", "", "short", *[""] * 6]


def test_description_sees_two_words_to_each_side():
    """Changing a word further away changes nothing."""
    words = ["a", "b", "c", "d", "e", "f", "g"]
    base, other = describe(words), describe([*words[:6], "Z9"])
    assert base[3] == other[3] and base[4] != other[4]


def test_numbers_of_a_sentence():
    """Whole numbers that float32 holds; a phrase of k words stands in column k - 1, nothing beyond the end."""
    words = ["Familial", "colon", "cancers"]
    slots, phrases = slots_of(words, 40), phrases_at(words)
    for numbers, limit in ((slots, SLOTS), (phrases, PHRASES)):
        known = numbers[np.isfinite(numbers)]
        assert (known == known.astype(np.int64)).all() and known.min() >= 0 and known.max() < limit <= 2**24
    assert phrases[1, 1] == phrase(["colon", "cancer"]) and np.isfinite(phrases).sum(1).tolist() == [3, 2, 1]
    assert np.isfinite(slots[0]).sum() == min(40, len(describe(words)[0]))


def test_the_chain_against_every_row_of_tags():
    """Viterbi and forward-backward beside the sum over all 3^4 rows."""
    random = np.random.default_rng(0)
    emissions, between = random.normal(size=(4, 3)), random.normal(size=(3, 3))
    every = list(itertools.product(range(3), repeat=4))
    score = np.array([sum(emissions[t, k] for t, k in enumerate(row)) + sum(between[a, b] for a, b in
                      itertools.pairwise(row)) for row in every])  # fmt: skip
    assert tuple(viterbi(emissions, between)) == every[score.argmax()]
    chance = np.exp(score - np.logaddexp.reduce(score))
    wanted = [[chance[[row[t] == k for row in every]].sum() for k in range(3)] for t in range(4)]
    assert marginals(emissions, between) == pytest.approx(np.array(wanted))
    assert len(viterbi(emissions[:0], between)) == 0
