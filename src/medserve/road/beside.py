"""More models beside the two candidates of a run on records: boosted trees under every network, a random forest for
molecules, a glass box for tables.

    rows, box = beside(offered, other, prepared, test, scores, seed=7)
    rows[0]["called"], rows[0]["difference"]     # "boosting (gradient-boosted trees)", paired on the test part
    box["curves"][0]                             # what one input adds to the score

None is offered, chosen from or written into a package: they show what a simpler kind of model does with the same
cases. They are fitted on the training side alone. The additive model is fitted only for tables of numbers and
categories of at most `MOST_ROWS` training cases, where it takes seconds.
"""

from typing import Any

import numpy as np

from medserve.data.fields import SCALARS
from medserve.data.split import PartView
from medserve.evaluation.intervals import bootstrap, delong, strata_of
from medserve.evaluation.sections import CALLED, labelled, typed
from medserve.questions.metrics import judge, measure
from medserve.road.build import Built, who
from medserve.road.records import blocks_of
from medserve.road.run import Prepared
from medserve.types import UNSCORED, Array, Named, Scores

MOST_ROWS = 20_000
MOST_SHOWN = 8  # curves, or weights
POINTS, EACH = 32, 10  # of a curve: at most so many, and so many training cases between them
LOOK = 4000  # training cases whose quantiles a curve is drawn at
METRIC = {"number": "mae", "survival": "c_index"}  # else the AUROC
_ADDITIVE = ("binary", "number")


def wanted(offered: Built, other: Built, prepared: Prepared, audit: str) -> list[str]:
    """The further models that this run is shown beside. audit: without one there is no glass box either."""
    made = {b.candidate.architecture.name for b in (offered, other)}
    kinds = {block.kind for block in blocks_of(offered.spec)}
    scalar, molecules = kinds <= set(SCALARS), "molecule" in kinds
    task, found = offered.spec.output.task, []
    if task in UNSCORED:
        return []
    if "case-net" in made and "record-trees" not in made:
        found.append("record-trees")
    if molecules and "record-forest" not in made and task != "survival":
        found.append("record-forest")
    few = len(prepared.parts.train) <= MOST_ROWS
    if audit != "none" and scalar and few and task in _ADDITIVE and "record-additive" not in made:
        found.append("record-additive")
    return found


def beside(
    offered: Built,
    other: Built,
    prepared: Prepared,
    test: PartView,
    scores: Scores,
    *,
    audit: str = "full",
    seed: int,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """
    Args:
        test: the opened part's cases in scope. scores: of the offered model, row for row.

    Returns: for each further model {"architecture", "called", "metric", "this", "other", "difference", "delong"}, this
        minus the other on the same draws; and the glass box (see `glass_box`), None where nothing that was fitted is
        one.
    """
    from medserve.training.classical import fit_classical
    from medserve.training.loop import predict_logits

    parts, rows = prepared.parts, []
    nets = {b.candidate.architecture.name: b.candidate.net for b in (offered, other)}
    blocks = prepared.recipe.architecture.params["blocks"]
    for name in wanted(offered, other, prepared, audit):
        known: dict[str, Any] = {"unseen": 1}
        if not prepared.cohort.independent:
            known |= {"patients": who(parts.train), "others": who(parts.val)}
        _, net, _ = fit_classical(
            Named(name, {"blocks": blocks}), parts.train, parts.val, prepared.plain.output, seed, **known
        )
        nets[name] = net
        logits = predict_logits(net, test, (0.0,), (1.0,))
        rows.append(
            {"architecture": name, "called": CALLED[name], **_paired(offered, prepared, test, scores, logits, seed)}
        )
    readable = [n for n in ("record-additive", "record-linear") if n in nets]
    if not readable:
        return rows, None
    name = readable[0]
    first = parts.train.take(np.sort(np.random.default_rng(seed).permutation(len(parts.train))[:LOOK]))
    return rows, {"architecture": name, "called": CALLED[name], **glass_box(nets[name], first)}


def _paired(
    offered: Built, prepared: Prepared, test: PartView, scores: Scores, logits: Array, seed: int
) -> dict[str, Any]:
    task, spec = offered.spec.output.task, offered.spec
    known = labelled(task, scores, test.targets)
    targets = typed(task, np.asarray(test.targets)[known])
    ours, theirs = judge(spec, scores[known].logits, targets), judge(spec, logits[known], targets)
    metric = METRIC.get(task, "auroc")
    patients = np.arange(len(known)) if prepared.cohort.independent else who(test)[known]

    def both(w: Array) -> dict[str, Array]:
        a, b = (measure(judged, w, only=(metric,))[metric] for judged in (ours, theirs))
        return {"this": a, "other": b, "difference": a - b}

    found: dict[str, Any] = {**bootstrap(both, patients, strata_of(task, targets), seed=seed)}
    paired = delong(targets == 1, ours.probs[:, 1], theirs.probs[:, 1]) if task == "binary" else None
    return {"metric": metric, **found, "delong": paired}


def glass_box(net: Any, train: Array) -> dict[str, Any]:
    """What can be read off an additive or linear model of records, the widest effects first.

    Args: train: (N, F) training cases, which say where values lie; no value of theirs is kept.
    Returns: {"curves": [{"name", "points", "scores", "missing"}]}: what one column adds to the logit at up to 32
        quantiles, rounded, with at least 10 cases between them; or {"effects": [(column, logit per standard
        deviation)]}.
    """
    if hasattr(net, "effects"):
        return {"effects": [[name, weight] for name, weight in net.effects()[:MOST_SHOWN]]}
    values = net.features.matrix(train)
    names = list(net.features.names)
    curves = []
    for curve in net.curves()[:MOST_SHOWN]:
        column = values[:, names.index(curve.name)]
        column = column[np.isfinite(column)]
        count = max(2, min(POINTS, len(column) // EACH))
        places = np.quantile(column, np.linspace(0.02, 0.98, count)) if len(column) >= 2 * EACH else curve.edges[:0]
        points = sorted({float(f"{p:.3g}") for p in places})
        scores = [float(curve.scores[np.searchsorted(curve.edges, p, side="right")]) for p in points]
        curves.append({"name": curve.name, "points": points, "scores": scores, "missing": curve.missing})
    return {"curves": curves}
