"""The gate lets a faithful engine pass and stops one that changes answers, also where only few people are hit."""

import numpy as np
import pytest
from graphs import conv_spec
from tiny_package import spec

from medserve.models.spec import Calibration, OutputSpec
from medserve.runtime.gate import flips, gate
from medserve.types import Scores

RNG = np.random.default_rng(5)
N = 600
TARGETS = (RNG.random(N) < 0.4).astype(np.int64)
LOGITS = (2.0 * TARGETS - 0.6 + RNG.normal(size=N) * 1.2).astype(np.float32)[:, None]
LOGITS[np.abs(LOGITS) < 0.02] = 0.05  # nobody stands on the threshold itself
TRUTH = Scores(LOGITS)
ALL = conv_spec()


def test_a_benign_twin_passes():
    """Rounding of a thousandth moves nothing; the figures are small and all there."""
    found = gate(ALL, TRUTH, Scores(LOGITS + RNG.normal(size=LOGITS.shape) * 1e-3), TARGETS)
    assert found.passed and found.codes == [] and found.n == N
    assert set(found.figures) == {"auroc_drop", "ece_rise", "flipped"}
    assert found.figures["auroc_drop"]["high"] < 0.001 and found.figures["flipped"]["value"] == 0.0


def test_a_bad_engine_is_refused_on_every_count():
    """Noise as large as the signal: worse ranking, worse calibration, other answers."""
    found = gate(ALL, TRUTH, Scores(LOGITS + RNG.normal(size=LOGITS.shape) * 3), TARGETS)
    assert not found.passed and set(found.codes) == {"gate-auroc", "gate-ece", "gate-flips"}


def test_overconfidence_alone_is_refused():
    """Five times the logit: the same order, the same side of 0.5, another probability."""
    found = gate(ALL, TRUTH, Scores(LOGITS * 5), TARGETS)
    assert found.codes == ["gate-ece"]


def test_a_worse_order_alone_is_refused_up_to_the_end_of_its_interval():
    """Positives and negatives are mixed on their own side of the threshold; no label changes."""
    moved = LOGITS.copy()
    up = np.flatnonzero(LOGITS[:, 0] > 0)
    moved[up, 0] = moved[RNG.permutation(up), 0]
    found = gate(ALL, TRUTH, Scores(moved), TARGETS)
    assert "gate-auroc" in found.codes and "gate-flips" not in found.codes


def test_one_small_group_is_enough_to_refuse():
    """Two flips in 600 cases are few; two of the 60 of one site are not. A name with a slash is only a name."""
    site = np.array(["A/B"] * 60 + ["north"] * (N - 80) + ["tiny"] * 20)
    moved = LOGITS.copy()
    moved[:2] = -np.sign(LOGITS[:2]) * 0.05
    assert gate(ALL, TRUTH, Scores(moved), TARGETS).codes == []
    found = gate(ALL, TRUTH, Scores(moved), TARGETS, groups={"site": site})
    assert "gate-flips:site=A/B" in found.codes and not found.passed
    assert found.figures["site=A/B/flipped"]["value"] == pytest.approx(2 / 60)
    assert found.unjudged == ["site=tiny"]


def test_too_few_cases_show_nothing():
    """Even an engine that is exactly the reference."""
    found = gate(ALL, TRUTH[:99], TRUTH[:99], TARGETS[:99])
    assert (found.passed, found.codes, found.n) == (False, ["gate-few-cases"], 99)
    assert gate(ALL, TRUTH[:100], TRUTH[:100], TARGETS[:100]).passed


def test_a_refusal_that_was_none_is_another_answer():
    """The distance decides whether the case is in scope."""
    near, far = np.full(N, 0.1, np.float32), np.full(N, 0.1, np.float32)
    far[:6] = 0.2  # the threshold of this package is 0.15
    assert flips(spec(), Scores(LOGITS, near), Scores(LOGITS, far)).sum() == 6


def test_the_case_that_a_limit_was_taken_from_does_not_count():
    """It stands on the limit to the last bit; its neighbours count."""
    distance = np.linspace(0.01, 0.14, N).astype(np.float32)
    distance[0], distance[1] = 0.15, 0.1499
    moved = distance.copy()
    moved[0] = 0.1500001
    assert not flips(spec(), Scores(LOGITS, distance), Scores(LOGITS, moved)).any()
    moved[1] = 0.1501
    assert flips(spec(), Scores(LOGITS, distance), Scores(LOGITS, moved)).nonzero()[0].tolist() == [1]


def test_a_number_may_move_by_a_hundredth_of_its_spread():
    """sd 10: 0.05 of a logit are half a unit, five times the limit; 0.005 are not."""
    number = conv_spec(output=OutputSpec(task="number", labels=["age"], unit="a", mean=50.0, sd=10.0))
    targets = (LOGITS[:, 0] * 10 + 50 + RNG.normal(size=N)).astype(np.float32)
    assert gate(number, TRUTH, Scores(LOGITS + np.float32(0.005)), targets).passed
    assert gate(number, TRUTH, Scores(LOGITS + np.float32(0.05)), targets).codes == ["gate-flips"]


def test_several_labels_and_words():
    """Macro AUROC for several labels; for words there is no rule, so nothing passes."""
    labels = ["a", "b", "c"]
    logits = RNG.normal(size=(N, 3)).astype(np.float32) * 2
    targets = (logits + RNG.normal(size=(N, 3))).argmax(axis=1)
    many = conv_spec(output=OutputSpec(task="multiclass", labels=labels))
    assert gate(many, Scores(logits), Scores(logits + np.float32(1e-4)), targets).passed
    assert not gate(many, Scores(logits), Scores(logits[:, ::-1].copy()), targets).passed
    marks = spec(output=OutputSpec(task="tags", labels=["X"], words=4), calibration=Calibration())
    assert gate(marks, TRUTH, TRUTH, TARGETS).codes == ["gate-no-rule"]
