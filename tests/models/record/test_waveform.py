"""Waveform encoders and features: scaled on training, blind to what is missing, the same numbers in the graph."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from medserve.data.fields import Block
from medserve.models.record import DEFAULT_ENCODER, ENCODERS, FEATURES
from medserve.models.record.waveform import Kernels, augment_waves

LEADS, SAMPLES = 2, 160
BLOCK = Block("ecg", "waveform", 0, (LEADS, SAMPLES), {"leads": ["II", "V1"], "hz": 80.0, "unit": "mV"})
SMALL = {
    "wave-cnn": {"dial": "tiny"},
    "wave-cnn-gru": {"dial": "tiny", "hidden": 8, "steps": 3},
    "rocket": {"per_kernel": 5},
}


def beats(count: int, seed: int = 0, wide: float = 0.0) -> torch.Tensor:
    """(count, 2, 160): a beat somewhere, with noise; `wide` stretches it."""
    random = np.random.default_rng(seed)
    at = random.uniform(60, 100, (count, 1, 1))
    time = np.arange(SAMPLES)
    shape = np.exp(-0.5 * ((time - at) / (3 + wide)) ** 2) * np.array([1.0, 0.6])[:, None]
    return torch.tensor(5 + 0.4 * (shape + random.normal(0, 0.05, shape.shape)), dtype=torch.float32)


@pytest.fixture(params=sorted(SMALL))
def encoder(request):
    torch.manual_seed(0)
    made = ENCODERS[request.param](BLOCK, **SMALL[request.param])
    made.fit(beats(40))
    return made


def exported(module: nn.Module, x: torch.Tensor, path):
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (x[:3],),
            dynamo=True,
            opset_version=20,
            input_names=["x"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            external_data=False,
            verbose=False,
        )
    program.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda v: session.run(None, {"x": v.numpy()})[0]


def test_the_graph_gives_the_same_numbers(encoder, tmp_path):
    """Within 1e-4 at any batch size, NaN included."""
    x = torch.cat([beats(6, 1), beats(5, 2, wide=4)])
    x[2, 1] = torch.nan
    x[3, :, :30] = torch.nan
    run = exported(encoder, x, tmp_path / "graph.onnx")
    with torch.no_grad():
        for some in (x, x[:1], x[2:4]):
            assert np.abs(run(some) - encoder(some).numpy()).max() <= 1e-4
            assert encoder(some).shape == (len(some), encoder.width)


def test_missing_parts_give_a_finite_view(encoder):
    """Half a strip, one lead, or nothing at all."""
    x = beats(4, 3)
    x[0], x[1, 0], x[2, :, :80] = torch.nan, torch.nan, torch.nan
    encoder.eval()
    assert torch.isfinite(encoder(x)).all()
    encoder.train()
    out = encoder(x)
    assert torch.isfinite(out).all()


def test_scaling_stands_in_the_buffers(encoder):
    """Everything fitted is in the state: another instance answers alike, whatever the unit's size."""
    encoder.eval()
    other = type(encoder)(BLOCK, **SMALL[next(k for k, v in ENCODERS.items() if v is type(encoder))])
    other.load_state_dict(encoder.state_dict())
    x = beats(3, 4)
    assert torch.equal(encoder(x), other.eval()(x))


def test_the_encoder_learns_a_wide_beat_from_a_narrow_one(encoder):
    """Forty strips of each are enough."""
    torch.manual_seed(1)
    x, y = torch.cat([beats(40, 5), beats(40, 6, wide=3)]), torch.arange(80) // 40
    encoder.fit(x)
    net = nn.Sequential(encoder, nn.Linear(encoder.width, 1)).train()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(60):
        rows = torch.randperm(80)[:24]
        loss = nn.functional.binary_cross_entropy_with_logits(net(x[rows])[:, 0], y[rows].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    test = torch.cat([beats(30, 7), beats(30, 8, wide=3)])
    with torch.no_grad():
        right = ((net(test)[:, 0] > 0).long() == torch.arange(60) // 30).float().mean()
    assert right >= 0.9


def test_training_changes_strips_and_never_turns_them_over():
    """Shift, stretch, size, noise, a lost lead; the beat stays upright; the same generator, the same strips."""
    x = (beats(200, 9) - 5) / 0.4
    first = augment_waves(x, torch.Generator().manual_seed(1))
    again = augment_waves(x, torch.Generator().manual_seed(1))
    assert torch.equal(first, again) and first.shape == x.shape and not torch.equal(first, x)
    lead = first[:, 0]
    assert (lead.amax(1) > -lead.amin(1)).all() or ((lead == 0).all(1) | (lead.amax(1) > -lead.amin(1))).all()
    moved = (lead.argmax(1) - x[:, 0].argmax(1)).abs()
    assert moved.float().mean() > 1 and moved.float().quantile(0.9) < 0.1 * SAMPLES
    lost = (first == 0).all(2)
    assert 0.02 < lost.float().mean() < 0.2 and not lost.all(1).any()
    assert augment_waves(torch.ones(2, 1, 1)).shape == (2, 1, 1)


def test_nothing_is_changed_outside_training(encoder):
    """The same strip, the same view."""
    encoder.eval()
    x = beats(3, 4)
    assert torch.equal(encoder(x), encoder(x))


def test_rocket_counts_what_the_publication_counts():
    """One lead, one dilation, by hand: responses of the kernel with 2 at places 0, 1, 2 and -1 elsewhere."""
    kernels = Kernels(1, 9, 1)
    x = torch.arange(9.0)[None, None]
    assert kernels.plan == [(1, 1)] and kernels.count == 84
    out = kernels._responses(x, 0)[0, 0]
    assert out[4] == 2 * (0 + 1 + 2) - (3 + 4 + 5 + 6 + 7 + 8)  # the middle: no padding
    kernels.fit(x)
    share = kernels(x)
    assert ((share >= 0) & (share <= 1)).all()
    assert Kernels(12, 2500, 119).count == 84 * 119 and Kernels(1, 96, 119).count == 84 * 119


def test_features_are_named_numbers(tmp_path):
    """By hand for a strip that is known; NaN for a lead that is not there; the same in the graph."""
    features = FEATURES["waveform"](BLOCK)
    features.fit(beats(5), None)
    x = beats(4, 2)
    x[1, 0] = torch.nan
    x[3] = torch.nan
    x[0, 0] = torch.sin(2 * torch.pi * 10 * torch.arange(SAMPLES) / 80)  # 10 Hz
    out = features(x)
    assert out.shape == (4, len(features.names)) and len(set(features.names)) == len(features.names)
    row = dict(zip(features.names, out[0].tolist(), strict=True))
    assert row["ecg II, mean"] == pytest.approx(0, abs=1e-5)
    assert row["ecg II, standard deviation"] == pytest.approx(0.5**0.5, abs=1e-5)
    assert row["ecg II, lowest"] == pytest.approx(-1) and row["ecg II, highest"] == pytest.approx(1)
    powers = {k: v for k, v in row.items() if k.startswith("ecg II, share")}
    assert max(powers, key=powers.get) == "ecg II, share of power 8 to 15 Hz"
    assert row["ecg II, 0.00 to 0.03 s"] == pytest.approx(float(x[0, 0, :2].mean()), abs=1e-6)
    half = len(features.names) // 2
    assert out[1, :half].isnan().all() and torch.isfinite(out[1, half:]).all() and out[3].isnan().all()
    run = exported(features, x, tmp_path / "features.onnx")
    assert np.allclose(run(x), out.numpy(), atol=1e-4, equal_nan=True)
    short = FEATURES["waveform"](Block("beat", "waveform", 0, (1, 10), {"leads": ["1"], "hz": 0.0}))
    assert short(torch.randn(2, 1, 10)).shape == (2, len(short.names))


def test_the_default():
    """A wave meets the residual network."""
    assert ENCODERS[DEFAULT_ENCODER["waveform"]].__name__ == "WaveCnn"
    with pytest.raises(Exception, match="dial"):
        ENCODERS["wave-cnn"](BLOCK, dial="huge")
