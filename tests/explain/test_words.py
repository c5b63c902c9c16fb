"""Words are weighed by what hiding them does; the checks tell a model that reads from one that does not."""

import io

import numpy as np
import pytest
from PIL import Image

from medserve.data.fields import Block, Records
from medserve.data.fields.number import Number
from medserve.data.fields.text import Text
from medserve.explain.words import negation, render_text, sentences, text_checks, weigh, words

FILLER = ("the", "patient", "seen", "today", "with", "chest", "film", "heart", "normal", "size", "in", "left", "lung")


def reports(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        tail = " ".join(random.choice(FILLER, 12))
        said = random.choice(["evidence of pneumonia", "no evidence of pneumonia", "pneumonia"])
        made.append(f"{' '.join(random.choice(FILLER, 4))} . {said} . {tail} .")
    return made


@pytest.fixture(scope="module")
def records() -> Records:
    return Records((Number("age"), Text("report").fit(reports(60))))


@pytest.fixture(scope="module")
def block(records) -> Block:
    return records.blocks[1]


def reader(block: Block, weights: dict[str, float], denied: float = 0.0):
    """A linear model of words; `denied` is added where "no evidence of" stands before pneumonia."""
    ids = {word: i for i, word in enumerate(block.facts["words"], 1)}

    def score(x):
        text = x[:, block.start : block.start + block.size]
        total = sum(w * (text == ids[word]).sum(1) for word, w in weights.items())
        hit = np.zeros(len(x))
        for k in range(3, block.size):
            a = [text[:, k - 3 + j] == ids[word] for j, word in enumerate(("no", "evidence", "of", "pneumonia"))]
            hit += np.logical_and.reduce(a)
        return np.stack([np.zeros(len(x)), np.asarray(total, float) + denied * hit], 1)

    return score


def test_importance_is_the_fall_of_the_score(records, block):
    """A word of weight 2 has importance 2; other words, the places after the text and the age have none."""
    note = "chest film . pneumonia in the left lung ."
    score = reader(block, {"pneumonia": 2.0, "left": -0.5})
    importance = words(score, records({"age": 3, "report": note}), block, 1)
    assert importance[:8].tolist() == [0, 0, 0, 2, 0, 0, -0.5, 0] and not importance[8:].any()
    assert importance.shape == (block.size,) and importance.dtype == np.float32
    assert weigh(["chest", "<b>"], np.array([0.5, -1])) == [("chest", 0.5), ("<b>", -1.0)]


def test_a_sentence_is_hidden_whole(records, block):
    """Every word of a sentence carries what the sentence was worth."""
    score = reader(block, {"pneumonia": 2.0, "left": 1.0})
    importance = sentences(score, records({"report": "heart normal . pneumonia left . film"}), block, 1)
    assert importance[:7].tolist() == [0, 0, 0, 3, 3, 3, 0]


def test_a_case_without_text_has_no_words(records, block):
    importance = words(reader(block, {"pneumonia": 1.0}), records({"age": 40}), block, 1)
    assert not importance.any()


def test_a_model_that_reads_passes(records, block):
    """It goes by a few words and by their denial."""
    x = np.stack([records({"report": r}) for r in reports(40, seed=1)])
    figures = text_checks(reader(block, {"pneumonia": 3.0, "heart": 0.3}, denied=-4.0), x, block, 1, seed=0)
    assert figures["passed"] and figures["negation"]["lowered"] > 0.7
    assert figures["comprehensiveness"]["important"] > figures["comprehensiveness"]["random"] + 0.5
    assert figures["sufficiency"]["p"] < 0.01


def test_a_model_that_does_not_read_denials_fails(records, block):
    """The word alone decides, denied or not."""
    x = np.stack([records({"report": r}) for r in reports(40, seed=1)])
    figures = text_checks(reader(block, {"pneumonia": 3.0, "heart": 0.3}), x, block, 1, seed=0)
    assert figures["negation"]["lowered"] == 0 and not figures["passed"]


def test_a_model_that_ignores_the_text_fails(records, block):
    """Nothing is important, so nothing passes."""
    x = np.stack([records({"report": r}) for r in reports(40, seed=1)])
    figures = text_checks(lambda r: np.zeros((len(r), 1)), x, block, 0, seed=0)
    assert figures["comprehensiveness"]["p"] == 1.0 and not figures["passed"]


def test_too_few_texts_say_so(records, block):
    assert "why" in text_checks(lambda r: np.zeros(len(r)), records({"report": "no"})[None], block)
    bare = Block("report", "text", 0, (20,), {"vocabulary": 3, "words": ["no", "a", "b"]})
    assert "evidence" in negation(lambda r: np.zeros(len(r)), [], [], bare)["why"]


def test_the_picture_shows_both_directions():
    """A word for the answer is red, one against it blue; long and hostile tokens stay inside."""
    tokens = ["pneumonia", "no", "x" * 5000, "\u202e<script>", *["word"] * 500]
    importance = np.zeros(600)
    importance[0], importance[1] = 2, -2
    picture = Image.open(io.BytesIO(render_text(tokens, importance, "pneumonia")))
    assert picture.width == 900 and picture.height < 5000
    colours = {c for _, c in picture.getcolors(2**20)}
    assert (214, 96, 77) in colours and (67, 147, 195) in colours
    assert Image.open(io.BytesIO(render_text([], np.zeros(0), ""))).width == 900
