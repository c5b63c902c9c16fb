"""The effect of a treatment on one patient, its interval, and what is to be known beside it, in one pass.

    net = MODELS["effect-linear"](channels=F, size=(), outputs=10, blocks=[...], arms=2, groups=6)
    net(record).logits            # (B, width): see `questions.effect.parted`

Side by side: the chance of each arm for a patient like this (overlap), the outcome expected under each, the difference
to the reference arm with its interval, the nearest group of training patients of each arm, and the leaf of the policy
tree. The difference is one weight a column with its covariance ("effect-linear": a band that is narrow where patients
are many), or the mean and spread of forests that were each grown on half of the patients ("effect-trees").
Sources: Kennedy, EJS 17:3008 (2023) for the doubly robust second stage; Athey, Tibshirani and Wager, Ann Stat 47:1148
(2019) for forests of half samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.models.nets import MODELS
from medserve.models.record import as_blocks
from medserve.models.record.features import RecordNet
from medserve.models.record.trees import Forest

LINEAR, TREES = "effect-linear", "effect-trees"
PLAIN: Mapping[str, Any] = {"kind": "linear", "link": "sigmoid"}
LEAVES, SPLITS = 4, 3  # of a tree of depth 2


class Stage(nn.Module):
    """One fitted part: weights over the standardised columns, or a forest over the columns as they are.

    link: what turns its sum into what is meant: "" nothing, "sigmoid" of a logit, "share" of votes.
    """

    def __init__(
        self, columns: int, outputs: int, kind: str, link: str = "", trees: int = 1, depth: int = 0, nodes: int = 1
    ) -> None:
        super().__init__()
        self.kind, self.link = kind, link
        if kind == "linear":
            self.head = nn.Linear(2 * columns, outputs)
        else:
            self.forest = Forest(columns, outputs, trees, depth, nodes)

    def forward(self, columns: Tensor, standardised: Tensor) -> Tensor:
        found: Tensor = self.head(standardised) if self.kind == "linear" else self.forest(columns)
        if self.link == "sigmoid":
            return torch.sigmoid(found)
        return found.clamp(0.0, 1.0) if self.link == "share" else found


class RecordEffect(RecordNet):
    """
    Args:
        arms: K, the reference first. groups: of training patients, at most, in an arm.
        propensity, outcome: parameters of a `Stage`. final: {"kind": "linear"}, or "trees" with `bags`, trees, depth,
            nodes.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        arms: int,
        groups: int,
        propensity: Mapping[str, Any],
        outcome: Mapping[str, Any],
        final: Mapping[str, Any],
    ) -> None:
        super().__init__(blocks)
        self.arms, self.contrasts, self.bags = arms, arms - 1, int(final.get("bags", 0))
        width = 2 * self.columns
        self.propensity = Stage(self.columns, 1 if arms == 2 else arms, **propensity)
        self.outcome = Stage(self.columns, arms, **outcome)
        if self.bags:
            shape = {name: int(final[name]) for name in ("trees", "depth", "nodes")}
            self.final = Forest(self.columns, self.contrasts * self.bags, **shape)
        else:
            self.head = nn.Linear(width, self.contrasts)
            # Factor of the covariance of (constant, weights): the variance at x is |(1, x) @ spread|^2.
            self.spread = nn.Parameter(torch.zeros(self.contrasts, width + 1, width + 1))
        self.reach: Tensor  # half-widths of the interval in standard errors
        self.centres: Tensor
        self.radius: Tensor
        self.there: Tensor
        self.split_column: Tensor
        self.split_at: Tensor
        self.register_buffer("reach", torch.ones(self.contrasts))
        self.register_buffer("centres", torch.zeros(arms, groups, width))
        self.register_buffer("there", torch.zeros(arms, groups))
        self.register_buffer("radius", torch.full((arms,), torch.inf))
        self.register_buffer("split_column", torch.zeros(SPLITS, dtype=torch.int64))
        self.register_buffer("split_at", torch.full((SPLITS,), torch.inf))

    def logits(self, columns: Tensor, standardised: Tensor) -> Tensor:
        value, error = self.effect(columns, standardised)
        half = error * self.reach
        told = [value, value - half, value + half, self.chances(columns, standardised)]
        told += [self.outcome(columns, standardised), self.nearest(standardised), self.leaf(columns)]
        return torch.cat(told, 1)

    def effect(self, columns: Tensor, standardised: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K - 1) differences to the reference arm, and their standard errors."""
        if self.bags:
            each = self.final(columns).reshape(-1, self.contrasts, self.bags)
            mean = each.mean(2)
            gap = each - mean.unsqueeze(2)
            return mean, (gap.square().sum(2) / (self.bags - 1)).sqrt()
        one = torch.cat([torch.ones_like(standardised[:, :1]), standardised], 1)
        error = torch.stack([(one @ factor).square().sum(1) for factor in self.spread], 1).sqrt()
        return self.head(standardised), error

    def chances(self, columns: Tensor, standardised: Tensor) -> Tensor:
        """(B, K), rows sum to 1."""
        found = self.propensity(columns, standardised)
        if self.arms == 2:
            return torch.cat([1 - found, found], 1)
        found = found.clamp_min(1e-6)
        return found / found.sum(1, keepdim=True)

    def nearest(self, standardised: Tensor) -> Tensor:
        """(B, K) number of the nearest group of each arm; -1 - number where no patient of the arm was so far away."""
        found = []
        for arm in range(self.arms):
            centres = self.centres[arm]
            gap = standardised.square().sum(1, keepdim=True) - 2 * standardised @ centres.T + centres.square().sum(1)
            gap = torch.where(self.there[arm] > 0, gap, torch.full_like(gap, 1e30))
            least = gap.min(1, keepdim=True)
            number = least.indices.to(standardised.dtype)
            far = least.values > self.radius[arm].square()
            found.append(torch.where(far, -1 - number, number))
        return torch.cat(found, 1)

    def leaf(self, columns: Tensor) -> Tensor:
        """(B, 1) number of the leaf, 0 to 3; what is missing goes right."""
        seen = columns[:, self.split_column]
        right = torch.logical_not(seen <= self.split_at).to(columns.dtype)
        first = right[:, :1]
        return 2 * first + torch.where(first > 0, right[:, 2:], right[:, 1:2])


def _made(
    blocks: Sequence[Any], arms: int, groups: int, propensity: Mapping[str, Any], outcome: Mapping[str, Any],
    final: Mapping[str, Any],
) -> nn.Module:  # fmt: skip
    return RecordEffect(as_blocks(blocks), arms, groups, propensity, outcome, final)


@MODELS.register(LINEAR)
def effect_linear(
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    blocks: Sequence[Any] = (),
    arms: int = 2,
    groups: int = 1,
    propensity: Mapping[str, Any] = PLAIN,
    outcome: Mapping[str, Any] = PLAIN,
) -> nn.Module:
    """channels: length of the record. For the others see `RecordEffect`."""
    return _made(blocks, arms, groups, propensity, outcome, {"kind": "linear"})


@MODELS.register(TREES)
def effect_trees(
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    blocks: Sequence[Any] = (),
    arms: int = 2,
    groups: int = 1,
    propensity: Mapping[str, Any] = PLAIN,
    outcome: Mapping[str, Any] = PLAIN,
    bags: int = 2,
    trees: int = 1,
    depth: int = 0,
    nodes: int = 1,
) -> nn.Module:
    """channels: length of the record. bags: forests, of `trees` trees each. For the others see `RecordEffect`."""
    final = {"kind": "trees", "bags": bags, "trees": trees, "depth": depth, "nodes": nodes}
    return _made(blocks, arms, groups, propensity, outcome, final)
