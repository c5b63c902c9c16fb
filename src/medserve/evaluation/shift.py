"""Are the evaluated cases like those the guarantee was fitted on? A two-sample check on the model's own scores.

    two_sample(calibration_scores, scores, by_label=None)     # {"auroc": .52, "of": "logit 1", "shifted": False, ...}

If a single score tells the two parts apart with an AUROC surely above one half and above .6, they are not
exchangeable, and the text of the conformal guarantee is withdrawn.
"""

from typing import Any

import numpy as np

from medserve.evaluation.intervals import delong
from medserve.types import Array, Scores

LIMIT = 0.6
FEWEST = 20


def two_sample(before: Scores, now: Scores, by_label: tuple[Array, Array] | None = None) -> dict[str, Any] | None:
    """The score (a logit, or the distance) that best tells calibration cases from evaluated ones.

    Args:
        by_label: the two parts' targets; compares label by label, for guarantees that hold label by label and so
            survive another mix of labels. The label that differs most counts.

    Returns: {"auroc" (at least .5), "low", "high", "of", "within_label", "limit", "shifted"}; None with too few cases.
    """
    columns = [(f"logit {k + 1}", before.logits[:, k], now.logits[:, k]) for k in range(before.logits.shape[1])]
    if before.distance is not None and now.distance is not None:
        columns.append(("distance", before.distance, now.distance))
    whole = (np.ones(len(before), bool), np.ones(len(now), bool))
    strata = [whole]
    if by_label is not None:
        strata = [(by_label[0] == k, by_label[1] == k) for k in np.unique(by_label[0])]
    best: dict[str, Any] | None = None
    for old, new in strata:
        if min(old.sum(), new.sum()) < FEWEST:
            continue
        part = np.concatenate([np.zeros(old.sum(), bool), np.ones(new.sum(), bool)])
        for name, a, b in columns:
            values = np.concatenate([a[old], b[new]])
            if not np.isfinite(values).all():
                continue
            span = delong(part, values)
            if span is None:
                continue
            if span["value"] < 0.5:
                span = {"value": 1 - span["value"], "low": 1 - span["high"], "high": 1 - span["low"]}
            if best is None or span["value"] > best["auroc"]:
                best = {"auroc": span["value"], "low": span["low"], "high": span["high"], "of": name}
    if best is None:
        return None
    shifted = bool(best["auroc"] > LIMIT and best["low"] > 0.5)
    return {**best, "within_label": by_label is not None, "limit": LIMIT, "shifted": shifted}
