"""What stands between a treatment and its outcome: the chance of each arm and the outcome under it, both cross-fitted.

    found = nuisances(x, z, y, arm, arms=2, fold=fold, seed=0)
    found.propensity, found.outcome           # (N, K) of models that had not seen the patient
    found.stages["propensity"]                # fitted on all, for the package

Linear models, boosting and forests are tried; the least squared error on held-out folds decides, once for the chances
and once for the outcomes. Source: Chernozhukov et al., Econom J 21:C1 (2018), for cross-fitting.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from medserve.models.record.forest import tree_of
from medserve.models.record.trees import Tree, constant, trees_of
from medserve.training._bayes import regress
from medserve.types import Array

Kind = Literal["linear", "boosting", "forest"]
KINDS: tuple[Kind, ...] = ("linear", "boosting", "forest")
ROUNDS, RATE, LEAVES, LEAST = 150, 0.05, 8, 20
TREES, SHALLOW = 100, 10
MOST_FOREST = 20_000  # patients above which no forest is tried


@dataclass(frozen=True)
class Fitted:
    """One fitted function of a patient. weights: (2C + 1,), the constant first, or None. forest: trees, or None.

    link: see `models.record.effect.Stage`.
    """

    link: str
    weights: Array | None = None
    forest: list[Tree] | None = None
    call: Callable[[Array, Array], Array] = field(default=lambda x, z: np.zeros(len(x)), repr=False)


@dataclass(frozen=True)
class Nuisances:
    """propensity, outcome: (N, K) crossed. stages: "propensity" and "outcome", their functions fitted on all patients.
    told: what was tried, plain JSON."""

    propensity: Array
    outcome: Array
    stages: dict[str, list[Fitted]]
    told: dict[str, Any]


def nuisances(
    x: Array, z: Array, y: Array, arm: Array, *, arms: int, fold: Array, seed: int, kinds: Sequence[Kind] = KINDS
) -> Nuisances:
    """
    Args:
        x: (N, C) with NaN. z: (N, 2C) standardised, without. y: (N,), of about unit variance. fold: (N,).
    """
    kinds = [kind for kind in kinds if kind != "forest" or len(x) <= MOST_FOREST]
    asked = [1] if arms == 2 else list(range(arms))
    everybody = np.ones(len(x), bool)
    chances = [((arm == k).astype(np.float64), everybody) for k in asked]
    outcomes = [(np.asarray(y, np.float64), arm == k) for k in range(arms)]
    kind_p, crossed_p, tried_p = _choose(x, z, chances, fold, True, kinds, seed)
    kind_y, crossed_y, tried_y = _choose(x, z, outcomes, fold, False, kinds, seed)
    propensity = crossed_p.clip(1e-6, 1)
    propensity = np.concatenate([1 - propensity, propensity], 1) if arms == 2 else propensity
    stages = {
        "propensity": [fit(kind_p, x, z, t, True, seed) for t, _ in chances],
        "outcome": [fit(kind_y, x[rows], z[rows], t[rows], False, seed) for t, rows in outcomes],
    }
    told = {"propensity": {"chosen": kind_p, "tried": tried_p}, "outcome": {"chosen": kind_y, "tried": tried_y}}
    return Nuisances(propensity / propensity.sum(1, keepdims=True), crossed_y, stages, told)


Asked = list[tuple[Array, Array]]  # targets (N,) and the rows that are learned from


def _choose(
    x: Array, z: Array, asked: Asked, fold: Array, binary: bool, kinds: Sequence[Kind], seed: int
) -> tuple[Kind, Array, list[dict[str, Any]]]:
    """The kind of least held-out error over all that is asked, its crossed values (N, asked), and what was tried."""
    best: tuple[float, Kind, Array] | None = None
    tried = []
    for kind in kinds:
        held = np.column_stack([cross(kind, x, z, t, rows, fold, binary, seed) for t, rows in asked])
        loss = float(np.mean([np.mean((held[rows, i] - t[rows]) ** 2) for i, (t, rows) in enumerate(asked)]))
        tried.append({"kind": kind, "squared_error": round(loss, 6)})
        if best is None or loss < best[0]:
            best = (loss, kind, held)
    assert best is not None
    return best[1], best[2], tried


def cross(
    kind: Kind, x: Array, z: Array, target: Array, rows: Array, fold: Array, binary: bool, seed: int
) -> Array:  # fmt: skip
    """(N,) value of each patient under a model of the other folds. rows: (N,) bool, who is learned from."""
    held = np.zeros(len(x))
    for k in np.unique(fold):
        inside = fold == k
        learn = rows & ~inside
        held[inside] = fit(kind, x[learn], z[learn], target[learn], binary, seed).call(x[inside], z[inside])
    return held


def fit(kind: Kind, x: Array, z: Array, target: Array, binary: bool, seed: int, weight: Array | None = None) -> Fitted:
    """One model on all the patients given. weight: (N,) of patients, for a number."""
    if len(x) < 2 or len(np.unique(target)) < 2:
        return _constant(float(np.mean(target)) if len(target) else 0.0, z.shape[1])
    made = {"linear": _linear, "boosting": _boosted, "forest": _grown}[kind]
    return made(x, z, target, binary, seed, weight)


def _constant(value: float, width: int) -> Fitted:
    weights = np.zeros(width + 1)
    weights[0] = value
    return Fitted("", weights, [constant(value)], lambda x, z: np.full(len(x), value))


def _linear(x: Array, z: Array, target: Array, binary: bool, seed: int, weight: Array | None) -> Fitted:
    if not binary:
        w, _ = regress(z, target, weight, shrink=False)
        return Fitted("", w, None, lambda x, z: w[0] + z @ w[1:])
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0, max_iter=500).fit(z, target.astype(int))
    w = np.concatenate([model.intercept_, model.coef_[0]])
    return Fitted("sigmoid", w, None, lambda x, z: 1 / (1 + np.exp(-np.clip(w[0] + z @ w[1:], -60, 60))))


def _boosted(x: Array, z: Array, target: Array, binary: bool, seed: int, weight: Array | None) -> Fitted:
    booster = boosted(x, target, "binary" if binary else "regression", weight, seed, ROUNDS, LEAVES, RATE)
    trees = trees_of(booster.dump_model())
    return Fitted("sigmoid" if binary else "", None, trees, lambda x, z: np.asarray(booster.predict(x)))


def boosted(
    x: Array, target: Array, objective: str, weight: Array | None, seed: int, rounds: int, leaves: int, rate: float
) -> Any:
    import lightgbm

    params = {
        "objective": objective, "learning_rate": rate, "num_leaves": leaves,
        "min_child_samples": max(5, min(LEAST, len(x) // 10)), "lambda_l2": 5.0, "feature_fraction": 0.8,
        "bagging_fraction": 0.8, "bagging_freq": 1, "deterministic": True, "force_row_wise": True, "seed": seed,
        "num_threads": 0, "verbosity": -1,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lightgbm.train(params, lightgbm.Dataset(x, target, weight=weight), num_boost_round=rounds)


def _grown(x: Array, z: Array, target: Array, binary: bool, seed: int, weight: Array | None) -> Fitted:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    made = RandomForestClassifier if binary else RandomForestRegressor
    model = made(TREES, min_samples_leaf=max(2, min(SHALLOW, len(x) // 10)), max_features=0.5, random_state=seed)
    model.fit(x, target.astype(int) if binary else target, weight)
    each = [one.tree_ for one in model.estimators_]
    trees = [tree_of(one, one.value[:, 0, 1 if binary else 0] / len(each)) for one in each]
    if binary:
        return Fitted("share", None, trees, lambda x, z: np.asarray(model.predict_proba(x)[:, 1]))
    return Fitted("", None, trees, lambda x, z: np.asarray(model.predict(x)))
