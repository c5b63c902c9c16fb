"""Recipe or baseline: decided on held-out training-side data, never on the test part.

    verdict = choose(output, recipe_logits, baseline_logits, targets, patients, on="val and calibration")
    verdict["chosen"]            # "recipe" only where the interval of the difference excludes 0

The simpler model is offered unless the other is shown to be better. Classes are judged by log loss, a proper score: it
asks how much the scores tell of the class and needs no threshold, and one error more or less does not turn it, as it
turns the error of a decision where cases or positives are few. Networks that learnt with classes weighing the same and
models that did not, sure ones and timid ones are compared alike: each is first brought to scale (one slope, one offset
a logit) on other folds of the same cases, since temperature and operating point are set later in any case. Squared
error for a number, log loss for several labels, 1 - Harrell's C for survival, 1 - entity F1 for tags, the likelihood of
held-out molecules for what writes them, 1 - Jaccard for sets of medicines.

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
from medserve.questions.medicines import jaccards, threshold_of
from medserve.questions.tags import f1_of, scored
from medserve.questions.weighted import rank_auroc
from medserve.types import Array

_METRIC = {"number": "squared error, in standard deviations", "multilabel": "log loss", "survival": "1 - C index",
           "tags": "1 - entity F1", "generate": "minus the log-likelihood of a letter"}  # fmt: skip
_SETS = "1 - Jaccard, agreement with past prescribing"
FEWEST = 20  # cases under which no scale is fitted
ROUNDS = 60  # of L-BFGS, for a slope and the offsets


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
        folds: (N,) for scores of several networks, as cross-validation gives them: each has a unit of its own, and
            survival compares pairs of one fold only, since a log hazard ratio has no zero of its own either.

    Returns: {"chosen": "recipe" | "baseline", "on", "n", "metric", "recipe", "baseline", "difference": {value, low,
        high}}; a positive difference favours the recipe.
    """
    strata = strata_of(output.task, targets)
    if output.task == "survival":
        figures = bootstrap(
            _discordance(recipe_logits, baseline_logits, targets, folds), patients, strata, draws=draws, seed=seed
        )
        return _verdict(_metric(output), figures, on, len(targets))
    if output.task == "tags":
        counts = [scored(output, logits, targets) for logits in (recipe_logits, baseline_logits)]
        figures = bootstrap(_unfound(*counts), patients, strata, draws=draws, seed=seed)
        return _verdict(_metric(output), figures, on, len(targets))
    if output.medicines is not None:
        ours, plain = _disagreement(output, recipe_logits, baseline_logits, targets, patients, seed)
        return choose_losses(ours, plain, patients, on=on, metric=_SETS, draws=draws, seed=seed)
    ours, plain = (
        _losses(output, logits, targets, patients, folds, seed) for logits in (recipe_logits, baseline_logits)
    )

    figures = bootstrap(_mean_loss(ours, plain), patients, strata, draws=draws, seed=seed)
    verdict = _verdict(_metric(output), figures, on, len(targets))
    if output.task == "binary":
        verdict["auroc"] = {
            "recipe": _ranks(output, recipe_logits, targets), "baseline": _ranks(output, baseline_logits, targets)
        }  # fmt: skip
    return verdict


def choose_losses(
    ours: Array, plain: Array, patients: Array, *, on: str, metric: str, draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The same verdict, from what each case costs under recipe and baseline (N,)."""
    strata = np.zeros(len(ours), np.int64)
    found = bootstrap(_mean_loss(ours, plain), patients, strata, draws=draws, seed=seed)
    return _verdict(metric, found, on, len(ours))


def _disagreement(
    output: OutputSpec, recipe: Array, repeat: Array, targets: Array, patients: Array, seed: int
) -> tuple[Array, Array]:
    """(N,) 1 - Jaccard of each visit. The recipe's threshold is that of other patients; to repeat has none."""
    from medserve.models.record.features import folds

    assert output.medicines is not None
    probs, truth = probabilities(bare(output), recipe), np.asarray(targets) == 1
    fold, sets = folds(len(probs), seed, patients), np.zeros(truth.shape, bool)
    for k in np.unique(fold):
        inside = fold == k
        rest = slice(None) if inside.all() else ~inside
        at, _ = threshold_of(probs[rest], truth[rest], output.medicines.pairs, output.medicines.rate)
        sets[inside] = probs[inside] >= at
    return 1 - jaccards(sets, truth), 1 - jaccards(np.asarray(repeat) >= 0, truth)


def _mean_loss(ours: Array, plain: Array) -> Callable[[Array], dict[str, Array]]:
    def measure(weights: Array) -> dict[str, Array]:
        a, b = (weights @ losses / weights.sum(axis=1) for losses in (ours, plain))
        return {"recipe": a, "baseline": b, "difference": b - a}

    return measure


def _ranks(output: OutputSpec, logits: Array, targets: Array) -> float:
    """AUROC; NaN where there is one class only."""
    score = probabilities(bare(output), logits)[:, 1]
    return float(rank_auroc(np.asarray(targets) == 1, score, np.ones((1, len(score))))[0])


def _metric(output: OutputSpec) -> str:
    return _METRIC.get(output.task, "log loss")


def _verdict(metric: str, figures: dict[str, Interval], on: str, n: int) -> dict[str, Any]:
    low = figures["difference"]["low"]
    return {
        "chosen": "recipe" if low is not None and low > 0 else "baseline",
        "on": on,
        "n": n,
        "metric": metric,
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


def _losses(output: OutputSpec, logits: Array, targets: Array, patients: Array, nets: Array | None, seed: int) -> Array:
    """(N,) what each case costs."""
    if output.task == "number":
        return (np.asarray(logits, np.float64)[:, 0] - output.standard(targets)) ** 2
    if output.task == "generate":
        return -np.asarray(logits, np.float64)[:, 0]
    if output.task != "multilabel":
        logits = scaled(output, logits, targets, patients, nets, seed)
    return case_loss(output, logits, targets, 1.0)


def scaled(
    output: OutputSpec, logits: Array, targets: Array, patients: Array, nets: Array | None = None, seed: int = 0
) -> Array:
    """(N, width) logits, times one slope and plus an offset each, that were fitted on the other folds of patients.

    Both are held towards 1 and 0 with the weight of one case, as a temperature is (see `calibrate`); 1 is what the
    logits of a network have for a standard deviation. With fewer than `FEWEST` cases nothing is fitted.

    Args:
        nets: (N,) the network that each row is from; one network's logits may be many times another's.
    """
    from medserve.models.record.features import folds

    logits = np.array(logits, np.float64)
    if len(logits) < FEWEST:
        return logits
    for k in np.unique(np.zeros(len(logits)) if nets is None else nets):
        mine = slice(None) if nets is None else np.asarray(nets) == k
        logits[mine] /= float((logits[mine] - logits[mine].mean(axis=0)).std()) or 1.0
    fold, made = folds(len(logits), seed, patients), np.empty_like(logits)
    for k in np.unique(fold):
        inside = fold == k
        slope, offset = _scale(output, logits[~inside], np.asarray(targets)[~inside])
        made[inside] = slope * logits[inside] + offset
    return made


def _scale(output: OutputSpec, logits: Array, targets: Array) -> tuple[float, Array]:
    """Slope, and offsets (width,), of least log loss."""
    import torch

    from medserve.models.heads import Head

    head, x, y = Head(output), torch.from_numpy(logits), torch.from_numpy(targets.astype(np.int64))
    steep, offset = (torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (1, x.shape[1]))
    solver = torch.optim.LBFGS([steep, offset], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def cost() -> torch.Tensor:
        solver.zero_grad()
        held = (steep.square().sum() + offset.square().sum()) / (2 * len(x))
        value: torch.Tensor = head.loss(x * steep.exp() + offset, y).double() + held
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(cost)  # type: ignore[no-untyped-call]
    return float(steep.detach().exp()), offset.detach().numpy()
