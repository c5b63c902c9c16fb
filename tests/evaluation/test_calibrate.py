"""Temperature, conformal quantiles, thresholds and intervals keep what they promise on invented scores."""

import numpy as np
import pytest
from scipy.stats import betabinom

from medserve.errors import BadData
from medserve.evaluation.calibrate import bare, calibrate, case_loss, fit_temperature
from medserve.evaluation.conformal import Conformal, coverage_band, covered, fit_conformal, quantile, rank
from medserve.evaluation.intervals import bootstrap, delong, draw_weights, exact_edge
from medserve.evaluation.operating import RULE, choose_points, threshold_rules
from medserve.models.spec import OutputSpec
from medserve.questions.metrics import judge
from medserve.questions.weighted import rank_auroc

BINARY = OutputSpec(task="binary", labels=["no", "yes"])
THREE = OutputSpec(task="multiclass", labels=["a", "b", "c"])


def binary(n, *, hot=1.0, spread=2.0, prior=0.0, seed=0):
    """True log-odds z; stated log-odds z * hot, so `hot` is the temperature to be found."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n) * spread + prior
    y = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(np.int64)
    return (z * hot)[:, None], y


def test_the_temperature_that_was_applied_is_found():
    """Logits made 3 times too bold, or 2 times too shy, give temperatures near 3 and 1/2, for two labels and three."""
    for hot in (3.0, 0.5):
        logits, y = binary(4000, hot=hot)
        assert fit_temperature(logits, y, BINARY).temperature == pytest.approx(hot, rel=0.1)
        rng = np.random.default_rng(1)
        z = rng.normal(size=(4000, 3)) * 2
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        t = (rng.random((4000, 1)) > p.cumsum(1)).sum(1)
        assert fit_temperature(z * hot, t, THREE).temperature == pytest.approx(hot, rel=0.1)


def test_few_cases_are_cross_fitted_or_left_alone():
    """Under 100 cases a temperature must prove itself on held-out folds; under 20 or with one label none is fitted."""
    logits, y = binary(80, hot=4.0)
    found = fit_temperature(logits, y, BINARY)
    assert found.method == "temperature" and found.cross_fitted and found.temperature > 1.5
    good = [fit_temperature(*binary(80, hot=1.0, seed=s), BINARY) for s in range(20)]
    assert sum(f.method == "none" for f in good) >= 5
    assert all(f.temperature == 1.0 for f in good if f.method == "none")
    assert fit_temperature(logits[:19], y[:19], BINARY).method == "none"
    assert fit_temperature(logits, np.zeros(80, int), BINARY).method == "none"


def test_a_perfect_calibration_part_does_not_ask_for_certainty():
    """All right with margin 4: the prior keeps the temperature away from 0."""
    y = np.arange(200) % 2
    assert fit_temperature(np.where(y, 4.0, -4.0)[:, None], y, BINARY).temperature > 0.3


def test_scores_that_are_not_numbers_are_refused():
    """A diverged model is told so, by code."""
    with pytest.raises(BadData) as error:
        fit_temperature(np.full((30, 1), np.nan), np.arange(30) % 2, BINARY)
    assert error.value.code == "calibration-scores"


def test_multilabel_temperature_ignores_unknown_labels():
    """NaN targets take no part in the fit."""
    logits, y = binary(3000, hot=3.0)
    two = OutputSpec(task="multilabel", labels=["a", "b"])
    unknown = np.stack([y.astype(float), np.full(3000, np.nan)], 1)
    found = fit_temperature(np.repeat(logits, 2, axis=1), unknown, two)
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert calibrate(np.repeat(logits, 2, axis=1), unknown, two).conformal is None


@pytest.mark.parametrize(("n", "alpha", "k"), [(9, 0.1, 9), (8, 0.1, 9), (99, 0.1, 90), (19, 0.05, 19), (99, 0.01, 99)])
def test_the_rank_of_the_quantile(n, alpha, k):
    """ceil((n + 1)(1 - alpha)) without rounding trouble; too few cases give no quantile."""
    assert rank(n, alpha) == k
    assert quantile(np.arange(n, dtype=float), alpha) == (None if k > n else k - 1)


def test_coverage_holds_over_many_splits():
    """Over 200 fresh calibration and test parts the mean coverage is 90 %, for labels, per label and for a number."""
    rng = np.random.default_rng(0)
    marginal, per_label, number = [], [], []
    value = OutputSpec(task="number", labels=["v"], mean=5.0, sd=2.0)
    for seed in range(200):
        logits, y = binary(700, prior=-1.0, seed=seed)
        for share, kept in ((60, marginal), (300, per_label)):
            found = calibrate(logits[:share], y[:share], BINARY)
            assert (found.conformal.by_label is not None) == (share == 300)
            hit, _ = covered(bare(BINARY, found), logits[300:], y[300:])
            kept.append(hit.mean())
        z = rng.normal(size=(300, 1))
        truth = z[:, 0] * 2 + 5 + rng.standard_t(3, 300)
        spec = bare(value, calibrate(z[:150], truth[:150], value))
        number.append(covered(spec, z[150:], truth[150:])[0].mean())
    for kept in (marginal, per_label, number):
        assert np.mean(kept) == pytest.approx(0.9, abs=0.015)


def test_quantiles_per_label_hold_for_each_label_under_another_mix():
    """A rare label keeps its own 90 %, where one quantile for all would miss it."""
    hits = []
    for seed in range(60):
        logits, y = binary(1500, prior=-2.0, seed=seed)
        spec = bare(BINARY, calibrate(logits[:900], y[:900], BINARY))
        hit, _ = covered(spec, logits[900:], y[900:])
        hits.append(hit[y[900:] == 1].mean())
    assert np.mean(hits) == pytest.approx(0.9, abs=0.03)
    whole = [
        covered(bare(BINARY, calibrate(logits[:60], y[:60], BINARY)), logits[900:], y[900:])[0][y[900:] == 1].mean()
        for logits, y in (binary(1500, prior=-2.0, seed=s) for s in range(60))
    ]
    assert np.mean(whole) < 0.8


def test_the_band_is_the_beta_binomial_one():
    """500 calibration and 1,000 evaluated cases: .866 to .930, the exact law's."""
    low, high = coverage_band(Conformal(alpha=0.1, n=500, quantile=0.4), {"all": 1000})
    k = rank(500, 0.1)
    exact = betabinom(1000, k, 501 - k).ppf([0.025, 0.975]) / 1000
    assert (low, high) == pytest.approx(tuple(exact), abs=0.003)
    assert (low, high) == pytest.approx((0.866, 0.930), abs=0.004)


def test_multilabel_and_tiny_parts_have_no_sets():
    """Eight cases cannot carry 90 %: no quantile rather than a wrong one."""
    logits, y = binary(8)
    assert fit_conformal(bare(BINARY), logits, y) is None


def test_half_is_kept_unless_another_threshold_is_better():
    """A balanced model keeps 0.5 even where accuracy prefers another; a model trained on 4 % positives does not."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        y = (rng.random(300) < 0.74).astype(np.int64)  # balanced scores, prior .74 in validation
        z = rng.normal(size=300) * 1.5 + np.where(y, 1.5, -1.5)
        assert choose_points(bare(BINARY), z[:, None], y)[0].threshold == 0.5
    y = (np.arange(1500) % 25 == 0).astype(np.int64)
    z = np.random.default_rng(0).normal(size=1500) + np.where(y, -1.0, -4.0)
    point = choose_points(bare(BINARY), z[:, None], y)[0]
    assert point.threshold < 0.2 and point.rule == RULE and point.chosen_on == "val" and point.label == "yes"


def test_the_table_shows_what_tuning_on_another_prior_costs():
    """Validation prior .85, test .4: the accuracy-tuned threshold loses accuracy, and the sentence says why."""

    def part(n, prior, seed):
        rng = np.random.default_rng(seed)
        y = (rng.random(n) < prior).astype(np.int64)
        return judge(bare(BINARY), (rng.normal(size=n) * 2 + np.where(y, 1.5, -1.5))[:, None], y)

    table = threshold_rules(bare(BINARY), part(800, 0.85, 0), part(800, 0.4, 1), np.arange(800), draws=200)
    row = {r["rule"]: r for r in table["rows"]}["best-accuracy-on-val"]
    assert row["accuracy_gain"]["high"] < 0 and row["threshold"] < 0.5 and not row["served"]
    assert "costs" in table["why"] and "does not carry over" in table["why"]
    assert table["prevalence_val"] == pytest.approx(0.85, abs=0.03)
    assert table["rows"][0]["accuracy_gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_as_many_are_flagged_as_are_positive_in_both_held_out_parts():
    """The rule reads validation and calibration together; the other rules, and it alone, keep to validation."""

    def part(n, seed):
        rng = np.random.default_rng(seed)
        y = (np.arange(n) % 7 == 0).astype(np.int64)
        return judge(bare(BINARY), (rng.normal(size=n) + np.where(y, 0.0, -2.0))[:, None], y)

    val, calibration, judged = part(280, 0), part(420, 1), part(700, 2)
    alone = threshold_rules(bare(BINARY), val, judged, np.arange(700), draws=50)["rows"]
    both = threshold_rules(bare(BINARY), val, judged, np.arange(700), calibration=calibration, draws=50)["rows"]
    assert (alone[-1]["rule"], both[-1]["rule"]) == (
        "sensitivity-equals-ppv-on-val", "sensitivity-equals-ppv-on-val-and-calibration",
    )  # fmt: skip
    assert sum((one.probs[:, 1] >= both[-1]["threshold"]).sum() for one in (val, calibration)) == 100
    assert (val.probs[:, 1] >= alone[-1]["threshold"]).sum() == 40
    assert both[-1]["threshold"] != alone[-1]["threshold"] and both[:-1] == alone[:-1]


def test_whole_patients_are_drawn_within_strata():
    """Cases of one patient always come together; the number of patients of each stratum never changes."""
    patients = np.array(["a", "a", "b", "c", "c", "c", "d"])
    strata = np.array([0, 1, 0, 0, 0, 0, 1])  # a counts as 1 through her second case
    w = np.concatenate(list(draw_weights(patients, strata, draws=50, seed=1)))
    assert w.shape == (50, 7)
    assert (w[:, 0] == w[:, 1]).all() and (w[:, 3] == w[:, 5]).all()
    assert (w[:, 0] + w[:, 6] == 2).all() and (w[:, 2] + w[:, 3] == 2).all()


def test_the_interval_of_a_mean_is_the_textbook_s():
    """Bootstrap of a share .3 in 400 cases: half-width 1.96 sqrt(.3 x .7 / 400) = .045; DeLong agrees for AUROC."""
    x = (np.arange(400) < 120).astype(float)
    found = bootstrap(lambda w: {"share": w @ x / w.sum(1)}, np.arange(400), np.zeros(400, int), draws=2000)["share"]
    assert found["high"] - found["low"] == pytest.approx(0.09, abs=0.006)
    logits, y = binary(400, spread=1.0)
    boot = bootstrap(lambda w: {"auroc": rank_auroc(y == 1, logits[:, 0], w)}, np.arange(400), y)["auroc"]
    formula = delong(y == 1, logits[:, 0])
    assert boot["value"] == pytest.approx(formula["value"])
    assert (boot["low"], boot["high"]) == pytest.approx((formula["low"], formula["high"]), abs=0.012)


def test_a_paired_interval_is_narrower_than_two_separate_ones():
    """Two nearly equal models differ by a small sure amount: the pairing sees it, DeLong's paired form agrees."""
    logits, y = binary(500, spread=1.0)
    a = logits[:, 0]
    b = a + np.random.default_rng(5).normal(size=500) * 0.6

    def figures(w):
        first, second = rank_auroc(y == 1, a, w), rank_auroc(y == 1, b, w)
        return {"a": first, "b": second, "difference": first - second}

    found = bootstrap(figures, np.arange(500), y)
    width = {k: v["high"] - v["low"] for k, v in found.items()}
    assert width["difference"] < 0.75 * width["a"]
    formula = delong(y == 1, a, b)
    assert found["difference"]["low"] == pytest.approx(formula["low"], abs=0.012)


def test_a_share_of_one_is_not_certain():
    """100 of 100 right: the exact bound .025 ** (1/100) = .964, not 1."""
    assert exact_edge(1.0, 100)["low"] == pytest.approx(0.9638, abs=1e-4)
    found = bootstrap(lambda w: {"accuracy": w @ np.ones(100) / w.sum(1)}, np.arange(100), np.zeros(100, int),
                      draws=50, trials={"accuracy": 100})  # fmt: skip
    assert found["accuracy"]["low"] == pytest.approx(0.9638, abs=1e-4)


def test_temperature_keeps_the_order_of_cases():
    """Discrimination is the same before and after."""
    logits, y = binary(300, hot=3.0)
    spec = bare(BINARY, fit_temperature(logits, y, BINARY))
    cold, warm = judge(spec, logits, y, temperature=1.0), judge(spec, logits, y)
    one = np.ones((1, 300))
    assert rank_auroc(y == 1, cold.probs[:, 1], one) == rank_auroc(y == 1, warm.probs[:, 1], one)
    assert case_loss(BINARY, logits, y, spec.calibration.temperature).mean() < case_loss(BINARY, logits, y, 1.0).mean()
