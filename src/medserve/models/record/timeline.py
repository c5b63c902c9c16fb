"""Timelines: named features of every channel for the simple models, and encoders over the bins for networks.

    FEATURES["timeline"](block).names          # "Heart rate, last", "Heart rate, mean", ...
    ENCODERS["gru"](block, hidden=32)          # (B, channels, bins) with NaN -> (B, width)

Networks see, for every bin and channel, the last known value (standardised), whether the bin holds one, and for how
long there was none. Source of that triple: Che et al., Sci Rep 8:6085 (2018).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medserve.data.fields import Block
from medserve.models.record import DEFAULT_ENCODER, ENCODERS, FEATURES, Standardise

MEASURED = ("last", "mean", "min", "max", "std", "count", "first", "slope", "hours since last")
ENDS = {"half": 2, "quarter": 4, "eighth": 8}  # one over the share of the window that it ends with
LATE = tuple(f"{what} of the last {end}" for end in ENDS for what in ("mean", "min", "max"))
SINCE = "hours since last"
HAPPENED = ("count", SINCE)
BIG = 3.0e38  # beyond any value, within float32


@FEATURES.register("timeline")
class TimelineFeatures(nn.Module):
    """Eighteen figures of a measured channel, two of one that only tells what happened.

    count: bins that hold a value. std: of the bins' values, NaN below two. slope: least squares, per hour. A timeline
    that is missing as a whole is NaN throughout.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.hours, self.bins = float(block.facts["hours"]), block.shape[1]
        present = list(block.facts["present"])
        said = list(zip(block.facts["names"], present, strict=True))
        self.measured = [at for at, (_, here) in enumerate(said) if not here]
        self.happened = [at for at, (_, here) in enumerate(said) if here]
        names = [said[at][0] for at in self.measured]
        self.names: Sequence[str] = [f"{name}, {what}" for what in MEASURED + LATE for name in names]
        self.names += [f"{said[at][0]}, {what}" for what in HAPPENED for at in self.happened]
        if block.facts.get("visits"):
            self.names = [name.replace(SINCE, "visits since last") for name in self.names]

    def fit(self, x: Tensor, targets: Tensor | None) -> None:
        """Nothing is learned."""

    def forward(self, x: Tensor) -> Tensor:
        known = ~torch.isnan(x)
        seen = known.to(x.dtype)
        at = torch.arange(self.bins, dtype=x.dtype, device=x.device)
        count = seen.sum(2)
        some = count > 0
        last_at = torch.where(known, at, -1.0).amax(2)
        since = torch.where(some, (self.bins - 1 - last_at) * self.hours, torch.nan)
        counted = torch.where(some.any(1, keepdim=True), count, torch.nan)
        parts = []
        if self.measured:
            measured = self._measured(x, known, seen, at, last_at)
            parts = [*measured[:5], counted[:, self.measured], *measured[5:], since[:, self.measured]]
            for share in ENDS.values():
                parts += self._late(x[:, self.measured, -max(1, self.bins // share) :])
        if self.happened:
            parts += [counted[:, self.happened], since[:, self.happened]]
        return torch.cat(parts, 1)

    def _late(self, x: Tensor) -> list[Tensor]:
        """mean, min and max of the bins given; each (B, measured)."""
        known = torch.isfinite(x)
        count = known.sum(2)
        mean = torch.where(known, x, 0.0).sum(2) / count.clamp_min(1).to(x.dtype)
        low, high = torch.where(known, x, BIG).amin(2), torch.where(known, x, -BIG).amax(2)
        return [torch.where(count > 0, value, torch.nan) for value in (mean, low, high)]

    def _measured(self, x: Tensor, known: Tensor, seen: Tensor, at: Tensor, last_at: Tensor) -> list[Tensor]:
        """last, mean, min, max, std, first, slope; each (B, measured)."""
        x, known, seen = x[:, self.measured], known[:, self.measured], seen[:, self.measured]
        filled = torch.where(known, x, 0.0)
        count = seen.sum(2)
        n = count.clamp_min(1.0)
        last = (filled * (at == last_at[:, self.measured].unsqueeze(2))).sum(2)
        first_at = torch.where(known, at, float(self.bins)).amin(2, keepdim=True)
        first = (filled * (at == first_at)).sum(2)
        mean = filled.sum(2) / n
        off = torch.where(known, x - mean.unsqueeze(2), 0.0)
        std = (off.square().sum(2) / (n - 1).clamp_min(1.0)).sqrt()
        time_mean = (seen * at).sum(2) / n
        time_off = seen * (at - time_mean.unsqueeze(2))
        spread = time_off.square().sum(2)
        slope = (time_off * off).sum(2) / spread.clamp_min(1e-6) / self.hours
        low, high = torch.where(known, x, BIG).amin(2), torch.where(known, x, -BIG).amax(2)
        some, two = count > 0, count > 1
        shown = [torch.where(some, value, torch.nan) for value in (last, mean, low, high)]
        return [
            *shown,
            torch.where(two, std, torch.nan),
            torch.where(some, first, torch.nan),
            torch.where(two, slope, torch.nan),
        ]


class Steps(nn.Module):
    """(B, C, T) with NaN -> (B, T, 3C) finite: the last known value, whether the bin holds one, time since one.

    Values are standardised over all bins of the training part and kept within +-`clip`; before the first value they are
    the mean, 0. The time since is log(1 + bins) / log(1 + T).
    """

    def __init__(self, channels: int, bins: int, clip: float = 6.0) -> None:
        super().__init__()
        self.bins, self.clip = bins, clip
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def fit(self, x: Tensor) -> None:
        known = torch.isfinite(x)
        count = known.sum((0, 2)).clamp_min(1)
        mean = torch.where(known, x, 0.0).sum((0, 2), dtype=torch.float64) / count
        off = torch.where(known, x - mean.float()[:, None], 0.0)
        spread = (off.square().sum((0, 2), dtype=torch.float64) / count).sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(spread > 1e-9, 1 / spread.clamp_min(1e-9), 1.0))

    def forward(self, x: Tensor) -> Tensor:
        known = ~torch.isnan(x)
        z = torch.where(known, (x - self.mean[:, None]) * self.scale[:, None], 0.0).clamp(-self.clip, self.clip)
        at = torch.arange(self.bins, device=x.device)
        latest = torch.where(known, at, -1)
        step = 1
        while step < self.bins:  # a running maximum in log2(T) shifts: every engine has them
            before = F.pad(latest[:, :, : self.bins - step], (step, 0), value=-1)
            latest = torch.maximum(latest, before)
            step *= 2
        some = latest >= 0
        value = torch.where(some, torch.gather(z, 2, latest.clamp_min(0)), 0.0)
        waited = torch.where(some, at - latest, at + 1).to(x.dtype)
        since = torch.log1p(waited) / math.log1p(self.bins)
        return torch.cat([value, known.to(x.dtype), since], 1).transpose(1, 2)


class Recurrent(nn.Module):
    """A recurrent network over the bins, and one layer over the named features beside it.

    The view is the last state, the mean of the states in bins that hold anything, and that layer: a small training part
    does not teach a recurrent network what a minimum is.
    """

    def __init__(
        self, block: Block, cell: str, hidden: int, summary: int, dropout: float, summary_dropout: float
    ) -> None:
        super().__init__()
        channels, bins = block.shape
        self.steps = Steps(channels, bins)
        self.drop_in, self.drop_out = nn.Dropout(dropout), nn.Dropout(dropout)
        self.body = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](3 * channels, hidden, batch_first=True)
        self.features = TimelineFeatures(block)
        columns = len(self.features.names)
        self.scale = Standardise(columns, clip=5.0)
        self.summary = summary > 0
        self.layer = nn.Sequential(nn.Dropout(summary_dropout), nn.Linear(2 * columns, max(1, summary)), nn.GELU())
        self.width = 2 * hidden + max(0, summary)

    def fit(self, x: Tensor) -> None:
        self.steps.fit(x)
        self.scale.fit(self.features(x))

    def forward(self, x: Tensor) -> Tensor:
        there = (~torch.isnan(x)).any(1).to(x.dtype).unsqueeze(2)
        states = self.body(self.drop_in(self.steps(x)))[0]
        mean = (states * there).sum(1) / there.sum(1).clamp_min(1.0)
        view = self.drop_out(torch.cat([states[:, -1], mean], 1))
        return torch.cat([view, self.layer(self.scale(self.features(x)))], 1) if self.summary else view


@ENCODERS.register("gru")
def gru(
    block: Block, hidden: int = 32, summary: int = 32, dropout: float = 0.4, summary_dropout: float = 0.6
) -> nn.Module:
    """
    Args:
        hidden: units; two such vectors stand in the view.
        summary: width of the layer over the named features; 0: none.
        dropout: of the steps and of the states. summary_dropout: of the named features.
    """
    return Recurrent(block, "gru", hidden, summary, dropout, summary_dropout)


@ENCODERS.register("lstm")
def lstm(
    block: Block, hidden: int = 32, summary: int = 32, dropout: float = 0.4, summary_dropout: float = 0.6
) -> nn.Module:
    """As "gru", with long short-term memory cells."""
    return Recurrent(block, "lstm", hidden, summary, dropout, summary_dropout)


class Attention(nn.Module):
    """One transformer layer, normalised first. forward: (B, T, D), (B, 1, 1, T) bool of the bins to look at."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.body = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        _, bins, width = x.shape
        mixed = self.mix(self.before(x)).reshape(-1, bins, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        weight = (query @ key.transpose(2, 3)) * (width // self.heads) ** -0.5
        weight = torch.where(seen, weight, -1e4).softmax(3)
        x = x + self.drop(self.out((weight @ value).transpose(1, 2).reshape(-1, bins, width)))
        return x + self.drop(self.body(self.after(x)))


@ENCODERS.register("visit-transformer")
class VisitTransformer(nn.Module):
    """Two layers of attention over the bins that hold anything, each with its hours before the prediction.

    Args:
        width: of a bin's vector; the view has twice as many numbers (the latest bin, and the mean).
    """

    def __init__(self, block: Block, width: int = 64, heads: int = 4, layers: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        channels, bins = block.shape
        self.steps = Steps(channels, bins)
        self.enter = nn.Linear(3 * channels, width)
        self.layers = nn.ModuleList([Attention(width, heads, dropout) for _ in range(layers)])
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(dropout)
        self.width = 2 * width
        self.times: Tensor
        self.register_buffer("times", _waves(bins, width), persistent=False)

    def fit(self, x: Tensor) -> None:
        self.steps.fit(x)

    def forward(self, x: Tensor) -> Tensor:
        there = (~torch.isnan(x)).any(1)
        seen = there[:, None, None, :]
        states = self.drop(self.enter(self.steps(x)) + self.times)
        for layer in self.layers:
            states = layer(states, seen)
        states = self.norm(states)
        weight = there.to(x.dtype).unsqueeze(2)
        mean = (states * weight).sum(1) / weight.sum(1).clamp_min(1.0)
        return self.drop(torch.cat([states[:, -1], mean], 1))


def _waves(bins: int, width: int) -> Tensor:
    """(bins, width): sines and cosines of the bins before the prediction. Source: Vaswani et al. 2017."""
    before = torch.arange(bins - 1, -1, -1, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(1000.0) / width))
    return torch.cat([torch.sin(before * rates), torch.cos(before * rates)], 1)[:, :width]


DEFAULT_ENCODER["timeline"] = "gru"
