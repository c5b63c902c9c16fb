"""From cross-fitted nuisances to the effect on each patient: the S, T, X and DR learners, and econml's causal forest.

    psi, weight = contrasts(gamma, found)                       # (N, K - 1) pseudo-outcomes, and what each is worth
    stage = linear_stage(z, psi[:, 0], weight[:, 0])            # the DR-learner's second stage
    stage.value, stage.error                                    # of (x, z) -> (B,), (B,)

The DR-learner's second stage is what a package carries; the others are compared with it and shown. All are judged by
the weighted squared distance to doubly robust scores on held-out folds, which ranks them as their true error would.
Sources: Kunzel et al., PNAS 116:4156 (2019) for S, T and X; Kennedy, EJS 17:3008 (2023) for DR.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medserve.models.record.trees import Tree, trees_of
from medserve.training._bayes import factor, regress
from medserve.training.nuisances import Nuisances, boosted, cross, fit
from medserve.types import Array

BAGS, ROUNDS, RATE, LEAVES = 20, 30, 0.1, 4
Two = Callable[[Array, Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Final:
    """One contrast's second stage. call: (x, z) -> value and standard error. weights, spread: of the linear one, the
    constant first. bags: of the other, one forest for each half of the patients."""

    call: Two = field(repr=False)
    weights: Array | None = None
    spread: Array | None = None
    bags: list[list[Tree]] | None = None


def contrasts(gamma: Array, found: Nuisances) -> tuple[Array, Array]:
    """Scores of each arm less those of the reference, and weights: the inverse of their variance, where patients of
    both arms are alike in how much they vary."""
    e = found.propensity
    weight = e[:, 1:] * e[:, :1] / (e[:, 1:] + e[:, :1])
    return gamma[:, 1:] - gamma[:, :1], np.maximum(weight, 1e-4)


def linear_stage(z: Array, psi: Array, weight: Array) -> Final:
    """One weight a column; those that do not matter are drawn to 0."""
    w, covariance = regress(z, psi, weight)
    spread = factor(covariance)

    def call(x: Array, z: Array) -> tuple[Array, Array]:
        one = np.concatenate([np.ones((len(z), 1)), z], axis=1)
        return one @ w, np.sqrt(((one @ spread) ** 2).sum(1))

    return Final(call, w, spread)


def tree_stage(x: Array, psi: Array, weight: Array, seed: int) -> Final:
    """Shallow boosted forests, each on half of the patients; across such halves a mean varies as much as that of all
    patients would from one study to the next."""
    random = np.random.default_rng(seed)
    made = []
    for bag in range(BAGS):
        half = random.permutation(len(x))[: len(x) // 2]
        made.append(boosted(x[half], psi[half], "regression", weight[half], seed + bag, ROUNDS, LEAVES, RATE))

    def call(x: Array, z: Array) -> tuple[Array, Array]:
        each = np.stack([np.asarray(one.predict(x)) for one in made])
        return each.mean(0), each.std(0, ddof=1)

    return Final(call, bags=[trees_of(one.dump_model()) for one in made])


def stages(kind: str, x: Array, z: Array, psi: Array, weight: Array, seed: int) -> list[Final]:
    """One for each contrast. kind: "effect-linear" or "effect-trees"."""
    if kind == "effect-linear":
        return [linear_stage(z, psi[:, j], weight[:, j]) for j in range(psi.shape[1])]
    return [tree_stage(x, psi[:, j], weight[:, j], seed + 101 * j) for j in range(psi.shape[1])]


def crossed_stages(
    kind: str, x: Array, z: Array, psi: Array, weight: Array, fold: Array, seed: int
) -> tuple[Array, Array]:
    """(N, K - 1) values and standard errors of each patient under second stages of the other folds."""
    value, error = np.zeros_like(psi), np.zeros_like(psi)
    for k in np.unique(fold):
        inside = fold == k
        for j, final in enumerate(stages(kind, x[~inside], z[~inside], psi[~inside], weight[~inside], seed)):
            value[inside, j], error[inside, j] = final.call(x[inside], z[inside])
    return value, error


def losses(psi: Array, value: Array, weight: Array) -> Array:
    """(N,) weighted squared distance of each patient's score to what she was told."""
    found: Array = (weight / weight.mean(0) * (psi - value) ** 2).mean(1)
    return found


def others(
    x: Array, z: Array, y: Array, arm: Array, found: Nuisances, fold: Array, seed: int
) -> dict[str, Array]:  # fmt: skip
    """(N, K - 1) crossed effects of the learners that are only shown: T, S, X, and a causal forest if it is there."""
    arms = found.outcome.shape[1]
    told = {"T-learner": found.outcome[:, 1:] - found.outcome[:, :1]}
    single, forest = np.zeros((len(x), arms)), np.full((len(x), arms - 1), np.nan)
    with_arm = np.column_stack([x, np.eye(arms)[arm]])
    for k in np.unique(fold):
        inside, learn = fold == k, fold != k
        model = fit("boosting", with_arm[learn], z[learn], y[learn], False, seed)
        for a in range(arms):
            asked = np.column_stack([x[inside], np.tile(np.eye(arms)[a], (int(inside.sum()), 1))])
            single[inside, a] = model.call(asked, z[inside])
        for a in range(1, arms):
            forest[inside, a - 1] = _causal_forest(z, y, arm, a, learn, inside, seed)
    told["S-learner"] = single[:, 1:] - single[:, :1]
    told["X-learner"] = np.column_stack([_x_learner(x, z, y, arm, a, found, fold, seed) for a in range(1, arms)])
    if np.isfinite(forest).all():
        told["causal forest (econml)"] = forest
    return told


def _x_learner(
    x: Array, z: Array, y: Array, arm: Array, a: int, found: Nuisances, fold: Array, seed: int
) -> Array:  # fmt: skip
    """Each arm's outcomes less what the other arm's model expects, learned apart and joined by the propensity."""
    kind = found.told["outcome"]["chosen"]
    treated = cross(kind, x, z, y - found.outcome[:, 0], arm == a, fold, False, seed)
    control = cross(kind, x, z, found.outcome[:, a] - y, arm == 0, fold, False, seed)
    e = found.propensity[:, a] / (found.propensity[:, a] + found.propensity[:, 0])
    out: Array = e * control + (1 - e) * treated
    return out


def _causal_forest(z: Array, y: Array, arm: Array, a: int, learn: Array, inside: Array, seed: int) -> Any:
    """NaN where econml is not installed (`pip install 'medserve[causal]'`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from econml.grf import CausalForest
        except ImportError:
            return np.nan
        rows = learn & ((arm == a) | (arm == 0))
        model = CausalForest(n_estimators=100, min_samples_leaf=10, random_state=seed, n_jobs=1)
        model.fit(z[rows], (arm[rows] == a).astype(float)[:, None], y[rows])
        return model.predict(z[inside])[:, 0]
