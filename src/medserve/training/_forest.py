"""Random forests of scikit-learn for every kind of target but survival, as trees of ours.

    forests, link, history, crossed = grow(x, y, output, seed)          # one list of trees an output

Nothing is reweighted. How many columns a split may choose from is decided by the loss of each case under the trees that
were grown without it (out of bag), so that every case of training and validation part is learned from; where patients
have several cases, folds of whole patients take the bag's place. What each case was told in this way is `crossed`, and
stands in the place of validation scores from then on.
Source: Breiman, Mach Learn 45:5 (2001).
"""

from typing import Any

import numpy as np
import torch

from medserve.models.record.forest import linked, tree_of
from medserve.models.record.trees import Tree, constant
from medserve.models.spec import OutputSpec
from medserve.types import Array

TREES, FEWEST = 300, 100  # of one output; of each of many
DEPTH = 24
LEAVES = 5000  # of a tree, about: more cases make larger leaves
COLUMNS: dict[bool, tuple[Any, ...]] = {True: ("sqrt", 0.1), False: (0.1, 1 / 3)}  # classes; numbers
Forests = list[list[Tree]]


def grow(
    x: Array, y: Array, output: OutputSpec, seed: int, fold: Array | None = None
) -> tuple[Forests, str, dict[str, Any], Array]:
    """
    Args:
        x: (N, C) float32 with NaN, of training and validation part together. y: (N,) or (N, labels) with NaN.
        fold: (N,) of whole patients; None where every case is a patient of its own.

    Returns: `trees` for each output, the link (see `RecordForest`), what was chosen, and (N, outputs) logits of each
        case under trees that had not seen it.
    """
    asked = _questions(y, output)
    number = output.task == "number"
    trees = max(FEWEST, TREES // len(asked))
    forests: Forests = []
    crossed: list[Array] = []
    told = []
    for k, (column, classes) in enumerate(asked):
        known = np.isfinite(column)
        if not number and len(np.unique(column[known])) < 2:
            share = float((column[known].sum() + 0.5) / (known.sum() + 1)) if known.any() else 0.5
            forests += [[constant(share)] + [constant(0.0)] * (trees - 1)]
            crossed.append(np.full((len(x), 1), share))
            continue
        within = None if fold is None else fold[known]
        tried = []
        for columns in COLUMNS[not number]:
            model = _model(number, trees, columns, int(known.sum()), seed + 17 * k, bag=fold is None)
            model.fit(x[known], column[known])
            held = _held(model, x[known], column[known], within)
            tried.append((_loss(number, held, column[known], classes), columns, model, held))
        loss, columns, model, held = min(tried, key=lambda one: one[0])
        every = np.full((len(x), classes), np.nan)
        every[known] = held
        if not known.all():
            every[~known] = _told(model, x[~known])
        crossed.append(every)
        forests += _trees(model, classes)
        told.append([{"columns": c, "val_loss": round(one, 6)} for one, c, *_ in tried])
    joined = np.concatenate(crossed, 1)
    link = "mean" if number else "shares" if output.task == "multiclass" else "share"
    logits = linked(torch.from_numpy(joined if number else joined.clip(0, 1)), link, trees).numpy()
    history = {"trees": [trees] * len(forests), "tried": told[0] if len(told) == 1 else told,
               "on": "out of bag" if fold is None else "cross-validation"}  # fmt: skip
    return forests, link, history, logits


def _questions(y: Array, output: OutputSpec) -> list[tuple[Array, int]]:
    """(N,) targets and how many outputs their forest has, one forest after the other."""
    task: str = output.task
    if task == "number":
        return [(output.standard(y), 1)]
    if task == "multiclass":
        return [(np.asarray(y, float), len(output.labels))]
    if task == "ordinal":
        return [((y > k).astype(float), 1) for k in range(len(output.labels) - 1)]
    if task == "binary":
        return [(np.asarray(y, float), 1)]
    return [(np.asarray(column, float), 1) for column in np.asarray(y).T]


def _model(number: bool, trees: int, columns: Any, count: int, seed: int, *, bag: bool) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    made = RandomForestRegressor if number else RandomForestClassifier
    return made(
        n_estimators=trees, max_features=columns, max_depth=DEPTH, min_samples_leaf=max(1, count // LEAVES),
        oob_score=bag, random_state=seed, n_jobs=torch.get_num_threads(),
    )  # fmt: skip


def _held(model: Any, x: Array, y: Array, fold: Array | None) -> Array:
    """(N, classes or 1) what each case is told by trees that had not seen it."""
    if fold is None:
        found = getattr(model, "oob_decision_function_", None)
        held = model.oob_prediction_[:, None] if found is None else _chosen(model, found)
        return np.where(np.isfinite(held), held, held[np.isfinite(held).all(1)].mean(0))
    from sklearn.base import clone

    held = np.zeros((len(x), _told(model, x[:1]).shape[1]))
    for k in np.unique(fold):
        inside = fold == k
        other = clone(model).fit(x[~inside], y[~inside])
        held[inside] = _placed(_told(other, x[inside]), other, model)
    return held


def _told(model: Any, x: Array) -> Array:
    found = model.predict_proba(x) if hasattr(model, "classes_") else model.predict(x)[:, None]
    return _chosen(model, found)


def _chosen(model: Any, found: Array) -> Array:
    """Of two classes the share of the second."""
    return found[:, 1:] if hasattr(model, "classes_") and len(model.classes_) == 2 else found


def _placed(found: Array, other: Any, model: Any) -> Array:
    """Shares of a model that may lack classes, in the columns of one that has them."""
    if not hasattr(model, "classes_") or len(other.classes_) == len(model.classes_):
        return found
    out = np.zeros((len(found), len(model.classes_)))
    full = found if found.shape[1] == len(other.classes_) else np.concatenate([1 - found, found], 1)
    out[:, np.searchsorted(model.classes_, other.classes_)] = full
    return out


def _loss(number: bool, held: Array, y: Array, classes: int) -> float:
    if number:
        return float(np.mean((held[:, 0] - y) ** 2))
    p = held.clip(1e-3, 1 - 1e-3)
    if classes == 1:
        return float(-np.mean(np.where(y > 0, np.log(p[:, 0]), np.log(1 - p[:, 0]))))
    return float(-np.mean(np.log(p[np.arange(len(y)), y.astype(int)])))


def _trees(model: Any, classes: int) -> Forests:
    """One list of trees for each output; the mean over the trees becomes a sum."""
    every = [one.tree_ for one in model.estimators_]
    share = 1 / len(every)
    if not hasattr(model, "classes_"):
        return [[tree_of(one, one.value[:, 0, 0] * share) for one in every]]
    places = [1] if classes == 1 else range(classes)
    return [[tree_of(one, one.value[:, 0, k] * share) for one in every] for k in places]
