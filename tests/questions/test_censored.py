"""Censored outcomes: figures equal to hand sums and to lifelines, answers read back, no patient in a grid."""

import msgspec
import numpy as np
import pytest

from medserve.errors import BadData, Usage
from medserve.evaluation.calibrate import bare
from medserve.models.spec import Calibration, ModelSpec, OperatingPoint, OutputSpec, Survival
from medserve.questions import censored
from medserve.questions.answers import answer_one, probabilities
from medserve.questions.metrics import judge, point
from medserve.questions.survival import (
    curve,
    default_horizons,
    eta_of,
    fit_baseline_hazard,
    risks,
    with_baseline,
)

DEATH = OutputSpec(task="survival", labels=["death"], unit="mo")


def drawn(n=300, *, seed=0, rate=0.03, strength=0.8, follow=40.0):
    """Exponential times with log hazard ratio z, whole tenths of months (so ties), uniform censoring."""
    rng = np.random.default_rng(seed)
    z = strength * rng.normal(size=n)
    t, c = rng.exponential(1 / (rate * np.exp(z))), rng.uniform(5, follow, n)
    time = np.maximum(np.round(np.minimum(t, c), 1), 0.1)
    return z[:, None], np.stack([time, (t <= c).astype(float)], 1)


def judged(n=300, seed=0):
    logits, y = drawn(1000, seed=seed + 1)
    output = with_baseline(DEATH, logits, y)
    return judge(bare(output), *drawn(n, seed=seed))


def ones(n):
    return np.ones((1, n))


def test_four_cases_by_hand():
    """Events at 1 and 3, censored at 2 and 4: Kaplan-Meier 3/4 then 3/4 x 1/2; pairs (1,2) (1,3) (1,4) (3,4)."""
    t, e, w = np.array([1.0, 2, 3, 4]), np.array([1, 0, 1, 0], bool), ones(4)
    at, share = censored.kaplan_meier(t, e, w)
    assert at.tolist() == [1, 2, 3, 4] and share[0] == pytest.approx([1, 0.75, 0.75, 0.375, 0.375])
    # the first case scores highest: right in 3 pairs; the third ties with the fourth: half
    assert censored.concordance(t, e, np.array([9.0, 1, 5, 5]), w)[0] == pytest.approx(3.5 / 4)
    # G before 3 is 2/3 (one of the three under observation left at 2): the pair (3,4) weighs 9/4
    assert censored.uno(t, e, np.array([9.0, 1, 5, 5]), w, 10.0)[0] == pytest.approx((3 + 9 / 8) / (3 + 9 / 4))
    # Brier at 3 with risk .5 for all: (.25 x 1) + (.25 x 3/2) for the events, .25 / (2/3) for the free one, over 4
    risk = np.full((4, 1), 0.5)
    assert censored.brier(t, e, risk, np.array([3.0]), w)[0, 0] == pytest.approx(0.25 * (1 + 1.5 + 1.5) / 4)
    assert censored.auroc_at(t, e, np.array([9.0, 1, 5, 5]), 3.0, w)[0] == pytest.approx(1.75 / 2.5)


def test_harrell_and_kaplan_meier_equal_lifelines():
    """The same figures as the field's library, ties in times and in scores included."""
    lifelines = pytest.importorskip("lifelines")
    logits, y = drawn()
    score, time, event = np.round(logits[:, 0], 1), y[:, 0], y[:, 1] == 1
    c = lifelines.utils.concordance_index(time, -score, event)
    assert censored.concordance(time, event, score, ones(len(y)))[0] == pytest.approx(c, abs=1e-9)
    at, share = censored.kaplan_meier(time, event, ones(len(y)))
    theirs = lifelines.KaplanMeierFitter().fit(time, event).predict(at).to_numpy()
    assert share[0, 1:] == pytest.approx(theirs, abs=1e-9)


def test_the_baseline_equals_breslow_of_lifelines():
    """On the grid's times the cumulative hazard is Breslow's of the Cox model that gave the logits."""
    lifelines = pytest.importorskip("lifelines")
    pandas = pytest.importorskip("pandas")
    x, y = drawn(400)
    table = pandas.DataFrame({"x": x[:, 0], "t": y[:, 0], "e": y[:, 1]})
    cox = lifelines.CoxPHFitter().fit(table, "t", "e")
    logits = cox.predict_log_partial_hazard(table).to_numpy()
    found = fit_baseline_hazard(logits, y[:, 0], y[:, 1])
    whole = cox.baseline_cumulative_hazard_.iloc[:, 0]
    theirs = [whole[whole.index <= t].iloc[-1] for t in found.times]
    assert found.hazard == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("n", [60, 300, 5000])
def test_no_patient_stands_in_the_baseline(n):
    """At most 64 steps, 10 events behind each, rounded times, and an end where 10 were still under observation."""
    logits, y = drawn(n)
    found = fit_baseline_hazard(logits, y[:, 0], y[:, 1])
    events = np.sort(y[y[:, 1] == 1, 0])
    assert len(found.times) <= 64
    assert (np.diff(np.searchsorted(events, [0, *found.times], side="right")) >= 10).all()
    assert found.times[-1] <= np.sort(y[:, 0])[-10] * 1.01
    assert all(0 < h <= found.times[-1] for h in found.horizons)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Survival) == found


def test_horizons_are_said_as_in_the_clinic():
    """Quartiles 14, 25 and 39 months become 12, 24 and 36; without a known unit they are rounded."""
    t = np.array([14.0, 14, 25, 39, 39])
    assert default_horizons(t, np.ones(5), "mo") == [12, 24, 36]
    assert default_horizons(t * 10.1, np.ones(5)) == [140, 250, 390]
    assert default_horizons(t, np.zeros(5), "mo") == []


def test_too_few_events_and_far_horizons_are_named():
    """Nine events carry no baseline; a horizon beyond the follow-up is refused with what is possible."""
    y = np.stack([np.arange(1.0, 41), np.arange(40) < 9], 1)
    with pytest.raises(BadData) as error:
        with_baseline(DEATH, np.zeros((40, 1)), y)
    assert error.value.code == "survival-few-events"
    logits, y = drawn()
    with pytest.raises(Usage) as usage:
        fit_baseline_hazard(logits, y[:, 0], y[:, 1], [12, 1000])
    assert usage.value.code == "survival-horizon"
    with pytest.raises(Usage, match="with_baseline"):
        probabilities(bare(DEATH), np.zeros((1, 1)))


def test_an_answer_states_the_risk_by_each_horizon_and_the_curve():
    """Labels name the horizons, risks rise with time, the curve passes through them, a threshold makes a decision."""
    logits, y = drawn(800)
    output = with_baseline(DEATH, logits, y, [6, 12, 24])
    spec = msgspec.structs.replace(bare(output), calibration=Calibration(method="hazard", temperature=1.2, shift=0.1))
    probs = probabilities(spec, np.array([[-1.0], [2.0]]))
    answer = answer_one(spec, probs[1])
    assert answer.labels == ("death by 6 mo", "death by 12 mo", "death by 24 mo")
    assert list(answer.probabilities) == sorted(answer.probabilities) and (probs[1] > probs[0]).all()
    assert (answer.prediction_set, answer.decision, answer.status) == (None, None, "answered")
    times, free = np.array(answer.curve).T
    assert (times[0], free[0]) == (0, 1) and (np.diff(free) <= 0).all()
    base = output.baseline
    assert free[1:] == pytest.approx(1 - risks(base, np.array([2 / 1.2 + 0.1]), np.array(base.times))[0])
    point_at = OperatingPoint(label="death by 12 mo", threshold=0.2, rule="declared")
    spec = msgspec.structs.replace(spec, operating_points=[point_at])
    assert answer_one(spec, probs[1]).decision["labels"] == ["death by 12 mo"]
    again = msgspec.json.decode(spec.to_json(), type=ModelSpec)
    assert np.array_equal(probabilities(again, np.array([[-1.0], [2.0]])), probs)


@pytest.mark.parametrize("eta", [-45.0, -12.0, 0.0, 3.0, 30.0])
def test_the_curve_is_found_back_from_the_risks(eta):
    """Risks alone give the log hazard ratio back, up to where a float ends; the curve stays a curve."""
    logits, y = drawn(800)
    base = fit_baseline_hazard(logits, y[:, 0], y[:, 1])
    back = eta_of(base, risks(base, np.array([eta]))[0])
    if abs(eta) < 20:
        assert back == pytest.approx(eta, abs=1e-6)
    free = np.array(curve(base, back))[:, 1]
    assert np.isfinite(free).all() and (np.diff(free) <= 0).all() and 0 <= free[-1] <= 1


def test_the_true_model_is_calibrated_and_beats_the_mean():
    """Slope and expected / observed near 1, and a Brier score below that of one curve for all."""
    j = judged(4000, seed=5)
    got = point(j)
    assert got["calibration_slope"] == pytest.approx(1, abs=0.1)
    assert got["expected_observed"] == pytest.approx(1, abs=0.1)
    flat = judge(
        bare(with_baseline(DEATH, np.zeros((1000, 1)), drawn(1000, seed=6)[1])), np.zeros((4000, 1)), j.targets
    )
    assert point(flat)["c_index"] == 0.5
    assert got["integrated_brier"] < point(flat)["integrated_brier"]
    assert 0.6 < got["c_uno"] < 0.8 and 0.6 < got["auroc_at_horizon"] < 0.85


def test_slope_and_level_of_the_hazard_are_those_of_poisson_regression():
    """hazard_line is the maximum of the Poisson likelihood: its score equations hold, whatever the centre of eta."""
    logits, y = drawn(500)
    spent, eta, event = y[:, 0] * 0.02, 2 * logits[:, 0] + 3, y[:, 1]
    a, b = (v[0] for v in censored.hazard_line(spent, eta, event, ones(500)))
    gap = event - spent * np.exp(a + b * eta)
    assert abs(gap.sum()) < 1e-6 and abs((gap * eta).sum()) < 1e-5
    assert b == pytest.approx(0.5, abs=0.1)
    none = censored.hazard_line(spent, np.zeros(500), event, ones(500))
    assert np.isnan(none[1][0])  # one score for all has no slope
