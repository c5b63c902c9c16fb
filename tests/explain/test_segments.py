"""Segments of a waveform: the map points at what was planted, moves with it, and leaves the rest alone."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medserve.data.fields import Block
from medserve.explain.segments import bridged, render_strip, segments, windows
from medserve.models.record.waveform import WaveCnn

LEADS, SAMPLES, HZ = 2, 192, 75.0
BLOCK = Block("ecg", "waveform", 3, (LEADS, SAMPLES), {"leads": ["II", "V1"], "hz": HZ})
FEATURES = 3 + LEADS * SAMPLES + 1  # numbers stand before and behind the strip


def strips(count: int, planted: bool, seed: int, at=None) -> tuple[np.ndarray, np.ndarray]:
    """Narrow beats in both leads; `planted` adds one wide beat in the second. (count, 2, 192), and where it is."""
    random = np.random.default_rng(seed)
    time = np.arange(SAMPLES)
    x = random.normal(0, 0.05, (count, LEADS, SAMPLES))
    phase = random.uniform(0, 48, (count, 1))
    x += np.exp(-0.5 * (((time - phase) % 48 - 24) / 1.5) ** 2)[:, None]
    where = random.integers(30, SAMPLES - 30, count) if at is None else np.full(count, at)
    if planted:
        x[:, 1] += np.exp(-0.5 * ((time - where[:, None]) / 6) ** 2)
    return x.astype(np.float32), where


def records(x: np.ndarray) -> np.ndarray:
    rest = np.full((len(x), 3), np.nan, np.float32)
    return np.concatenate([rest, x.reshape(len(x), -1), rest[:, :1]], 1)


@pytest.fixture(scope="module")
def score():
    """A small network that learned to tell strips with the wide beat from strips without."""
    torch.manual_seed(0)
    x = torch.tensor(np.concatenate([strips(60, True, 1)[0], strips(60, False, 2)[0]]))
    y = (torch.arange(120) < 60).float()
    net = nn.Sequential(WaveCnn(BLOCK, dial="tiny"), nn.Linear(32, 1)).train()
    net[0].fit(x)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(60):
        rows = torch.randperm(120)[:24]
        loss = nn.functional.binary_cross_entropy_with_logits(net(x[rows])[:, 0], y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()

    @torch.no_grad()
    def call(rows: np.ndarray) -> np.ndarray:
        assert rows.dtype == np.float32 and rows.shape[1] == FEATURES
        return net(torch.from_numpy(rows[:, 3:-1].reshape(-1, LEADS, SAMPLES))).numpy()

    return call


def test_the_map_points_at_the_planted_beat(score):
    """Its largest value is in the right lead, on the beat, in at least 60 % of strips; chance would be 7 %."""
    x, where = strips(20, True, 7)
    cut, hits = windows(SAMPLES, HZ), 0
    for row, at in zip(records(x), where, strict=True):
        heat = segments(score, row, BLOCK, 0)
        assert heat.shape == (LEADS, len(cut)) and heat.dtype == np.float32
        lead, window = np.unravel_index(heat.argmax(), heat.shape)
        low, high = cut[window]
        hits += int(lead == 1 and low - 12 <= at <= high + 12)
    assert hits >= 12


def test_the_map_moves_with_the_beat(score):
    """The same strip with the beat 8 windows later: the same map, 8 windows later (rho >= .8)."""
    cut = windows(SAMPLES, HZ)
    step = (cut[0][1] - cut[0][0]) * 8
    assert {high - low for low, high in cut} == {cut[0][1]}
    for seed in range(3):
        early = strips(1, True, seed, at=60)[0]
        late = strips(1, False, seed)[0] + strips(1, True, seed, at=60 + step)[0] - strips(1, False, seed)[0]
        one, two = (segments(score, records(x)[0], BLOCK, 0)[1] for x in (early, late))
        assert np.corrcoef(one[:-8], two[8:])[0, 1] >= 0.8


def test_by_hand():
    """A score that sums one window of one lead: that window has the whole fall, the other lead none."""
    cut = windows(SAMPLES, HZ)
    low, high = cut[10]
    x = np.zeros((1, LEADS, SAMPLES), np.float32)
    x[0, 0, low:high] = 1

    def total(rows):
        strip = rows[:, 3:-1].reshape(-1, LEADS, SAMPLES)
        return np.stack([np.zeros(len(rows)), strip[:, 0, low:high].sum(1)], 1)

    heat = segments(total, records(x)[0], BLOCK, 1)
    assert heat[0].argmax() == 10 and heat[0, 10] == pytest.approx(high - low)
    assert np.abs(heat[1]).max() == 0 and np.abs(heat[0, :8]).max() == np.abs(heat[0, 13:]).max() == 0
    assert segments(total, records(x)[0], BLOCK, 1, together=True)[1, 10] == heat[0, 10]


def test_a_hidden_stretch_is_a_line():
    """Between the means of its neighbours; gaps stay gaps, and the strip itself is not changed."""
    strip = np.array([1, 1, 1, 9, np.nan, 9, 5, 5, 5], np.float32)
    out = bridged(strip, 3, 6)
    assert out[3] == pytest.approx(2) and np.isnan(out[4]) and out[5] == pytest.approx(4) and strip[3] == 9
    assert bridged(np.float32([3, 5]), 0, 2).tolist() == [4, 4]
    assert np.isnan(bridged(np.full(4, np.nan, np.float32), 1, 3)).all()


def test_windows_cover_the_strip():
    """80 ms for a long strip, 1/32 for a short one, one sample at least."""
    for samples, hz in ((2500, 250.0), (96, 0.0), (20, 0.0), (1, 0.0), (500_000, 250.0)):
        cut = windows(samples, hz)
        assert cut[0][0] == 0 and cut[-1][1] == samples
        assert all(a[1] == b[0] and a[0] < a[1] for a, b in zip(cut, cut[1:], strict=False))
    assert len(windows(2500, 250.0)) == 125 and len(windows(96, 0.0)) == 32 and len(windows(20, 0.0)) == 20


def test_nothing_recorded_is_no_evidence():
    """Windows without samples, and whole leads, stay at 0."""
    x = np.full((1, LEADS, SAMPLES), np.nan, np.float32)
    x[0, 0, 60:] = 1
    heat = segments(lambda rows: np.random.default_rng(0).normal(size=(len(rows), 1)), records(x)[0], BLOCK, 0)
    assert (heat[1] == 0).all() and (heat[0, :8] == 0).all() and (heat[0, 20:] != 0).any()


def test_the_picture():
    """Shaded where the evidence is, white elsewhere; gaps, flat leads and unknown rates are drawn too."""
    x = strips(1, True, 3, at=100)[0][0]
    heat = np.zeros((LEADS, 32), np.float32)
    heat[1, 16], heat[0, 3] = 2.0, -5.0
    picture = Image.open(io.BytesIO(render_strip(x, HZ, heat, leads=["II", "V1"], unit="mV", width=640, row=100)))
    assert picture.format == "PNG" and picture.size == (640, 224)
    pixels = np.asarray(picture).astype(int)
    orange = (pixels[..., 0] - pixels[..., 2] > 150).nonzero()
    assert len(orange[0]) and orange[0].min() > 100  # the second row only
    middle = (orange[1].mean() - 60) / (640 - 68)
    assert middle == pytest.approx(16.5 / 32, abs=0.02)
    assert (pixels.sum(2) < 300).any()
    gaps = x.copy()
    gaps[0], gaps[1, 50:100] = np.nan, np.nan
    for values, hz in ((gaps, 0.0), (np.ones((1, 1), np.float32), 0.0), (np.zeros((1, 100_000), np.float32), 500.0)):
        assert render_strip(values, hz, np.zeros((len(values), 4), np.float32))[:4] == b"\x89PNG"
