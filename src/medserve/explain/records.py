"""Evidence for one answer about a record: what each input moved, as data and as a picture. No training library.

    groups = groups_of(blocks)                                     # one an input, one a channel of a timeline
    told   = explain_record(score, record, background, groups, column)
    told.items[0]              # {"input": "age", "value": 71.0, "weight": 0.42}; weights and base sum to the logit

An input is "unknown" by what takes its place: numbers and categories take the values of summaries of the training part,
everything else is left out, as if it had not been sent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medserve.data.fields import Block
from medserve.explain.shapley import permutation_shapley, render_bars
from medserve.types import Array

RECORD_METHODS = ("shapley",)
SCALARS = ("number", "category")
MOST_GROUPS = 400
PERMUTATIONS = 16
Score = Callable[[Array], Array]  # (B, F) records -> (B, K) logits


@dataclass(frozen=True, slots=True)
class Group:
    """Places of the record that are known or unknown together. input: the field; part: within it, or ""."""

    input: str
    part: str
    columns: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.input}: {self.part}" if self.part else self.input


@dataclass(frozen=True, slots=True)
class Evidence:
    """items: the largest weight first. base: the logit with every input unknown. gap: of the sum to the logit."""

    items: list[dict[str, Any]]
    base: float
    total: float
    gap: float
    png: bytes


def groups_of(blocks: Sequence[Block]) -> list[Group]:
    """What is explained as one thing: an input, or a channel of it where the field names its channels."""
    found = []
    for block in blocks:
        names = block.facts.get("names") or block.facts.get("leads")
        if names and len(block.shape) == 2 and len(names) == block.shape[0]:
            step = block.size // len(names)
            for i, part in enumerate(names):
                start = block.start + i * step
                found.append(Group(block.name, str(part), tuple(range(start, start + step))))
        else:
            found.append(Group(block.name, "", tuple(range(block.start, block.start + block.size))))
    return found


def unknown(background: Array, blocks: Sequence[Block]) -> Array:
    """The background with everything but numbers and categories left out."""
    out = np.array(background, np.float32)
    for block in blocks:
        if block.kind not in SCALARS:
            out[:, block.start : block.start + block.size] = np.nan
    return out


def explain_record(
    score: Score,
    record: Array,
    background: Array,
    blocks: Sequence[Block],
    column: int,
    *,
    label: str = "",
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Evidence:
    """Shapley values of the inputs for one logit, by sampled permutations.

    Args:
        record: (F,). background: (k, F) summaries of at least 10 training cases each.
        column: of the logits.

    Source: Strumbelj and Kononenko, "Explaining prediction models and individual predictions with feature
        contributions", 2014.
    """
    groups = [g for g in groups_of(blocks) if np.isfinite(record[list(g.columns)]).any() or g.part == ""]
    places = [np.asarray(g.columns) for g in groups]
    values, base, gap = permutation_shapley(
        lambda rows: score(rows)[:, column],
        record,
        unknown(background, blocks),
        places,
        permutations=permutations,
        seed=seed,
    )
    by_name = {b.name: b for b in blocks}
    items: list[dict[str, Any]] = []
    for group, weight in zip(groups, values, strict=True):
        block = by_name[group.input]
        shown = _shown(record, block) if block.kind in SCALARS else None
        items.append({"input": group.input, "part": group.part, "value": shown, "weight": float(weight)})
    items.sort(key=lambda item: -abs(item["weight"]))
    total = base + float(np.sum(values))
    names = [f"{i['input']}: {i['part']}" if i["part"] else i["input"] for i in items]
    texts = ["" if i["value"] is None else str(i["value"]) for i in items]
    png = render_bars(names, [i["weight"] for i in items], texts, base, total)
    return Evidence(items, float(base), total, float(gap), png)


def _shown(record: Array, block: Block) -> Any:
    value = float(record[block.start])
    if not np.isfinite(value):
        return "missing"
    if block.kind == "category":
        words = block.facts.get("words", [])
        return words[int(value)] if int(value) < len(words) else "other"
    return float(f"{value:.6g}")  # float32 has no more digits
