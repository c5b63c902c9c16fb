"""Steps 2 and 3: the recipe and the simple model beside it, trained on the same parts.

    recipe, baseline = train_candidates(prepared, work, settings, options, progress)

A recipe is one network, the average of several recipes, or a classical model; which of them it is stands in the recipe.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from medserve.data.records import same_values
from medserve.data.split import TrainPart
from medserve.progress import Progress
from medserve.questions.recipes import RECIPES
from medserve.road.build import Candidate, scale_of, who
from medserve.road.nested import with_blocks
from medserve.road.run import Options, Prepared
from medserve.settings import Settings
from medserve.types import Named, Samples

if TYPE_CHECKING:
    from torch import nn


def train_candidates(
    prepared: Prepared, work: Path, settings: Settings, options: Options, progress: Progress
) -> list[Candidate]:
    """Steps 2 and 3: the recipe and the simple baseline, on the same parts."""
    parts = prepared.parts
    named, net, history = train_recipe(prepared, parts.train, parts.val, work / "recipe", settings, options, progress)
    recipe = Candidate("recipe", prepared.recipe.name, named, net, history)
    architecture, plain, fitted = train_baseline(prepared, parts.train, parts.val, options.seed)
    return [recipe, Candidate("baseline", "baseline", architecture, plain, fitted)]


def train_recipe(
    prepared: Prepared, train: TrainPart, val: Samples, folder: Path, settings: Settings, options: Options,
    progress: Progress,
) -> tuple[Named, "nn.Module", dict[str, Any]]:  # fmt: skip
    """One model of the recipe. Returns: its catalog entry, it at its best validated state, and the history."""
    if prepared.recipe.members:
        return _train_members(prepared, train, val, folder, settings, options, progress)
    if prepared.recipe.learner != "network":
        return _fit_simple(prepared, prepared.recipe.learner, train, val, options.seed)
    import torch

    from medserve.models.build import build_net
    from medserve.models.heads import Head
    from medserve.models.record.casenet import CaseNet
    from medserve.models.record.sentence import load_encoder
    from medserve.models.weights import load_pretrained
    from medserve.training.loop import fit
    from medserve.training.plan import Plan

    recipe, plain = prepared.recipe, prepared.plain
    channels, *size = plain.shape
    torch.manual_seed(options.seed)
    net = build_net(recipe.architecture, channels=channels, size=tuple(size), outputs=plain.output.width)
    record: dict[str, Any] | None = None
    if prepared.encoder is not None:
        record = load_encoder(net, prepared.encoder)
    if plain.is_record:
        net.fit(train)  # type: ignore[operator]
    if options.weights is not None and prepared.encoder is None:
        source, _, sha256 = options.weights.partition("#")
        loaded = load_pretrained(net, source, settings=settings, sha256=sha256 or None, progress=progress)
        record = asdict(loaded)
    epochs = options.epochs
    if epochs is None and options.max_train_s is not None:
        one = recipe.minutes(len(train), tuple(size), epochs=1) * 60
        epochs = max(3, min(recipe.epochs_for(len(train)), int(options.max_train_s / max(one, 1e-6))))
    plan = Plan(**recipe.plan(len(train), seed=options.seed, epochs=epochs))
    mean, std = scale_of(prepared.normalise)
    learner: nn.Module = net
    rows: Samples = train
    held = val
    if isinstance(net, CaseNet) and any(net.frozen):
        learner, rows, held = net.top, net.views_of(train), net.views_of(val)
    together = same_values(train, recipe.together) if recipe.together else None
    history = fit(
        learner, Head(plain.output), rows, held, mean=mean, std=std, plan=plan, folder=folder, together=together,
        progress=progress,
    )  # fmt: skip
    told = msgspec.to_builtins(history) | {"plan_values": msgspec.to_builtins(plan)}
    return recipe.architecture, net, told | ({"weights": record} if record else {})


def _train_members(
    prepared: Prepared, train: TrainPart, val: Samples, folder: Path, settings: Settings, options: Options,
    progress: Progress,
) -> tuple[Named, "nn.Module", dict[str, Any]]:  # fmt: skip
    """Every member of an average by its own recipe; the second of one name from the next seed."""
    from medserve.models.record.average import RecordAverage
    from medserve.training.loop import predict_logits

    names, blocks = prepared.recipe.members, prepared.recipe.architecture.params["blocks"]
    made, histories = [], []
    for i, name in enumerate(names):
        one = replace(prepared, recipe=with_blocks(RECIPES[name], blocks))
        other = replace(options, seed=options.seed + names[:i].count(name))
        progress.say(f"{i + 1} of {len(names)}: {name}")
        named, net, history = train_recipe(one, train, val, folder / f"member-{i}", settings, other, progress)
        made.append((named, net))
        histories.append({"recipe": name, **history})
    average = RecordAverage([net for _, net in made])
    crossed = [getattr(net, "crossed", None) for _, net in made]
    if any(c is not None for c in crossed):
        told = [
            predict_logits(net, val, (0.0,), (1.0,)) if c is None else c[-len(val) :]
            for (_, net), c in zip(made, crossed, strict=True)
        ]
        average.crossed = np.mean(told, axis=0).astype(np.float32)
    members = [{"name": n.name, "params": {k: v for k, v in n.params.items() if k != "blocks"}} for n, _ in made]
    seconds = sum(h.get("seconds") or sum(e["seconds"] for e in h.get("epochs", [])) for h in histories)
    history = {"members": histories, "seconds": round(seconds, 1), "seed": options.seed}
    return Named("record-average", {"blocks": blocks, "members": members}), average.eval(), history


def train_baseline(
    prepared: Prepared, train: TrainPart, val: Samples, seed: int, *, unseen: int | None = None
) -> tuple[Named, "nn.Module", dict[str, Any] | None]:
    """The simple model beside the recipe: its catalog entry, it, and how it was fitted where that is told.

    Args:
        unseen: see `fit_classical`.
    """
    if prepared.plain.is_record:
        return _fit_simple(prepared, prepared.recipe.baseline, train, val, seed, unseen)
    from medserve.training.baseline import fit_baseline

    mean, std = scale_of(prepared.normalise)
    return *fit_baseline(train, val, prepared.plain.output, seed, mean=mean, std=std), None


def _fit_simple(
    prepared: Prepared, name: str, train: TrainPart, val: Samples, seed: int, unseen: int | None = None
) -> tuple[Named, "nn.Module", dict[str, Any]]:
    """A linear, additive or boosted model of records, a tagger of words, or shares of letters."""
    from medserve.training.classical import fit_classical
    from medserve.training.letters import fit_ngram
    from medserve.training.repeat import fit_repeat
    from medserve.training.tagging import fit_tagger

    architecture = Named(name, {"blocks": prepared.recipe.architecture.params["blocks"]})
    if prepared.plain.output.medicines is not None:
        architecture.params["medicines"] = prepared.plain.output.medicines.written
        return fit_repeat(architecture, train)
    if prepared.plain.output.task == "generate":
        return fit_ngram(architecture, train, val)
    if prepared.plain.output.task == "tags":
        return fit_tagger(architecture, train, val, prepared.plain.output, seed)
    patients, others = (None, None) if prepared.cohort.independent else (who(train), who(val))  # type: ignore[arg-type]
    return fit_classical(
        architecture, train, val, prepared.plain.output, seed, patients=patients, others=others, unseen=unseen
    )
