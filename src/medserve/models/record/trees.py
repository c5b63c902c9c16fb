"""Gradient-boosted trees as tensors: a walk of fixed length through tables, the same numbers as LightGBM.

    net = MODELS["record-trees"](channels=F, size=(), outputs=1, blocks=[...], trees=300, depth=8, nodes=61)
    net.forest.fill([trees_of(booster.dump_model())])         # training; a package loads the buffers instead

Every tree is one row of four tables (column, threshold, child, value); a case stands at one node of each tree, and all
of them step down together, `depth` times. A leaf is its own child. The exported graph holds ONNX's own operator
for trees instead.

A missing value takes the way that training chose (LightGBM's default direction). In a column that training never saw
missing no way was chosen, and LightGBM would read a 0; here it follows the larger part of the training cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.models.nets import MODELS
from medserve.models.record import as_blocks
from medserve.models.record.features import CHUNK, RecordNet
from medserve.types import Array

MOST = float(np.finfo(np.float32).max)
DOMAIN, OPERATOR = "ai.onnx.ml", "TreeEnsembleRegressor"  # ONNX's own; its engine walks trees ten times as fast
NUMBERED = "nodes_treeids"


@dataclass(frozen=True, slots=True)
class Tree:
    """Node 0 is the root; the children of node i are `child[i]` and `child[i] + 1`, a leaf's child is itself.

    column: (M,) int64. threshold: (M,) float32, `x <= threshold` goes left; +inf for a leaf. missing_left: (M,) bool.
    value: (M,) float64, 0 but for leaves. depth: steps from the root to the deepest leaf.
    """

    column: Array
    threshold: Array
    missing_left: Array
    child: Array
    value: Array
    depth: int


class Forest(nn.Module):
    """K sums of `trees` trees each. forward: (B, C) with NaN -> (B, K)."""

    def __init__(self, columns: int, outputs: int, trees: int, depth: int, nodes: int) -> None:
        super().__init__()
        self.columns, self.outputs, self.trees, self.depth, self.nodes = columns, outputs, trees, depth, nodes
        self.number = 0  # of several in one graph
        size = outputs * trees * nodes + 1  # one to spare: no table, however shuffled, points outside
        start = torch.arange(outputs * trees) * nodes
        self.column: Tensor
        self.threshold: Tensor
        self.child: Tensor
        self.value: Tensor
        self.roots: Tensor
        # A column counts twice: as it is with -inf for what is missing, and with +inf (from `columns` on). The node
        # names the copy that sends a missing value its way, so that the walk needs no further question.
        self.register_buffer("column", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("threshold", torch.full((size,), torch.inf))
        self.register_buffer("child", torch.arange(size) % (size - 1))
        self.register_buffer("value", torch.zeros(size))
        self.register_buffer("roots", start, persistent=False)

    def fill(self, forests: Sequence[Sequence[Tree]]) -> None:
        """forests: one list of at most `trees` trees for each output."""
        for k, forest in enumerate(forests):
            for t, tree in enumerate(forest):
                start = (k * self.trees + t) * self.nodes
                at = slice(start, start + len(tree.column))
                self.column[at] = torch.from_numpy(tree.column + np.where(tree.missing_left, 0, self.columns))
                self.threshold[at] = torch.from_numpy(tree.threshold)
                self.child[at] = torch.from_numpy(tree.child + start)
                self.value[at] = torch.from_numpy(tree.value).float()

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            # The number, until the tables take its place: the exporter makes one of two nodes that look alike.
            return torch.onnx.ops.symbolic(
                f"{DOMAIN}::{OPERATOR}", (x,), {"n_targets": self.outputs, NUMBERED: [self.number]}, dtype=x.dtype,
                shape=(x.shape[0], self.outputs), version=3,
            )  # fmt: skip
        if len(x) > CHUNK:
            return torch.cat([self._walk(piece) for piece in x.split(CHUNK)])
        return self._walk(x)

    def attributes(self) -> dict[str, list[Any]]:
        """The tables as the operator names them: the inner nodes and leaves of every tree, in order."""
        column, threshold, child, value = (t.numpy() for t in (self.column, self.threshold, self.child, self.value))
        splits = child != np.arange(len(child))
        there = np.zeros(len(child), bool)  # trees are padded to one size
        there[self.roots.numpy()] = True
        there[child[splits]] = there[child[splits] + 1] = True
        at = np.flatnonzero(there)
        tree, place, split = at // self.nodes, at % self.nodes, splits[at]
        column, left, leaf = column[at], child[at] % self.nodes, ~split
        found = {
            "nodes_treeids": tree,
            "nodes_nodeids": place,
            "nodes_modes": np.where(split, "BRANCH_LEQ", "LEAF"),
            "nodes_featureids": np.where(split, column % self.columns, 0),
            "nodes_values": np.where(split, threshold[at], 0),
            "nodes_truenodeids": np.where(split, left, 0),
            "nodes_falsenodeids": np.where(split, left + 1, 0),
            "nodes_missing_value_tracks_true": (split & (column < self.columns)).astype(np.int64),
            "target_treeids": tree[leaf],
            "target_nodeids": place[leaf],
            "target_ids": tree[leaf] // self.trees,
            "target_weights": value[at][leaf],
        }
        return {name: values.tolist() for name, values in found.items()}

    def _walk(self, x: Tensor) -> Tensor:
        missing = torch.isnan(x)
        both = torch.cat([torch.where(missing, -torch.inf, x), torch.where(missing, torch.inf, x)], 1)
        node = self.roots.expand(x.shape[0], -1)
        for _ in range(self.depth):
            seen = both.gather(1, self.column[node])
            node = self.child[node] + (seen > self.threshold[node]).to(torch.int64)
        return self.value[node].reshape(-1, self.outputs, self.trees).sum(2)


class RecordTrees(RecordNet):
    """The forest over the columns as they are."""

    def __init__(self, blocks: Sequence[Block], outputs: int, trees: int, depth: int, nodes: int) -> None:
        super().__init__(blocks)
        self.forest = Forest(self.columns, outputs, trees, depth, nodes)

    def logits(self, columns: Tensor, standardised: Tensor) -> Tensor:
        return self.forest(columns)


def trees_of(dump: dict[str, Any], start: int = 0, step: int = 1) -> list[Tree]:
    """Trees from `lightgbm.Booster.dump_model`, of numerical splits.

    Args:
        start, step: the trees of class k of K stand at k, k + K, k + 2K ...
    """
    return [_tree(entry["tree_structure"]) for entry in dump["tree_info"][start::step]]


def shape_of(forests: Sequence[Sequence[Tree]]) -> dict[str, int]:
    """The parameters of the smallest module that holds them: {"trees", "depth", "nodes"}."""
    every = [tree for forest in forests for tree in forest]
    return {
        "trees": max([1, *(len(forest) for forest in forests)]),
        "depth": max([0, *(tree.depth for tree in every)]),
        "nodes": max([1, *(len(tree.column) for tree in every)]),
    }


def constant(value: float) -> Tree:
    """A tree that is one leaf."""
    return _tree({"leaf_value": value})


def _tree(root: dict[str, Any]) -> Tree:
    order, depth, at = [root], [0], 0
    child = [0]
    while at < len(order):  # breadth first; the two children of a node stand side by side
        node = order[at]
        child[at] = at
        if "split_index" in node:
            assert node["decision_type"] == "<=", node["decision_type"]
            child[at] = len(order)
            order += [node["left_child"], node["right_child"]]
            depth += [depth[at] + 1] * 2
            child += [0, 0]
        at += 1
    inner = ["split_index" in node for node in order]
    return Tree(
        column=np.array([int(n.get("split_feature", 0)) for n in order], np.int64),
        threshold=np.array(
            [_down(n["threshold"]) if i else np.inf for n, i in zip(order, inner, strict=True)], np.float32
        ),
        missing_left=np.array([not i or _left(n) for n, i in zip(order, inner, strict=True)]),
        child=np.array(child, np.int64),
        value=np.array([0.0 if i else float(n["leaf_value"]) for n, i in zip(order, inner, strict=True)]),
        depth=max(depth),
    )


def _down(threshold: float) -> np.float32:
    return np.float32(lower_thresholds(np.array([threshold]))[0])


def lower_thresholds(thresholds: Array) -> Array:
    """(M,) float32, the largest that are not above: `x <= threshold` stays the same question for every float32 x."""
    with np.errstate(over="ignore"):
        near = thresholds.astype(np.float32)
    near = np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)
    far = np.where(thresholds > 0, np.float32(MOST), np.float32(-np.inf))
    # LightGBM's 1e300: everything that is known goes left, what is missing right
    return np.where(np.abs(thresholds) > MOST, far, near).astype(np.float32)


def _left(node: dict[str, Any]) -> bool:
    if node["missing_type"] == "NaN":
        return bool(node["default_left"])
    return _cases(node["left_child"]) >= _cases(node["right_child"])


def _cases(node: dict[str, Any]) -> int:
    return int(node.get("internal_count", node.get("leaf_count", 0)))


@MODELS.register("record-trees")
def record_trees(
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    blocks: Sequence[Any] = (),
    trees: int = 1,
    depth: int = 0,
    nodes: int = 1,
) -> nn.Module:
    """
    Args:
        channels: length of the record.
        trees: of each output. depth: steps to the deepest leaf. nodes: of the largest tree, leaves included.
    """
    return RecordTrees(as_blocks(blocks), outputs, trees, depth, nodes)
