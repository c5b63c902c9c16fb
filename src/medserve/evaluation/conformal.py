"""Split conformal prediction: sets of labels that hold the truth in 90 of 100 cases, whatever the model.

    conformal = fit_conformal(spec, logits, targets, alpha=0.1)       # on the calibration part
    coverage_band(conformal, counts, evaluated)                       # where the empirical coverage may fall

Scores are 1 - p(true label) (LAC), or |error| on the scale of a number; the quantile is the k-th smallest of n with
k = ceil((n + 1)(1 - alpha)). With enough cases of every label it is taken per label: then the guarantee holds for
each label by itself and survives another mix of labels; of a number likewise per group of the declared input. It asks
that new cases are exchangeable with these.

A case may lack whole inputs. What a model says then is less sure than its scores of whole cases let one think, so
`fit_absent` takes the quantile of the same cases with those inputs hidden, and the larger one holds: a set only widens.
It holds the truth as often as promised where inputs go missing by chance, not because of what they would have shown.

Sources: Vovk 2005; Sadinle 2019 (LAC); Angelopoulos & Bates 2023, section 3.2 (the beta law of the coverage).
"""

import math
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np

from medserve.models.spec import Absent, Conformal, ModelSpec
from medserve.questions.answers import limits, prediction_set, probabilities
from medserve.types import Array

ALPHA = 0.1
PER_LABEL = 50  # calibration cases of every label for quantiles per label
PER_GROUP = 30  # calibration cases of a group for a quantile of its own


def rank(n: int, alpha: float) -> int:
    """k, the rank of the quantile among n scores; above n there are too few cases. n=9, alpha=.1: ceil(10 x .9)=9."""
    return math.ceil(round((n + 1) * (1 - alpha), 9))


def quantile(scores: Array, alpha: float) -> float | None:
    """The finite-sample quantile, or None below the floor of n (9 for .1, 19 for .05, 99 for .01)."""
    k = rank(len(scores), alpha)
    return None if k > len(scores) else float(np.sort(scores)[k - 1])


def scores_of(spec: ModelSpec, logits: Array, targets: Array) -> Array:
    """(N,) how badly each truth fits: 1 - p(true), or |error| on the scale of the number."""
    probs = probabilities(spec, logits)
    if spec.output.task == "number":
        return np.abs(spec.output.scaled(probs[:, 0]) - spec.output.scaled(targets))
    return 1 - np.take_along_axis(probs, np.asarray(targets, np.int64)[:, None], axis=1)[:, 0]


def fit_conformal(spec: ModelSpec, logits: Array, targets: Array, *, alpha: float = ALPHA) -> Conformal | None:
    """Quantiles from the calibration part; None for multilabel and survival, or with fewer cases than `alpha` needs."""
    if spec.output.task in ("multilabel", "survival") or len(targets) == 0:
        return None
    scores = scores_of(spec, logits, targets)
    limit = quantile(scores, alpha)
    if limit is None:
        return None
    return Conformal(alpha=alpha, n=len(scores), quantile=limit, by_label=_by_label(spec, scores, targets, alpha))


def _by_label(spec: ModelSpec, scores: Array, targets: Array, alpha: float) -> dict[str, float] | None:
    """A quantile of each label, where every label has enough cases."""
    if spec.output.task == "number":
        return None
    each = {label: scores[np.asarray(targets) == k] for k, label in enumerate(spec.output.labels)}
    if min(len(s) for s in each.values()) < PER_LABEL:
        return None
    return {label: float(quantile(s, alpha) or 0.0) for label, s in each.items()}


def with_groups(spec: ModelSpec, logits: Array, targets: Array, groups: Sequence[str | None]) -> ModelSpec:
    """The signature with a quantile of its own for every group of calibration cases that is large enough.

    groups: of each case the word for the output's `by`; None where it is not known.
    """
    conformal = spec.calibration.conformal
    if conformal is None or spec.output.task != "number":
        return spec
    scores, names = scores_of(spec, logits, targets), np.array([name or "" for name in groups], str)
    found: dict[str, tuple[float, int]] = {}
    for name in np.unique(names).tolist():
        own = scores[names == name]
        limit = quantile(own, conformal.alpha)
        if name and limit is not None and len(own) >= PER_GROUP:
            found[name] = (limit, len(own))
    return with_conformal(spec, msgspec.structs.replace(conformal, by_group=found))


def with_conformal(spec: ModelSpec, conformal: Conformal) -> ModelSpec:
    return msgspec.structs.replace(spec, calibration=msgspec.structs.replace(spec.calibration, conformal=conformal))


def fit_absent(spec: ModelSpec, hidden: Mapping[tuple[str, ...], tuple[Array, Array]]) -> list[Absent]:
    """Quantiles for cases that lack inputs; none where the model has no prediction sets (multilabel, survival).

    Args:
        hidden: names of the inputs that were hidden -> (logits, targets) of calibration cases without them.
    """
    conformal = spec.calibration.conformal
    if conformal is None:
        return []
    found = []
    for names, (logits, targets) in hidden.items():
        scores = scores_of(spec, logits, targets) if len(targets) else np.zeros(0)
        limit = quantile(scores, conformal.alpha)
        if limit is not None:
            each = _by_label(spec, scores, targets, conformal.alpha)
            found.append(Absent(inputs=list(names), n=len(scores), quantile=limit, by_label=each))
    return found


def covered(
    spec: ModelSpec,
    logits: Array,
    targets: Array,
    absent: Sequence[Collection[str]] | None = None,
    groups: Sequence[str | None] | None = None,
) -> tuple[Array, Array]:
    """What the served sets did.

    Args:
        absent: of each row the inputs that it lacks; None: every case is whole.
        groups: of each row the word for the output's `by`.

    Returns: (hit, size), (N,) each: whether the truth is inside, and how many labels the set holds; for a number the
        size is always 1.
    """
    conformal = spec.calibration.conformal
    assert conformal is not None
    labels = spec.output.labels
    lacks = absent if absent is not None else [()] * len(targets)
    if spec.output.task == "number":
        theirs = groups if groups is not None else [None] * len(targets)
        half = np.array([limits(conformal, labels, names, g)[0] for names, g in zip(lacks, theirs, strict=True)])
        return scores_of(spec, logits, targets) <= half, np.ones(len(targets), np.int64)
    rows = zip(probabilities(spec, logits), lacks, strict=True)
    sets = [prediction_set(spec, row, names) or () for row, names in rows]
    hit = np.array([labels[int(t)] in chosen for t, chosen in zip(targets, sets, strict=True)], bool)
    return hit, np.array([len(chosen) for chosen in sets], np.int64)


def coverage_band(
    conformal: Conformal,
    evaluated: Mapping[str, int],
    calibrated: Mapping[str, int] | None = None,
    *,
    draws: int = 20_000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % band in which the coverage of a correct predictor falls, by its beta-binomial law.

    Coverage given the calibration cases follows Beta(k, n + 1 - k); the evaluated ones are a binomial draw from it.

    Args:
        evaluated: evaluated cases by label (any one key for a number).
        calibrated: calibration cases by label; without it, labels are taken in the evaluated proportions.
            Of a number with quantiles per group, both count the cases of each group.
    """
    rng = np.random.default_rng(seed)
    total = sum(evaluated.values())
    if conformal.by_group is not None and set(evaluated) & set(conformal.by_group):
        own = conformal.by_group
        groups = [(own[name][1] if name in own else conformal.n, m) for name, m in evaluated.items() if m]
    elif conformal.by_label is None:
        groups = [(conformal.n, total)]
    else:
        share = calibrated or {k: round(conformal.n * m / max(total, 1)) for k, m in evaluated.items()}
        groups = [(max(share.get(label, 0), 1), m) for label, m in evaluated.items() if m]
    inside = np.zeros(draws)
    for n, m in groups:
        k = min(rank(n, conformal.alpha), n)
        inside += rng.binomial(m, rng.beta(k, n + 1 - k, draws))
    low, high = np.quantile(inside / max(total, 1), [0.025, 0.975])
    return float(low), float(high)
