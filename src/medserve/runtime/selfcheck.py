"""The self-check: what an engine must reproduce of a package's stored outputs before anything is answered.

item_s = self_check(engine, package.tensors(SELFCHECK))      # seconds of one item; BadPackage where it differs
gaps(scores, stored)["logits"]                               # (largest difference, its share of the output's size)
"""

import time
from collections.abc import Mapping

import numpy as np

from medserve.errors import BadPackage, Fault
from medserve.runtime.engine import Engine
from medserve.types import Array, Scores

TOLERANCE = 1e-3  # largest difference, as a share of the output's own size where that is above 1


def self_check(engine: Engine, stored: Mapping[str, Array], tolerance: Mapping[str, float] | None = None) -> float:
    """Run the stored inputs and compare with the stored outputs.

    Args:
        stored: the engine's input and its outputs, by name; the first axis is the batch.
        tolerance: output -> largest difference, as a share of its size; never less than `TOLERANCE`.

    Returns: seconds for one item, a first guess of what work costs here.
    Raises: BadPackage "package-selfcheck".
    """
    if not {engine.input, "logits"} <= set(stored) or not len(stored[engine.input]):
        raise _failed("it holds no stored input and output")
    images = np.asarray(stored[engine.input])
    try:
        engine.score(images[:1])  # the first pass pays for memory and threads
        started = time.perf_counter()
        scores = engine.score(images, cam="cam" in stored)
        beside = min(len(images), engine.choice.streams) if engine.max_batch < len(images) else 1
        seconds = (time.perf_counter() - started) / len(images) * beside
    except Fault as error:
        raise _failed("the engine does not run it") from error
    for name, (gap, share) in gaps(scores, stored).items():
        if not share <= max(TOLERANCE, (tolerance or {}).get(name, 0.0)):
            raise _failed(f"{name} has another shape" if np.isnan(gap) else f"{name} differs by {gap:.2g}")
    return seconds


def gaps(scores: Scores, stored: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
    """Output -> (largest difference, that as a share of the output's own size where it is above 1).

    Both are NaN where an output is missing or of another shape.
    """
    found = {}
    for name in ("logits", "distance", "cam"):
        if name not in stored:
            continue
        here, wanted = getattr(scores, name), stored[name]
        if here is None or here.shape != wanted.shape:
            found[name] = (float("nan"), float("nan"))
            continue
        gap = float(np.abs(here - wanted).max())
        found[name] = (gap, gap / max(1.0, float(np.abs(wanted).max())))
    return found


def _failed(why: str) -> BadPackage:
    return BadPackage(
        "package-selfcheck",
        f"This machine does not reproduce the package's self-check: {why}.",
        hint="Update onnxruntime to the version in the package's card, or train again here.",
    )
