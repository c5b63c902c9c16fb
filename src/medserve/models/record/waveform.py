"""Waveforms for models of records: learned views for networks, and fixed named features for the simple models.

    view = ENCODERS["wave-cnn"](block, dial="small")       # block: kind "waveform", shape (leads, samples)
    view.fit(strips)                                       # (N, leads, samples) of the training part: scaling
    view(strips)                                           # (B, view.width)

"wave-cnn" is a compact one-dimensional residual network, "wave-cnn-gru" reads its maps in order, and "rocket" counts
how often fixed random kernels are exceeded: nothing but a projection is fitted, which suits tiny data sets. While
training, every encoder changes its strips a little (`augment`). No change mirrors a strip: an upside-down beat is a
finding.
Sources: Strodthoff et al., JBHI 2021 (small residual networks equal large ones on PTB-XL); Wang et al., IJCNN 2017 (the
kernel lengths); Zhang, ICML 2019 (blur before a stride); Dempster et al., MiniRocket, KDD 2021 (the fixed kernels).
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medserve.data.fields import Block
from medserve.errors import Usage
from medserve.models.record import DEFAULT_ENCODER, ENCODERS, FEATURES

DIALS = {"tiny": 16, "small": 32, "medium": 64}  # channels of the first stage
KERNELS = (7, 5, 3)  # of the three convolutions of a block
SHORTEST = 64  # samples below which maps are not halved again
ROCKET_WIDTH = 128
POINTS = 64  # samples a lead that the simple models see
BANDS = ((0.5, 4.0), (4.0, 8.0), (8.0, 15.0), (15.0, 40.0))  # Hz: T and P waves, slow and fast parts of the QRS


class Change(NamedTuple):
    """How much a strip may change while training, every range symmetric around none.

    shift: of the strip's length. stretch: of its speed. amplitude: relative, one factor a strip. noise: of a lead's
    standard deviation. drop: probability that a lead is lost, where there are several.
    """

    shift: float = 0.05
    stretch: float = 0.05
    amplitude: float = 0.15
    noise: float = 0.05
    drop: float = 0.1


def augment_waves(x: Tensor, generator: torch.Generator | None = None, change: Change = Change()) -> Tensor:  # noqa: B008
    """Strips as another recording of the same heart might have given them.

    Args:
        x: (B, leads, samples), standardised, without NaN. The values at the ends are repeated where a shift needs them.
        generator: None draws from torch's own state, which the training loop seeds.

    Returns: like `x`; the same order, the same polarity.
    """
    many, leads, samples = x.shape

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=generator, device=x.device) - 1

    middle = (samples - 1) / 2
    at = torch.arange(samples, device=x.device, dtype=x.dtype)
    at = (at - middle) * (1 + change.stretch * uniform(many, 1)) + middle + change.shift * samples * uniform(many, 1)
    at = at.clamp(0, samples - 1)
    low = at.floor().long().clamp(max=max(0, samples - 2))
    part = (at - low)[:, None]
    low = low[:, None].expand(many, leads, samples)
    x = torch.gather(x, 2, low) * (1 - part) + torch.gather(x, 2, (low + 1).clamp(max=samples - 1)) * part
    x = x * (1 + change.amplitude * uniform(many, 1, 1))
    x = x + change.noise * torch.randn(x.shape, generator=generator, device=x.device)
    if leads > 1 and change.drop:
        lost = torch.rand(many, leads, 1, generator=generator, device=x.device) < change.drop
        x = torch.where(lost & ~lost.all(1, keepdim=True), 0.0, x)
    return x


class Strips(nn.Module):
    """What every encoder begins with: scaling per lead, NaN to 0, and the changes of training.

    forward: (B, leads, samples) with NaN -> (B, leads + 1, samples); the last channel says where anything was recorded.

    Args:
        per_strip: each strip's own mean and deviation as well: amplitude is then no evidence.
        changes: what `augment` does, by the names of `Change`; None: nothing.
    """

    def __init__(self, leads: int, per_strip: bool = False, changes: dict[str, float] | None = None) -> None:
        super().__init__()
        self.per_strip = per_strip
        self.change = Change(**(changes or {}))
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(leads, 1))
        self.register_buffer("scale", torch.ones(leads, 1))

    def fit(self, x: Tensor) -> None:
        for lead in range(x.shape[1]):
            known = x[:, lead][torch.isfinite(x[:, lead])].double()
            if len(known):
                self.mean[lead] = known.mean()
                spread = float(known.std(correction=0))
                self.scale[lead] = 1 / spread if spread > 1e-9 else 1.0

    def plain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled without NaN, and where something was recorded: (B, leads, samples), (B, 1, samples)."""
        missing = torch.isnan(x)
        z = torch.where(missing, 0.0, (x - self.mean) * self.scale).clamp(-20, 20)
        if self.per_strip:
            known = (~missing).to(z.dtype)
            count = known.sum(2, keepdim=True).clamp_min(1.0)
            z = (z - z.sum(2, keepdim=True) / count) * known
            z = z / (z.square().sum(2, keepdim=True) / count + 1e-4).sqrt()
        return z, (~missing).any(1, keepdim=True).to(z.dtype)

    def augment(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """`augment_waves` on scaled strips; `forward` calls it in training mode."""
        return augment_waves(x, generator, self.change)

    def forward(self, x: Tensor) -> Tensor:
        z, there = self.plain(x)
        if self.training:
            z = self.augment(z) * there
        return torch.cat([z, there], 1)


class Blur(nn.Module):
    """Halves the time axis after a (1, 2, 1) / 4 filter, so that a beat's place among the samples matters less."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernel: Tensor
        self.register_buffer("kernel", torch.tensor([0.25, 0.5, 0.25]).expand(channels, 1, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.kernel, stride=2, padding=1, groups=x.shape[1])


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, halve: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for at, kernel in enumerate(KERNELS):
            layers += [
                nn.Conv1d(inside if at == 0 else outside, outside, kernel, padding=kernel // 2, bias=False),
                nn.BatchNorm1d(outside),
            ]
            if at < len(KERNELS) - 1:
                layers.append(nn.ReLU())
        self.body = nn.Sequential(*layers)
        self.short: nn.Module = nn.Identity()
        if inside != outside:
            self.short = nn.Sequential(nn.Conv1d(inside, outside, 1, bias=False), nn.BatchNorm1d(outside))
        self.halve: nn.Module = Blur(outside) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.halve(F.relu(self.body(x) + self.short(x)))


def _maps(leads: int, samples: int, first: int) -> tuple[nn.Sequential, int]:
    """The residual trunk: (B, leads + 1, samples) -> (B, channels, about SHORTEST samples or fewer), and its channels.

    Three stages of first, 2 first and 2 first channels; long strips get as many more as they need halvings, at most 6.
    """
    halvings = _halvings(samples)
    stages = max(3, halvings)
    inside, layers = leads + 1, []
    for stage in range(stages):
        outside = first if stage == 0 or (stage == 1 and stages > 4) else 2 * first
        layers.append(Residual(inside, outside, stage < halvings))
        inside = outside
    return nn.Sequential(*layers), inside


def _halvings(samples: int) -> int:
    return min(6, max(0, int(math.log2(max(1, samples) / SHORTEST))))


def _first(dial: str) -> int:
    if dial not in DIALS:
        raise Usage("unknown-dial", f"No dial {dial!r} (known: {', '.join(DIALS)}).")
    return DIALS[dial]


@ENCODERS.register("wave-cnn")
class WaveCnn(nn.Module):
    """A residual network over time, its maps averaged over the recorded part.

    Args:
        dial: "tiny", "small" or "medium".
        per_strip, changes: as `Strips` has them.
    """

    def __init__(
        self, block: Block, dial: str = "small", per_strip: bool = False, changes: dict[str, float] | None = None
    ) -> None:
        super().__init__()
        leads, samples = block.shape
        self.strips = Strips(leads, per_strip, changes)
        self.trunk, self.width = _maps(leads, samples, _first(dial))

    def fit(self, x: Tensor) -> None:
        self.strips.fit(x)

    def augment(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.strips.augment(x, generator)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.trunk(self.strips(x))
        there = F.interpolate((~torch.isnan(x)).any(1, keepdim=True).to(maps.dtype), maps.shape[-1])
        return (maps * there).sum(2) / there.sum(2).clamp_min(1.0)


@ENCODERS.register("wave-cnn-gru")
class WaveCnnGru(nn.Module):
    """The same maps, read in order by a recurrent layer: for findings that lie in the rhythm.

    Args:
        steps: most steps that are read, the maps averaged between them; the exported graph holds one copy a step.
    """

    def __init__(
        self,
        block: Block,
        dial: str = "small",
        hidden: int = 64,
        steps: int = 32,
        per_strip: bool = False,
        changes: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        leads, samples = block.shape
        self.strips = Strips(leads, per_strip, changes)
        self.trunk, channels = _maps(leads, samples, _first(dial))
        self.stride = -(-math.ceil(samples / 2 ** _halvings(samples)) // steps)
        self.gru = nn.GRU(channels, hidden, batch_first=True, bidirectional=True)
        self.width = channels + 2 * hidden

    def fit(self, x: Tensor) -> None:
        self.strips.fit(x)

    def augment(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.strips.augment(x, generator)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.trunk(self.strips(x))
        read = F.avg_pool1d(maps, self.stride, ceil_mode=True)
        return torch.cat([maps.mean(2), self.gru(read.transpose(1, 2))[0].mean(1)], 1)


class Kernels(nn.Module):
    """MiniRocket's 84 kernels at several dilations: how much of a strip exceeds thresholds drawn from training strips.

    forward: (B, leads, samples) without NaN -> (B, count), each in [0, 1].

    A threshold is a narrow ramp here and no step, so that the last bit of a sum cannot flip it: the exported graph and
    the weights then give the same numbers.
    Source: Dempster, Schmidt and Webb, "MiniRocket", KDD 2021; the numbers 84, 9, and the dilations are theirs.
    """

    RAMP = 0.1  # of the kernel's standard deviation

    def __init__(self, leads: int, samples: int, per_kernel: int, seed: int = 0) -> None:
        super().__init__()
        self.leads, self.samples = leads, samples
        self.plan = _dilations(samples, per_kernel)
        random = torch.Generator().manual_seed(seed)
        triples = list(itertools.combinations(range(9), 3))
        base = torch.full((len(triples), 9), -1.0)
        for row, triple in enumerate(triples):
            base[row, list(triple)] = 2.0
        self.biases: list[str] = []
        for at, (_, count) in enumerate(self.plan):
            mix = torch.zeros(len(triples), leads)
            for row in range(len(triples)):  # each kernel looks at a few leads together
                most = min(leads, 9)
                some = int(2 ** (float(torch.rand(1, generator=random)) * math.log2(most + 1)))
                mix[row, torch.randperm(leads, generator=random)[: max(1, min(some, most))]] = 1.0
            self.register_buffer(f"weight{at}", base[:, None] * mix[:, :, None])
            self.register_buffer(f"bias{at}", torch.zeros(len(triples), count))
            self.register_buffer(f"slope{at}", torch.ones(len(triples), 1))
            self.register_buffer(f"share{at}", _shares(samples, self.plan[at][0], len(triples), at))
        self.count = len(triples) * sum(count for _, count in self.plan)

    def _responses(self, x: Tensor, at: int) -> Tensor:
        dilation = self.plan[at][0]
        return F.conv1d(x, getattr(self, f"weight{at}"), padding=4 * dilation, dilation=dilation)

    @torch.no_grad()
    def fit(self, x: Tensor, seed: int = 0) -> None:
        """Thresholds: quantiles of the responses of training strips, spread by the golden ratio."""
        random = torch.Generator().manual_seed(seed)
        golden, drawn = (5**0.5 + 1) / 2, 0
        for at, (_, count) in enumerate(self.plan):
            some = x[torch.randperm(len(x), generator=random)[:256]]
            out = self._responses(some, at)
            bias = getattr(self, f"bias{at}")
            for row in range(bias.shape[0]):
                places = torch.tensor([(drawn + i + 1) * golden % 1 for i in range(count)])
                drawn += count
                strip = out[int(torch.randint(len(some), (1,), generator=random)), row]
                bias[row] = torch.quantile(strip, places)
            spread = out.std(dim=(0, 2), correction=0).clamp_min(1e-4)
            getattr(self, f"slope{at}").copy_((1 / (self.RAMP * spread))[:, None])

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for at, (_, count) in enumerate(self.plan):
            slope, share = getattr(self, f"slope{at}"), getattr(self, f"share{at}")
            out = self._responses(x, at) * slope + 0.5
            bias = getattr(self, f"bias{at}") * slope
            parts += [((out - bias[:, i : i + 1]).clamp(0, 1) * share).sum(2) for i in range(count)]
        return torch.cat(parts, 1)


def _dilations(samples: int, per_kernel: int) -> list[tuple[int, int]]:
    """[(dilation, thresholds)]: at most 32 dilations, exponentially spaced up to the strip's length."""
    most = min(per_kernel, 32)
    top = math.log2(max(1.0, (samples - 1) / 8))
    steps = [int(2 ** (top * i / max(1, most - 1))) for i in range(most)]
    factor = per_kernel / most
    found = [(d, max(1, int(steps.count(d) * factor))) for d in sorted(set(steps))]
    spare = per_kernel - sum(count for _, count in found)
    return [(d, count + (1 if i < spare else 0)) for i, (d, count) in enumerate(found)]


def _shares(samples: int, dilation: int, kernels: int, at: int) -> Tensor:
    """(kernels, samples) what each place counts: every second kernel looks only where it does not hang over an end."""
    share = torch.full((kernels, samples), 1 / samples)
    edge = 4 * dilation
    if samples > 2 * edge:
        inner = torch.zeros(samples)
        inner[edge : samples - edge] = 1 / (samples - 2 * edge)
        share[(at + 1) % 2 :: 2] = inner
    return share


@ENCODERS.register("rocket")
class Rocket(nn.Module):
    """Fixed random kernels, standardised and projected on the training part's own directions; nothing is trained.

    The view of a strip never changes (`frozen`), so a training loop may compute it once for each case.

    Args:
        per_kernel: thresholds of each of the 84 kernels; 119 makes the 9,996 features of the publication.
        width: of the view; fewer directions than that exist where training holds fewer cases.
    """

    def __init__(
        self, block: Block, per_kernel: int = 119, width: int = ROCKET_WIDTH, per_strip: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        leads, samples = block.shape
        self.strips = Strips(leads, per_strip)
        self.kernels = Kernels(leads, samples, per_kernel, seed)
        self.width, self.seed, self.frozen = width, seed, True
        self.mean: Tensor
        self.axes: Tensor
        self.register_buffer("mean", torch.zeros(self.kernels.count))
        self.register_buffer("axes", torch.zeros(self.kernels.count, width))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Scaling, thresholds, and the principal axes of the standardised features (of at most 2,000 strips)."""
        self.strips.fit(x)
        if len(x) > 2000:
            x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))[:2000]]
        z = self.strips.plain(x)[0]
        self.kernels.fit(z, self.seed)
        features = torch.cat([self.kernels(part) for part in z.split(64)])
        self.mean.copy_(features.mean(0))
        spread = features.std(0, correction=0)
        scale = torch.where(spread > 1e-6, 1 / spread.clamp_min(1e-6), 0.0)
        _, sizes, axes = torch.linalg.svd((features - self.mean) * scale, full_matrices=False)
        kept = axes[: min(self.width, int((sizes > 1e-4 * sizes[0]).sum()))].T
        self.axes.zero_()
        # all views together have the variance that as many independent standard numbers would have
        self.axes[:, : kept.shape[1]] = scale[:, None] * kept * (kept.shape[1] / self.kernels.count) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        return (self.kernels(self.strips.plain(x)[0]) - self.mean) @ self.axes


@FEATURES.register("waveform")
class WaveFeatures(nn.Module):
    """Each lead in numbers: level, spread, extremes, quantiles, roughness, spectrum, and its shape in `POINTS` points.

    All of a lead's columns are NaN where it was not recorded. Bands are in Hz where the sampling rate is known, else in
    eighths of it. Without padding the points are the strip's own samples, averaged pairwise or more.
    """

    QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

    def __init__(self, block: Block) -> None:
        super().__init__()
        leads, self.samples = block.shape
        hz = float(block.facts.get("hz") or 0)
        words = [str(w) for w in block.facts.get("leads", [])] or [f"lead {i + 1}" for i in range(leads)]
        self.points = min(POINTS, self.samples)
        edges = [i * self.samples // self.points for i in range(self.points + 1)]
        pool = torch.zeros(self.samples, self.points)
        for i, (low, high) in enumerate(itertools.pairwise(edges)):
            pool[low:high, i] = 1 / (high - low)
        cosine, sine, bands, called = _spectrum(self.samples, hz)
        self.pool: Tensor
        self.cosine: Tensor
        self.sine: Tensor
        self.bands: Tensor
        self.register_buffer("pool", pool)
        self.register_buffer("cosine", cosine)
        self.register_buffer("sine", sine)
        self.register_buffer("bands", bands)
        said = ["mean", "standard deviation", "lowest", "highest"]
        said += [f"{100 * q:.0f} % quantile" for q in self.QUANTILES]
        said += ["mean step", *called]
        for low, high in itertools.pairwise(edges):
            said.append(f"{low / hz:.2f} to {high / hz:.2f} s" if hz else f"samples {low + 1} to {high}")
        self.names = tuple(f"{block.name} {word}, {what}" for word in words for what in said)

    def fit(self, x: Tensor, targets: Tensor | None) -> None:
        """Nothing is learned."""

    def forward(self, x: Tensor) -> Tensor:
        known = ~torch.isnan(x)
        count = known.sum(2, keepdim=True)
        there, n = count > 0, count.clamp_min(1).to(x.dtype)
        z = torch.where(known, x, 0.0)
        mean = z.sum(2, keepdim=True) / n
        centred = torch.where(known, x - mean, 0.0)
        spread = (centred.square().sum(2, keepdim=True) / n).sqrt()
        # missing samples sort to the end, where no quantile of the recorded ones looks
        ordered = torch.sort(torch.where(known, x, torch.finfo(x.dtype).max), 2).values
        ranks = [((n - 1) * q).round().long().clamp(0, self.samples - 1) for q in (0.0, 1.0, *self.QUANTILES)]
        quantiles = [torch.gather(ordered, 2, rank) for rank in ranks]
        steps = (centred[:, :, 1:] - centred[:, :, :-1]).abs().sum(2, keepdim=True) / n
        power = (centred @ self.cosine).square() + (centred @ self.sine).square()
        power = power @ self.bands
        bands = power / (power.sum(2, keepdim=True) + 1e-9)
        points = torch.where((known.to(x.dtype) @ self.pool) > 0, z @ self.pool, torch.nan)
        parts = [mean, spread, *quantiles, steps, bands]
        whole = torch.where(there, torch.cat(parts, 2), torch.nan)
        return torch.cat([whole, points], 2).flatten(1)


def _spectrum(samples: int, hz: float) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Cosines and sines (samples, frequencies), each frequency's band (frequencies, bands), and the bands' names.

    A plain matrix product: at most 256 frequencies, and every export knows it.
    """
    rate = hz or 1.0
    limits: tuple[tuple[float, float], ...] = BANDS if hz else tuple((i / 16, (i + 1) / 16) for i in range(8))
    limits = tuple((low, high) for low, high in limits if low < rate / 2)
    top = min(rate / 2, limits[-1][1])
    many = min(256, max(8, samples // 2))
    frequency = torch.arange(1, many + 1, dtype=torch.float64) * top / many
    phase = 2 * math.pi * torch.arange(samples, dtype=torch.float64)[:, None] * frequency / rate
    bands = torch.stack([((frequency > low) & (frequency <= high)).double() for low, high in limits], 1)
    named = [f"share of power {low:g} to {high:g} {'Hz' if hz else 'of the sampling rate'}" for low, high in limits]
    return phase.cos().float(), phase.sin().float(), bands.float(), named


DEFAULT_ENCODER["waveform"] = "wave-cnn"
