"""Which of two models is offered: the simpler one, unless the other is better by decision and by rank."""

import numpy as np

from medserve.models.spec import OutputSpec
from medserve.road.choose import choose

BINARY = OutputSpec(task="binary", labels=["no", "yes"])


def logit(p):
    return np.log(p / (1 - p))[:, None].astype(np.float32)


def test_a_better_decision_with_a_worse_order_is_not_better():
    """One in eight is ill. The recipe alarms more often at 0.5, the baseline tells them apart: the baseline stays."""
    random = np.random.default_rng(0)
    y = (np.arange(800) % 8 == 0).astype(int)
    risk = y * 1.5 + random.normal(size=800)
    cautious = logit(1 / (1 + np.exp(-(risk - 3.5))))
    eager = logit(1 / (1 + np.exp(-(risk + random.normal(size=800) * 1.2 - 0.8))))
    found = choose(BINARY, eager, cautious, y, np.arange(800), on="val", draws=200)
    assert found["difference"]["low"] > 0 and found["auroc"]["recipe"] < found["auroc"]["baseline"]
    assert found["chosen"] == "baseline"


def test_a_model_that_is_better_in_both_is_offered():
    """Better decisions and a better order."""
    random = np.random.default_rng(1)
    y = random.integers(0, 2, 600)
    good, bad = (logit(1 / (1 + np.exp(-(y * 2 - 1) * 1.5 + random.normal(size=600) * s))) for s in (0.5, 4.0))
    assert choose(BINARY, good, bad, y, np.arange(600), on="val", draws=200)["chosen"] == "recipe"
    assert choose(BINARY, good, good, y, np.arange(600), on="val", draws=200)["chosen"] == "baseline"
