"""Is acting on the model better than treating everybody, or nobody? Net benefit over a range of thresholds.

    decision_curve(judged, patients, declared=(0.1, 0.4, "a missed case costs about five false alarms"))

At threshold t a false alarm weighs t / (1 - t) of a found case: net benefit = TP/n - FP/n x t/(1-t). The range says
what trade is reasonable; it is for the user to declare, and the report says so when it was not.
Source: Vickers & Elkin 2006.
"""

from typing import Any

import numpy as np

from medserve.evaluation.intervals import bootstrap, strata_of
from medserve.questions.metrics import Judged
from medserve.types import Array

DEFAULT_RANGE = (0.05, 0.5)
STEPS = 46
NOT_DECLARED = "not declared"


def decision_curve(
    judged: Judged,
    patients: Array,
    *,
    declared: tuple[float, float, str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Net benefit of the model, of treat-all and of treat-none (0), with 95 % intervals; binary only.

    Returns: {"declared", "why", "low", "high", "points": [{"threshold", "model": interval, "all", "gain": interval of
        model minus the better of all and none}], "useful": bool, "message"}. `useful` asks that the model is nowhere
        below either over the whole range and surely above both (interval above 0) somewhere in it.
    """
    if judged.task != "binary":
        return None
    low, high, why = declared or (*DEFAULT_RANGE, NOT_DECLARED)
    grid = np.linspace(low, high, STEPS)
    y = judged.targets == 1
    above = (judged.probs[:, 1][:, None] >= grid[None]).astype(np.float64)
    odds = grid / (1 - grid)

    def figures(w: Array) -> dict[str, Array]:
        n = w.sum(axis=1, keepdims=True)
        model = ((w * y) @ above - ((w * ~y) @ above) * odds) / n
        everybody = (w @ y)[:, None] / n - (w @ ~y)[:, None] / n * odds
        gain = model - np.maximum(everybody, 0)
        return {
            **{f"model/{i}": model[:, i] for i in range(STEPS)},
            **{f"gain/{i}": gain[:, i] for i in range(STEPS)},
        }

    found = bootstrap(figures, patients, strata_of("binary", judged.targets), draws=draws, seed=seed)
    prevalence = float(y.mean())
    points = [
        {
            "threshold": round(float(t), 6),
            "model": found[f"model/{i}"],
            "all": prevalence - (1 - prevalence) * float(odds[i]),
            "gain": found[f"gain/{i}"],
        }
        for i, t in enumerate(grid)
    ]
    gains = [point["gain"] for point in points]
    useful = all((g["value"] or 0) > -1e-9 for g in gains) and any((g["low"] or 0) > 0 for g in gains)  # type: ignore[index]
    span = f"{low:.2f} to {high:.2f}"
    message = (
        f"At least as good as treating all or none over the whole range {span}, and surely better in part of it."
        if useful
        else f"No demonstrated clinical utility: not better than treating all or none over the range {span}."
    )
    if declared is None:
        message += " The range was not declared by the user; it is a default."
    return {
        "declared": declared is not None,
        "why": why,
        "low": low,
        "high": high,
        "points": points,
        "useful": useful,
        "message": message,
    }
