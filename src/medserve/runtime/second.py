"""A second look: what a reduced precision leaves near a limit, the reference scores again.

    margins = margins_of(rounded, exact)                       # of cases that neither fitted nor judges anything
    engine.second = SecondLook(spec, margins, reference)
    scores = engine.score(images)                              # on the edge of a limit: the reference's own

Rounding moves every score a little, and that changes an answer only where a limit lies between the two: the threshold
of a decision, the quantile of a label's place in the set, the distance beyond which a case is refused. A case whose
scores lie no farther from one than rounding moved most of the measured cases is answered as the reference answers it.
"""

from collections.abc import Mapping

import numpy as np

from medserve.models.spec import ModelSpec
from medserve.questions.answers import limits, probabilities
from medserve.runtime.engine import Engine
from medserve.types import Array, Scores

MOST = 0.95  # of the measured cases moved no farther; what moved farther flips only where it also stands at a limit
TASKS = ("binary", "multiclass", "multilabel")
_EDGE = 1e-6


def looks(spec: ModelSpec) -> bool:
    """Whether every limit is known: a record that lacks inputs has others, and a number has none."""
    return spec.output.task in TASKS and not spec.is_record


class SecondLook:
    """margins: of "logits" and "distance", how far rounding moves them. seen, again: cases so far, and those among them
    that were scored again; of one thread."""

    def __init__(self, spec: ModelSpec, margins: Mapping[str, float], reference: Engine) -> None:
        self._spec, self._margins, self._reference = spec, dict(margins), reference
        self.seen = self.again = 0

    def __call__(self, images: Array, scores: Scores, cam: bool) -> Scores:
        near = near_a_limit(self._spec, scores, self._margins)
        self.seen += len(near)
        if not near.any():
            return scores
        self.again += int(near.sum())
        exact = self._reference.score(images[near], cam=cam)
        mixed = []
        for mine, theirs in ((scores.logits, exact.logits), (scores.distance, exact.distance), (scores.cam, exact.cam)):
            if mine is not None and theirs is not None:
                mine = mine.copy()
                mine[near] = theirs
            mixed.append(mine)
        return Scores(mixed[0], mixed[1], mixed[2])  # type: ignore[arg-type]


def margins_of(rounded: Scores, exact: Scores) -> dict[str, float]:
    """How far the scores of the same cases lie apart, for all but a few of them."""
    found = {"logits": float(np.quantile(np.abs(rounded.logits - exact.logits).max(axis=1), MOST))}
    if rounded.distance is not None and exact.distance is not None:
        found["distance"] = float(np.quantile(np.abs(rounded.distance - exact.distance), MOST))
    return found


def near_a_limit(spec: ModelSpec, scores: Scores, margins: Mapping[str, float]) -> Array:
    """(N,) bool: with scores that differ by the margins or less, another answer might be given."""
    low, high = _between(spec, scores.logits, margins["logits"])
    near = np.zeros(len(scores), bool)
    for column, cuts in enumerate(_cuts(spec)):
        for cut in cuts:
            near |= (low[:, column] <= cut + _EDGE) & (high[:, column] >= cut - _EDGE)
    if spec.output.task == "multiclass":
        rows, top = np.arange(len(low)), low.argmax(axis=1)
        rivals = high.copy()
        rivals[rows, top] = -np.inf
        near |= rivals.max(axis=1) >= low[rows, top] - _EDGE
    if spec.ood is not None and scores.distance is not None:
        near |= np.abs(scores.distance - spec.ood.threshold) <= margins.get("distance", 0.0)
    return near


def _between(spec: ModelSpec, logits: Array, margin: float) -> tuple[Array, Array]:
    """(N, K) least and greatest probability within the margin."""
    if spec.output.task == "multiclass":  # one logit up and all the others down
        p, odds = probabilities(spec, logits), np.exp(2 * margin / spec.calibration.temperature)
        return p / (p + (1 - p) * odds), p * odds / (p * odds + 1 - p)
    one, two = probabilities(spec, logits - margin), probabilities(spec, logits + margin)
    return np.minimum(one, two), np.maximum(one, two)


def _cuts(spec: ModelSpec) -> list[list[float]]:
    """Of each label, the probabilities at which an answer changes."""
    labels, conformal = spec.output.labels, spec.calibration.conformal
    points = {point.label: point.threshold for point in spec.operating_points}
    task, found = spec.output.task, []
    quantiles = None if conformal is None or task == "multilabel" else limits(conformal, labels)
    for at, label in enumerate(labels):
        cuts = [] if quantiles is None else [1 - quantiles[at]]
        if task == "multilabel" or (task == "binary" and at == 1):
            cuts.append(points.get(label, 0.5))
        found.append(cuts)
    return found
