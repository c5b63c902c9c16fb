"""A shallow tree that says for whom which arm is best: searched exactly, over rules that a person can read.

    tree = grow(columns, gamma, depth=2)         # gamma: (N, K) doubly robust scores, more is better
    tree.leaf(columns), tree.arms                # (N,) leaf of each patient, the arm of each leaf
    tree.rules(["age (a)", "sex = F"])           # ["age (a) <= 63 and sex = F", ...]

Of all trees of that depth with thresholds at quantiles the one of the largest mean score is kept.
Source: Athey and Wager, Econometrica 89:133 (2021); Sverdrup et al., policytree, JOSS 5:2232 (2020).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medserve.types import Array

QUANTILES = 15  # thresholds a column, at most
MOST = 240  # thresholds in all
MOST_ROWS = 5000
SHARE = 0.05  # of the patients that a leaf holds, at least


@dataclass(frozen=True)
class Policy:
    """column, threshold: of the root, the left and the right split; `x <= threshold` goes left, what is missing right.
    A threshold of +inf is no split. arms: of the leaves 0 to 3: left-left, left-right, right-left, right-right."""

    column: Array
    threshold: Array
    arms: Array

    def leaf(self, columns: Array) -> Array:
        """(N,) 0 to 3."""
        right = ~(columns[:, self.column] <= self.threshold)
        first = right[:, 0]
        return 2 * first + np.where(first, right[:, 2], right[:, 1])

    def choose(self, columns: Array) -> Array:
        """(N,) the arm of each patient."""
        found: Array = self.arms[self.leaf(columns)]
        return found

    def rules(self, names: Sequence[str]) -> list[str]:
        """Each leaf's conditions in words; "nobody" for a leaf that nothing reaches."""
        found = []
        for leaf in range(4):
            first, second = leaf >= 2, bool(leaf % 2)
            below = 2 if first else 1
            said = [self._said(0, first, names), self._said(below, second, names)]
            if self.column[below] == self.column[0] and all(said):
                said = [self._between(below, first, second, names)]
            found.append("nobody" if None in said else " and ".join(s for s in said if s) or "everybody")
        return found

    def _between(self, below: int, first: bool, second: bool, names: Sequence[str]) -> str | None:
        """Two conditions on one column, as one."""
        if first == second:  # the one below is the narrower
            return self._said(below, second, names)
        low, high = sorted(float(self.threshold[split]) for split in (0, below))
        return f"{names[int(self.column[0])]} > {low:.4g} and <= {high:.4g}"

    def _said(self, split: int, right: bool, names: Sequence[str]) -> str | None:
        """One condition; "" where there is no split, None on its empty side."""
        at, name = float(self.threshold[split]), names[int(self.column[split])]
        if np.isinf(at):
            return None if right else ""
        if " = " in name and 0 < at < 1:
            return name if right else name.replace(" = ", " is not ")
        return f"{name} {'>' if right else '<='} {at:.4g}"


def grow(columns: Array, gamma: Array, *, depth: int = 2, seed: int = 0) -> Policy:
    """
    Args:
        columns: (N, C) float32 with NaN. gamma: (N, K), more is better. depth: 1 (one rule) or 2.
    """
    x, g = np.asarray(columns, np.float32), np.asarray(gamma, np.float64)
    if len(x) > MOST_ROWS:
        rows = np.random.default_rng(seed).permutation(len(x))[:MOST_ROWS]
        x, g = x[rows], g[rows]
    where, at = _thresholds(x)
    left = x[:, where] <= at  # (N, S)
    least = max(1, round(SHARE * len(x)))
    column, threshold = np.zeros(3, np.int64), np.full(3, np.inf, np.float32)
    everybody = np.ones(len(x), bool)
    if depth == 1:
        _, split, arms = _best(left, g, everybody, least)
        if split is not None:
            column[0], threshold[0] = where[split], at[split]
        return Policy(column, threshold, np.array([arms[0], arms[0], arms[1], arms[1]]))
    value, split, arms = _best(left, g, everybody, least)
    best: tuple[float, int | None, Side, Side]
    best = (value, split, (None, (arms[0], arms[0])), (None, (arms[1], arms[1])))
    for root in range(left.shape[1]):
        inside = left[:, root]
        if min(inside.sum(), (~inside).sum()) < 2 * least:
            continue
        a, b = (_best(left, g, rows, least) for rows in (inside, ~inside))
        if a[0] + b[0] > best[0] + 1e-9:
            best = (a[0] + b[0], root, a[1:], b[1:])
    _, chosen, one, other = best
    for k, found in enumerate((chosen, one[0], other[0])):
        if found is not None:
            column[k], threshold[k] = where[found], at[found]
    return Policy(column, threshold, np.array([*one[1], *other[1]]))


def _thresholds(x: Array) -> tuple[Array, Array]:
    """(S,) columns and thresholds; between the values of a column that has few."""
    most = max(1, min(QUANTILES, MOST // max(1, x.shape[1])))
    where, at = [], []
    for c in range(x.shape[1]):
        known = x[np.isfinite(x[:, c]), c]
        levels = np.unique(known)
        if len(levels) < 2:
            continue
        if len(levels) <= most + 1:
            found = (levels[1:] + levels[:-1]) / 2
        else:
            found = np.unique(np.quantile(known, np.linspace(0, 1, most + 2)[1:-1]))
        found = found[found < levels[-1]]
        where += [c] * len(found)
        at += found.tolist()
    return np.asarray(where, np.int64), np.asarray(at, np.float32)


Side = tuple[int | None, tuple[int, int]]  # a split below the root, or none, and the arms of its two leaves


def _best(left: Array, g: Array, rows: Array, least: int) -> tuple[float, int | None, tuple[int, int]]:
    """Sum of scores under the best single split of some patients, the split, and the arms of both sides."""
    mine, some = g[rows], left[rows].astype(np.float64)
    total = mine.sum(0)
    alone = int(total.argmax())
    best: tuple[float, int | None, tuple[int, int]] = (float(total[alone]), None, (alone, alone))
    if not some.shape[1]:
        return best
    count = some.sum(0)
    one = some.T @ mine  # (S, K)
    other = total - one
    value = one.max(1) + other.max(1)
    value[(count < least) | (len(mine) - count < least)] = -np.inf
    split = int(value.argmax())
    if value[split] > best[0] + 1e-9:
        return float(value[split]), split, (int(one[split].argmax()), int(other[split].argmax()))
    return best
