"""Features and encoders of timelines."""

import math

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.models.record import DEFAULT_ENCODER, ENCODERS, FEATURES
from medserve.models.record.casenet import case_net
from medserve.models.record.timeline import ENDS, Steps
from medserve.types import ArraySamples

NAMES = ["Heart rate", "Glucose", "Metformin"]
FACTS = {"names": NAMES, "codes": NAMES, "present": [False, False, True], "hours": 2.0}
BLOCK = Block("stay", "timeline", 0, (3, 6), FACTS)
NAN = math.nan
ENCODER_NAMES = ("gru", "lstm", "visit-transformer")


def histories(n: int = 64, bins: int = 6) -> Tensor:
    """Values with gaps; the second case has nothing at all."""
    random = np.random.default_rng(5)
    x = random.normal([[90], [120], [1]], [[10], [40], [0]], (n, 3, bins))
    x[random.random(x.shape) < 0.6] = NAN
    x[1] = NAN
    return torch.tensor(x, dtype=torch.float32)


def test_features_by_hand():
    """Bins of two hours: 80 at the first, 90 at the third, 100 at the fourth; the drug in the second."""
    features = FEATURES["timeline"](BLOCK)
    x = torch.full((2, 3, 6), NAN)
    x[0, 0, [0, 2, 3]] = torch.tensor([80.0, 90.0, 100.0])
    x[0, 2, 1] = 1
    said = dict(zip(features.names, features(x)[0].tolist(), strict=True))
    heart = {what: said[f"Heart rate, {what}"] for what in ("last", "mean", "min", "max", "std", "count", "first")}
    assert heart == {"last": 100, "mean": 90, "min": 80, "max": 100, "std": 10, "count": 3, "first": 80}
    # least squares over bins 0, 2, 3: mean 5/3; sum(t y) - n mean_t mean_y = 480 - 450 = 30 over 14/3 bins^2
    assert said["Heart rate, slope"] == pytest.approx(30 / (14 / 3) / 2)
    assert said["Heart rate, hours since last"] == 4 and said["Metformin, hours since last"] == 8
    assert (said["Metformin, count"], said["Glucose, count"]) == (1, 0)
    assert math.isnan(said["Glucose, last"]) and math.isnan(said["Glucose, hours since last"])
    assert torch.isnan(features(x)[1]).all()
    assert len(features.names) == 2 * 18 + 2 and "Metformin, mean" not in features.names


def test_late_figures_are_of_the_last_half_quarter_and_eighth():
    block = Block("stay", "timeline", 0, (1, 8), {"names": ["Heart rate"], "present": [False], "hours": 6.0})
    features = FEATURES["timeline"](block)
    x = torch.full((2, 1, 8), NAN)
    x[0, 0, [0, 5, 6, 7]] = torch.tensor([40.0, 200.0, 80.0, 90.0])
    x[1, 0, 5] = 70
    said = [dict(zip(features.names, row, strict=True)) for row in features(x).tolist()]
    late = {end: [said[0][f"Heart rate, {what} of the last {end}"] for what in ("mean", "min", "max")] for end in ENDS}
    assert late == {"half": [pytest.approx(370 / 3), 80, 200], "quarter": [85, 80, 90], "eighth": [90, 90, 90]}
    ends = [said[1][f"Heart rate, mean of the last {end}"] for end in ENDS]
    assert ends[0] == said[1]["Heart rate, mean"] == 70 and math.isnan(ends[1]) and math.isnan(ends[2])


def test_large_values_keep_their_minimum_and_maximum():
    """No constant stands in for what is missing."""
    features = FEATURES["timeline"](BLOCK)
    x = torch.full((1, 3, 6), NAN)
    x[0, 0, 1], x[0, 1, 2] = 1e12, -1e12
    said = dict(zip(features.names, features(x)[0].tolist(), strict=True))
    assert said["Heart rate, min"] == said["Heart rate, max"] == said["Heart rate, last"] == pytest.approx(1e12)
    assert said["Glucose, max"] == pytest.approx(-1e12) and math.isnan(said["Glucose, std"])


@pytest.mark.parametrize("bins", [1, 2, 6, 11])
def test_steps_carry_the_last_value_forward(bins):
    """Against a plain loop: value, whether there is one, and log of the bins since."""
    x = histories(8, bins)
    steps = Steps(3, bins)
    steps.fit(x)
    out = steps(x).numpy()
    assert np.isfinite(out).all() and out.shape == (8, bins, 9)
    mean, scale = steps.mean.numpy(), steps.scale.numpy()
    for case in range(8):
        for channel in range(3):
            value, waited = 0.0, 0
            for t in range(bins):
                said = float(x[case, channel, t])
                waited += 1
                if not math.isnan(said):
                    value, waited = (said - mean[channel]) * scale[channel], 0
                expected = (value, float(waited == 0), math.log1p(waited) / math.log1p(bins))
                assert out[case, t, channel::3] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_encoders_give_finite_views(name):
    """Of the width they say, also for a case of which nothing is known, and whatever the batch holds beside it."""
    encoder = ENCODERS[name](BLOCK)
    x = histories()
    encoder.fit(x)
    view = encoder.eval()(x)
    assert view.shape == (64, encoder.width) and torch.isfinite(view).all()
    torch.testing.assert_close(encoder(x[:1]), view[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_encoders_learn_a_trend(name):
    """Rising or falling: the same values in another order."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    sign = random.integers(0, 2, 256)
    x = np.full((256, 3, 6), np.nan, np.float32)
    x[:, 0] = 90 + np.outer(2.0 * sign - 1, np.arange(6) - 2.5) * 4 + random.normal(0, 1, (256, 6))
    x[random.random(x.shape) < 0.2] = np.nan
    alone = {} if name == "visit-transformer" else {"summary": 0}  # the slope among the features would give it away
    net = case_net(18, (), 1, [BLOCK], {"timeline": {"name": name, "dropout": 0.0, **alone}}, dropout=0.0)
    net.fit(ArraySamples(x.reshape(256, -1), sign))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    record, y = torch.from_numpy(x.reshape(256, -1)), torch.from_numpy(sign).float()[:, None]
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net(record[:192]).logits, y[:192]).backward()
        optimizer.step()
    right = ((net.eval()(record[192:]).logits > 0) == (y[192:] > 0)).float().mean()
    assert right > 0.9


class All(nn.Module):
    """Features and encoders in one graph: one export tests them all."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([FEATURES["timeline"](BLOCK), *(ENCODERS[name](BLOCK) for name in ENCODER_NAMES)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(part(x) for part in self.parts)


@pytest.mark.filterwarnings("ignore")
def test_the_exported_graph_gives_the_same_numbers(tmp_path):
    """opset 20, any batch, within 1e-4; a case without events included."""
    net, x = All(), histories()
    for part in net.parts[1:]:
        part.fit(x)
    net.eval()
    program = torch.onnx.export(
        net, (x[:2],), dynamo=True, opset_version=20, external_data=False, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65536)},),
    )  # fmt: skip
    program.save(str(tmp_path / "graph.onnx"), external_data=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"])
    for rows in (1, 2, 64):
        given = session.run(None, {session.get_inputs()[0].name: x[:rows].numpy()})
        for mine, theirs in zip(net(x[:rows]), given, strict=True):
            np.testing.assert_allclose(theirs, mine.detach().numpy(), rtol=1e-4, atol=1e-4)


def test_the_layer_over_the_features_can_be_left_out():
    """And is part of the width."""
    assert (ENCODERS["gru"](BLOCK, hidden=8, summary=5).width, ENCODERS["gru"](BLOCK, hidden=8, summary=0).width) == (
        21,
        16,
    )


def test_a_timeline_is_read_by_a_gru_unless_said_otherwise():
    """The default of recipes."""
    assert DEFAULT_ENCODER["timeline"] == "gru"
