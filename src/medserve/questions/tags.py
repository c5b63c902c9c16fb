"""From a tagger's scores to the entities of a text, and how many of them are right.

    tags = decoded(output, logits[0], 12)                # (12,) tags as numbers, the most probable row of them
    found = entities_of(output, logits[0], text)         # [{"label", "start", "end", "text", "probability"}]
    counts = scored(output, logits, targets)             # (N, 3): right, wanted, given, strictly

The same functions serve evaluation, `medserve predict` and the network. Strict: an entity counts as found only with
both its ends and its name right. Source: Tjong Kim Sang and De Meulder, CoNLL 2003.
"""

from typing import Any

import numpy as np

from medserve.data.text.crf import marginals, viterbi
from medserve.data.text.tags import places
from medserve.data.text.words import words
from medserve.models.spec import OutputSpec
from medserve.types import Array


def parted(output: OutputSpec, logits: Array) -> tuple[Array, Array]:
    """One case's logits (width,) as scores of words (T, K) and of one tag after another (K, K)."""
    k = output.tags
    return logits[: output.words * k].reshape(-1, k), logits[output.words * k :].reshape(k, k)


def decoded(output: OutputSpec, logits: Array, count: int) -> Array:
    """(count,) int64: the most probable tags of the first `count` words."""
    emissions, between = parted(output, logits)
    return viterbi(emissions[:count], between)


def entities_of(output: OutputSpec, logits: Array, text: str) -> list[dict[str, Any]]:
    """Every entity with its place in the text as sent, in code points, the end excluded.

    probability: of the least probable of its words' own tags; not calibrated.
    """
    spans = words(text)[: output.words]
    emissions, between = parted(output, logits)
    tags = viterbi(emissions[: len(spans)], between)
    chance = marginals(emissions[: len(spans)], between)[np.arange(len(spans)), tags]
    return [
        {
            "label": output.labels[name],
            "start": spans[a][0],
            "end": spans[b - 1][1],
            "text": text[spans[a][0] : spans[b - 1][1]],
            "probability": float(min(1.0, chance[a:b].min())),
        }
        for a, b, name in places(tags.tolist())
    ]


def decoded_all(output: OutputSpec, logits: Array, targets: Array) -> list[tuple[Array, Array]]:
    """(true tags, given tags) of every case, int64, as many as it has words."""
    out = []
    for row, target in zip(np.asarray(logits, np.float64), targets, strict=True):
        true = target[np.isfinite(target)][: output.words].astype(np.int64)
        out.append((true, decoded(output, row, len(true))))
    return out


def scored(output: OutputSpec, logits: Array, targets: Array) -> Array:
    """(N, 3) float64: entities of each case that are right, wanted, given."""
    counts = [_strict(true, given) for true, given in decoded_all(output, logits, targets)]
    return np.asarray(counts, np.float64).reshape(len(targets), 3)


def _strict(true: Array, given: Array) -> tuple[int, int, int]:
    a, b = set(places(true.tolist())), set(places(given.tolist()))
    return len(a & b), len(a), len(b)


def f1_of(right: Array, wanted: Array, given: Array) -> Array:
    """2 right / (wanted + given); NaN where there was nothing to find and nothing was given."""
    with np.errstate(invalid="ignore", divide="ignore"):
        made: Array = 2 * right / (wanted + given)
    return made
