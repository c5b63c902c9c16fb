"""What can make a model of records look better than it is: a label inside an input, values that are missing because of
the outcome, a source that is the class. Each check stands alone and is tried on a poisoned and a clean example.

    checks = danger_checks(columns, known, labels, patients=who, facts=facts, seed=0)
    checks = danger_checks(columns, known, survival_labels(targets), patients=who, follow_up=targets)  # survival

Levels: green; amber, worth a look; red, the figures must not be believed before a person has looked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medserve.evaluation.shortcuts import Level, association, check, readable
from medserve.questions.censored import concordance
from medserve.types import Array

INSIDE = "the label inside an input"
ABSENCE = "the label from what is missing"
SOURCE = "label and source move together"
ALONE = 0.95  # AUROC of one input alone, from which it may hold the label
JUMP = 0.05  # AUROC that is lost without that input, from which it does
LIFT = 0.9  # share of the lift over chance that missingness alone reaches
FEWEST = 0.6  # AUROC below which missingness says nothing worth a warning
MOST_ROWS = 4000
MOST_PAIRED = 1000  # cases whose pairs a concordance compares


def danger_checks(
    columns: Mapping[str, Array],
    known: Mapping[str, Array],
    labels: Array,
    *,
    patients: Array,
    facts: Sequence[Mapping[str, str]] = (),
    follow_up: Array | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """
    Args:
        columns: input -> (N, F) finite features of it, missing ones filled.
        known: input -> (N,) or (N, F) bool, whether anything (each channel) is known.
        labels: (N, K) of 0, 1 or NaN, see `shortcuts.label_columns`.
        patients: (N,) keys that stay within a fold.
        facts: source, site, scanner of each case.
        follow_up: (N, 2) time and event of survival, whose labels are those of `survival_labels`; an input alone is
            then held against the time by its concordance, and against whether the event was seen by its AUROC.

    Returns: checks as `shortcuts.data_checks` gives them.
    """
    rows = np.arange(len(labels))
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_ROWS, replace=False))
    take = {name: values[rows] for name, values in columns.items()}
    there = {name: values[rows] for name, values in known.items()}
    who, y = np.asarray(patients)[rows], labels[rows]
    seen = None if follow_up is None else np.asarray(follow_up, np.float64)[rows]
    return [
        _inside(take, there, y, who, seed, seen),
        _absence(take, there, y, who, seed),
        association([facts[int(i)] for i in rows] if len(facts) else [{}] * len(rows), y, called=SOURCE),
    ]


def survival_labels(targets: Array) -> Array:
    """(N, 2) of 0, 1 or NaN: whether the event came by the middle time of the events (unknown where observation ended
    before), and whether it was seen at all.

    Args: targets: (N, 2) time and event, NaN where unknown.
    """
    targets = np.asarray(targets, np.float64)
    known = np.isfinite(targets).all(axis=1)
    time, event = targets.T
    happened = known & (event == 1)
    middle = float(np.median(time[happened])) if happened.any() else np.inf
    early = np.where(happened & (time <= middle), 1.0, np.where(known & (time > middle), 0.0, np.nan))
    return np.column_stack([early, np.where(known, happened.astype(float), np.nan)])


def _inside(
    columns: Mapping[str, Array],
    known: Mapping[str, Array],
    labels: Array,
    who: Array,
    seed: int,
    follow_up: Array | None,
) -> dict[str, Any]:
    """One input that tells the label almost alone, and without which the others cannot."""
    if not columns:
        return check(INSIDE, "green", None, None, None, "Not measured: no input is a number or a word.")
    best: tuple[float, str, int] = (0.0, "", 0)
    for k, label in enumerate(labels.T):
        rows = np.isfinite(label)
        for name, values in columns.items():
            timed = follow_up is not None and k == 0
            alone = _ordered(values, follow_up, seed) if timed else _single(values[rows], label[rows])
            best = max(best, (alone, name, k))
    value, name, k = best
    what, figure = ("the label", "AUROC")
    if follow_up is not None:
        what, figure = (("the time to the event", "concordance"), ("whether the event was seen", "AUROC"))[k]
    if value <= ALONE:
        text = (
            f"No input tells {'the outcome' if follow_up is not None else what} alone ({figure} at most {value:.2f})."
        )
        return check(INSIDE, "green", value, None, None, text)
    rows = np.isfinite(labels[:, k])
    y = labels[rows, k].astype(int)
    everything = _join({n: v[rows] for n, v in columns.items()}, {n: v[rows] for n, v in known.items()})
    others = _join(
        {n: v[rows] for n, v in columns.items() if n != name}, {n: v[rows] for n, v in known.items() if n != name}
    )
    with_it, without = (readable(x, y, who[rows], seed=seed) for x in (everything, others))
    lost = None if with_it is None else with_it[0] - (0.5 if without is None else without[0])
    alone_said = f"{name!r} alone tells {what} ({figure} {value:.2f})"
    if lost is not None and lost <= JUMP:
        text = f"{alone_said}; the others tell it without it, so it may be honest."
        return check(INSIDE, "amber", value, None, None, text)
    return check(
        INSIDE, "red", value, None, None, f"{alone_said} and the others do not: was it written after the outcome?"
    )


def _ordered(values: Array, follow_up: Array | None, seed: int) -> float:
    """Largest concordance of any one column with the time to the event, either way round."""
    assert follow_up is not None
    rows = np.flatnonzero(np.isfinite(follow_up).all(axis=1))
    if len(rows) > MOST_PAIRED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_PAIRED, replace=False))
    time, event = follow_up[rows, 0], follow_up[rows, 1] == 1
    if min(event.sum(), len(rows) - 1) < 10:
        return 0.0
    found = 0.0
    for column in values[rows].T:
        if column.min() < column.max():
            c = float(concordance(time, event, column, np.ones((1, len(rows))))[0])
            found = max(found, c, 1 - c)
    return found


def _single(values: Array, label: Array) -> float:
    """Largest AUROC of any one column, either way round; of a category, of its levels' rates."""
    from scipy.stats import rankdata

    positive = label == 1
    n1, n0 = int(positive.sum()), int((~positive).sum())
    if min(n1, n0) < 10:
        return 0.0
    found = 0.0
    for column in values.T:
        if column.min() == column.max():
            continue
        ranks = rankdata(column)
        auroc = (ranks[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0)
        found = max(found, auroc, 1 - auroc)
    return float(found)


def _absence(
    columns: Mapping[str, Array], known: Mapping[str, Array], labels: Array, who: Array, seed: int
) -> dict[str, Any]:
    """How much of the label is told by which values are missing, and by nothing else."""
    gaps = _flags(known)
    if gaps.shape[1] == 0:
        return check(ABSENCE, "green", None, None, None, "Nothing is missing anywhere.")
    worst: tuple[float, float, float, float, float] | None = None
    for label in labels.T:
        rows = np.isfinite(label)
        y = label[rows].astype(int)
        alone = readable(gaps[rows], y, who[rows], seed=seed)
        if alone is None:
            continue
        parts = ({n: v[rows] for n, v in columns.items()}, {n: v[rows] for n, v in known.items()})
        full = readable(_join(*parts), y, who[rows], seed=seed)
        lift = (alone[0] - 0.5) / max(0.01, (full[0] if full else alone[0]) - 0.5)
        if worst is None or alone[0] > worst[0]:
            worst = (*alone, lift)
    if worst is None:
        return check(ABSENCE, "green", None, None, None, "Not measured: too few cases of a label.")
    value, low, high, sure, lift = worst
    text = f"Which values are missing tells the label with AUROC {value:.2f}"
    if sure > 0.5 and value >= FEWEST and lift >= LIFT:
        return check(ABSENCE, "red", value, low, high, f"{text}, nearly as well as the values themselves.")
    level: Level = "amber" if sure > 0.5 and value >= FEWEST else "green"
    return check(ABSENCE, level, value, low, high, f"{text}; the values add to it.")


def _flags(known: Mapping[str, Array]) -> Array:
    n = len(next(iter(known.values()))) if known else 0
    flags = [np.asarray(v, float).reshape(n, -1) for v in known.values()]
    joined = np.concatenate(flags, axis=1) if flags else np.empty((n, 0))
    return joined[:, joined.std(axis=0) > 0] if joined.size else joined


def _join(columns: Mapping[str, Array], known: Mapping[str, Array]) -> Array:
    n = len(next(iter(known.values()))) if known else 0
    parts = [v.reshape(n, -1) for v in columns.values()]
    joined = np.concatenate([*parts, _flags(known)], axis=1) if parts else _flags(known)
    return joined[:, joined.std(axis=0) > 1e-12] if joined.size else joined
