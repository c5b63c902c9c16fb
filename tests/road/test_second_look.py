"""Where the held-out cases cannot tell recipe and baseline apart, the training part is asked once more."""

import numpy as np
import pytest

from medserve.progress import SILENT
from medserve.road import offer
from medserve.road.run import Options


def verdict(low, value):
    figures = {"value": value, "low": low, "high": value + 0.1}
    return {"chosen": "recipe" if low > 0 else "baseline", "on": "val and calibration", "n": 40, "difference": figures}


@pytest.mark.parametrize(
    ("low", "value", "options", "looks"),
    [
        (-0.01, 0.02, Options(), 1),  # better, but not for certain
        (0.01, 0.02, Options(), 0),  # decided for the network
        (-0.05, -0.01, Options(), 1),  # worse, but not for certain either
        (-0.25, -0.15, Options(), 0),  # decided for the baseline
        (-0.01, 0.02, Options(max_train_s=20.0), 0),  # a promised time is kept
        (-0.01, 0.02, Options(keep="recipe"), 0),  # a person decided
    ],
)
def test_only_an_open_decision_is_looked_at_twice(monkeypatch, tmp_path, low, value, options, looks):
    """The second look happens once, on a short schedule, and its verdict carries the first."""
    seen = []

    def again(prepared, work, settings, options, progress, *, short=False):
        seen.append(short)
        return {"chosen": "recipe", "on": "3-fold cross-validation", "n": 90, "difference": {}}

    part = type("Part", (), {"name": "val", "targets": np.zeros(2), "groups": np.arange(2)})()
    parts = type("Parts", (), {"val": part, "calibration": part})()
    plain = type("Plain", (), {"output": None})()
    prepared = type("Prepared", (), {"parts": parts, "plain": plain})()
    score = type("Score", (), {"logits": np.zeros((2, 1))})()
    built = [type("Built", (), {"scores": {"val": score}})()] * 2
    monkeypatch.setattr(offer, "_cross_validate", again)
    monkeypatch.setattr(offer, "who", lambda part: part.groups)
    monkeypatch.setattr(offer, "choose", lambda *a, **k: verdict(low, value))
    told = offer.decide(built, prepared, tmp_path, None, options, SILENT)
    assert seen == [True] * looks
    assert ("undecided" in told) == bool(looks)
    if looks:
        assert told["chosen"] == "recipe" and told["undecided"]["difference"]["low"] == low
