"""An evaluation says what is served, with intervals, and turns red or amber by itself where it must."""

import json

import msgspec
import numpy as np
import pytest

from medserve.errors import BadData, Refusal
from medserve.evaluation.calibrate import bare, calibrate
from medserve.evaluation.claims import claims
from medserve.evaluation.curves import ece_null, pr_points, reliability, risk_coverage, roc_points
from medserve.evaluation.decision_curve import decision_curve
from medserve.evaluation.evaluate import evaluate
from medserve.evaluation.intervals import wilson
from medserve.evaluation.sections import elsewhere
from medserve.evaluation.shift import two_sample
from medserve.evaluation.subgroups import subgroups
from medserve.models.spec import Calibration, OperatingPoint, OutOfDistribution, OutputSpec
from medserve.questions.answers import answer_one, probabilities
from medserve.questions.metrics import METRICS, Judged, judge
from medserve.questions.weighted import expected_calibration_error
from medserve.types import Scores

BINARY = OutputSpec(task="binary", labels=["no", "yes"])


def part(n, *, seed=0, hot=1.0, prior=0.0, spread=2.0):
    """True log-odds z, stated z * hot."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n) * spread + prior
    return (z * hot)[:, None], (rng.random(n) < 1 / (1 + np.exp(-z))).astype(np.int64)


def fitted(**kwargs):
    logits, y = part(400, seed=99, **kwargs)
    return bare(BINARY, calibrate(logits, y, BINARY)), logits, y


@pytest.fixture(scope="module")
def whole():
    """An evaluation with everything given."""
    spec, cal_logits, cal_y = fitted()
    spec = msgspec.structs.replace(
        spec,
        operating_points=[OperatingPoint(label="yes", threshold=0.4, rule="declared")],
        ood=OutOfDistribution(threshold=2.0, false_alarm=0.05, n=400),
    )
    logits, y = part(500)
    rng = np.random.default_rng(3)
    distance = np.abs(rng.normal(size=500))
    y[:5] = -1
    leaky = np.zeros(500, bool)
    leaky[10:30] = True
    result = evaluate(
        spec,
        Scores(logits, distance),
        y,
        part="test",
        patients=np.arange(500) // 2,
        groups={"sex": rng.choice(["F", "M"], 500)},
        baseline=Scores(logits + rng.normal(size=(500, 1)) * 2),
        baseline_spec=spec,
        val=(Scores(part(300, seed=5)[0]), part(300, seed=5)[1]),
        calibration=(Scores(cal_logits), cal_y),
        leaky=leaky,
        openings=2,
        refused={"wrong-colour": 3},
        draws=200,
    )
    return spec, Scores(logits, distance), y, result


def codes(result):
    return {claim["code"]: claim["level"] for claim in result["claims"]}


def test_every_number_is_plain_json_with_its_interval(whole):
    """Strict JSON (no NaN); every metric of the task is there with value, low and high around it."""
    result = whole[3]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["metrics"].keys() == METRICS["binary"].keys()
    for name, span in result["metrics"].items():
        assert span["low"] <= span["value"] <= span["high"], name
    assert (result["n"], result["unlabelled"], result["n_patients"]) == (495, 5, 248)


def test_what_is_measured_is_what_is_served(whole):
    """Answers, abstentions, refusals and accuracy equal those of one answer after the other."""
    spec, scores, y, result = whole
    probs = probabilities(spec, scores.logits)
    answers = []
    for row, distance, truth in zip(probs[5:], scores.distance[5:], y[5:], strict=True):
        try:
            answer = answer_one(spec, row, float(distance))
            answers.append((answer.status, answer.decision and answer.decision["label"] == BINARY.labels[truth]))
        except Refusal:
            answers.append(("refused", None))
    count = {kind: sum(a == kind for a, _ in answers) for kind in ("answered", "abstained", "refused")}
    assert count == {
        "answered": result["answers"]["answered"],
        "abstained": result["answers"]["abstained"],
        "refused": result["answers"]["out_of_distribution"],
    }
    assert min(count.values()) > 0
    right = np.mean([good for kind, good in answers if kind == "answered"])
    assert result["answers"]["accuracy_answered"]["value"] == pytest.approx(right)
    assert result["answers"]["refused_before_scoring"] == {"wrong-colour": 3}
    assert np.sum(result["confusion"]["counts"]) == result["n"]


def test_differences_are_paired_and_add_up(whole):
    """Model minus baseline is the difference of the two values; its interval is narrower than either's."""
    result = whole[3]
    ours, theirs, gap = (
        result["metrics"]["auroc"],
        result["baseline"]["metrics"]["auroc"],
        result["baseline"]["difference"]["auroc"],
    )
    assert gap["value"] == pytest.approx(ours["value"] - theirs["value"])
    assert gap["high"] - gap["low"] < theirs["high"] - theirs["low"]
    assert gap["low"] == pytest.approx(result["baseline"]["delong"]["low"], abs=0.02)
    assert codes(result)["beats-other"] == "green"


def test_the_baseline_itself_is_compared_with_the_recipe():
    """Offered alone, the simpler model is not blamed for being as good; a recipe that is no better is."""
    z, y = part(400)
    one, two = z + np.random.default_rng(1).normal(size=(2, 400, 1))
    said = [
        codes(evaluate(bare(BINARY), Scores(one), y, part="test", baseline=Scores(two), role=role, draws=50))
        for role in ("recipe", "baseline")
    ]
    assert said[0]["baseline-as-good"] == "amber" and said[1]["simpler-as-good"] == "green"


def test_leaky_cases_are_shown_with_and_without(whole):
    """The figures without the involved cases are those of the rest alone, and a claim says so."""
    spec, scores, y, result = whole
    rest = np.r_[5:10, 30:500]
    alone = judge(spec, scores.logits[rest], y[rest])
    assert result["leaks"]["involved"] == 20
    assert result["leaks"]["without"]["accuracy"]["value"] == pytest.approx((alone.chosen == alone.targets).mean())
    assert codes(result)["leaks"] == "amber" and codes(result)["test-reopened"] == "amber"


def test_a_calibrated_model_passes_and_a_bold_one_does_not():
    """Over 20 clean parts at most 2 are flagged, none red; logits three times too bold turn red every time."""
    clean = [codes(evaluate(bare(BINARY), Scores(z), y, part="test", draws=100))
             for z, y in (part(500, seed=s) for s in range(20))]  # fmt: skip
    assert sum("miscalibrated" in c for c in clean) <= 2 and "red" not in {c.get("miscalibrated") for c in clean}
    for seed in range(5):
        z, y = part(500, seed=seed, hot=3.0)
        assert codes(evaluate(bare(BINARY), Scores(z), y, part="test", draws=100))["miscalibrated"] == "red"
    z, y = part(500)
    shifted = codes(evaluate(bare(BINARY), Scores(z + 0.6), y, part="test", draws=100))
    assert shifted["miscalibrated"] in ("amber", "red")


def test_the_temperature_s_effect_is_shown_and_its_harm_flagged():
    """Before and after stand side by side; a temperature fitted on other cases that hurts is named."""
    z, y = part(600)
    spec = bare(BINARY, Calibration(method="temperature", temperature=0.3, n=200))
    result = evaluate(spec, Scores(z), y, part="test", draws=100)
    cal = result["calibration"]
    assert cal["before"]["log_loss"]["value"] < cal["after"]["log_loss"]["value"]
    assert cal["log_loss_change"]["low"] > 0
    assert codes(result)["temperature-hurt"] == "amber"


def test_the_null_band_holds_for_perfect_models():
    """The ECE of a perfectly calibrated model stays under its 95th percentile in about 95 of 100 parts."""
    under = 0
    for seed in range(100):
        z, y = part(200, seed=seed)
        p = 1 / (1 + np.exp(-z[:, 0]))
        judged = Judged("binary", ("no", "yes"), y, np.stack([1 - p, p], 1), (p >= 0.5).astype(int))
        null = ece_null(judged, draws=200)
        assert null["mean"] > 0.04  # far from 0 on 200 cases
        under += expected_calibration_error(p, y, np.ones((1, 200)), bins=15)[0] <= null["p95"]
    assert 89 <= under <= 99


@pytest.mark.parametrize(("positives", "code", "level"), [(19, "claim-refused", "red"), (60, "few-cases", "amber"),
                                                          (100, "enough-cases", "green")])  # fmt: skip
def test_too_few_cases_refuse_the_claim(positives, code, level):
    """Under 20 on one side no performance may be claimed; under 100 only weakly."""
    y = (np.arange(400) < positives).astype(int)
    z = np.random.default_rng(0).normal(size=400) + y
    assert codes(evaluate(bare(BINARY), Scores(z[:, None]), y, part="test", draws=20))[code] == level


def test_what_was_not_examined_or_not_answered_is_said():
    """No subgroup, or none large enough; a model that is unsure about most cases: each is amber."""
    z, y = part(300, spread=0.4)
    spec, sex = bare(BINARY, calibrate(z, y, BINARY)), np.where(np.arange(300) < 20, "F", "")
    none = codes(evaluate(spec, Scores(z), y, part="test", draws=20))
    assert none["abstains-often"] == "amber" and none["subgroups-not-reported"] == "amber"
    assert "subgroups-too-small" in codes(evaluate(spec, Scores(z), y, part="test", groups={"sex": sex}, draws=20))


def test_parts_that_shaped_the_model_show_no_performance():
    """Figures of the training part are red whatever they are."""
    z, y = part(300)
    assert codes(evaluate(bare(BINARY), Scores(z), y, part="train", draws=20))["seen-part"] == "red"


def test_the_guarantee_is_suspended_after_a_shift_and_only_then():
    """Scores from elsewhere suspend it; the same source does not, in 20 of 20; another mix of labels does not
    either where quantiles are per label."""
    spec, cal_z, cal_y = fitted()
    assert spec.calibration.conformal.by_label is not None
    before = (Scores(cal_z), cal_y)
    for seed in range(20):
        z, y = part(400, seed=seed)
        assert not two_sample(Scores(cal_z), Scores(z), (cal_y, y))["shifted"]
    z, y = part(800, seed=3)
    rare = np.r_[np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:60]]
    assert not two_sample(Scores(cal_z), Scores(z[rare]), (cal_y, y[rare]))["shifted"]
    assert two_sample(Scores(cal_z), Scores(z[rare]))["shifted"]
    moved = evaluate(spec, Scores(z + 2.5), y, part="all", calibration=before, draws=50)
    assert moved["conformal"]["suspended"] and codes(moved)["guarantee-suspended"] == "red"
    assert codes(moved)["coverage-off"] == "red"
    said = next(c["message"] for c in moved["claims"] if c["code"] == "coverage-off")
    assert "less than the expected" in said and "the stated 90% does not hold" in said
    same = evaluate(spec, Scores(z), y, part="test", calibration=before, draws=50)
    assert not same["conformal"]["suspended"] and codes(same)["coverage"] == "green"


def test_a_planted_gap_turns_red_and_chance_does_not():
    """A group whose cases are missed is red; random groups are in at most 1 of 20 parts."""
    red = 0
    for seed in range(20):
        z, y = part(600, seed=seed)
        judged, rng = judge(bare(BINARY), z, y), np.random.default_rng(seed)
        rows = subgroups(judged, np.arange(600), {"sex": rng.choice(["F", "M"], 600)}, draws=100)
        red += any(row["level"] == "red" for row in rows)
    assert red <= 1
    site = np.where(np.arange(600) < 150, "east", "west")
    worse = judge(bare(BINARY), z - 2.0 * (site == "east")[:, None], y)
    rows = {r["value"]: r for r in subgroups(worse, np.arange(600), {"site": site}, draws=200)}
    assert rows["east"]["level"] == "red" and rows["east"]["flags"] == ["fnr"] and rows["west"]["level"] == "green"


def test_small_groups_are_named_and_not_judged():
    """Fewer than 50 cases: listed without figures; pairs of groups are measured where they are large enough."""
    z, y = part(400)
    groups = {"sex": np.where(np.arange(400) % 2, "F", "M"), "site": np.where(np.arange(400) < 30, "a", "b")}
    rows = {(r["group"], r["value"]): r for r in subgroups(judge(bare(BINARY), z, y), np.arange(400), groups, draws=20)}
    assert not rows["site", "a"]["judged"] and rows["site", "a"]["metrics"] == {}
    assert ("sex x site", "F x b") in rows and ("sex x site", "F x a") not in rows


def test_net_benefit_by_hand():
    """At .2, 3 found and 1 false alarm of 10: 3/10 - 1/10 x .25 = .275; treat all: .4 - .6 x .25 = .25."""
    y = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    p = np.array([0.9, 0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1])
    judged = Judged("binary", ("no", "yes"), y, np.stack([1 - p, p], 1), (p >= 0.5).astype(int))
    found = decision_curve(judged, np.arange(10), declared=(0.2, 0.3, "asked"), draws=20)
    assert found["points"][0]["model"]["value"] == pytest.approx(0.275)
    assert found["points"][0]["all"] == pytest.approx(0.25)
    assert found["declared"] and "not declared" not in found["message"]


def test_a_useless_model_shows_no_utility_and_a_default_range_is_said():
    """Random scores: no demonstrated clinical utility; a range that nobody declared is called a default."""
    rng = np.random.default_rng(0)
    y, z = rng.integers(0, 2, 400), rng.normal(size=(400, 1))
    found = evaluate(bare(BINARY), Scores(z), y, part="test", draws=50)
    assert not found["decision"]["useful"] and codes(found)["no-utility"] == "amber"
    assert "not declared by the user" in found["decision"]["message"]


def test_predictive_values_at_another_prevalence_by_hand():
    """Sensitivity .9, specificity .8, prevalence .1: PPV .09/.27, NPV .72/.73, 27 alerts in 100."""
    row = next(r for r in elsewhere(0.9, 0.8) if r["prevalence"] == 0.1)
    assert row["ppv"] == pytest.approx(1 / 3) and row["npv"] == pytest.approx(0.72 / 0.73)
    assert row["alerts_per_100"] == pytest.approx(27)
    assert elsewhere(None, 0.8) == []


def test_curves_by_hand():
    """Four cases, scores .9 .8 .8 .1, truth 1 0 1 0: ROC, PR and risk-coverage with the tie taken at once."""
    y, p = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.8, 0.1])
    assert roc_points(y, p) == [[0, 0], [0, 0.5], [0.5, 1], [1, 1]]
    assert pr_points(y, p) == [[0.5, 1], [1, 0.666667], [1, 0.5]]
    found = risk_coverage(np.array([0.9, 0.8, 0.8, 0.6]), np.array([0, 1, 0, 1]))
    assert found["points"] == [[0.25, 0], [0.75, 0.333333], [1, 0.5]]
    assert found["aurc"] == pytest.approx((0 * 1 + (1 / 3) * 2 + 0.5 * 1) / 4)
    assert wilson(0.0, 10) == pytest.approx((0, 0.2775), abs=1e-3)
    assert [b["n"] for b in reliability(p, y)] == [1, 2, 1]


def test_nothing_labelled_is_said():
    """Data without labels cannot be evaluated; scores of other rows neither."""
    with pytest.raises(BadData) as error:
        evaluate(bare(BINARY), Scores(np.zeros((3, 1))), np.full(3, -1), part="all")
    assert error.value.code == "nothing-labelled"
    with pytest.raises(BadData) as error:
        evaluate(bare(BINARY), Scores(np.zeros((3, 1))), np.zeros(4, int), part="all")
    assert error.value.code == "evaluation-rows"


def test_one_class_only_gives_what_can_be_given():
    """No negatives: AUROC is null, sensitivity has a value, the claim is refused; still strict JSON."""
    z, _ = part(60)
    result = evaluate(bare(BINARY), Scores(z), np.ones(60, int), part="all", draws=50)
    json.dumps(result, allow_nan=False)
    assert result["metrics"]["auroc"]["value"] is None and result["metrics"]["sensitivity"]["value"] is not None
    assert codes(result)["claim-refused"] == "red"


@pytest.mark.parametrize("task", ["multiclass", "ordinal", "multilabel", "number"])
def test_every_task_is_evaluated(task):
    """Each task gives its own metrics and sections as strict JSON; several labels come each with their own row."""
    rng, n = np.random.default_rng(0), 300
    labels = ["a", "b", "c"] if task != "number" else ["age"]
    output = OutputSpec(task=task, labels=labels)
    y = rng.integers(0, 3, n)
    logits = {
        "multiclass": rng.normal(size=(n, 3)) + 2 * np.eye(3)[y],
        "ordinal": y[:, None] - np.arange(2) - 0.5 + rng.logistic(size=(n, 1)) * 0.5,
        "multilabel": rng.normal(size=(n, 3)) + 2 * np.eye(3)[y],
        "number": (y + rng.normal(size=n))[:, None],
    }[task]
    targets = {"multilabel": np.where(rng.random((n, 3)) < 0.1, np.nan, np.eye(3)[y]), "number": y.astype(np.float32)}
    truth = targets.get(task, y)
    spec = bare(output, calibrate(logits[:150], truth[:150], output))
    result = evaluate(
        spec, Scores(logits[150:]), truth[150:], part="test", groups={"g": rng.choice(["x", "y"], 150)},
        calibration=(Scores(logits[:150]), truth[:150]), draws=50,
    )  # fmt: skip
    json.dumps(result, allow_nan=False)
    assert result["metrics"].keys() == METRICS[task].keys()
    assert (result["conformal"] is None) == (task == "multilabel")
    assert len(result["per_label"]) == (0 if task == "number" else 3)
    assert claims(result) == result["claims"]


def test_shares_of_one_are_bounded_by_the_patients_behind_them():
    """All right in 60 images of 20 patients: the exact bound of 20, .025 ** (1/20) = .832."""
    y = np.arange(60) // 3 % 2
    z = np.where(y, 5.0, -5.0)[:, None]
    result = evaluate(bare(BINARY), Scores(z), y, part="test", patients=np.arange(60) // 3, draws=50)
    assert result["metrics"]["accuracy"]["low"] == pytest.approx(0.8316, abs=1e-3)
    assert result["metrics"]["sensitivity"]["low"] == pytest.approx(0.025 ** (1 / 10), abs=1e-3)


def test_the_same_call_gives_the_same_record():
    """Seeds decide every draw."""
    z, y = part(200)
    first, again = (evaluate(bare(BINARY), Scores(z), y, part="test", draws=50, seed=4) for _ in range(2))
    assert first == again


def test_wilson_by_the_book():
    """81 of 263: .2553 to .3662 (Newcombe, Statistics in Medicine 17, 1998, table I, method 3)."""
    low, high = wilson(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0.0, 0) == (0.0, 1.0)
