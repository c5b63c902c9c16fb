"""Recipe or baseline: decided on held-out training-side data, never on the test part.

    verdict = choose(output, recipe_logits, baseline_logits, targets, patients, on="val")
    verdict["chosen"]            # "recipe" only where the interval of the difference excludes 0

The simpler model is offered unless the other is shown to be better. The criterion is the mean log loss per class
(squared error for a number), a proper score that class imbalance does not sway.
"""

from typing import Any

import numpy as np

from medserve.evaluation.calibrate import case_loss
from medserve.evaluation.intervals import bootstrap, strata_of
from medserve.models.spec import OutputSpec
from medserve.types import Array


def choose(
    output: OutputSpec,
    recipe_logits: Array,
    baseline_logits: Array,
    targets: Array,
    patients: Array,
    *,
    on: str,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Paired bootstrap by patient of baseline loss minus recipe loss, both before calibration.

    Args:
        on: what the cases are ("val", "5-fold cross-validation"), for the record.

    Returns: {"chosen": "recipe" | "baseline", "on", "n", "metric", "recipe", "baseline", "difference": {value, low,
        high}}; a positive difference favours the recipe.
    """
    ours, plain = (_losses(output, logits, targets) for logits in (recipe_logits, baseline_logits))
    strata = strata_of(output.task, targets)
    groups = [strata == s for s in np.unique(strata)]

    def balanced(weights: Array, losses: Array) -> Array:
        means = [(weights[:, g] @ losses[g]) / np.maximum(weights[:, g].sum(1), 1e-12) for g in groups]
        return np.mean(means, axis=0)

    def measure(weights: Array) -> dict[str, Array]:
        a, b = balanced(weights, ours), balanced(weights, plain)
        return {"recipe": a, "baseline": b, "difference": b - a}

    figures = bootstrap(measure, patients, strata, draws=draws, seed=seed)
    low = figures["difference"]["low"]
    return {
        "chosen": "recipe" if low is not None and low > 0 else "baseline",
        "on": on,
        "n": len(targets),
        "metric": "squared error" if output.task == "number" else "class-balanced log loss",
        **figures,
    }


def _losses(output: OutputSpec, logits: Array, targets: Array) -> Array:
    if output.task == "number":
        return (np.asarray(logits, np.float64)[:, 0] - (targets - output.mean) / output.sd) ** 2
    return case_loss(output, logits, targets, 1.0)
