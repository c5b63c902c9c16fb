"""A random forest as tensors: the trees of boosting, walked in the same way, whose mean is a share and not a logit.

    net = MODELS["record-forest"](channels=F, size=(), outputs=1, blocks=[...], trees=300, depth=24, nodes=411)
    net.forest.fill([[tree_of(estimator.tree_, values), ...]])       # training; a package loads the buffers instead

Each tree votes with what its leaf held; the votes are averaged. So that a share of none or all of the trees stays a
finite score, half a vote is added for either side.
Source: Breiman, Mach Learn 45:5 (2001).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.models.nets import MODELS
from medserve.models.record import as_blocks
from medserve.models.record.trees import RecordTrees, Tree, lower_thresholds
from medserve.types import Array

LINKS = ("mean", "share", "shares")


class RecordForest(RecordTrees):
    """link: "mean" gives the mean of the leaves, "share" the logit of it, "shares" of several classes the logarithm of
    it, which a softmax takes."""

    def __init__(self, blocks: Sequence[Block], outputs: int, trees: int, depth: int, nodes: int, link: str) -> None:
        super().__init__(blocks, outputs, trees, depth, nodes)
        assert link in LINKS, link
        self.link = link

    def logits(self, columns: Tensor, standardised: Tensor) -> Tensor:
        return linked(self.forest(columns), self.link, self.forest.trees)


def linked(mean: Tensor, link: str, trees: int) -> Tensor:
    """Logits of a mean over so many trees, with half a vote added for either side of a share."""
    if link == "mean":
        return mean
    votes = mean * trees
    told = torch.log(votes + 0.5)
    return told if link == "shares" else told - torch.log(trees - votes + 0.5)


def tree_of(grown: Any, value: Array) -> Tree:
    """One fitted tree of scikit-learn.

    Args:
        grown: `estimator.tree_`, of numerical splits. value: (nodes,) what each node says; only leaves are asked.
    """
    left, right = np.asarray(grown.children_left), np.asarray(grown.children_right)
    order, depth, child = [0], [0], []
    for at, node in enumerate(order):  # breadth first; it grows while it is walked
        child.append(at)
        if left[node] >= 0:
            child[at] = len(order)
            order += [int(left[node]), int(right[node])]
            depth += [depth[at] + 1] * 2
    places = np.array(order)
    inner = left[places] >= 0
    threshold = np.where(inner, lower_thresholds(np.asarray(grown.threshold)[places]), np.float32(np.inf))
    return Tree(
        column=np.where(inner, np.asarray(grown.feature)[places], 0).astype(np.int64),
        threshold=threshold.astype(np.float32),
        missing_left=~inner | np.asarray(grown.missing_go_to_left)[places].astype(bool),
        child=np.array(child, np.int64),
        value=np.where(inner, 0.0, np.asarray(value, np.float64)[places]),
        depth=max(depth),
    )


@MODELS.register("record-forest")
def record_forest(
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    blocks: Sequence[Any] = (),
    trees: int = 1,
    depth: int = 0,
    nodes: int = 1,
    link: str = "share",
) -> nn.Module:
    """
    Args:
        channels: length of the record.
        trees, depth, nodes: see `record_trees`. link: see `RecordForest`.
    """
    return RecordForest(as_blocks(blocks), outputs, trees, depth, nodes, link)
