"""Which cases share a pass: those of like length, where the network computes no more places than the longest has.

    bucket = bucket_of(spec, blocks)            # None: every case of this model costs the same
    bucket(case)                                # 7: at most 127 letters, words or residues

A bucket holds lengths up to twice one another, so that padding at most doubles the work of a case.
"""

from collections.abc import Callable, Sequence

import numpy as np

from medserve.data.fields import Block
from medserve.models.spec import ModelSpec
from medserve.types import Array

LENGTHS = ("text", "protein", "molecule")  # kinds of one row whose places are NaN after the last
FIXED = ("fragments",)  # encoders that read a fixed number of places of them
LEAST = 5  # up to 31 places, the rest of a pass costs more than they do


def bucket_of(spec: ModelSpec, blocks: Sequence[Block]) -> Callable[[Array], int] | None:
    """What tells the bucket of a case (F,), by the longest of its inputs."""
    if spec.architecture.name not in ("case-net", "tag-encoder"):
        return None
    encoders = spec.architecture.params.get("encoders") or {}
    rows: list[slice] = []
    for block in blocks:
        name = encoders.get(block.kind, {}).get("name", "fragments" if block.kind == "molecule" else "")
        if block.kind in LENGTHS and name not in FIXED:
            end = block.start + block.size
            rows.append(slice(end - int(block.facts["length"]) if block.kind == "molecule" else block.start, end))
    if not rows:
        return None
    return lambda case: max(LEAST, *(int(np.isfinite(case[row]).sum()).bit_length() for row in rows))
