"""Curves for the additive model: cyclic boosting (interpret's explainable boosting machine), read out as tables.

    terms, intercept, history = curves(x, y, x_val, y_val, output, seed)

Survival has no such machine: there the curves are LightGBM's trees of one split under Cox's likelihood, which add up to
one step function a column. Both end as the same `Term`.
"""

import warnings
from typing import Any

import numpy as np

from medserve.models.record.additive import Term
from medserve.models.record.features import folds
from medserve.models.record.trees import Tree
from medserve.models.spec import OutputSpec
from medserve.training._boosting import Question, boost, prior, questions
from medserve.types import Array

MOST_TERMS = 120  # columns; beyond, those that a short forest uses most
PAIRS = 10
BAGS = 4
MAX_BINS = 256  # one is for missing, one for unseen
PAIR_BINS = 32


def curves(
    x: Array,
    y: Array,
    x_val: Array,
    y_val: Array,
    output: OutputSpec,
    seed: int,
    *,
    pairs: int | None = None,
    patients: Array | None = None,
) -> tuple[list[Term], Array, dict[str, Any]]:
    """
    Args:
        x, x_val: (N, C) float32 with NaN.
        pairs: tables of two columns that are tried, None: `PAIRS`; kept where the validation loss is less with them.
        patients: (N,); all cases of one patient stand on one side of every bag.

    Returns: terms, the intercept (outputs,), and what was chosen.
    """
    keep = _widest(x, y, x_val, y_val, output, seed) if x.shape[1] > MOST_TERMS else np.arange(x.shape[1])
    task: str = output.task
    if task == "survival":
        forests, history = boost(x[:, keep], y, x_val[:, keep], y_val, output, seed, stumps=True)
        terms, middle = stacked(forests[0], x[:, keep])
        return [_moved(term, keep, 0, 1) for term in terms], np.array([middle]), history
    terms, intercepts, kept = [], [], 0
    asked = questions(x[:, keep], y, x_val[:, keep], y_val, output)
    width = sum(entry[5] for entry in asked)
    told = [np.isfinite(column) for column in np.asarray(y, float).reshape(len(x), -1).T]
    start = 0
    for k, question in enumerate(asked):
        who = None if patients is None else np.asarray(patients)
        if who is not None and task == "multilabel":
            who = who[told[k]]
        found, intercept, used = _machine(question, seed, PAIRS if pairs is None else pairs, who)
        terms += [_moved(term, keep, start, width) for term in found]
        intercepts.append(intercept)
        start, kept = start + question[5], kept + used
    history = {"curves": sum(len(t.columns) == 1 for t in terms), "pairs": kept}
    return joined(terms), np.concatenate(intercepts), history


def _machine(question: Question, seed: int, pairs: int, patients: Array | None) -> tuple[list[Term], Array, int]:
    """One question's terms, (bins..., classes), its intercept (classes,) and how many pairs were kept."""
    from interpret.glassbox import ExplainableBoostingClassifier, ExplainableBoostingRegressor

    x, y, x_val, y_val, objective, classes = question
    if objective == "binary" and len(np.unique(y)) < 2:
        return [], np.array([prior(y)]), 0
    bags = np.ones((len(x), BAGS), np.int8)  # 1: learn from, -1: stop by
    for k in range(BAGS):
        bags[folds(len(x), seed + k, patients, most=7) == 0, k] = -1
    made = ExplainableBoostingRegressor if objective == "regression" else ExplainableBoostingClassifier
    several = classes > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        machine = made(
            feature_types=["continuous"] * x.shape[1],
            max_bins=MAX_BINS,
            max_interaction_bins=PAIR_BINS,
            interactions=0 if several else min(pairs, x.shape[1] * (x.shape[1] - 1) // 2),
            outer_bags=BAGS,
            min_samples_leaf=max(4, len(x) // 1000),
            n_jobs=1,
            random_state=seed,
        ).fit(x.astype(float), y if objective == "regression" else y.astype(int), bags=bags)
    terms = []
    for columns, scores in zip(machine.term_features_, machine.term_scores_, strict=True):
        levels = [machine.bins_[c] for c in columns]
        cuts = tuple(np.asarray(level[min(len(level), len(columns)) - 1], float) for level in levels)
        table = np.asarray(scores, float) if several else np.asarray(scores, float)[..., None]
        inner = table[tuple(slice(0, len(c) + 2) for c in cuts)]  # the bin for words never seen is not a number's
        terms.append(Term(tuple(int(c) for c in columns), cuts, inner))
    intercept = np.atleast_1d(np.asarray(machine.intercept_, float))
    if several and len(machine.classes_) < classes:  # a class that the part does not hold
        terms, intercept = _spread(terms, intercept, machine.classes_, classes)
    mains = [t for t in terms if len(t.columns) == 1]
    if len(mains) < len(terms) and len(y_val):
        losses = [_loss(score(some, intercept, x_val)[:, 0], y_val, objective) for some in (mains, terms)]
        if losses[1] >= losses[0]:
            terms = mains
    return terms, intercept, len(terms) - len(mains)


def score(terms: list[Term], intercept: Array, x: Array) -> Array:
    """(N, classes) float64: the sum that the tables stand for."""
    total = np.tile(intercept, (len(x), 1))
    for term in terms:
        at = []
        for column, cuts in zip(term.columns, term.cuts, strict=True):
            value = x[:, column].astype(float)
            at.append(np.where(np.isnan(value), 0, 1 + np.searchsorted(cuts, value, side="right")))
        total += term.scores[tuple(at)]
    return total


def stacked(forest: list[Tree], x: Array) -> tuple[list[Term], float]:
    """Trees of at most one split as one step function a column, each centred on the training part.

    Returns: terms, and the intercept.
    """
    intercept = 0.0
    splits: dict[int, list[Tree]] = {}
    for tree in forest:
        if len(tree.column) == 1:
            intercept += float(tree.value[0])
        else:
            splits.setdefault(int(tree.column[0]), []).append(tree)
    terms = []
    for column, found in sorted(splits.items()):
        # x > threshold goes right: the first value of the upper bin is the next float32
        cuts = np.unique([np.nextafter(t.threshold[0], np.float32(np.inf)) for t in found])
        scores = np.zeros(len(cuts) + 2)
        for tree in found:
            left, right = tree.value[tree.child[0]], tree.value[tree.child[0] + 1]
            upper = int(np.searchsorted(cuts, np.nextafter(tree.threshold[0], np.float32(np.inf)))) + 2
            scores[1:upper] += left
            scores[upper:] += right
            scores[0] += left if tree.missing_left[0] else right
        term = Term((column,), (cuts.astype(float),), scores[:, None])
        middle = float(score([term], np.zeros(1), x).mean())
        intercept += middle
        terms.append(Term(term.columns, term.cuts, term.scores - middle))
    return terms, intercept


def joined(terms: list[Term]) -> list[Term]:
    """Terms of several outputs on the same columns and the same cuts as one."""
    found: dict[Any, Term] = {}
    for term in terms:
        key = (term.columns, *(cuts.tobytes() for cuts in term.cuts))
        old = found.get(key)
        found[key] = term if old is None else Term(term.columns, term.cuts, old.scores + term.scores)
    return list(found.values())


def _moved(term: Term, keep: Array, start: int, width: int) -> Term:
    """The term with the columns of the whole matrix, its scores in their place among all outputs."""
    scores = np.zeros((*term.scores.shape[:-1], width))
    scores[..., start : start + term.scores.shape[-1]] = term.scores
    return Term(tuple(int(keep[c]) for c in term.columns), term.cuts, scores)


def _spread(terms: list[Term], intercept: Array, known: Array, classes: int) -> tuple[list[Term], Array]:
    """Scores of the classes that were seen, among all of them; the others are left very unlikely."""
    full = np.full(classes, float(intercept.min()) - 10.0)
    full[known] = intercept if len(intercept) == len(known) else [0.0, float(intercept[0])]
    spread = []
    for term in terms:
        scores = np.zeros((*term.scores.shape[:-1], classes))
        scores[..., known[-term.scores.shape[-1] :]] = term.scores
        spread.append(Term(term.columns, term.cuts, scores))
    return spread, full


def _loss(logits: Array, y: Array, objective: str) -> float:
    if objective == "regression":
        return float(np.mean((logits - y) ** 2))
    return float(np.mean(np.logaddexp(0, logits) - y * logits))


def _widest(x: Array, y: Array, x_val: Array, y_val: Array, output: OutputSpec, seed: int) -> Array:
    """The columns that a forest of stumps splits on most often."""
    forests, _ = boost(x, y, x_val, y_val, output, seed, stumps=True)
    used = [int(tree.column[0]) for forest in forests for tree in forest if len(tree.column) > 1]
    count = np.bincount(np.array(used, int), minlength=x.shape[1])
    return np.sort(np.argsort(-count, kind="stable")[:MOST_TERMS])
