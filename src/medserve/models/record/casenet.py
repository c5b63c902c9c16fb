"""One network for every kind of case: an encoder for each kind of input, their views joined, one linear head.

    net = MODELS["case-net"](channels=F, size=(), outputs=1, blocks=[...], encoders={"timeline": {"name": "gru"}})
    net.fit(train)                       # scaling of the encoders, before the first step

Late fusion: an input that is missing gives an all-NaN block, whose view is replaced by a learned constant with an
indicator beside it. While training, whole inputs are hidden at random, so that the network learns to do without.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medserve.data.fields import SCALARS, Block
from medserve.models.nets import MODELS, Features
from medserve.models.record import DEFAULT_ENCODER, ENCODERS, as_blocks, fit_rows, take_block
from medserve.types import ArraySamples, Samples


class CaseNet(nn.Module):
    """views: (blocks, encoder) in order; the scalar inputs are one view together."""

    def __init__(
        self, blocks: Sequence[Block], outputs: int, encoders: Mapping[str, Any], dropout: float, hide: float
    ) -> None:
        super().__init__()
        scalars = [b for b in blocks if b.kind in SCALARS]  # all of them share one encoder, "columns"
        self.groups = [scalars] if scalars else []
        self.groups += [[b] for b in blocks if b.kind not in SCALARS]
        made = []
        for group in self.groups:
            kind = "columns" if group[0].kind in SCALARS else group[0].kind
            said = dict(encoders.get(kind, {}))
            name = said.pop("name", None) or DEFAULT_ENCODER[kind]
            made.append(ENCODERS[name](group if kind == "columns" else group[0], **said))
        self.encoders = nn.ModuleList(made)
        width = sum(e.width for e in made)
        self.absent = nn.ParameterList([nn.Parameter(torch.zeros(e.width)) for e in made])
        self.hide = hide if len(made) > 1 else 0.0
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width + (len(made) if len(made) > 1 else 0), outputs)

    def fit(self, train: Samples) -> None:
        """Scaling of every encoder, on the training part."""
        records = fit_rows(train)
        for group, encoder in zip(self.groups, self.encoders, strict=True):
            encoder.fit(_input(records, group))  # type: ignore[operator]

    @property
    def frozen(self) -> bool:
        """Whether nothing but the head learns: every case's view can then be computed once."""
        return all(getattr(encoder, "frozen", False) for encoder in self.encoders)

    @property
    def top(self) -> "Top":
        """The part that learns on views, sharing its weights with this network."""
        return Top(self.dropout, self.head)

    @torch.no_grad()
    def views_of(self, samples: Samples, batch: int = 256) -> ArraySamples:
        """Every case's joined views, in evaluation mode; the targets stay."""
        was = self.training
        self.eval()
        rows = np.arange(len(samples))
        parts = [self.view(torch.from_numpy(samples.take(rows[i : i + batch]))) for i in range(0, len(rows), batch)]
        self.train(was)
        return ArraySamples(torch.cat(parts).numpy(), np.asarray(samples.targets))

    def forward(self, record: Tensor) -> Features:
        """record: (B, F) float32 with NaN."""
        joined = self.view(record)
        return Features(self.head(self.dropout(joined)), joined, None)

    def view(self, record: Tensor) -> Tensor:
        """(B, width): the views of all inputs side by side, and which of them were there."""
        views, there = [], []
        for group, encoder, absent in zip(self.groups, self.encoders, self.absent, strict=True):
            x = _input(record, group)
            known = torch.isfinite(x.flatten(1)).any(1, keepdim=True)
            if self.training and self.hide:
                known = known & (torch.rand(len(x), 1, device=x.device) >= self.hide)
            views.append(torch.where(known, encoder(x), absent))
            there.append(known.to(record.dtype))
        return torch.cat([*views, *there] if len(views) > 1 else views, 1)


class Top(nn.Module):
    """A head on views that are known already. forward: (B, width)."""

    def __init__(self, dropout: nn.Dropout, head: nn.Linear) -> None:
        super().__init__()
        self.dropout, self.head = dropout, head

    def forward(self, view: Tensor) -> Features:
        return Features(self.head(self.dropout(view)), view, None)


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
) -> nn.Module:
    """
    Args:
        channels: length of the record.
        encoders: kind ("columns", "timeline", "waveform", "text", "image") -> {"name": ..., parameters}.
        hide: share of the cases from which one whole view is hidden while training, where there are several.
    """
    return CaseNet(as_blocks(blocks), outputs, encoders or {}, dropout, hide)
