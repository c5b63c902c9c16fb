"""Metrics: equal to hand sums and to scikit-learn, and equal to themselves on repeated cases."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from medserve.evaluation.calibrate import bare
from medserve.models.spec import Calibration, InputSpec, ModelSpec, OperatingPoint, OutputSpec
from medserve.questions.metrics import METRICS, Judged, decisions, judge, measure, point
from medserve.questions.survival import with_baseline
from medserve.questions.weighted import calibration_line, expected_calibration_error, logit
from medserve.types import Named


def spec_of(task, labels, **kwargs):
    return ModelSpec(
        name="m",
        inputs=[InputSpec(shape=(1, 8, 8))],
        output=OutputSpec(task=task, labels=list(labels)),
        transforms=[],
        architecture=Named("residual"),
        **kwargs,
    )


def drawn(task, n=300, k=4, seed=0):
    """A judged part whose scores carry signal, with ties."""
    rng = np.random.default_rng(seed)
    if task == "number":
        y = rng.normal(size=n)
        return Judged(task, ("v",), y, np.round(y + rng.normal(size=n), 1)[:, None], np.zeros(n, np.int64))
    if task == "binary":
        y = rng.integers(0, 2, n)
        p = np.round(1 / (1 + np.exp(-(2 * y - 1 + rng.normal(size=n) * 1.5))), 2)
        return Judged(task, ("no", "yes"), y, np.stack([1 - p, p], 1), (p >= 0.4).astype(np.int64))
    if task == "survival":
        z = rng.normal(size=n)
        t, c = rng.exponential(30 / np.exp(z)), rng.uniform(1, 60, n)
        y = np.stack([np.maximum(np.round(np.minimum(t, c)), 1), t <= c], 1).astype(float)
        output = with_baseline(OutputSpec(task=task, labels=["death"]), z[:, None], y)
        return judge(bare(output), np.round(z, 1)[:, None], y)
    labels = tuple("abcd"[:k])
    if task == "multilabel":
        y = rng.integers(0, 2, (n, k)).astype(float)
        p = 1 / (1 + np.exp(-(2 * y - 1 + rng.normal(size=(n, k)))))
        y[rng.random((n, k)) < 0.1] = np.nan
        return Judged(task, labels, y, p, p >= 0.5)
    y = rng.integers(0, k, n)
    z = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[y]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return Judged(task, labels, y, p, p.argmax(1))


def test_a_confusion_counted_by_hand():
    """3 true alerts, 1 miss, 1 false alarm, 5 true rests: the textbook figures."""
    y = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    said = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0])
    p = np.where(said == 1, 0.8, 0.2)
    got = point(Judged("binary", ("no", "yes"), y, np.stack([1 - p, p], 1), said))
    assert got["sensitivity"] == pytest.approx(3 / 4)
    assert got["specificity"] == pytest.approx(5 / 6)
    assert got["ppv"] == pytest.approx(3 / 4)
    assert got["npv"] == pytest.approx(5 / 6)
    assert got["accuracy"] == pytest.approx(8 / 10)
    assert got["balanced_accuracy"] == pytest.approx((3 / 4 + 5 / 6) / 2)
    assert got["f1"] == pytest.approx(6 / 8)
    assert got["brier"] == pytest.approx((8 * 0.04 + 2 * 0.64) / 10)
    assert got["log_loss"] == pytest.approx(-(8 * np.log(0.8) + 2 * np.log(0.2)) / 10)
    # two groups of equal scores: 18 of 24 pairs won or lost outright, the rest tie
    assert got["auroc"] == pytest.approx((3 * 5 + 0.5 * (3 * 1 + 1 * 5)) / 24)
    # bins of .2 (1 of 6 happened) and .8 (3 of 4 happened)
    assert got["ece"] == pytest.approx(0.6 * abs(0.2 - 1 / 6) + 0.4 * abs(0.8 - 0.75))


def test_binary_equals_the_field_s_implementation():
    """AUROC, AUPRC, log-loss, Brier, F1, MCC, balanced accuracy equal scikit-learn's, ties included."""
    j = drawn("binary")
    y, p, c, got = j.targets, j.probs[:, 1], j.chosen, point(j)
    assert got["auroc"] == pytest.approx(sk.roc_auc_score(y, p))
    assert got["auprc"] == pytest.approx(sk.average_precision_score(y, p))
    assert got["log_loss"] == pytest.approx(sk.log_loss(y, p))
    assert got["brier"] == pytest.approx(sk.brier_score_loss(y, p))
    assert got["f1"] == pytest.approx(sk.f1_score(y, c))
    assert got["mcc"] == pytest.approx(sk.matthews_corrcoef(y, c))
    assert got["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, c))
    line = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(p)[:, None], y)
    assert got["calibration_slope"] == pytest.approx(line.coef_[0, 0], rel=1e-4)


def test_several_classes_equal_the_field_s_implementation():
    """Macro one-vs-rest AUROC, log-loss, MCC and quadratic kappa equal scikit-learn's."""
    j = drawn("multiclass")
    got = point(j)
    assert got["auroc"] == pytest.approx(sk.roc_auc_score(j.targets, j.probs, multi_class="ovr"))
    assert got["log_loss"] == pytest.approx(sk.log_loss(j.targets, j.probs))
    assert got["mcc"] == pytest.approx(sk.matthews_corrcoef(j.targets, j.chosen))
    o = drawn("ordinal", seed=3)
    kappa = sk.cohen_kappa_score(o.targets, o.chosen, weights="quadratic")
    assert point(o)["quadratic_kappa"] == pytest.approx(kappa)


def test_unknown_labels_are_left_out():
    """A NaN target is neither a positive nor a negative: each label is measured where it is known."""
    j = drawn("multilabel")
    known = ~np.isnan(j.targets)
    each = [sk.roc_auc_score(j.targets[known[:, k], k], j.probs[known[:, k], k]) for k in range(4)]
    aps = [sk.average_precision_score(j.targets[known[:, k], k], j.probs[known[:, k], k]) for k in range(4)]
    got = point(j)
    assert got["auroc"] == pytest.approx(np.mean(each))
    assert got["auprc"] == pytest.approx(np.mean(aps))
    assert got["log_loss"] == pytest.approx(sk.log_loss(j.targets[known], j.probs[known]))


def test_a_number_equals_the_field_s_implementation():
    """MAE, RMSE, R2 and Spearman equal scikit-learn's and SciPy's."""
    j = drawn("number")
    v, got = j.probs[:, 0], point(j)
    assert got["mae"] == pytest.approx(sk.mean_absolute_error(j.targets, v))
    assert got["rmse"] == pytest.approx(sk.root_mean_squared_error(j.targets, v))
    assert got["r2"] == pytest.approx(sk.r2_score(j.targets, v))
    assert got["spearman"] == pytest.approx(spearmanr(v, j.targets).statistic)


def test_concordance_counts_every_pair_of_different_numbers():
    """Against all pairs one by one: equal truths are no pair, equal predictions half of one; and lifelines agrees."""
    from lifelines.utils import concordance_index

    random = np.random.default_rng(3)
    y, p = random.integers(0, 12, 150) / 2, random.integers(0, 40, 150) / 4
    j = Judged("number", ("y",), y, p[:, None], np.zeros(150, np.int64))
    more = y[:, None] > y[None]
    wins = (p[:, None] > p[None]) + 0.5 * (p[:, None] == p[None])
    assert point(j)["concordance"] == pytest.approx(wins[more].mean())
    assert point(j)["concordance"] == pytest.approx(concordance_index(y, p))
    flat = Judged("number", ("y",), np.ones(5), np.ones((5, 1)), np.zeros(5, np.int64))
    assert np.isnan(point(flat)["concordance"])


def test_squared_error_and_rm2_are_those_of_the_affinity_papers():
    """MSE is scikit-learn's; rm2 is DeepDTA's formula, written out."""
    j = drawn("number")
    y, p, got = j.targets, j.probs[:, 0], point(j)
    slope = (y * p).sum() / (p * p).sum()
    r02 = 1 - ((y - slope * p) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    r2 = np.corrcoef(y, p)[0, 1] ** 2
    assert got["mse"] == pytest.approx(sk.mean_squared_error(y, p))
    assert got["rm2"] == pytest.approx(r2 * (1 - np.sqrt(abs(r2**2 - r02**2))))


@pytest.mark.parametrize("task", list(METRICS))
def test_a_weight_is_a_repeated_case(task):
    """A case of weight 3 counts as three equal cases, and weight 0 as none, in every metric of every task."""
    j = drawn(task, n=60)
    times = np.random.default_rng(1).integers(0, 4, len(j))
    weighted = measure(j, times[None].astype(float))
    repeated = point(j.keep(np.repeat(np.arange(len(j)), times)))
    for name, value in repeated.items():
        assert weighted[name][0] == pytest.approx(value, rel=1e-9, nan_ok=True), name


def test_what_is_undefined_is_nan_and_not_zero():
    """Without positives there is no AUROC, no sensitivity, no slope."""
    p = np.linspace(0.1, 0.9, 9)
    got = point(Judged("binary", ("no", "yes"), np.zeros(9, int), np.stack([1 - p, p], 1), (p > 0.5).astype(int)))
    assert all(np.isnan(got[name]) for name in ("auroc", "auprc", "sensitivity", "calibration_slope"))
    assert got["specificity"] == pytest.approx(5 / 9)


def test_the_slope_of_an_overconfident_model_is_below_one():
    """Logits doubled: the slope halves; the shift stays 0."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=20_000) * 1.5
    y = rng.random(20_000) < 1 / (1 + np.exp(-z))
    a, b = calibration_line(y, 1 / (1 + np.exp(-2 * z)), np.ones((1, len(z))))
    assert b[0] == pytest.approx(0.5, abs=0.03) and a[0] == pytest.approx(0, abs=0.05)


def test_separable_scores_have_no_slope():
    """A model that separates the part has no finite slope: NaN, not a large number."""
    p = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    a, b = calibration_line(p > 0.5, p, np.ones((1, 6)))
    assert np.isnan(a[0]) and np.isnan(b[0])


def test_ece_of_a_certain_wrong_model_is_one():
    """Stated 1, never true: the largest error there is; the last bin holds 1.0."""
    value = expected_calibration_error(np.ones(5), np.zeros(5, bool), np.ones((1, 5)), bins=15)
    assert value[0] == pytest.approx(1.0)


def test_measured_decisions_are_the_served_ones():
    """A part is judged at the operating point of the package, on the calibrated probability."""
    spec = spec_of(
        "binary",
        ["no", "yes"],
        calibration=Calibration(method="temperature", temperature=2.0, n=200),
        operating_points=[OperatingPoint(label="yes", threshold=0.7, rule="declared")],
    )
    logits = np.array([[1.0], [2.0], [-1.0]])  # halved: .62, .73, .38
    assert judge(spec, logits, np.array([1, 1, 0])).chosen.tolist() == [0, 1, 0]
    several = spec_of("multilabel", ["a", "b"], operating_points=[OperatingPoint(label="b", threshold=0.2, rule="x")])
    assert decisions(several, np.array([[0.6, 0.3], [0.4, 0.1]])).tolist() == [[True, True], [False, False]]
