"""Entities are counted strictly, by name, with an interval; what does not apply is None."""

import numpy as np
import pytest

from medserve.errors import BadData
from medserve.evaluation.calibrate import bare, calibrate
from medserve.evaluation.evaluate import evaluate
from medserve.evaluation.report import render
from medserve.models.spec import ModelSpec, OutputSpec
from medserve.types import Scores

OUTPUT = OutputSpec(task="tags", labels=["A", "B"], words=4)
TRUE = [[1, 2, 0, np.nan], [1, 0, 3, np.nan], [0, 0, np.nan, np.nan], [np.nan] * 4]
GIVEN = [[1, 2, 1, 0], [1, 2, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def spec() -> ModelSpec:
    return bare(OUTPUT)


def scores(given: list[list[int]]) -> Scores:
    """Logits that decode to the given tags."""
    rows = [np.concatenate([8.0 * np.eye(5)[tags].ravel(), np.zeros(25)]) for tags in given]
    return Scores(np.asarray(rows, np.float32))


def test_figures_by_hand():
    """3 wanted, 4 given, 2 right: precision 1/2, recall 2/3, F1 4/7; 6 of 8 words; a wrong border is not right."""
    result = evaluate(spec(), scores(GIVEN), np.array(TRUE), part="test", draws=200)
    value = {name: span["value"] for name, span in result["metrics"].items()}
    assert value == pytest.approx(
        {"entity_f1": 4 / 7, "entity_precision": 0.5, "entity_recall": 2 / 3, "word_accuracy": 6 / 8}
    )
    assert result["n"] == 3 and result["unlabelled"] == 1 and result["counts"] == {"A": 2, "B": 1}
    rows = {row["label"]: row for row in result["entities"]["rows"]}
    assert rows["B"]["metrics"]["entity_f1"]["value"] == 1 and rows["A"]["given"] == 3
    assert result["entities"]["mistakes"] == {"name": 0, "border": 1, "missed": 0, "extra": 1}
    assert result["calibration"] is None and result["decision"] is None and result["conformal"] is None
    codes = {claim["code"]: claim["level"] for claim in result["claims"]}
    assert codes["claim-refused"] == "red" and codes["not-calibrated"] == "amber"


def test_the_wrong_name_is_not_right():
    result = evaluate(spec(), scores([[3, 4, 0, 0]]), np.array(TRUE[:1]), part="all", draws=20)
    assert result["metrics"]["entity_f1"]["value"] == 0 and result["entities"]["mistakes"]["name"] == 1


def test_the_other_model_stands_beside_it_on_the_same_draws():
    """Differences are paired: a model against itself differs by exactly nothing."""
    same = evaluate(spec(), scores(GIVEN), np.array(TRUE), part="test", baseline=scores(GIVEN), draws=50)
    assert same["baseline"]["difference"]["entity_f1"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    better = evaluate(spec(), scores(GIVEN), np.array(TRUE), part="test", baseline=scores([[0] * 4] * 4), draws=50)
    assert better["baseline"]["difference"]["entity_recall"]["value"] == pytest.approx(2 / 3)


def test_a_group_whose_entities_are_missed_is_red():
    """60 texts of one site found, 60 of the other not."""
    true = np.array([TRUE[0]] * 120)
    given = scores([[1, 2, 0, 0]] * 60 + [[0] * 4] * 60)
    site = np.array(["north"] * 60 + ["south"] * 60)
    rows = evaluate(spec(), given, true, part="test", groups={"site": site}, draws=100)["subgroups"]
    level = {row["value"]: row["level"] for row in rows}
    assert level == {"north": "green", "south": "red"} and rows[0]["metrics"]["entity_recall"]["value"] == 1


def test_nothing_is_calibrated_and_the_page_says_so():
    assert calibrate(scores(GIVEN).logits, np.array(TRUE), OUTPUT).method == "none"
    result = evaluate(spec(), scores(GIVEN), np.array(TRUE), part="test", baseline=scores(GIVEN), draws=50)
    page = render(result, {"name": "notes"}, gallery={"public": True, "texts": [[("no ", ""), ("<cancer>", "found")]]})
    assert "Not applicable: the probability beside an entity" in page and "0.571" in page
    assert '<mark class="found">&lt;cancer&gt;</mark>' in page and "decision curve applies" in page


def test_texts_without_truth_are_refused():
    with pytest.raises(BadData) as caught:
        evaluate(spec(), scores(GIVEN[:1]), np.full((1, 4), np.nan), part="all")
    assert caught.value.code == "nothing-labelled"
