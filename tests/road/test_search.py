"""A search spends its budget on different molecules, keeps nothing that is barred, and notices a flattered oracle."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from medserve.data.molecules.controlled import controlled
from medserve.data.molecules.standard import standardise
from medserve.errors import Refusal, Usage
from medserve.questions.objectives import parse
from medserve.road.optimise import Likeness, _independent, _likeness
from medserve.road.oracles import Property, open_oracle
from medserve.road.search import CROWD, Book, gap_of, paired

FENTANYL = "CCC(=O)N(c1ccccc1)C1CCN(CCc2ccccc2)CC1"


class Counting:
    """Scores by length, and counts what it was asked."""

    name = "length"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def score(self, smiles):
        self.asked += smiles
        return np.array([min(1.0, len(s) / 20) for s in smiles])


def screenings() -> SimpleNamespace:
    def standard(text):
        try:
            return standardise(text).smiles
        except Refusal:
            return None

    def allowed(smiles):
        name = controlled(smiles)
        if name:
            barred[name] += 1
        return name is None

    barred: Counter[str] = Counter()
    return SimpleNamespace(standard=standard, allowed=allowed, barred=barred)


def test_every_different_molecule_costs_one_and_no_more_than_the_budget_is_asked():
    """The same molecule written twice, or otherwise, is free."""
    oracle = Counting()
    book = Book([oracle], screenings(), budget=3)
    worth = book.spend(["CCO", "OCC", "C(C", "CCN", "CCC", "CCCC"])
    assert oracle.asked == ["CCO", "CCN", "CCC"] and book.left == 0
    assert worth[0] == worth[1] > 0 and worth[2] == 0 and worth[5] == 0


def test_a_controlled_substance_is_never_scored_nor_kept():
    """It is counted by name, and its structure stands nowhere."""
    oracle = Counting()
    book = Book([oracle], screenings(), budget=10)
    assert np.isnan(book.spend([FENTANYL, "CCO"])).tolist() == [True, False]
    assert oracle.asked == ["CCO"] and list(book.found) == ["CCO"]
    assert book.screenings.barred == {"fentanyl": 1} and "CCC(=O)N" not in str(book.as_state())


def test_a_crowded_scaffold_brings_nothing_more():
    """After its turn a good molecule of the scaffold is worth 0 to learning, and is still kept."""
    book = Book([Counting()], screenings(), budget=100)
    texts = [f"c1ccccc1{'C' * k}{'O' * o}C" for k in range(5, 25) for o in (0, 1)]
    worth = book.spend(texts)
    assert worth[-1] == 0 and len(book.found) == len(texts) > CROWD
    assert book.replay(5, np.random.default_rng(0)) == []


def test_a_book_comes_back_from_its_state():
    """What a stopped run goes on from."""
    book = Book([Counting()], screenings(), budget=9)
    book.spend(["CCO", "CCCCCCCCCCCCc1ccccc1"])
    again = Book([Counting()], screenings(), budget=9)
    again.restore(book.as_state())
    assert again.best(9) == book.best(9) and again.crowd == book.crowd and again.left == book.left


def test_an_oracle_that_is_flattered_raises_the_alarm_and_an_honest_one_does_not():
    """Mutation: the judge agrees on usual molecules and not on the best ones."""
    random = np.random.default_rng(0)
    usual = random.normal(0, 0.1, 200)
    assert gap_of(np.full(50, 0.98), np.full(50, 0.4), usual)["alarm"]
    assert not gap_of(np.full(50, 0.98), np.full(50, 0.95), usual)["alarm"]


def test_a_difference_of_ranked_lists_has_its_interval():
    """Around the mean of the pairs."""
    found = paired(np.linspace(0.8, 1, 50), np.linspace(0.6, 0.9, 50))
    assert found["low"] < found["value"] < found["high"] and found["value"] == pytest.approx(0.15)


def test_a_molecule_to_be_like_must_not_be_controlled():
    """Refused with a code; an ordinary one is an objective."""
    with pytest.raises(Refusal) as caught:
        _likeness(FENTANYL, [])
    assert caught.value.code == "objective-controlled" and FENTANYL not in str(caught.value)
    assert _likeness("CCO", []).score(["CCO", "c1ccccc1"]).tolist() == [1.0, 0.0]


def test_properties_are_judged_between_0_and_1():
    """A range is 1 inside; a weight takes a range."""
    light = open_oracle(parse("weight=20..100"), None)
    assert isinstance(light, Property) and light.score(["CCO"])[0] == 1.0
    assert light.score(["c1ccc2cc3ccccc3cc2c1"])[0] == pytest.approx(1 - (178.23 - 100) / 80, abs=1e-3)
    easy, hard = open_oracle(parse("sa<"), None), open_oracle(parse("sa>"), None)
    assert easy.score(["CCO"])[0] == pytest.approx(1 - hard.score(["CCO"])[0])
    with pytest.raises(Usage) as caught:
        open_oracle(parse("weight>"), None)
    assert caught.value.code == "objective-form"


def test_properties_may_judge_themselves_but_no_package_twice():
    """Independence is asked of packages alone here; the road's test tries one twice."""
    _independent([Likeness("like", "CCO")], open_oracle(parse("qed>"), None))
