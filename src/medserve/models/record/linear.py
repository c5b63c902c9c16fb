"""One weight a column: logistic, linear or proportional-hazards regression, by the target.

    net = MODELS["record-linear"](channels=F, size=(), outputs=1, blocks=[...])
    net.effects()          # [("age (a)", 0.41), ...]: change of the logit per standard deviation

A missing value counts as the training mean, and a second weight says what its absence means.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.models.nets import MODELS
from medserve.models.record import as_blocks
from medserve.models.record.features import RecordNet


class RecordLinear(RecordNet):
    """Standardised columns and their indicators of absence, times `head.weight`."""

    def __init__(self, blocks: Sequence[Block], outputs: int) -> None:
        super().__init__(blocks)
        self.head = nn.Linear(2 * self.columns, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def logits(self, columns: Tensor, standardised: Tensor) -> Tensor:
        return self.head(standardised)

    @torch.no_grad()
    def effects(self, output: int = 0) -> list[tuple[str, float]]:
        """(column, change of the logit per standard deviation), the largest first; absences that count included."""
        names = self.features.names
        names = [*names, *(f"{name} missing" for name in names)]
        found = [(name, float(w)) for name, w in zip(names, self.head.weight[output], strict=True) if w != 0]
        return sorted(found, key=lambda entry: -abs(entry[1]))


@MODELS.register("record-linear")
def record_linear(channels: int, size: tuple[int, ...], outputs: int, blocks: Sequence[Any] = ()) -> nn.Module:
    """channels: length of the record."""
    return RecordLinear(as_blocks(blocks), outputs)
