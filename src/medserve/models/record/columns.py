"""Numbers and categories: fixed features for the simple models, and an encoder (an MLP) for networks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medserve.data.fields import Block
from medserve.models.record import DEFAULT_ENCODER, ENCODERS, FEATURES, Standardise

ONE_HOT = 33  # levels; a longer list is described by how often and with what target its words were seen


@FEATURES.register("number")
class NumberFeature(nn.Module):
    """The number itself."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        unit = block.facts.get("unit")
        self.names = (f"{block.name} ({unit})" if unit else block.name,)

    def fit(self, x: Tensor, targets: Tensor | None) -> None:
        """Nothing is learned."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@FEATURES.register("category")
class CategoryFeature(nn.Module):
    """One column a level; a long list: one column of smoothed target means and one of frequencies.

    The mean of level l is (sum of y + PRIOR * mean of y) / (n + PRIOR): a rare level says little. It has seen the
    targets of the training part (`supervised`), so a model that learns from it must be shown the cross-fitted column,
    see `RecordFeatures.cross_fitted`.
    """

    PRIOR = 30.0

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.levels = int(block.facts["levels"])
        words = [*block.facts.get("words", []), "other"]
        self.long = self.supervised = self.levels > ONE_HOT
        if self.long:
            self.names: Sequence[str] = (f"{block.name} (risk of its group)", f"{block.name} (how common)")
        else:
            self.names = tuple(f"{block.name} = {word}" for word in words[: self.levels])
        self.table: Tensor
        self.register_buffer("table", torch.full((self.levels if self.long else 0, 2), torch.nan))

    def fit(self, x: Tensor, targets: Tensor | None) -> None:
        """targets: (N,) one number a case, NaN where unknown; None: every level gets the same mean."""
        if not self.long:
            return
        known = torch.isfinite(x[:, 0])
        index = x[known, 0].long()
        y = torch.zeros(len(index)) if targets is None else targets[known].float()
        told = torch.isfinite(y)
        count = torch.bincount(index[told], minlength=self.levels).float()
        total = torch.zeros(self.levels).index_add_(0, index[told], y[told])
        mean = y[told].mean() if told.any() else torch.tensor(0.0)
        self.table[:, 0] = (total + self.PRIOR * mean) / (count + self.PRIOR)
        self.table[:, 1] = torch.bincount(index, minlength=self.levels).float() / max(1, len(index))

    def forward(self, x: Tensor) -> Tensor:
        missing = torch.isnan(x)
        index = torch.where(missing, 0.0, x)[:, 0].long().clamp(0, self.levels - 1)
        rows = self.table[index] if self.long else F.one_hot(index, self.levels).to(x.dtype)
        return torch.where(missing, torch.nan, rows)


@ENCODERS.register("mlp")
class Columns(nn.Module):
    """All numbers and categories of a case: standardised, embedded, two layers.

    Args:
        blocks: of the scalar inputs, in order; forward takes (B, len(blocks)).
        width: of both layers and of the view.
    """

    def __init__(self, blocks: Sequence[Block], width: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.numbers = [i for i, b in enumerate(blocks) if b.kind == "number"]
        self.words = [i for i, b in enumerate(blocks) if b.kind == "category"]
        self.scale = Standardise(len(self.numbers))
        sizes = [int(blocks[i].facts["levels"]) + 1 for i in self.words]  # and one for missing
        widths = [min(16, 1 + n // 2) for n in sizes]
        self.last = [n - 1 for n in sizes]
        self.tables = nn.ModuleList([nn.Embedding(n, w) for n, w in zip(sizes, widths, strict=True)])
        inside = 2 * len(self.numbers) + sum(widths)
        self.body = nn.Sequential(
            nn.Linear(inside, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width), nn.GELU()
        )
        self.width = width

    def fit(self, x: Tensor) -> None:
        self.scale.fit(x[:, self.numbers])

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.scale(x[:, self.numbers])] if self.numbers else []
        for at, last, table in zip(self.words, self.last, self.tables, strict=True):
            index = torch.where(torch.isnan(x[:, at]), float(last), x[:, at]).long().clamp(0, last)
            parts.append(table(index))
        return self.body(torch.cat(parts, 1))


DEFAULT_ENCODER["columns"] = "mlp"
