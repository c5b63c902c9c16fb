"""Survival end to end: calibrated, measured with intervals, compared, claimed and drawn; nothing asks for classes."""

import json
import time

import msgspec
import numpy as np
import pytest

from medserve.errors import BadData
from medserve.evaluation.calibrate import bare, calibrate
from medserve.evaluation.card import make_card
from medserve.evaluation.evaluate import evaluate
from medserve.evaluation.operating import choose_points
from medserve.evaluation.report import render
from medserve.evaluation.survival import stated_and_observed
from medserve.models.spec import Calibration, OutputSpec
from medserve.questions.answers import answer_one, probabilities
from medserve.questions.metrics import METRICS, judge, point
from medserve.questions.survival import with_baseline
from medserve.road.choose import choose
from medserve.types import Scores

DEATH = OutputSpec(task="survival", labels=["death"], unit="mo")


def drawn(n, *, seed=0, hot=1.0, rate=0.03, noise=0.0):
    """True log hazard ratio z; stated z * hot, with noise."""
    rng = np.random.default_rng(seed)
    z = 0.8 * rng.normal(size=n)
    t, c = rng.exponential(1 / (rate * np.exp(z))), rng.uniform(5, 60, n)
    y = np.stack([np.minimum(t, c), t <= c], 1).astype(np.float32)
    return ((z + noise * rng.normal(size=n)) * hot)[:, None], y


def fitted(hot=1.0, n=600, rate=0.03):
    """Trained at a hazard of .03 and calibrated at `rate`."""
    output = with_baseline(DEATH, *drawn(800, seed=50, hot=hot))
    return bare(output, calibrate(*drawn(n, seed=51, hot=hot, rate=rate), output))


def codes(result):
    return {claim["code"]: claim["level"] for claim in result["claims"]}


@pytest.fixture(scope="module")
def whole():
    spec = fitted()
    logits, y = drawn(500, seed=1)
    y[:4] = np.nan
    rng = np.random.default_rng(2)
    simple = with_baseline(DEATH, *drawn(800, seed=50, noise=2.0))
    other = logits + 2 * rng.normal(size=logits.shape)
    leaky = np.zeros(500, bool)
    leaky[10:30] = True
    cal = drawn(600, seed=51)
    return spec, evaluate(
        spec, Scores(logits), y, part="test", patients=np.arange(500) // 2, groups={"sex": rng.choice(["F", "M"], 500)},
        baseline=Scores(other), baseline_spec=bare(simple), val=(Scores(cal[0]), cal[1]),
        calibration=(Scores(cal[0]), cal[1]), leaky=leaky, openings=1, draws=100,
    )  # fmt: skip


def test_every_figure_is_plain_json_with_its_interval(whole):
    """Strict JSON; all metrics with an interval around them; what belongs to classes is None."""
    result = whole[1]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["metrics"].keys() == METRICS["survival"].keys()
    for name, span in result["metrics"].items():
        assert span["low"] <= span["value"] <= span["high"], name
    assert (result["n"], result["unlabelled"]) == (496, 4)
    assert sum(result["counts"].values()) == 496 and result["counts"].keys() == {"events", "censored"}
    for name in ("confusion", "decision", "conformal", "operating", "threshold_rules", "cross_check"):
        assert result[name] is None, name
    assert result["per_label"] == [] and result["answers"]["answered"] == 496
    assert result["metrics"]["integrated_brier"]["value"] < result["majority"]["integrated_brier"]


def test_the_other_candidate_is_compared_on_the_same_draws(whole):
    """A noisier score is surely worse; the difference is that of the two values; leaks and subgroups are measured."""
    result = whole[1]
    gap = result["baseline"]["difference"]["c_index"]
    theirs = result["baseline"]["metrics"]["c_index"]
    assert gap["value"] == pytest.approx(result["metrics"]["c_index"]["value"] - theirs["value"])
    assert gap["low"] > 0 and codes(result)["beats-other"] == "green"
    assert result["leaks"]["involved"] == 20 and "c_index" in result["leaks"]["without"]
    groups = [row for row in result["subgroups"] if row["judged"]]
    assert groups and {"c_index", "expected_observed"} <= groups[0]["metrics"].keys()


def test_stated_risks_stand_beside_observed_ones(whole):
    """A true model states what is observed, by each horizon and risk group; rows carry the horizon's words."""
    told = whole[1]["survival"]
    assert [row["label"] for row in told["rows"]] == list(whole[1]["labels"])
    for row in told["rows"]:
        assert row["gap"]["low"] <= row["gap"]["value"] <= row["gap"]["high"]
        assert row["stated"]["value"] == pytest.approx(row["observed"]["value"], abs=0.06)
    lines = whole[1]["curves"]["kaplan_meier"]
    ends = [line["points"][-1][1] for line in lines]
    assert [line["label"] for line in lines] == ["low risk", "middle risk", "high risk"]
    assert ends == sorted(ends, reverse=True)


def test_the_page_and_the_card_render(whole):
    """Every section of the report stands, with the curves, the risks by horizon and without a confusion."""
    spec, result = whole
    card = make_card(spec=spec, evaluation=result, source={"name": "made-up"}, independent=False)
    page = render(result, card, training={"decision": {"chosen": "recipe", "on": "val", "metric": "1 - C index"}})
    assert "Kaplan-Meier" in page and "C index (Harrell)" in page and "death by 9 mo" in page
    assert "Confusion" not in page and "Temperature" not in page and page.count("data:image/svg") >= 3
    assert json.dumps(card, allow_nan=False)
    bare_result = result | {"subgroups": [], "baseline": None, "leaks": None}
    assert "Baseline: not reported" in render(bare_result, card)


def test_calibration_finds_slope_and_level():
    """Scores twice too wide and a hazard half as high as in training: both are undone, the ranking stays."""
    output = with_baseline(DEATH, *drawn(800, seed=50))
    logits, y = drawn(1500, seed=51, hot=2.0, rate=0.015)
    got = calibrate(logits, y, output)
    assert got.method == "hazard" and got.conformal is None
    assert got.temperature == pytest.approx(2, rel=0.15) and got.shift == pytest.approx(np.log(0.5), abs=0.15)
    new, truth = drawn(2000, seed=52, hot=2.0, rate=0.015)
    before = point(judge(bare(output), new, truth))
    after = point(judge(bare(output, got), new, truth))
    assert after["calibration_slope"] == pytest.approx(1, abs=0.15)
    assert after["expected_observed"] == pytest.approx(1, abs=0.15)
    assert after["integrated_brier"] < before["integrated_brier"]
    assert after["c_index"] == pytest.approx(before["c_index"])


def test_few_events_are_cross_fitted_or_left_alone():
    """Under 20 events nothing is fitted; under 100 only what helps held-out cases is kept."""
    output = with_baseline(DEATH, *drawn(800, seed=50))
    few = calibrate(*drawn(25, seed=3), output)
    assert (few.method, few.temperature, few.shift) == ("none", 1.0, 0.0)
    helped = calibrate(*drawn(120, seed=4, hot=4.0), output)
    assert helped.method == "hazard" and helped.cross_fitted and helped.temperature > 2
    logits, y = drawn(120, seed=4, hot=4.0)
    y[:40] = np.nan
    assert calibrate(logits, y, output).n == 80


def test_a_wrong_level_is_said():
    """A model calibrated where the hazard was a third is called out: it expects too few events."""
    wrong = msgspec.structs.replace(fitted(), calibration=Calibration(method="hazard", shift=-np.log(3.0), n=600))
    logits, y = drawn(600, seed=8)
    result = evaluate(wrong, Scores(logits), y, part="test", draws=100)
    assert result["calibration"]["after"]["expected_observed"]["value"] < 0.6
    assert codes(result)["miscalibrated"] == "red"
    message = next(claim["message"] for claim in result["claims"] if claim["code"] == "miscalibrated")
    assert "death by 9 mo is stated -" in message


@pytest.mark.parametrize(("n", "code"), [(30, "claim-refused"), (150, "few-cases"), (800, "enough-cases")])
def test_claims_count_events(n, code):
    """Fewer than 20 events refuse a claim, fewer than 100 make it weak, whatever the number of cases."""
    logits, y = drawn(n, seed=7, rate=0.02)
    assert code in codes(evaluate(fitted(), Scores(logits), y, part="test", draws=30))


def test_what_is_measured_is_what_is_served(whole):
    """The stated risk in the record is the mean of the answers that one case after the other gets."""
    spec, result = whole
    logits, _ = drawn(500, seed=1)
    answers = [answer_one(spec, row).probabilities for row in probabilities(spec, logits)[4:]]
    stated = [row["stated"]["value"] for row in result["survival"]["rows"]]
    assert np.mean(answers, axis=0) == pytest.approx(stated)
    assert choose_points(spec, logits, drawn(500, seed=1)[1]) == []


def test_odd_parts_do_not_break_it():
    """No event at all, one case, targets without an event column: a record or a named error, never a crash."""
    spec = fitted()
    logits, y = drawn(40, seed=9)
    y[:, 1] = 0
    nothing = evaluate(spec, Scores(logits), y, part="test", draws=20)
    assert nothing["metrics"]["c_index"]["value"] is None and "claim-refused" in codes(nothing)
    assert json.dumps(nothing, allow_nan=False)
    card = make_card(spec=spec, evaluation=nothing)
    assert "Kaplan-Meier" in render(nothing, card)
    one = evaluate(spec, Scores(logits[:1]), np.array([[3.0, 1.0]]), part="test", draws=20)
    assert one["n"] == 1 and stated_and_observed(judge(spec, logits[:1], y[:1]))["bins"] == []
    assert render(one, make_card(spec=spec, evaluation=one))
    with pytest.raises(BadData) as error:
        evaluate(spec, Scores(logits), y[:, 0], part="test")
    assert error.value.code == "survival-targets"


def test_the_simple_model_is_offered_unless_the_other_is_better():
    """1 - C decides by the paired interval; equal models give the baseline, a clear gain the recipe."""
    logits, y = drawn(400, seed=11)
    who = np.arange(400)
    noisy = logits + 2 * np.random.default_rng(0).normal(size=logits.shape)
    found = choose(DEATH, logits, noisy, y, who, on="val", draws=200)
    assert found["chosen"] == "recipe" and found["metric"] == "1 - C index" and found["difference"]["low"] > 0
    assert found["recipe"]["value"] == pytest.approx(1 - point(judge(fitted(), logits, y))["c_index"])
    assert choose(DEATH, logits, logits, y, who, on="val", draws=200)["chosen"] == "baseline"


def test_folds_are_compared_within_themselves():
    """A constant added to one fold's scores, which means nothing for a hazard ratio, changes nothing."""
    logits, y = drawn(400, seed=11)
    who, fold = np.arange(400), np.arange(400) % 2
    moved = logits + 5.0 * fold[:, None]
    found = choose(DEATH, moved, logits, y, who, on="2-fold cross-validation", folds=fold, draws=50)
    assert found["difference"]["value"] == pytest.approx(0, abs=1e-12)


def test_a_thousand_draws_take_seconds():
    """1000 draws of 700 cases: all metrics and intervals within the patience of a person."""
    spec = fitted()
    logits, y = drawn(700, seed=12)
    started = time.process_time()
    evaluate(spec, Scores(logits), y, part="test", draws=1000)
    assert time.process_time() - started < 20
