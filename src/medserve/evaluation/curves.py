"""The lines of the report's figures, as numbers: ROC, precision-recall, reliability, risk against coverage.

    curves(judged, patients, draws=200, seed=0)     # {"roc": [...], "pr": [...], "reliability": {...}, ...}

Every list is thinned to at most 200 points and holds no case by itself: thresholds and values of single cases stay out.
"""

from typing import Any

import numpy as np

from medserve.evaluation import survival
from medserve.evaluation.intervals import draw_weights, strata_of, wilson
from medserve.questions.metrics import ECE_BINS, Judged, one_vs_rest, stated_and_true
from medserve.questions.weighted import Z95, average_precision, bin_of, rank_auroc
from medserve.types import Array

POINTS = 200


def curves(judged: Judged, patients: Array, *, draws: int = 200, seed: int = 0) -> dict[str, Any]:
    """All curves that the task has, JSON-ready."""
    if judged.task == "number":
        return {"agreement": agreement(judged)}
    if judged.task == "survival":
        return survival.curves(judged)
    out: dict[str, Any] = {"roc": [], "pr": []}
    ones = np.ones((1, len(judged)))
    sides = one_vs_rest(judged)
    for k, label in enumerate(judged.labels if judged.kind != "medicines" else ()):  # dozens: a table tells them
        if judged.task == "binary" and k == 0:
            continue
        y, p, rows = sides[k]
        if not 0 < y.sum() < len(y):
            continue
        line = {"label": label, "points": roc_points(y, p), "auroc": float(rank_auroc(y, p, ones[:, rows])[0])}
        if judged.task == "binary":
            line["band"] = roc_band(y, p, patients, draws=draws, seed=seed)
        out["roc"].append(line)
        ap = float(average_precision(y, p, ones[:, rows])[0])
        out["pr"].append({"label": label, "points": pr_points(y, p), "auprc": ap, "prevalence": float(y.mean())})
    stated, event = stated_and_true(judged)
    out["reliability"] = {
        "of": judged.labels[1] if judged.task == "binary" else "top label" if judged.task != "multilabel" else "labels",
        "bins": reliability(stated, event, draws=max(draws, 400), seed=seed),
    }
    out["histogram"] = histogram(stated, event)
    if judged.task != "multilabel":
        wrong = judged.chosen != judged.targets
        out["risk_coverage"] = risk_coverage(judged.probs.max(axis=1), wrong)
    return out


def _counts(y: Array, p: Array) -> tuple[Array, Array]:
    """True and false alarms at each falling threshold, from (0, 0) to all."""
    order = np.argsort(-p, kind="stable")
    last = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    tp = np.concatenate([[0], np.cumsum(y[order])[last]])
    return tp, np.concatenate([[0], last + 1]) - tp


def roc_points(y: Array, p: Array) -> list[list[float]]:
    """[[false positive rate, sensitivity], ...] with rising rate."""
    tp, fp = _counts(y, p)
    return thin(np.stack([fp / max((~y).sum(), 1), tp / max(y.sum(), 1)], axis=1))


def pr_points(y: Array, p: Array) -> list[list[float]]:
    """[[recall, precision], ...] with rising recall."""
    tp, fp = _counts(y, p)
    tp, fp = tp[1:], fp[1:]
    return thin(np.stack([tp / max(y.sum(), 1), tp / (tp + fp)], axis=1))


def roc_band(y: Array, p: Array, patients: Array, *, draws: int, seed: int) -> dict[str, list[float]]:
    """Pointwise 95 % bootstrap band of the sensitivity over a grid of false positive rates."""
    grid = np.linspace(0, 1, 51)
    order = np.argsort(-p, kind="stable")
    last = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    lines = []
    for weights in draw_weights(patients, y.astype(np.int64), draws=draws, seed=seed):
        w = weights[:, order]
        tp = np.cumsum(w * y[order], axis=1)[:, last]
        fp = np.cumsum(w * ~y[order], axis=1)[:, last]
        for t, f in zip(tp, fp, strict=True):
            if t[-1] and f[-1]:
                lines.append(np.interp(grid, np.append(0, f / f[-1]), np.append(0, t / t[-1])))
    if not lines:
        return {"fpr": [], "low": [], "high": []}
    low, high = np.quantile(np.stack(lines), [0.025, 0.975], axis=0)
    return {"fpr": _list(grid), "low": _list(low), "high": _list(high)}


def reliability(stated: Array, event: Array, *, draws: int = 400, seed: int = 0) -> list[dict[str, float]]:
    """Per equal-width bin that holds a case: mean stated probability and share of events.

    `low` and `high` are Wilson's interval of the share; `null_low` and `null_high` where 95 % of shares fall if the
    stated probabilities are exactly right.
    """
    where = bin_of(stated, ECE_BINS)
    rng = np.random.default_rng(seed)
    out = []
    for b in range(ECE_BINS):
        inside = where == b
        n = int(inside.sum())
        if not n:
            continue
        p, share = stated[inside], float(event[inside].mean())
        null = (rng.random((draws, n)) < p).mean(axis=1)
        low, high = wilson(share, n)
        null_low, null_high = np.quantile(null, [0.025, 0.975])
        out.append(
            {"stated": float(p.mean()), "true": share, "n": n, "low": low, "high": high,
             "null_low": float(null_low), "null_high": float(null_high)}
        )  # fmt: skip
    return out


def histogram(stated: Array, event: Array, bins: int = 20) -> dict[str, list[float]]:
    """How many cases state each probability, with and without the event."""
    edges = np.linspace(0, 1, bins + 1)
    return {
        "edges": _list(edges),
        "event": _list(np.histogram(stated[event], edges)[0]),
        "no_event": _list(np.histogram(stated[~event], edges)[0]),
    }


def risk_coverage(confidence: Array, wrong: Array) -> dict[str, Any]:
    """Share of errors among the most confident part of the cases, against that part's size; and the area under it.

    Cases of equal confidence enter together. Source: Geifman & El-Yaniv 2017.
    """
    order = np.argsort(-confidence, kind="stable")
    n = len(order)
    last = np.append(np.flatnonzero(np.diff(confidence[order])), n - 1)
    kept = last + 1
    risk = np.cumsum(wrong[order])[last] / kept
    area = float((risk * np.diff(np.append(0, kept))).sum() / n)
    return {"points": thin(np.stack([kept / n, risk], axis=1)), "aurc": area}


def agreement(judged: Judged, bins: int = 10) -> list[dict[str, float]]:
    """For a number: mean prediction and mean truth in up to ten groups of at least ten cases of like prediction."""
    value = judged.probs[:, 0]
    groups = np.array_split(np.argsort(value, kind="stable"), max(1, min(bins, len(value) // 10)))
    out = []
    for rows in groups:
        truth = judged.targets[rows].astype(np.float64)
        half = Z95 * float(truth.std(ddof=1)) / np.sqrt(len(rows)) if len(rows) > 1 else 0.0
        mean = float(truth.mean())
        out.append({"stated": float(value[rows].mean()), "true": mean, "low": mean - half, "high": mean + half,
                    "n": len(rows)})  # fmt: skip
    return out


def ece_null(judged: Judged, *, draws: int = 1000, seed: int = 0) -> dict[str, float] | None:
    """The ECE that a perfectly calibrated model with these very probabilities would show: mean and 95th percentile.

    Outcomes are drawn from the stated probabilities. On 200 cases it is about .08: an ECE is read against this, never
    against 0. None for a number and for survival.
    """
    if judged.task in ("number", "survival"):
        return None
    rng = np.random.default_rng(seed)
    if judged.task == "multilabel":
        columns = [(p, np.eye(ECE_BINS)[bin_of(p, ECE_BINS)]) for _, p, _ in one_vs_rest(judged) if len(p)]
    else:
        stated, _ = stated_and_true(judged)
        columns = [(stated, np.eye(ECE_BINS)[bin_of(stated, ECE_BINS)])]
    total = np.zeros(draws)
    for p, member in columns:
        step = max(1, 2_000_000 // len(p))
        for start in range(0, draws, step):
            rows = min(step, draws - start)
            gap = (p - (rng.random((rows, len(p))) < p)) @ member
            total[start : start + rows] += np.abs(gap).sum(axis=1) / len(p)
    total /= len(columns)
    return {"mean": float(total.mean()), "p95": float(np.quantile(total, 0.95))}


def thin(points: Array, most: int = POINTS) -> list[list[float]]:
    """At most `most` rows, ends kept, corners on the way dropped first."""
    if len(points) > most:
        points = points[np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))]
    return [_list(row) for row in points]


def _list(values: Array) -> list[float]:
    return [round(float(v), 6) for v in values]


def strata(judged: Judged) -> Array:
    """(N,) strata for the bootstrap of this part."""
    return strata_of(judged.task, judged.targets)
