"""LightGBM for every kind of target: forests for the tree model, and stumps for additive survival curves.

    forests, history = boost(x, y, x_val, y_val, output, seed)       # one list of trees an output

Nothing is reweighted: a boosted probability of 0.1 has to mean one in ten. The number of trees is where the validation
loss was least; of two sizes of tree the better one is kept. Where cases are few, forests of several seeds are averaged,
and a split is the best of thresholds drawn at random, one a column: one forest alone, and a threshold fitted to the
last case, go by the luck of the draw. Source of the drawn thresholds: Geurts et al., Mach Learn 63:3 (2006).

    forests, history, crossed = boost_all(x, y, x_val, y_val, output, seed, fold)

Where cases are few (`crosses`), a validation part is a luxury: size and number of trees are chosen by cross-validation
over both parts, and the forests that are kept have seen both. What each case would have been told by forests that had
not seen it is `crossed`, and stands in the place of validation scores from then on. They are means of several
forests as the served ones are, so that choice and thresholds rest on the same kind of model.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from medserve.models.record.trees import Tree, constant, trees_of
from medserve.models.spec import OutputSpec
from medserve.training._cox import cox_gradient
from medserve.types import Array

ROUNDS = 2000
PATIENCE = 80
RATE = 0.03
DEPTH = 8
CROSSED = ("binary", "multiclass", "number")  # tasks of one question, whose cases are all known
STEPS = (50, 100, 150, 200, 300, 400, 500, 600)  # numbers of trees to choose from by cross-validation
UNSEEN = 3  # forests a fold that a case's crossed score is the mean of
FORESTS, FEW = 5, 10_000  # averaged, and their thresholds drawn, below so many training cases
WIDE = 150  # columns from which on each tree sees a fifth of them


def sizes(count: int) -> tuple[int, ...]:
    """Leaves a tree, to be chosen from on the validation part."""
    return (31, 7) if count >= 5000 else (15, 7)


def boost(
    x: Array, y: Array, x_val: Array, y_val: Array, output: OutputSpec, seed: int, *, stumps: bool = False
) -> tuple[list[list[Tree]], dict[str, Any]]:
    """
    Args:
        x, x_val: (N, C) float32 with NaN.
        y, y_val: targets as `Samples` tells them; (N, 2) time and event for survival.
        stumps: one split a tree, so that the sum is additive in the columns.

    Returns: `trees` of each output, and what was chosen.
    """
    drawn = len(x) < FEW and not stumps
    asked = questions(x, y, x_val, y_val, output)
    tried = []
    for leaves in (2,) if stumps else sizes(len(x)):
        columns = [_fit(*each, leaves, seed, drawn) for each in asked]
        loss = float(np.mean([found[1] for found in columns]))
        tried.append((loss, leaves, columns))
    loss, leaves, columns = min(tried, key=lambda entry: entry[0])
    forests = [forest for found in columns for forest in found[0]]
    if drawn:
        more = [
            [f for each in asked for f in _fit(*each, leaves, seed + 1000 * k, drawn)[0]] for k in range(1, FORESTS)
        ]
        forests = [_average(alike) for alike in zip(forests, *more, strict=True)]
    history = {
        "leaves": leaves,
        "trees": [len(forest) for forest in forests],
        "tried": [{"leaves": n, "val_loss": round(value, 6)} for value, n, _ in tried],
    }
    return forests, history


def crosses(count: int, output: OutputSpec) -> bool:
    """Whether `boost_all` is for so many training cases of this task."""
    task: str = output.task
    return count < FEW and task in CROSSED


def boost_all(
    x: Array,
    y: Array,
    x_val: Array,
    y_val: Array,
    output: OutputSpec,
    seed: int,
    fold: Array,
    unseen: int | None = None,
) -> tuple[list[list[Tree]], dict[str, Any], Array]:
    """
    Args:
        x, y, x_val, y_val: see `boost`.
        fold: (N + N_val,) of each training case, then of each validation case; whole patients together.
        unseen: forests a fold that a crossed score is the mean of, None: `UNSEEN`.

    Returns: as `boost`, and (N + N_val, outputs) mean logits of each case under forests that had not seen its fold.
    """
    ((x, y, x_val, y_val, objective, classes),) = questions(x, y, x_val, y_val, output)
    every, wanted = np.concatenate([x, x_val]), np.concatenate([y, y_val])
    tried, best = [], (np.inf, 0, 0, np.zeros((len(every), classes)))
    for leaves in sizes(len(x)):
        logits = np.zeros((len(STEPS), len(every), classes))
        for k in range(int(fold.max()) + 1):
            inside = fold == k
            booster = _grow(every[~inside], wanted[~inside], objective, classes, leaves, seed + k, STEPS[-1])
            for i, step in enumerate(STEPS):
                told = booster.predict(every[inside], raw_score=True, num_iteration=step)
                logits[i, inside] = np.asarray(told).reshape(-1, classes)
        losses = [_loss(objective, one, wanted) for one in logits]
        at = int(np.argmin(losses))
        tried.append({"leaves": leaves, "val_loss": round(losses[at], 6)})
        if losses[at] < best[0]:
            best = (losses[at], leaves, STEPS[at], logits[at])
    _, leaves, rounds, crossed = best
    several = UNSEEN if unseen is None else unseen
    for s, k in product(range(1, several), range(int(fold.max()) + 1)):
        inside = fold == k
        booster = _grow(every[~inside], wanted[~inside], objective, classes, leaves, seed + k + 1000 * s, rounds)
        crossed[inside] += np.asarray(booster.predict(every[inside], raw_score=True)).reshape(-1, classes)
    crossed /= several
    grown = [
        trees
        for s in range(FORESTS)
        for trees in [_grow(every, wanted, objective, classes, leaves, seed + 1000 * s, rounds).dump_model()]
    ]
    forests = [_average(tuple(trees_of(dump, k, classes) for dump in grown)) for k in range(classes)]
    history = {"leaves": leaves, "trees": [len(forest) for forest in forests], "tried": tried, "on": "cross-validation"}
    return forests, history, crossed


def _loss(objective: str, logits: Array, y: Array) -> float:
    if objective == "regression":
        return float(np.mean((logits[:, 0] - y) ** 2))
    if objective == "binary":
        return float(np.mean(np.logaddexp(0, np.where(y > 0, -logits[:, 0], logits[:, 0]))))
    total = np.logaddexp.reduce(logits, axis=1)
    return float(np.mean(total - logits[np.arange(len(y)), y.astype(int)]))


def _grow(x: Array, y: Array, objective: str, classes: int, leaves: int, seed: int, rounds: int) -> Any:
    import lightgbm

    params = _params(x, objective, classes, leaves, seed, drawn=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lightgbm.train(params, lightgbm.Dataset(x, y), num_boost_round=rounds)


def _average(forests: tuple[list[Tree], ...]) -> list[Tree]:
    """One forest whose sum is the mean of theirs."""
    return [replace(tree, value=tree.value / len(forests)) for forest in forests for tree in forest]


Question = tuple[Array, Array, Array, Array, str, int]  # x, y, x_val, y_val, objective, classes


def questions(x: Array, y: Array, x_val: Array, y_val: Array, output: OutputSpec) -> list[Question]:
    """What is fitted, one after the other: one model, but one a step of an ordinal scale and one a label of many."""
    task: str = output.task
    if task == "survival":
        return [(x, y, x_val, y_val, "cox", 1)]
    if task == "multiclass":
        return [(x, y, x_val, y_val, "multiclass", len(output.labels))]
    if task == "number":
        scaled = [output.standard(part) for part in (y, y_val)]
        return [(x, scaled[0], x_val, scaled[1], "regression", 1)]
    if task == "ordinal":
        levels = range(len(output.labels) - 1)
        return [(x, (y > k).astype(float), x_val, (y_val > k).astype(float), "binary", 1) for k in levels]
    if task == "binary":
        return [(x, np.asarray(y, float), x_val, np.asarray(y_val, float), "binary", 1)]
    asked = []
    for k in range(y.shape[1]):
        there, there_val = np.isfinite(y[:, k]), np.isfinite(y_val[:, k])
        asked.append((x[there], y[there, k], x_val[there_val], y_val[there_val, k], "binary", 1))
    return asked


def prior(y: Array) -> float:
    """The logit of a binary target's share, for labels that have nothing to learn from."""
    return float(np.log((y.sum() + 0.5) / (len(y) - y.sum() + 0.5)))


def _fit(
    x: Array, y: Array, x_val: Array, y_val: Array, objective: str, classes: int, leaves: int, seed: int, drawn: bool
) -> tuple[list[list[Tree]], float]:
    """
    Args:
        drawn: a split looks at one threshold of each column, drawn at random.

    Returns: one list of trees a class, and the validation loss (0 where nothing could be learnt).
    """
    import lightgbm

    if objective == "binary" and (len(np.unique(y)) < 2 or not len(y_val)):
        return [[constant(prior(y))]], 0.0
    params = _params(x, objective, classes, leaves, seed, drawn=drawn)
    measure: Callable[..., Any] | None = None
    if objective == "cox":
        params |= {"objective": _cox(y), "metric": "none"}
        measure = _cox_measure(y_val)
        y, y_val = y[:, 1], y_val[:, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train = lightgbm.Dataset(x, y, free_raw_data=False)
        booster = lightgbm.train(
            params,
            train,
            num_boost_round=ROUNDS,
            valid_sets=[lightgbm.Dataset(x_val, y_val, reference=train)],
            valid_names=["val"],
            feval=measure,
            callbacks=[lightgbm.early_stopping(PATIENCE, first_metric_only=True, verbose=False)],
        )
    best = booster.best_iteration or booster.current_iteration()
    dump = booster.dump_model(num_iteration=best)
    loss = float(next(iter(booster.best_score["val"].values())))
    return [trees_of(dump, k, classes) for k in range(classes)], loss


def _params(x: Array, objective: str, classes: int, leaves: int, seed: int, *, drawn: bool) -> dict[str, Any]:
    """drawn: a split looks at one threshold of each column, drawn at random."""
    several = {"num_class": classes} if objective == "multiclass" else {}
    return several | {
        "objective": objective,
        "learning_rate": RATE,
        "num_leaves": leaves,
        "max_depth": DEPTH,
        "min_child_samples": max(10, len(x) // 200),
        "feature_fraction": 0.2 if x.shape[1] >= WIDE else 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "extra_trees": drawn,
        "max_bin": 255,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 0,
        "seed": seed,
        "verbosity": -1,
    }


def _cox(targets: Array) -> Callable[..., tuple[Array, Array]]:
    def objective(logits: Array, _: Any) -> tuple[Array, Array]:
        return cox_gradient(np.asarray(logits, float), targets)

    return objective


def _cox_measure(targets: Array) -> Callable[..., tuple[str, float, bool]]:
    import torch

    from medserve.training._cox import cox_loss

    wanted = torch.from_numpy(np.asarray(targets, np.float64))

    def measure(logits: Array, _: Any) -> tuple[str, float, bool]:
        return "cox", float(cox_loss(torch.from_numpy(np.asarray(logits, np.float64)), wanted)), False

    return measure
