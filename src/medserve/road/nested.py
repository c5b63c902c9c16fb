"""Several recipes on one data set: which is offered is decided by nested cross-validation, and all of them are shown.

    rivals = rivals_of("cheap", listing)                        # names of recipes; or "forest,boosting,molecule-graph"
    winner, verdict = compare(prepared, rivals, fit, ...)

Each fold of the training part is told by models that had not seen it, whose own settings were chosen inside the other
folds; the mean of several of them competes too, under the name "average". The smallest loss wins: squared error of a
number, log loss at each recipe's own best temperature for classes and labels. The test part is not looked at.
Source: Varma and Simon, BMC Bioinformatics 7:91 (2006).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medserve.data.split import PartView, TrainPart, folds
from medserve.errors import NotFound, Usage
from medserve.evaluation.calibrate import case_loss, fit_temperature
from medserve.evaluation.intervals import bootstrap, strata_of
from medserve.models.spec import OutputSpec
from medserve.progress import Progress
from medserve.questions.recipes import RECIPES, Recipe, average_of
from medserve.road.build import who
from medserve.road.run import Prepared
from medserve.types import Array, Named, Samples

if TYPE_CHECKING:
    from torch import nn

FOLDS = 3
CHEAP = ("forest", "boosting", "linear", "case-network")
AVERAGE = "average"
TASKS = ("binary", "multiclass", "multilabel", "number")
Fit = Callable[[Prepared, TrainPart, Samples, Path], "nn.Module"]  # a recipe on a training part


def rivals_of(asked: str, task: str) -> tuple[Recipe, ...]:
    """
    Args:
        asked: "cheap", or names of recipes with commas between them.

    Raises: Usage "choose-too-few", "choose-task"; NotFound: no such recipe.
    """
    names = CHEAP if asked == "cheap" else tuple(dict.fromkeys(n.strip() for n in asked.split(",") if n.strip()))
    if task not in TASKS:
        raise Usage("choose-task", f"Recipes for the task {task} are not compared.", hint=f"For {', '.join(TASKS)}.")
    found = []
    for name in names:
        if name not in RECIPES:
            raise NotFound("recipe", name, RECIPES, hint="List them: medserve models --for DATA")
        found.append(RECIPES[name])
    wrong = [r.name for r in found if r.kind != "record" or task not in r.tasks]
    if len(found) < 2 or wrong:
        said = f"{', '.join(wrong)} cannot be compared here." if wrong else "At least two recipes are compared."
        raise Usage("choose-too-few", said, hint="--choose cheap, or --choose forest,boosting,linear")
    return tuple(found)


def compare(
    prepared: Prepared, rivals: Sequence[Recipe], fit: Fit, work: Path, progress: Progress, *, k: int, seed: int
) -> tuple[Recipe, Recipe | None, dict[str, Any]]:
    """
    Args:
        rivals: with the blocks of the data in their parameters. fit: trains `prepared.recipe` on a part.

    Returns: the winner; the one that is shown beside it: the forest, or the best of the others that is no network; and
        {"chosen": "recipe", "on", "n", "metric", "recipe", "baseline", "difference", "candidates"}.
    """
    output, parts = prepared.plain.output, prepared.parts
    told: dict[str, list[Array]] = {rival.name: [] for rival in rivals}
    seconds = dict.fromkeys(told, 0.0)
    targets, patients = [], []
    for index, (train, held) in enumerate(folds(parts, k, seed=seed)):
        for rival in rivals:
            progress.say(f"fold {index + 1} of {k}: {rival.name}")
            started = time.monotonic()
            net = fit(replace(prepared, recipe=rival), train, parts.val, work / f"fold-{index}-{rival.name}")
            told[rival.name].append(_logits(net, held))
            seconds[rival.name] += time.monotonic() - started
        targets.append(held.targets)
        patients.append(who(held))
    y, by = np.concatenate(targets), np.concatenate(patients)
    logits = {name: np.concatenate(each) for name, each in told.items()}
    joined = averaged(rivals)
    if len(joined) > 1:
        logits[AVERAGE] = np.mean([logits[r.name] for r in joined], axis=0)
    losses = {name: _losses(output, each, y, seed) for name, each in logits.items()}
    best = min(losses, key=lambda name: float(losses[name].mean()))
    by_name = {rival.name: rival for rival in rivals}
    winner = by_name.get(best) or average_of(AVERAGE, joined)
    simple = [r for r in rivals if r.learner != "network" and r.name != best]
    beside = by_name["forest"] if "forest" in by_name and best != "forest" else None
    if beside is None and simple:
        beside = min(simple, key=lambda r: float(losses[r.name].mean()))
    strata = strata_of(output.task, y)
    rows = []
    for name, loss in sorted(losses.items(), key=lambda one: float(one[1].mean())):
        spans = _paired(loss, losses[best], by, strata, seed)
        rows.append({"recipe": name, "loss": spans["loss"], "difference": spans["difference"],
                     "seconds": round(seconds.get(name, 0.0), 1)})  # fmt: skip
    against = losses[best if beside is None else beside.name]
    spans = _paired(against, losses[best], by, strata, seed)
    on = f"{k}-fold nested cross-validation of the training part"
    metric = "squared error, in standard deviations" if output.task == "number" else "log loss"
    verdict = {
        "chosen": "recipe", "on": on, "n": len(y), "metric": metric, "recipe": spans["best"], "baseline": spans["loss"],
        "difference": spans["difference"], "candidates": rows,
    }  # fmt: skip
    return winner, beside, verdict


def with_blocks(recipe: Recipe, blocks: Sequence[Any]) -> Recipe:
    """The recipe on data whose records lie like this."""
    named = recipe.architecture
    return replace(recipe, architecture=Named(named.name, {**named.params, "blocks": list(blocks)}))


def averaged(rivals: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """The members of the average: every recipe but the linear one, whose errors are of another size."""
    return tuple(rival for rival in rivals if rival.learner != "record-linear")


def _losses(output: OutputSpec, logits: Array, y: Array, seed: int) -> Array:
    """(N,) what each case costs."""
    if output.task == "number":
        return np.asarray((logits[:, 0].astype(float) - output.standard(y)) ** 2)
    fitted = fit_temperature(logits, y, output, seed=seed)
    return case_loss(output, logits, y, fitted.temperature)


def _paired(loss: Array, best: Array, patients: Array, strata: Array, seed: int) -> dict[str, Any]:
    def means(w: Array) -> dict[str, Array]:
        total = np.maximum(w.sum(1), 1e-12)
        a, b = (w @ loss) / total, (w @ best) / total
        return {"loss": a, "best": b, "difference": a - b}

    return dict(bootstrap(means, patients, strata, seed=seed))


def _logits(net: "nn.Module", part: PartView) -> Array:
    from medserve.training.loop import predict_logits

    return predict_logits(net, part, (0.0,), (1.0,))
