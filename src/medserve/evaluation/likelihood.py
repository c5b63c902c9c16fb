"""How likely held-out molecules are to a model that writes them: the only figure of it that a sealed part can give.

    result = evaluate_likelihood(spec, scores, targets, part="test", baseline=other, ...)
    result["metrics"]["log_likelihood"]      # {"value": -.61, "low": -.62, "high": -.60}, nats a letter

The record has the keys of `evaluate.evaluate`; what a likelihood does not have (calibration, prediction sets, an
operating point) is None there. Intervals by drawing molecules. What the model writes is judged by `medserve generate`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from medserve.evaluation import sections
from medserve.evaluation.intervals import DRAWS, bootstrap
from medserve.evaluation.subgroups import FEWEST, groups_with_pairs
from medserve.models.spec import ModelSpec
from medserve.questions.weighted import ratio
from medserve.types import Array, Scores


def evaluate_likelihood(
    spec: ModelSpec,
    scores: Scores,
    targets: Array,
    *,
    part: str,
    patients: Array | None = None,
    groups: Mapping[str, Array] | None = None,
    baseline: Scores | None = None,
    baseline_spec: ModelSpec | None = None,
    role: str = "recipe",
    leaky: Array | None = None,
    openings: int | None = None,
    refused: Mapping[str, int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure one part; arguments as for `evaluate.evaluate`, without `claims`, which it adds."""
    rows = sections.labelled("generate", scores, targets)
    who = np.asarray(patients)[rows] if patients is not None else np.arange(len(rows))
    ours = np.asarray(scores.logits, np.float64)[rows, 0]
    other = None if baseline is None else np.asarray(baseline.logits, np.float64)[rows, 0]
    outside = None if leaky is None else ~np.asarray(leaky, bool)[rows]

    def figures(w: Array) -> dict[str, Array]:
        out = _figures(ours, w)
        if other is not None:
            simple = _figures(other, w)
            out |= sections.prefixed("baseline", simple)
            out |= sections.prefixed("difference", {name: out[name] - v for name, v in simple.items()})
        if outside is not None and outside.any() and not outside.all():
            out |= sections.prefixed("without", _figures(ours, w * outside))
        return out

    strata = np.zeros(len(rows), np.int64)
    measured = bootstrap(figures, who, strata, draws=draws, seed=seed)
    metrics = {name: measured[name] for name in ("log_likelihood", "perplexity")}
    return sections.without_probabilities(
        spec, measured, metrics, part=part, who=who, declared=patients is not None, unlabelled=len(scores) - len(rows),
        counts={"molecules": len(rows)}, method="bootstrap of molecules", lower=("perplexity",),
        subgroups=_subgroups(ours, who, {k: np.asarray(v)[rows] for k, v in (groups or {}).items()}, draws, seed),
        compared=other is not None, baseline_spec=baseline_spec, role=role,
        leaky=None if leaky is None else np.asarray(leaky, bool)[rows], openings=openings, refused=refused,
        draws=draws, seed=seed,
    )  # fmt: skip


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
