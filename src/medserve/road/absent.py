"""Cases without one of their inputs: how wide their sets must be, and what that is worth.

    hidden = hidden_scores(engine, parts.calibration, blocks, progress, seed=7)    # {("film",): (logits, targets), ...}
    spec   = with_absent(spec, hidden)                                             # the quantiles, into the signature
    names  = lacking(spec, part)                                                   # of each case, for evaluation

An input is hidden by putting NaN in its place, which is what a case that never had it looks like.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import msgspec
import numpy as np

from medserve.data.fields import Block, Records, absent_from, together, words_of
from medserve.data.split import PartView
from medserve.evaluation.conformal import covered, fit_absent, with_conformal
from medserve.models.spec import ModelSpec
from medserve.progress import Progress
from medserve.runtime.engine import Engine
from medserve.types import Array

ALL_OF = 3  # groups of inputs up to which every combination is hidden; beyond, each group by itself
MOST_CASES = 1000  # of the calibration part, drawn once
CHUNK = 256
Hidden = dict[tuple[str, ...], tuple[Array, Array]]  # names -> (logits, targets)


def combinations_of(blocks: Sequence[Block]) -> list[tuple[Block, ...]]:
    """What is hidden, one thing after the other; never everything."""
    groups = together(blocks)
    most = len(groups) - 1 if len(groups) <= ALL_OF else 1
    chosen = [some for size in range(1, most + 1) for some in combinations(groups, size)]
    return [tuple(block for group in some for block in group) for some in chosen]


def hidden_scores(engine: Engine, part: PartView, blocks: Sequence[Block], progress: Progress, *, seed: int) -> Hidden:
    """Scores of a part's cases with inputs hidden; cases of which nothing is left are not counted."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(part))[:MOST_CASES])
    found: Hidden = {}
    for away in progress.track(combinations_of(blocks), "Hiding inputs"):
        logits, kept = [], []
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            records = np.array(part.take(some), np.float32)
            for block in away:
                records[:, block.start : block.start + block.size] = np.nan
            left = np.isfinite(records).any(axis=1)
            if left.any():
                logits.append(engine.score(records[left]).logits)
                kept.append(some[left])
        if kept:
            found[tuple(b.name for b in away)] = (np.concatenate(logits), part.targets[np.concatenate(kept)])
    return found


def with_absent(spec: ModelSpec, hidden: Hidden) -> ModelSpec:
    """The signature with the quantiles for cases that lack inputs."""
    conformal = spec.calibration.conformal
    if conformal is None or not hidden:
        return spec
    return with_conformal(spec, msgspec.structs.replace(conformal, absent=fit_absent(spec, hidden)))


def lacking(spec: ModelSpec, part: PartView) -> list[tuple[str, ...]] | None:
    """Of each case the inputs that it lacks; None where no set depends on it."""
    conformal = spec.calibration.conformal
    if conformal is None or not conformal.absent:
        return None
    blocks = Records.build(spec.transforms).blocks
    return [names for records in _chunks(part) for names in absent_from(blocks, records)]


def members(spec: ModelSpec, part: PartView) -> list[str | None] | None:
    """Of each case the word for the output's `by`; None where intervals are not per group."""
    if spec.output.by is None or not spec.is_record:
        return None
    blocks = Records.build(spec.transforms).blocks
    return [word for records in _chunks(part) for word in words_of(blocks, spec.output.by, records)]


def _chunks(part: PartView) -> Iterator[Array]:
    """The records of a part, (CHUNK, F) at a time."""
    for start in range(0, len(part), CHUNK):
        yield part.take(np.arange(start, min(start + CHUNK, len(part))))


def judge_hidden(engine: Engine, spec: ModelSpec, part: PartView, progress: Progress, *, seed: int) -> list[Any]:
    """What the sets do on a part whose inputs are hidden one after the other.

    Returns: dicts of inputs, n, coverage, and single: the share of sets with one label (None for a number).
    """
    if spec.calibration.conformal is None or not spec.calibration.conformal.absent:
        return []
    out = []
    blocks = Records.build(spec.transforms).blocks
    for names, (logits, targets) in hidden_scores(engine, part, blocks, progress, seed=seed).items():
        hit, size = covered(spec, logits, targets, [names] * len(targets))
        single = None if spec.output.task == "number" else float((size == 1).mean())
        out.append({"inputs": list(names), "n": len(hit), "coverage": float(hit.mean()), "single": single})
    return out
