"""What would change a model's advice on a treatment: one input at a time, over values that training patients had.

    told = what_would_change(score, record, blocks, output)
    told.items[0]        # {"input": "age", "part": "at 71: recommend-against", "value": 52.0, "weight": -0.4}

`weight` is how the estimated effect would differ for another patient who has that value and is like this one else. It
says what moves the model; it does not say that changing the value would change what the treatment does to this patient.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medserve.data.fields import Block
from medserve.explain.records import Evidence
from medserve.explain.shapley import render_bars
from medserve.models.spec import OutputSpec
from medserve.questions.effect import ABSTAIN, advise, parted, standing, told
from medserve.types import Array

METHOD = "effect"
NOTE = (
    "How the estimated effect would differ for a patient like this one with another value of one input, the nearest"
    " value that changes the advice first. It moves the model's advice; it is no promise that changing it helps."
)


def what_would_change(
    score: Callable[[Array], Array], record: Array, blocks: Sequence[Block], output: OutputSpec, contrast: int = 0,
    closed: Mapping[str, str] = {}, rules: Sequence[Mapping[str, str]] = (),
) -> Evidence:  # fmt: skip
    """
    Args:
        score: (B, F) records -> (B, width) logits. record: (F,). contrast: which effect is weighed.
        closed: arms that the rules of safety do not let be offered, and why: "blocked", "unknown", "not-reviewed".
        rules: what they say, in lines, for the picture.

    Returns: for each input its value of the grid that is nearest among those that change the advice, or the one that
        moves the effect most where none does.
    """
    rows: list[Array] = [record]
    asked: list[tuple[Block | None, str, float]] = [(None, "", 0.0)]
    for block in blocks:
        words = list(block.facts.get("words", []))
        for value in told(output).grid.get(block.name, []):
            place = float(words.index(value)) if isinstance(value, str) else float(value)
            other = record.copy()
            other[block.start] = place
            rows.append(other)
            asked.append((block, _said(value), place))
    logits = score(np.stack(rows).astype(np.float32))
    said, advice = parted(output, logits), advise(output, logits)
    advised = [_advice(output, int(arm), ranked, closed) for arm, ranked in zip(advice.arm, advice.ranked, strict=True)]
    effect = said.effect[:, contrast]
    items: list[dict[str, Any]] = []
    places = []
    for block in blocks:
        mine = [i for i, (b, *_) in enumerate(asked) if b is block]
        if not mine:
            continue
        now = float(record[block.start])
        turned = [i for i in mine if advised[i] != advised[0]]
        number = block.kind == "number" and np.isfinite(now)
        best = min(turned, key=lambda i: abs(asked[i][2] - now) if number else 0.0) if turned else None
        chosen = max(mine, key=lambda i: abs(effect[i] - effect[0])) if best is None else best
        word = "advice unchanged" if best is None else advised[chosen]
        items.append({"input": block.name, "part": f"at {asked[chosen][1]}: {word}", "value": _now(block, now),
                      "weight": float(effect[chosen] - effect[0])})  # fmt: skip
        places.append(np.array([block.start]))
    order = sorted(range(len(items)), key=lambda i: ("unchanged" in items[i]["part"], -abs(items[i]["weight"])))
    items = [items[i] for i in order]
    title = f"{output.labels[1 + contrast]} against {output.labels[0]}"
    names = [f"{item['input']} {item['part']}" for item in items]
    foot = f"now: {advised[0]}; estimated effect {effect[0]:+.3g}, {title}; bars: how it would differ"
    png = render_bars(
        names, [i["weight"] for i in items], [""] * len(items), 0.0, float(effect[0]), foot=foot, rules=rules
    )
    return Evidence(items, [places[i] for i in order], None, float(effect[0]), 0.0, png)


def _said(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _now(block: Block, value: float) -> float | str:
    if not np.isfinite(value):
        return "missing"
    words = block.facts.get("words")
    if block.kind != "category" or not words:
        return value
    return str(words[int(value)]) if int(value) < len(words) else "other"


def _advice(output: OutputSpec, arm: int, ranked: Sequence[int], closed: Mapping[str, str]) -> str:
    """In words, and what the rules of safety leave of it."""
    if arm == ABSTAIN:
        return "abstain"
    if arm and (left := standing([output.labels[k] for k in ranked], closed)) is not None:
        return f"recommend {left}"
    why = closed.get(output.labels[arm])
    if why is not None:
        return f"abstain ({output.labels[arm]}: {why})"
    return f"recommend {output.labels[arm]}" if arm else "recommend-against"
