"""Words are weighed by what hiding them does; the checks tell a model that reads from one that does not."""

import io

import numpy as np
import pytest
from PIL import Image

from medserve.data.fields import Block, Records
from medserve.data.fields.number import Number
from medserve.data.fields.text import Text
from medserve.explain.words import negation, render_text, sentences, spots, text_checks, weigh_spots, words

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
    figures = text_checks(reader(block, {"pneumonia": 3.0, "heart": 0.3}, denied=-4.0), x, records.blocks, 1, seed=0)
    assert {f["level"] for f in figures.values()} == {"PASS"} and figures["negation"]["lowered"] > 0.7
    assert figures["comprehensiveness"]["important"] > figures["comprehensiveness"]["random"] + 0.5
    assert figures["sufficiency"]["p"] < 0.01


def test_a_model_that_does_not_read_denials_fails(records, block):
    """The word alone decides, denied or not."""
    x = np.stack([records({"report": r}) for r in reports(40, seed=1)])
    figures = text_checks(reader(block, {"pneumonia": 3.0, "heart": 0.3}), x, records.blocks, 1, seed=0)
    assert figures["negation"]["lowered"] == 0 and figures["negation"]["level"] == "CAUTION"
    assert figures["comprehensiveness"]["level"] == "PASS"


def test_a_model_that_ignores_the_text_fails(records, block):
    """Nothing is important, so nothing passes."""
    x = np.stack([records({"report": r}) for r in reports(40, seed=1)])
    figures = text_checks(lambda r: np.zeros((len(r), 1)), x, records.blocks, 0, seed=0)
    assert figures["comprehensiveness"]["p"] == 1.0 and figures["comprehensiveness"]["level"] == "FAIL"
    assert figures["sufficiency"]["level"] == "CAUTION" and "not asked" in figures["negation"]["why"]


def test_too_few_texts_say_so(records, block):
    """Nothing is passed that could not be asked: too few texts, or a vocabulary without the words of a denial."""
    few = text_checks(lambda r: np.zeros(len(r)), records({"report": "no"})[None], records.blocks)
    assert few["text checks"]["level"] == "CAUTION" and "fewer" in few["text checks"]["why"]
    bare = Block("report", "text", 0, (20,), {"vocabulary": 3, "words": ["no", "a", "b"]})
    row = np.array([2.0] * 5 + [np.nan] * 15, np.float32)
    asked = negation(lambda r: (r == 2).sum(1), [row], [spots(row, [bare])], [np.ones(5)])
    assert asked["probes"] == 0 and "evidence" in asked["why"]


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "no", "evidence", "of", "pneumo", "##thorax", "heart", "##s", "the", "."]


@pytest.fixture(scope="module")
def pieces() -> Records:
    return Records((Text.pretrained("history", PIECES, length=8), Text.pretrained("report", PIECES, length=100)))


def test_the_pieces_of_a_word_are_hidden_together(pieces):
    """Words are shown whole, in every text of the case; the marks of the encoder are no words."""
    row = pieces({"history": "the hearts", "report": "evidence of pneumothorax , zebra ."})
    found = spots(row, pieces.blocks)
    assert [s.text for s in found] == ["the", "hearts", "evidence", "of", "pneumothorax", "·", "·", "."]
    block = pieces.blocks[1]
    assert (found[4].places - block.start).tolist() == [3, 4] and found[1].block.name == "history"

    def score(x):
        return 2.0 * ((x[:, 8:] == 7).any(1) & (x[:, 8:] == 8).any(1)) + 1.0 * (x[:, :8] == 10).any(1)

    assert weigh_spots(score, row, found).tolist() == [0, 1, 0, 0, 2, 0, 0, 0]
    assert words(score, row, block)[:6].tolist() == [0, 0, 0, 2, 2, 0]


def test_a_long_text_under_an_encoder_is_hidden_by_runs(pieces):
    """At most 64 looks at a text; a denial stands before the word itself, and the closing mark stays."""
    row = pieces({"report": " ".join(["the"] * 80 + ["pneumothorax"] + ["the"] * 14)})
    found = spots(row, pieces.blocks)
    assert len(found) == 48 and sum(len(s.words) for s in found) == 95
    assert found[40].text == "pneumothorax the"
    seen = []

    def score(x):
        seen.extend(x)
        denied = np.array([any(r[i : i + 4].tolist() == [4, 5, 6, 7] for i in range(104)) for r in x])
        return (x == 7).any(1) * 1.0 - 2.0 * denied

    rows = [row] * 8
    asked = negation(score, rows, [found] * 8, [weigh_spots(score, row, found)] * 8)
    assert asked["probes"] == 8 and asked["lowered"] == 1.0 and asked["change"] == -2.0
    assert seen[-1][-1] == 3 and np.isfinite(seen[-1][8:]).all()


def test_a_denial_in_chinese(pieces):
    """As the language of the text has it."""
    field = Text("report", "zh").fit(["双肺未见肺炎。", "肺炎。", "见肺炎。", "未见。", "未见。", "双肺。", "双肺。"])
    block = Records((field,)).blocks[0]
    rows = [Records((field,))({"report": "双肺肺炎。"})] * 8
    ids = {word: i for i, word in enumerate(block.facts["words"], 1)}

    def score(x):
        at = [[(r[i : i + 3] == [ids["未"], ids["见"], ids["炎"]]).all() for i in range(len(r) - 2)] for r in x]
        return (x == ids["炎"]).any(1) * 1.0 - np.any(at, 1)

    found = [spots(row, [block]) for row in rows]
    asked = negation(score, rows, found, [weigh_spots(score, rows[0], found[0])] * 8)
    assert asked["lowered"] == 1.0


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
