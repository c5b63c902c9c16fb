"""Several models of records whose scores are averaged: forests, networks, or one network from several seeds.

    net = MODELS["record-average"](channels=F, size=(), outputs=1, blocks=[...], members=[{"name", "params"}, ...])

The mean of logits (of numbers: of standardised values). The embedding, by which distance is measured, is the first
member's. Averages of unlike models are seldom worse than the best of them, and of one network from several seeds better
than each.
Source: Breiman, Mach Learn 24:49 (1996); Lakshminarayanan et al., NeurIPS 2017.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medserve.models.nets import MODELS, Features
from medserve.types import Array


class RecordAverage(nn.Module):
    """crossed: see `RecordNet`; here of the validation cases alone, (N_val, outputs), where a member has seen them."""

    crossed: Array | None = None

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, record: Tensor) -> Features:
        found = [member(record) for member in self.members]
        return Features(torch.stack([one.logits for one in found]).mean(0), found[0].embedding, None)


@MODELS.register("record-average")
def record_average(
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    blocks: Sequence[Any] = (),
    members: Sequence[Mapping[str, Any]] = (),
) -> nn.Module:
    """members: catalog entries, {"name", "params"}, whose parameters lack the blocks that all of them share."""
    made = [MODELS[one["name"]](channels, size, outputs, **{**one["params"], "blocks": blocks}) for one in members]
    return RecordAverage(made)
