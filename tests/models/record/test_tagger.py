"""A trained tagger: the same tags from plain arrays as from the library that trained it."""

from pathlib import Path

import numpy as np
import pycrfsuite
import pytest

from medserve.data.text import crf
from medserve.data.text.crf import Tagger
from medserve.data.text.features import digest
from medserve.data.text.tags import Sentence, score_entities
from medserve.errors import BadData, BadPackage, Refusal
from medserve.models.record import tagger as module
from medserve.models.record.tagger import TaggerSettings, describe_all, train_tagger

KINDS = ("breast", "colon", "renal", "ovarian", "gastric", "hepatic")
NAMES = ("cancer", "carcinoma", "dystrophy", "anaemia")
SETTINGS = TaggerSettings(iterations=40)


def sentences(count: int, seed: int = 0) -> list[Sentence]:
    """Diseases are a kind and a name ("colon cancer"); the same kinds stand before other words too."""
    random, made = np.random.default_rng(seed), []
    for _ in range(count):
        words, tags = ["the", str(random.choice(["patient", "mother", "clinic"])), "had"], ["O"] * 3
        for _ in range(random.integers(1, 3)):
            if random.random() < 0.6:
                words += [random.choice(KINDS), random.choice(NAMES)]
                tags += ["B-Disease", "I-Disease"]
            else:
                words += [random.choice(KINDS), random.choice(["tissue", "surgery"])]
                tags += ["O", "O"]
            words.append("and")
            tags.append("O")
        made.append(Sentence(tuple(map(str, words)), tuple(tags)))
    return made


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return train_tagger(sentences(150), SETTINGS)


def test_it_finds_the_entities_of_new_sentences(tagger):
    test = sentences(60, seed=1)
    score = score_entities([s.tags for s in test], [tagger.tag(s.words) for s in test])
    assert score.f1 > 0.98


def test_tags_and_probabilities_are_those_of_crfsuite(tmp_path, monkeypatch):
    """Viterbi and forward-backward on arrays beside the library's own, on a model that is unsure."""
    kept = []

    class Kept(pycrfsuite.Tagger):
        def open(self, path):
            (tmp_path / "crf").write_bytes(Path(path).read_bytes())
            return super().open(path)

    monkeypatch.setattr(pycrfsuite, "Tagger", Kept)
    train = sentences(60)
    random = np.random.default_rng(2)
    noisy = [Sentence(s.words, tuple(t if random.random() < 0.8 else "O" for t in s.tags)) for s in train]
    made = train_tagger(noisy, SETTINGS)
    monkeypatch.undo()
    theirs = pycrfsuite.Tagger()
    theirs.open(str(tmp_path / "crf"))
    for s in sentences(30, seed=3):
        rows = [[f"{digest(a):x}" for a in word] for word in crf.describe(s.words, made.lexicon)]
        assert made.tag(s.words) == theirs.tag(pycrfsuite.ItemSequence(rows))
        ours = made.marginals(s.words)
        wanted = [[theirs.marginal(label, t) for label in made.labels] for t in range(len(s.words))]
        assert ours == pytest.approx(np.array(wanted), abs=1e-3)
        kept.append(ours)
    assert min(rows.max(1).min() for rows in kept) < 0.95  # it was unsure somewhere, so the comparison meant something


def test_a_package_brings_back_the_same_tagger(tagger):
    """As safetensors, without one word of the training part."""
    data = tagger.save()
    again = Tagger.load(data)
    test = sentences(20, seed=4)
    assert [again.entities(s.words) for s in test] == [tagger.entities(s.words) for s in test]
    assert all(word.encode() not in data for word in (*KINDS, *NAMES, "patient"))


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_damaged_file_is_refused(tagger, cut):
    with pytest.raises(BadPackage):
        Tagger.load(tagger.save()[:cut])


def test_entities_carry_a_probability(tagger):
    """Between 0 and 1, and high where the case is plain."""
    (found,) = tagger.entities(["the", "patient", "had", "colon", "cancer", "and"])
    assert found[:3] == (3, 5, "Disease") and 0.8 < found[3] <= 1
    assert tagger.entities([]) == [] and tagger.tag(["zebra"]) == ["O"]


def test_a_word_of_two_sentences_leaves_no_weight():
    """Neither as an attribute nor as a phrase."""
    train = [*sentences(80), *[Sentence(("Zebrowski", "syndrome", "and"), ("B-Disease", "I-Disease", "O"))] * 2]
    made = train_tagger(train, SETTINGS)
    for said in ("w=Zebrowski", "l=zebrowski", "-1l=zebrowski"):
        assert digest(said) not in made.attributes
    assert digest("zebrowski syndrome") not in made.lexicon.phrases
    assert digest("colon cancer") in made.lexicon.phrases


def test_the_list_of_a_fold_comes_from_the_others():
    """A phrase that stands in one fold alone is not marked there, but is listed for serving."""
    train = [*[Sentence(("Menkes", "disease"), ("B-D", "I-D"))] * 4, *sentences(40)]
    settings = TaggerSettings(folds=4)
    lexicon, described = describe_all(train, settings)
    assert digest("menke disease") in lexicon.phrases and "L=O" in described[0][0]


def test_what_cannot_be_trained_or_tagged_is_refused(tagger):
    with pytest.raises(BadData, match="other than O"):
        train_tagger([Sentence(("a",), ("O",))], SETTINGS)
    with pytest.raises(Refusal):
        tagger.tag(["a"] * 3000)
    assert module.DEFAULT.seen == 3
