"""Which model is offered: the recipe or the simple model beside it, and a second look where held-out cases do not tell.

    verdict = decide(built, prepared, work, settings, options, progress)
    verdict["chosen"]            # "recipe" | "baseline"; the comparison itself is `choose`

Several recipes that were asked for are first chosen among by nested cross-validation (`choose_of`).
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medserve.data.split import TrainPart, folds
from medserve.progress import Progress
from medserve.road.build import Built, scale_of, who
from medserve.road.candidates import train_baseline, train_recipe
from medserve.road.choose import choose
from medserve.road.nested import FOLDS, compare, with_blocks
from medserve.road.run import Options, Prepared
from medserve.settings import Settings
from medserve.types import Samples

if TYPE_CHECKING:
    from torch import nn

SHORT_FOLDS = 3  # of the second look, where the held-out cases cannot tell recipe and baseline apart


def choose_of(
    prepared: Prepared, work: Path, settings: Settings, options: Options, progress: Progress
) -> tuple[Prepared, dict[str, Any]]:
    """The recipe that nested cross-validation prefers, the simple model beside it, and all that were compared."""

    def fit(one: Prepared, train: TrainPart, val: Samples, folder: Path) -> "nn.Module":
        return train_recipe(one, train, val, folder, settings, options, progress)[1]

    winner, beside, verdict = compare(
        prepared, prepared.rivals, fit, work, progress, k=options.folds or FOLDS, seed=options.seed
    )
    winner = with_blocks(winner, prepared.recipe.architecture.params["blocks"])
    if beside is not None:
        winner = replace(winner, baseline=beside.architecture.name)
    if options.keep is not None:
        verdict |= {"chosen": options.keep, "asked": True}
    return replace(prepared, recipe=winner), verdict


def decide(
    built: list[Built], prepared: Prepared, work: Path, settings: Settings, options: Options, progress: Progress
) -> dict[str, Any]:
    """Which candidate is offered, and on what evidence."""
    recipe, baseline = built
    if options.folds:
        verdict = _cross_validate(prepared, work, settings, options, progress)
    else:
        sides = (prepared.parts.val, prepared.parts.calibration)
        a, b = (np.concatenate([one.scores[part.name].logits for part in sides]) for one in (recipe, baseline))
        targets, patients = np.concatenate([p.targets for p in sides]), np.concatenate([who(p) for p in sides])
        on = "val and calibration"
        verdict = choose(prepared.plain.output, a, b, targets, patients, on=on, seed=options.seed)
        if _undecided(verdict) and options.keep is None and options.max_train_s is None:
            progress.say("The held-out cases cannot decide: a short cross-validation of the training part does.")
            first = {name: verdict[name] for name in ("on", "n", "difference")}
            verdict = _cross_validate(prepared, work, settings, options, progress, short=True) | {"undecided": first}
    if options.keep is not None:
        verdict |= {"chosen": options.keep, "asked": True}
    return verdict


def _undecided(verdict: dict[str, Any]) -> bool:
    """The interval of the difference includes 0: neither is shown to be better."""
    low, high = (verdict["difference"][side] for side in ("low", "high"))
    return low is not None and low <= 0 <= high


def _cross_validate(
    prepared: Prepared, work: Path, settings: Settings, options: Options, progress: Progress, *, short: bool = False
) -> dict[str, Any]:
    """Out-of-fold scores of both, over the training part by patient; early stopping sees the val part only.

    Args:
        short: three folds at a quarter of the schedule, which costs less than the recipe did. A network that has seen
            that little is, if anything, held too low; a second look raises the chance that two equal models are told
            apart from 2.5 % to at most 5 %.
    """
    from medserve.training.loop import predict_logits

    mean, std = scale_of(prepared.normalise)
    parts, k = prepared.parts, SHORT_FOLDS if short else options.folds or 0
    if short:
        epochs = options.epochs or prepared.recipe.epochs_for(len(parts.train))
        options = replace(options, epochs=max(1, round(epochs / 4)))
    scores: dict[str, list[Any]] = {"recipe": [], "baseline": [], "targets": [], "patients": [], "folds": []}
    for index, (train, held) in enumerate(folds(parts, k, seed=options.seed)):
        progress.say(f"fold {index + 1} of {k}")
        folder = work / f"fold-{index}"
        _, net, _ = train_recipe(prepared, train, parts.val, folder, settings, options, progress)
        _, plain, _ = train_baseline(prepared, train, parts.val, options.seed, unseen=1)
        scores["recipe"].append(predict_logits(net, held, mean, std))
        scores["baseline"].append(predict_logits(plain, held, mean, std))
        scores["targets"].append(held.targets)
        scores["patients"].append(who(held))
        scores["folds"].append(np.full(len(held), index))
    joined = {name: np.concatenate(values) for name, values in scores.items()}
    quarter = short and prepared.recipe.learner == "network"
    on = f"{k}-fold cross-validation" + (", a quarter of the schedule" if quarter else "")
    return choose(prepared.plain.output, joined["recipe"], joined["baseline"], joined["targets"], joined["patients"],
                  on=on, folds=joined["folds"], seed=options.seed)  # fmt: skip
