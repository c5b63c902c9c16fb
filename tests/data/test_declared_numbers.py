"""What may be said of a target of kind number, and what is refused."""

import pytest

from medserve.data.declaration import parse
from medserve.errors import BadData

DOSE = """
table: t.csv
independent: true
inputs: {people: {kind: category}, weight: {kind: number}}
target: {column: dose, kind: number, unit: mg, %s}
"""


def test_a_dose_is_declared():
    said = parse((DOSE % "scale: log, range: [1, 9], bands: [3, 5], interval_by: people, medicine: B01AA03").encode())
    assert said.target is not None and said.target.medicine == "B01AA03"


@pytest.mark.parametrize(
    ("said", "code", "hint"),
    [
        ("range: [9, 1]", "declaration-value", "lowest"),
        ("scale: log, range: [0, 5]", "declaration-value", "positive"),
        ("scale: cube", "declaration-key", "scale"),
        ("bands: [5, 3]", "declaration-value", "rising"),
        ("interval_by: weight", "declaration-value", "people"),
        ("interval_by: peopl", "declaration-value", "people"),
        ("range: [1, 9], medicine: warfarin", "declaration-value", "ATC"),
        ("medicine: B01AA03", "dose-undeclared", "range"),
    ],
)
def test_a_wrong_declaration_says_what_was_expected(said, code, hint):
    with pytest.raises(BadData) as caught:
        parse((DOSE % said).encode())
    assert caught.value.code == code
    assert hint in f"{caught.value.message} {caught.value.hint}"


def test_a_dose_without_its_unit_is_refused():
    with pytest.raises(BadData) as caught:
        parse((DOSE % "range: [1, 9], medicine: B01AA03").replace("unit: mg, ", "").encode())
    assert caught.value.code == "dose-undeclared" and "unit" in caught.value.message


def test_the_words_of_a_number_do_not_fit_a_class():
    with pytest.raises(BadData) as caught:
        parse((DOSE % "scale: log").replace("kind: number, unit", "kind: binary, unit").encode())
    assert "kind number" in caught.value.message
