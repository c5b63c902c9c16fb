"""Copies of a note are found through small changes; different notes are left alone."""

import numpy as np
import pytest

from medserve.data.text.near import near_texts

WORDS = [f"{a}{b}" for a in ("card", "pulm", "hep", "ren", "neur", "derm", "gastr", "oste") for b in
         ("ic", "itis", "osis", "oma", "al", "ary", "emia", "algia", "opathy", "ectomy", "scopy", "gram")]  # fmt: skip


def note(random: np.random.Generator, length: int = 150) -> str:
    return " ".join(random.choice(WORDS, length))


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_copy_with_another_header_or_a_few_words_is_found(random):
    """A new line on top, three words changed, other spacing and case: near; the agreement is the exact one."""
    base = note(random)
    words = base.split()
    changed = [*words]
    for i in (20, 70, 120):
        changed[i] = "other"
    texts = [
        (10, base),
        (11, "Dictated by Dr X on 3 May in ward 4. " + base),
        (12, " ".join(changed)),
        (13, "  " + base.upper().replace(" ", "\n")),
        (14, note(random)),
    ]
    found = {(a, b): s for a, b, s in near_texts(texts)}
    assert found[10, 13] == 1.0
    assert {(10, 11), (10, 12)} <= set(found) and all(14 not in pair for pair in found)
    # 148 runs of three words; three changed words alter nine of them on each side: 139 / 157.
    assert found[10, 12] == pytest.approx(139 / 157, abs=0.01)


def test_agreement_below_the_bound_is_no_pair(random):
    """Half of the note is another: not near."""
    base = note(random).split()
    assert near_texts([(0, " ".join(base)), (1, " ".join(base[:75]) + " " + note(random, 75))]) == []


def test_short_texts_are_near_only_when_equal():
    """Two short answers that share most words are not copies."""
    texts = [(0, "no acute disease"), (1, "No acute disease"), (2, "no chronic disease"), (3, ""), (4, "...")]
    assert near_texts(texts) == [(0, 1, 1.0)]


def test_chinese_notes(random):
    """Characters stand for words."""
    base = "患者男性，六十二岁，因反复咳嗽咳痰三年，加重伴发热两天入院。查体：双肺呼吸音粗，可闻及湿啰音，心率九十次。"
    assert [pair[:2] for pair in near_texts([(0, base), (1, base.replace("两天", "三天")), (2, base[::-1])])] == [
        (0, 1)
    ]


def test_a_thousand_copies_stay_linear(random):
    """Equal notes are paired with the first; a crowd of near ones with a few of the others, all in one group."""
    base = note(random)
    equal = near_texts((i, base) for i in range(1000))
    assert equal == [(0, i, 1.0) for i in range(1, 1000)]
    crowd = near_texts((i, f"{base} seen again at visit number {i} today") for i in range(300))
    assert len(crowd) < 300 * 100
    group = list(range(300))
    for a, b, _ in crowd:
        low, high = sorted((group[a], group[b]))
        group = [low if g == high else g for g in group]
    assert set(group) == {0}


def test_planted_copies_among_many_are_all_found(random):
    """Of 1,500 notes 50 are copied with two words changed; every copy is found and nothing else."""
    notes = [note(random, int(random.integers(60, 200))) for _ in range(1500)]
    copies = []
    for i in range(50):
        words = notes[i].split()
        words[10], words[40] = "changed", "words"
        copies.append(" ".join(words))
    found = near_texts(enumerate([*notes, *copies]))
    assert {(a, b) for a, b, _ in found} == {(i, 1500 + i) for i in range(50)}
