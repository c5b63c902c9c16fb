"""Networks for the medicines of a visit: what repeats, and what interactions cost."""

import numpy as np
import pytest
import torch

from medserve.data.fields import Block
from medserve.errors import BadPackage
from medserve.models.build import build_net
from medserve.models.heads import Head
from medserve.models.record.medicines import Repeated
from medserve.models.spec import Medicines, OutputSpec
from medserve.questions.medicines import interaction_rate
from medserve.training.loop import fit, predict_logits
from medserve.training.plan import Plan
from medserve.training.repeat import fit_repeat
from medserve.types import ArraySamples, Named

CODES = ["icd10|M54", "atc|A", "atc|B", "rxnorm|1"]
WRITTEN = [["atc|A", "rxnorm|1"], ["atc|B"]]
BINS = 4
FACTS = {"names": CODES, "codes": CODES, "units": [None] * 4, "present": [True] * 4, "hours": 1.0, "visits": BINS}
BLOCK = Block("history", "timeline", 0, (len(CODES), BINS), FACTS)


def _record(*events: tuple[int, int]) -> np.ndarray:
    """(F,) with a 1 at each (channel, column)."""
    grid = np.full((len(CODES), BINS), np.nan, np.float32)
    for channel, column in events:
        grid[channel, column] = 1
    return grid.ravel()


def test_the_last_visit_with_medicines_is_found():
    """Two codes of one medicine are one; the present visit, the last column, has no part in it."""
    records = [_record((1, 0), (2, 1), (0, 2)), _record((3, 2), (2, 0), (1, 3)), _record((0, 2), (2, 3)), _record()]
    last, ever = Repeated([BLOCK], WRITTEN)(torch.from_numpy(np.stack(records)))
    assert last.tolist() == [[0, 1], [1, 0], [0, 0], [0, 0]]
    assert ever.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    with pytest.raises(BadPackage):
        Repeated([Block("age", "number", 0, (1,), {})], WRITTEN)


def test_to_repeat_is_decided_at_one_half_whatever_the_shares():
    """Half of what stood there is given again, and half of what did not: the sets are still those of the last visit."""
    records = np.stack([_record((1, 1)), _record((1, 1)), _record((2, 2)), _record((2, 2))])
    targets = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    named = Named("repeat-last", {"blocks": [BLOCK], "medicines": WRITTEN})
    _, net, told = fit_repeat(named, ArraySamples(records, targets))
    logits = predict_logits(net, ArraySamples(records, targets), (0.0,), (1.0,))
    assert (logits > 0).tolist() == [[True, False], [True, False], [False, True], [False, True]]
    assert told["stays"] == told["begins"] == 0.5


def _planted(rate: float, pairs: list[tuple[int, int]], weight: bool) -> tuple[float, float]:
    """A net on visits of pain: to 6 in 10 both medicines are given, to the others the first. Returns: the rate of its
    sets, and the rate of the data."""
    random = np.random.default_rng(0)
    records = np.stack([_record((0, 3))] * 400)
    both = random.random(400) < 0.6
    targets = np.stack([np.ones(400), both], 1).astype(np.float32)
    output = OutputSpec(task="multilabel", labels=["a", "b"],
                        medicines=Medicines(written=WRITTEN, pairs=pairs, rate=rate) if weight else None)  # fmt: skip
    torch.manual_seed(0)
    params = {
        "blocks": [BLOCK],
        "medicines": WRITTEN,
        "encoders": {"timeline": {"name": "gru", "hidden": 8, "summary": 0}},
    }
    net = build_net(Named("medicine-net", params), channels=records.shape[1], size=(), outputs=2)
    samples = ArraySamples(records, targets)
    net.fit(samples)
    plan = Plan(
        epochs=6, batch=64, augment=None, balance=False, label_smoothing=0.0, precision="float32", rate_peak=2e-2
    )
    fit(net, Head(output), samples, samples, mean=(0.0,), std=(1.0,), plan=plan)
    sets = predict_logits(net, samples, (0.0,), (1.0,)) > 0
    return interaction_rate(sets, [(0, 1)]), interaction_rate(targets == 1, [(0, 1)])


def test_the_loss_keeps_interactions_at_the_rate_of_the_data():
    """Plain cross-entropy gives both medicines to everybody; with interactions fined above the rate that the data
    should have had, nobody is given both; where the data's own rate is the limit, nothing changes."""
    assert _planted(0.0, [], weight=False) == (1.0, 1.0)
    assert np.isnan(_planted(0.05, [(0, 1)], weight=True)[0])
    assert _planted(1.0, [(0, 1)], weight=True)[0] == 1.0
