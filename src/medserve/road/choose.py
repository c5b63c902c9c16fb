"""Recipe or baseline: decided on held-out training-side data, never on the test part.

    verdict = choose(output, recipe_logits, baseline_logits, targets, patients, on="val and calibration")
    verdict["chosen"]            # "recipe" only where the interval of the difference excludes 0

The simpler model is offered unless the other is shown to be better. The criterion for classes is balanced accuracy at
the neutral decision, the same that the operating point is judged by; squared error for a number, log loss for several
labels, 1 - Harrell's C for survival, 1 - entity F1 for tags. Of two classes the other model must also rank the cases at
least as well (AUROC): where one class is rare, a neutral decision says little, and its threshold is moved anyway.

The held-out cases are those of val and calibration together: twice the evidence. The calibration part then sees one
choice between two models, which loosens the conformal guarantee by at most that much.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from medserve.evaluation.calibrate import bare, case_loss
from medserve.evaluation.intervals import Interval, bootstrap, strata_of
from medserve.models.spec import OutputSpec
from medserve.questions.answers import probabilities
from medserve.questions.censored import concordance
from medserve.questions.tags import f1_of, scored
from medserve.questions.weighted import rank_auroc
from medserve.types import Array

_METRIC = {"number": "squared error, in standard deviations", "multilabel": "log loss", "survival": "1 - C index",
           "tags": "1 - entity F1"}  # fmt: skip


def choose(
    output: OutputSpec,
    recipe_logits: Array,
    baseline_logits: Array,
    targets: Array,
    patients: Array,
    *,
    on: str,
    folds: Array | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Paired bootstrap by patient of the baseline's mean loss minus the recipe's, both before calibration.

    Args:
        on: what the cases are ("val and calibration", "5-fold cross-validation"), for the record.
        folds: (N,) for scores of several networks, as cross-validation gives them: survival compares pairs of one fold
            only, since a log hazard ratio has no zero of its own.

    Returns: {"chosen": "recipe" | "baseline", "on", "n", "metric", "recipe", "baseline", "difference": {value, low,
        high}}; a positive difference favours the recipe.
    """
    strata = strata_of(output.task, targets)
    if output.task == "survival":
        figures = bootstrap(
            _discordance(recipe_logits, baseline_logits, targets, folds), patients, strata, draws=draws, seed=seed
        )
        return _verdict(output, figures, on, len(targets))
    if output.task == "tags":
        counts = [scored(output, logits, targets) for logits in (recipe_logits, baseline_logits)]
        return _verdict(
            output, bootstrap(_unfound(*counts), patients, strata, draws=draws, seed=seed), on, len(targets)
        )
    ours, plain = (_losses(output, logits, targets) for logits in (recipe_logits, baseline_logits))
    groups = [strata == s for s in np.unique(strata)]

    def balanced(weights: Array, losses: Array) -> Array:
        means = [(weights[:, g] @ losses[g]) / np.maximum(weights[:, g].sum(1), 1e-12) for g in groups]
        return np.mean(means, axis=0)

    def measure(weights: Array) -> dict[str, Array]:
        a, b = balanced(weights, ours), balanced(weights, plain)
        return {"recipe": a, "baseline": b, "difference": b - a}

    verdict = _verdict(output, bootstrap(measure, patients, strata, draws=draws, seed=seed), on, len(targets))
    if output.task == "binary":
        verdict["auroc"] = {
            "recipe": _ranks(output, recipe_logits, targets), "baseline": _ranks(output, baseline_logits, targets)
        }  # fmt: skip
        if verdict["auroc"]["recipe"] < verdict["auroc"]["baseline"]:
            verdict["chosen"] = "baseline"
    return verdict


def _ranks(output: OutputSpec, logits: Array, targets: Array) -> float:
    """AUROC; NaN where there is one class only."""
    score = probabilities(bare(output), logits)[:, 1]
    return float(rank_auroc(np.asarray(targets) == 1, score, np.ones((1, len(score))))[0])


def _verdict(output: OutputSpec, figures: dict[str, Interval], on: str, n: int) -> dict[str, Any]:
    low = figures["difference"]["low"]
    return {
        "chosen": "recipe" if low is not None and low > 0 else "baseline",
        "on": on,
        "n": n,
        "metric": _METRIC.get(output.task, "balanced error"),
        **figures,
    }


def _unfound(recipe: Array, baseline: Array) -> Callable[[Array], dict[str, Array]]:
    """1 - entity F1 of both, from counts of each case (N, 3)."""

    def measure(weights: Array) -> dict[str, Array]:
        ours, plain = (1 - f1_of(*(weights @ counts).T) for counts in (recipe, baseline))
        return {"recipe": ours, "baseline": plain, "difference": plain - ours}

    return measure


def _discordance(
    recipe: Array, baseline: Array, targets: Array, folds: Array | None
) -> Callable[[Array], dict[str, Array]]:
    """1 - C of both, where the event is known."""
    targets = np.asarray(targets, np.float64)
    known = np.isfinite(targets).all(axis=1)
    times, events = targets[known, 0], targets[known, 1] == 1
    within = None if folds is None else np.asarray(folds)[known]
    a, b = (np.asarray(logits)[known, 0] for logits in (recipe, baseline))

    def measure(weights: Array) -> dict[str, Array]:
        w = weights[:, known]
        ours, plain = (1 - concordance(times, events, score, w, within=within) for score in (a, b))
        return {"recipe": ours, "baseline": plain, "difference": plain - ours}

    return measure


def _losses(output: OutputSpec, logits: Array, targets: Array) -> Array:
    """(N,) what each case costs; averaged within each class first."""
    if output.task == "number":
        return (np.asarray(logits, np.float64)[:, 0] - (targets - output.mean) / output.sd) ** 2
    if output.task == "multilabel":
        return case_loss(output, logits, targets, 1.0)
    return (probabilities(bare(output), logits).argmax(axis=1) != targets).astype(np.float64)
