"""One network for every kind of case: an encoder for each kind of input, their views joined, one linear head.

    net = MODELS["case-net"](channels=F, size=(), outputs=1, blocks=[...], encoders={"timeline": {"name": "gru"}})
    net.fit(train)                       # scaling of the encoders, before the first step

Late fusion: an input that is missing gives an all-NaN block, whose view is replaced by a learned constant with an
indicator beside it. While training, whole inputs are hidden at random, so that the network learns to do without.

Where an answer depends on how inputs fit each other (a drug and its target), `joint` layers stand between the views and
the head; and where few values of an input make many cases, `once` encodes equal ones of a batch once.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medserve.data.fields import SCALARS, Block
from medserve.models.nets import MODELS, Features
from medserve.models.record import DEFAULT_ENCODER, ENCODERS, as_blocks, fit_rows, take_block
from medserve.types import ArraySamples, Samples

_NAN = 3e5  # stands for NaN where rows are compared


class CaseNet(nn.Module):
    """views: (blocks, encoder) in order; the scalar inputs are one view together."""

    def __init__(
        self,
        blocks: Sequence[Block],
        outputs: int,
        encoders: Mapping[str, Any],
        dropout: float,
        hide: float,
        joint: Sequence[int] = (),
        once: bool = False,
    ) -> None:
        super().__init__()
        scalars = [b for b in blocks if b.kind in SCALARS]  # all of them share one encoder, "columns"
        self.groups = [scalars] if scalars else []
        self.groups += [[b] for b in blocks if b.kind not in SCALARS]
        made: list[Any] = []
        for group in self.groups:
            kind = "columns" if group[0].kind in SCALARS else group[0].kind
            said = dict(encoders.get(kind, {}))
            name = said.pop("name", None) or DEFAULT_ENCODER[kind]
            encoder = ENCODERS[name](group if kind == "columns" else group[0], **said)
            alike = next((e for e in made if type(e) is type(encoder) and hasattr(e, "share")), None)
            if alike is not None:  # several texts, one pretrained encoder
                encoder.share(alike)
            made.append(encoder)
        self.encoders = nn.ModuleList(made)
        width = sum(e.width for e in made)
        self.absent = nn.ParameterList([nn.Parameter(torch.zeros(e.width)) for e in made])
        self.hide = hide if len(made) > 1 else 0.0
        self.once = once
        self.dropout = nn.Dropout(dropout)
        widths = [width + (len(made) if len(made) > 1 else 0), *joint]
        steps = [[nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)] for a, b in itertools.pairwise(widths)]
        self.joint = nn.Sequential(*itertools.chain(*steps)) if joint else self.dropout
        self.head = nn.Linear(widths[-1], outputs)

    def fit(self, train: Samples) -> None:
        """Scaling of every encoder, on the training part."""
        records = fit_rows(train)
        for group, encoder in zip(self.groups, self.encoders, strict=True):
            encoder.fit(_input(records, group))  # type: ignore[operator]

    @property
    def frozen(self) -> list[bool]:
        """Which encoders learn nothing: their view of a case can then be computed once."""
        return [bool(getattr(encoder, "frozen", False)) for encoder in self.encoders]

    @property
    def top(self) -> "Top":
        """The part that learns, on what `views_of` gives; it shares its weights with this network."""
        return Top(self)

    @torch.no_grad()
    def views_of(self, samples: Samples, batch: int = 256) -> ArraySamples:
        """(N, F') records in which a view stands in the place of each input whose encoder is frozen, NaN where the
        input is missing; the targets stay."""
        was = self.training
        self.eval()
        rows = np.arange(len(samples))
        parts = [
            self._half_way(torch.from_numpy(samples.take(rows[i : i + batch]))) for i in range(0, len(rows), batch)
        ]
        self.train(was)
        return ArraySamples(torch.cat(parts).numpy(), np.asarray(samples.targets))

    def _half_way(self, record: Tensor) -> Tensor:
        made = []
        for group, encoder, frozen in zip(self.groups, self.encoders, self.frozen, strict=True):
            x = _input(record, group)
            if frozen:
                known = torch.isfinite(x.flatten(1)).any(1, keepdim=True)
                x = torch.where(known, getattr(encoder, "once", encoder)(x), torch.nan)
            made.append(x.flatten(1))
        return torch.cat(made, 1)

    def forward(self, record: Tensor) -> Features:
        """record: (B, F) float32 with NaN."""
        joined = self.view(record)
        return Features(self.head(self.joint(joined)), self._known(joined), None)

    def _known(self, joined: Tensor) -> Tensor:
        """The views alone, NaN where an input is missing: what was not sent is not unlike the training data."""
        widths = [encoder.width for encoder in self.encoders]
        if len(widths) == 1:
            return joined
        *views, there = joined.split([*widths, len(widths)], 1)  # type: ignore[arg-type, no-untyped-call]
        return torch.cat([v.where(there[:, i : i + 1] > 0, torch.nan) for i, v in enumerate(views)], 1)

    def view(self, record: Tensor) -> Tensor:
        """(B, width): the views of all inputs side by side, and which of them were there."""
        return _joined(self, [_input(record, group) for group in self.groups], [False] * len(self.groups))


class Top(nn.Module):
    """What learns of a case-net, with the views of its frozen encoders given. forward: (B, F') of `views_of`."""

    def __init__(self, whole: CaseNet) -> None:
        super().__init__()
        self.seen, self.shapes = whole.frozen, []
        for group, encoder, seen in zip(whole.groups, whole.encoders, self.seen, strict=True):
            shape = (len(group),) if len(group) > 1 else tuple(group[0].shape)
            self.shapes.append((encoder.width,) if seen else shape)
        self.encoders = nn.ModuleList(
            nn.Identity() if seen else e for e, seen in zip(whole.encoders, self.seen, strict=True)
        )
        self.absent, self.joint, self.head = whole.absent, whole.joint, whole.head
        self.hide, self.once = whole.hide, whole.once

    def forward(self, record: Tensor) -> Features:
        parts = record.split([math.prod(shape) for shape in self.shapes], 1)
        view = _joined(self, [x.reshape(-1, *s) for x, s in zip(parts, self.shapes, strict=True)], self.seen)
        return Features(self.head(self.joint(view)), view, None)


def _joined(net: "CaseNet | Top", inputs: Sequence[Tensor], seen: Sequence[bool]) -> Tensor:
    """inputs: one a group; seen: whether it is the encoder's view already, NaN where the input is missing."""
    views, there = [], []
    for x, done, encoder, absent in zip(inputs, seen, net.encoders, net.absent, strict=True):
        known = torch.isfinite(x.flatten(1)).any(1, keepdim=True)
        if net.training and net.hide:
            known = known & (torch.rand(len(x), 1, device=x.device) >= net.hide)
        seen_as = x if done else each_once(x, encoder) if net.once else encoder(x)
        views.append(torch.where(known, seen_as, absent))
        there.append(known.to(x.dtype))
    return torch.cat([*views, *there] if len(views) > 1 else views, 1)


def each_once(x: Tensor, encoder: Callable[[Tensor], Tensor]) -> Tensor:
    """`encoder` of a batch (B, ...) with NaN, in which equal rows are encoded once.

    Rows are told apart by a sum with fixed weights, which is checked: should two different rows share theirs, every
    row is encoded. In an exported graph all are.
    """
    if torch.compiler.is_exporting() or len(x) < 2:
        return encoder(x)
    flat = torch.nan_to_num(x.flatten(1), nan=-_NAN)
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(flat.shape[1], dtype=torch.float64, generator=generator).to(x.device)
    keys, which = torch.unique(flat.double() @ weights, return_inverse=True)
    if 2 * len(keys) > len(x):
        return encoder(x)
    first = torch.full((len(keys),), len(x), device=x.device).scatter_reduce(
        0, which, torch.arange(len(x), device=x.device), "amin"
    )
    if not torch.equal(flat[first][which], flat):
        return encoder(x)
    return encoder(x[first])[which]


def _input(record: Tensor, group: Sequence[Block]) -> Tensor:
    parts = [take_block(record, block) for block in group]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


@MODELS.register("case-net")
def case_net(
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    blocks: Sequence[Any] = (),
    encoders: Mapping[str, Any] | None = None,
    dropout: float = 0.2,
    hide: float = 0.1,
    joint: Sequence[int] = (),
    once: bool = False,
) -> nn.Module:
    """
    Args:
        channels: length of the record.
        encoders: kind ("columns", "timeline", "waveform", "text", "image" ...) -> {"name": ..., parameters}.
        hide: share of the cases from which one whole view is hidden while training, where there are several.
        joint: widths of the layers between the views and the head. once: encode equal inputs of a batch once.
    """
    return CaseNet(as_blocks(blocks), outputs, encoders or {}, dropout, hide, joint, once)
