"""Can the label be read without the patient? From file facts, from the border, from a blur of 8 x 8 pixels?

    for check in cohort_checks(parts.cohort, rows):
        check["name"], check["level"], check["value"], check["message"]      # "file facts", "red", 0.91, ...

In the COVID sets of 2020 every healthy film came from another hospital, and a model that read the hospital looked like
a radiologist. These checks look at the data alone, before and beside any model: a simple cross-validated classifier is
given what should not matter, and its AUROC should be that of a coin. Intervals are by patient; a level needs the
interval as well as the value, so that a small set raises no alarm by chance.
Sources: DeGrave et al., Nat Mach Intell 2021; Bergsma, J Korean Stat Soc 2013 (Cramer's V without its bias).
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from medserve.data.cohort import Case, Cohort
from medserve.data.pseudonym import numbered
from medserve.evaluation.intervals import draw_weights
from medserve.questions.weighted import rank_auroc
from medserve.types import Array

Level = Literal["green", "amber", "red"]
AUROC_RED, AUROC_AMBER = 0.65, 0.60
AUROC_SURE = 0.55  # and the 99 % interval lies above this: three looks at a small clean set raise no alarm
V_AMBER, V_RED = 0.30, 0.50
ALPHA = 0.01  # of the test behind Cramer's V, shared among the facts
MOST_CASES, MOST_LABELS, LEAST_CASES, FOLDS = 2000, 10, 20, 5
SOURCES = ("site", "source", "scanner", "device", "hospital", "centre", "center", "manufacturer", "institution", "view")

FACTS = "label from file facts"
BORDER = "label from the border alone"
THUMBNAIL = "label from 8 x 8 pixels"
ASSOCIATION = "label and file facts move together"


def cohort_checks(cohort: Cohort, rows: Sequence[int] | Array | None = None, *, seed: int = 0) -> list[dict[str, Any]]:
    """The checks of a cohort, or of some of its cases (training, never test).

    Args:
        rows: positions in `cohort.cases`; None takes all.
    """
    chosen = [int(row) for row in (range(len(cohort)) if rows is None else rows)]
    chosen = [row for row in chosen if cohort.cases[row].label is not None]
    if len(chosen) > MOST_CASES:
        chosen = sorted(np.random.default_rng(seed).choice(chosen, MOST_CASES, replace=False).tolist())
    cases = [cohort.cases[row] for row in chosen]
    assert cohort.thumbs is not None, "records have checks of their own"
    thumbs = cohort.thumbs.take([case.index for case in cases])[:, 0]
    targets = np.array([case.label for case in cases], np.float64)
    return data_checks(
        [facts_of(case) for case in cases],
        thumbs,
        label_columns(targets, cohort.task),
        patients=np.array([case.patient for case in cases]),
        seed=seed,
    )


def facts_of(case: Case) -> dict[str, str]:
    """What a file says of itself beside its pixels; never identity, and no subgroup that is the patient's own (age)."""
    facts = {name: str(value) for name, value in case.header.items()}
    facts |= {name: str(value) for name, value in case.groups.items() if name.lower() in SOURCES}
    for name, side in zip(("height_px", "width_px"), facts.get("size", "").split("x"), strict=False):
        facts[name] = side  # as numbers: sizes are often all different, and still telling
    suffix = case.file.rpartition(".")[2].lower() if "." in case.file else ""
    return facts | {"suffix": suffix, "modality": case.modality or "", "colour": str(case.colour)}


def label_columns(targets: Array, task: str) -> Array:
    """(N, K) of 0, 1 or NaN: one question a label; a number is asked as above or below its median."""
    if task == "multilabel":
        return targets[:, :MOST_LABELS]
    if task == "number":
        return (targets > np.median(targets)).astype(np.float64)[:, None]
    values = np.unique(targets)
    wanted = values[1:] if len(values) == 2 else values[:MOST_LABELS]
    return (targets[:, None] == wanted).astype(np.float64)


def data_checks(
    facts: Sequence[Mapping[str, str]],
    thumbs: Array,
    labels: Array,
    *,
    patients: Array | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """All checks of one set.

    Args:
        facts: one mapping a case (format, size, scanner, site ...).
        thumbs: (N, 64, 64) uint8 grey thumbnails.
        labels: (N, K) of 0, 1 or NaN.
        patients: (N,) keys that stay within one fold; None: every case its own.

    Returns: checks {"name", "level" green | amber | red, "value", "low", "high", "figure", "message"} of the worst
        label each; `value` None where it could not be measured.
    """
    who = np.arange(len(labels)) if patients is None else np.asarray(patients)
    grey = np.asarray(thumbs, np.float32) / 255
    table = fact_table(facts)
    return [
        association(facts, labels),
        _readable(FACTS, table, labels, who, seed, "red", "The files themselves tell the label"),
        _readable(BORDER, border_features(grey), labels, who, seed, "red", "The border of the picture tells the label"),
        _readable(
            THUMBNAIL,
            _pool(grey, 8).reshape(len(grey), -1),
            labels,
            who,
            seed,
            "amber",
            "Overall brightness and shape tell much of the label; that may be the disease itself",
        ),
    ]


def border_features(grey: Array) -> Array:
    """What a frame of four pixels of a (N, 64, 64) thumbnail holds: its strips in 16 pieces a side, and each corner's
    mean, spread and extremes."""
    strips = [grey[:, :4], grey[:, -4:], grey[:, :, :4].swapaxes(1, 2), grey[:, :, -4:].swapaxes(1, 2)]
    pieces = [strip.mean(axis=1).reshape(len(grey), 16, -1).mean(axis=2) for strip in strips]
    corners = [grey[:, y, x] for y in (slice(0, 8), slice(-8, None)) for x in (slice(0, 8), slice(-8, None))]
    told = [np.stack([c.mean((1, 2)), c.std((1, 2)), c.min((1, 2)), c.max((1, 2))], axis=1) for c in corners]
    return np.concatenate([*pieces, *told], axis=1)


def fact_table(facts: Sequence[Mapping[str, str]]) -> Array:
    """(N, F): numbers as they are, with a flag where missing; else one column for each value of five cases or more."""
    columns: list[Array] = []
    for name in sorted({key for row in facts for key in row}):
        values = [row.get(name, "") for row in facts]
        distinct = sorted(set(values))
        numbers = np.array([_number(value) for value in values])
        if len(distinct) > 10 and np.isfinite(numbers).mean() > 0.5:
            known = np.isfinite(numbers)
            columns += [np.where(known, numbers, np.median(numbers[known])), known.astype(float)]
            continue
        texts = np.array(values)
        columns += [(texts == value).astype(float) for value in distinct if 5 <= (texts == value).sum() < len(texts)]
    kept = [column for column in columns if column.std() > 0]
    return np.stack(kept, axis=1) if kept else np.zeros((len(facts), 0))


def cramers_v(label: Array, fact: Sequence[str]) -> tuple[float, float]:
    """Association of a label with a categorical fact, corrected for its bias, and the p value of the chi-square test.

    Source: Bergsma 2013, equations 2-4.
    """
    from scipy.stats import chi2

    _, rows = np.unique(label, return_inverse=True)
    _, columns = np.unique(np.asarray(fact), return_inverse=True)
    counts = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(counts, (rows, columns), 1)
    n, (r, k) = counts.sum(), counts.shape
    if min(r, k) < 2 or n < 2:
        return 0.0, 1.0
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / n
    statistic = float(((counts - expected) ** 2 / expected).sum())
    phi2 = max(0.0, statistic / n - (r - 1) * (k - 1) / (n - 1))
    r2, k2 = r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)
    v = float(np.sqrt(phi2 / max(min(r2, k2) - 1, 1e-9)))
    return min(v, 1.0), float(chi2.sf(statistic, (r - 1) * (k - 1)))


def readable(
    features: Array, label: Array, patients: Array, *, seed: int = 0
) -> tuple[float, float, float, float] | None:
    """Cross-validated AUROC of a ridge-penalised logistic regression, with its 95 % interval by patient.

    Args:
        features: (N, F). label: (N,) 0 or 1. patients: (N,) keys.

    Returns: (value, low, high, sure), `sure` the lower end of the 99 % interval; None with fewer than 20 patients of
        a label, or nothing to read.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fewest = min(len(np.unique(patients[label == one])) for one in (0, 1))
    if features.shape[1] == 0 or fewest < LEAST_CASES:
        return None
    said = np.zeros(len(label))
    fold = _folds(label, patients, seed)
    for number in range(FOLDS):
        fit, test = fold != number, fold == number
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, solver="newton-cholesky"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it then falls back to lbfgs by itself
            z = model.fit(features[fit], label[fit]).decision_function(features[test])
        said[test] = z - np.log((label[fit].mean()) / (1 - label[fit].mean()))  # folds differ in their share
    value = float(rank_auroc(label, said, np.ones((1, len(label))))[0])
    draws = np.concatenate([rank_auroc(label, said, w) for w in draw_weights(patients, label, draws=400, seed=seed)])
    low, high, sure = np.nanpercentile(draws, [2.5, 97.5, 0.5])
    return value, float(low), float(high), float(sure)


def _folds(label: Array, patients: Array, seed: int) -> Array:
    """(N,) fold of each case: patients dealt out at random, those with a positive case evenly."""
    who = numbered(patients)
    positive = np.zeros(who.max() + 1, int)
    np.maximum.at(positive, who, label)
    order = np.random.default_rng(seed).permutation(len(positive))
    order = order[np.argsort(positive[order], kind="stable")]
    fold = np.empty(len(positive), int)
    fold[order] = np.arange(len(order)) % FOLDS
    return fold[who]


def _readable(
    name: str, features: Array, labels: Array, who: Array, seed: int, worst: Level, message: str
) -> dict[str, Any]:
    found = []
    for column in labels.T:
        known = np.isfinite(column)
        answer = readable(features[known], column[known].astype(int), who[known], seed=seed)
        if answer is not None:
            found.append(answer)
    if not found:
        reason = "every case has the same" if features.shape[1] == 0 else "too few cases of a label"
        return check(name, "green", None, None, None, f"Not measured: {reason}.")
    value, low, high, sure = max(found, key=lambda one: one[3])
    level: Level = "green"
    if sure > AUROC_SURE and value > AUROC_AMBER:
        level = worst if value > AUROC_RED else "amber"
        return check(name, level, value, low, high, f"{message} (AUROC {value:.2f}; a coin has 0.50).")
    return check(name, level, value, low, high, f"Little of the label can be read there (AUROC {value:.2f}).")


def association(facts: Sequence[Mapping[str, str]], labels: Array, *, called: str = ASSOCIATION) -> dict[str, Any]:
    """The fact that goes most closely with a label; it counts only when chance is an unlikely reason."""
    names = sorted({key for row in facts for key in row})
    texts = {name: [row.get(name, "") for row in facts] for name in names}
    texts = {name: values for name, values in texts.items() if 2 <= len(set(values)) <= max(2, len(values) // 5)}
    tests = max(1, len(texts) * labels.shape[1])
    best = (0.0, 1.0, "")
    for name, values in texts.items():
        for column in labels.T:
            known = np.flatnonzero(np.isfinite(column))
            if not len(known):
                continue
            v, p = cramers_v(column[known], [values[row] for row in known])
            if p < ALPHA / tests and v > best[0]:
                best = (v, p, name)
    v, _, name = best
    if not texts:
        return check(called, "green", None, None, None, "Not measured: no fact differs between the files.")
    if v <= V_AMBER:
        return check(called, "green", v, None, None, f"No file fact goes with the label (Cramer's V at most {v:.2f}).")
    text = f"{name!r} goes with the label (Cramer's V {v:.2f})"
    if v > 0.95:
        text = f"{name!r} determines the label (Cramer's V {v:.2f}): the model may learn the source and nothing else"
    return check(called, "red" if v > V_RED else "amber", v, None, None, f"{text}.")


def _pool(grey: Array, side: int) -> Array:
    n, height, width = grey.shape
    return grey.reshape(n, side, height // side, side, width // side).mean((2, 4))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def check(
    name: str, level: Level, value: float | None, low: float | None, high: float | None, message: str
) -> dict[str, Any]:
    figure = "not measured" if value is None else f"{value:.2f}"
    if low is not None and high is not None:
        figure += f" [{low:.2f}, {high:.2f}]"
    return {
        "name": name,
        "level": level,
        "value": value,
        "low": low,
        "high": high,
        "figure": figure,
        "message": message,
    }
