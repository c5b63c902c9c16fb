"""How likely held-out molecules are to a model that writes them: the only figure of it that a sealed part can give.

    result = evaluate_likelihood(Labelled.of(spec, scores, targets, part="test", baseline=other, ...))
    result["metrics"]["log_likelihood"]      # {"value": -.61, "low": -.62, "high": -.60}, nats a letter

The record has the keys of `evaluate.evaluate`; what a likelihood does not have (calibration, prediction sets, an
operating point) is None there. Intervals by drawing molecules. What the model writes is judged by `medserve generate`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from medserve.evaluation import sections
from medserve.evaluation.intervals import bootstrap
from medserve.evaluation.labelled import Labelled
from medserve.evaluation.subgroups import FEWEST, groups_with_pairs
from medserve.questions.weighted import ratio
from medserve.types import Array


def evaluate_likelihood(asked: Labelled) -> dict[str, Any]:
    """Measure one part. Returns: what `evaluate.evaluate` does, without `claims`, which it adds."""
    ours = np.asarray(asked.scores.logits, np.float64)[:, 0]
    other = None if asked.baseline is None else np.asarray(asked.baseline.logits, np.float64)[:, 0]

    def figures(w: Array) -> dict[str, Array]:
        out = _figures(ours, w)
        if other is not None:
            simple = _figures(other, w)
            out |= sections.prefixed("baseline", simple)
            out |= sections.prefixed("difference", {name: out[name] - v for name, v in simple.items()})
        if asked.outside is not None:
            out |= sections.prefixed("without", _figures(ours, w * asked.outside))
        return out

    measured = bootstrap(figures, asked.who, np.zeros(len(ours), np.int64), draws=asked.draws, seed=asked.seed)
    metrics = {name: measured[name] for name in ("log_likelihood", "perplexity")}
    return asked.record(
        measured,
        metrics,
        counts={"molecules": len(ours)},
        method="bootstrap of molecules",
        lower=("perplexity",),
        subgroups=_subgroups(ours, asked.who, asked.groups, asked.draws, asked.seed),
    )


def _figures(log: Array, w: Array) -> dict[str, Array]:
    mean = ratio(w @ log, w.sum(1))
    return {"log_likelihood": mean, "perplexity": np.exp(-mean)}


def _subgroups(log: Array, who: Array, groups: Mapping[str, Array], draws: int, seed: int) -> list[dict[str, Any]]:
    """Figures of each declared subgroup; none of them is judged, since no answer to anybody depends on it."""
    rows: list[dict[str, Any]] = []
    for name, value, inside in groups_with_pairs(groups):
        n = int(inside.sum())
        if n < FEWEST or " x " in name:
            continue
        here, one = log[inside], np.zeros(n, np.int64)
        found = bootstrap(lambda w, x=here: _figures(x, w), who[inside], one, draws=draws, seed=seed)  # type: ignore[misc]
        rows.append({"group": name, "value": value, "n": n, "judged": False, "metrics": dict(found), "gaps": {},
                     "level": "none", "flags": []})  # fmt: skip
    return rows
