"""Sets of medicines beside repeating the last visit, on the same visits and the same draws of patients.

    told = by_visit(spec, judged, last, who, draws=1000, seed=0)
    told["rows"][1]["difference"]["jaccard"]      # visits that had one before: {"value": .05, "low": .04, "high": .06}

Repeating is read off the histories themselves, not off a model: the medicines of the last earlier visit at which any
were prescribed. A patient's first such visit has none to repeat, which counts as the empty set; so the visits that had
one before are the fair comparison, and stand in a row of their own.
"""

from typing import Any

import numpy as np

from medserve.evaluation.intervals import bootstrap
from medserve.evaluation.sections import under
from medserve.models.spec import ModelSpec
from medserve.questions.medicines import CALLED, f1s, jaccards, pair_counts, weighted_mean
from medserve.questions.metrics import Judged
from medserve.questions.weighted import ratio
from medserve.types import Array

FEWEST = 20  # visits under which a row is not measured
ROWS = ("all visits", "visits with an earlier one", "first visits")


def by_visit(
    spec: ModelSpec, judged: Judged, last: Array | None, who: Array, *, draws: int, seed: int
) -> dict[str, Any] | None:
    """
    Args:
        last: (N, K) what the last visit had, NaN throughout where there was none; None: not known, and no comparison.
        who: (N,) patients.

    Returns: {"called", "rows": [{"visits", "n", "model", "repeat", "difference", "data"}], "pairs", "rules", "unknown",
        "rare", "rare_share", "rate_trained"}; None for other answers.
    """
    told = spec.output.medicines
    if told is None:
        return None
    rows: list[dict[str, Any]] = []
    if last is not None:
        had: Array = np.asarray(np.isfinite(last).all(axis=1))
        repeat = np.nan_to_num(last) == 1
        for name, inside in zip(ROWS, (np.ones(len(judged), bool), had, ~had), strict=True):
            rows.append(_row(name, judged, repeat, inside, who, draws, seed))
    return {
        "called": CALLED,
        "rows": rows,
        "pairs": len(told.pairs),
        "severities": list(told.severities),
        "rules": [{"id": one.id, "version": one.version, "digest": one.digest} for one in told.rules],
        "unknown": list(told.unknown),
        "rare": told.rare,
        "rare_share": told.rare_share,
        "rate_trained": told.rate,
    }


def _row(
    name: str, judged: Judged, repeat: Array, inside: Array, who: Array, draws: int, seed: int
) -> dict[str, Any]:  # fmt: skip
    n = int(inside.sum())
    row: dict[str, Any] = {"visits": name, "n": n, "n_patients": len(np.unique(who[inside]))}
    if n < FEWEST:
        return row | {"model": {}, "repeat": {}, "difference": {}, "data": {}}
    part = judged.keep(inside)
    truth, pairs = part.targets == 1, part.pairs or ()
    sides = {"model": part.chosen, "repeat": repeat[inside], "data": truth}
    each = {side: (jaccards(sets, truth), f1s(sets, truth), sets.sum(axis=1), *pair_counts(sets, pairs))
            for side, sets in sides.items()}  # fmt: skip

    def figures(w: Array) -> dict[str, Array]:
        out: dict[str, Array] = {}
        for side, (jaccard, f1, size, met, every) in each.items():
            out[f"{side}/medicines"] = weighted_mean(size, w)
            out[f"{side}/interaction_rate"] = ratio(w @ met, w @ every)
            if side != "data":
                out |= {f"{side}/jaccard": weighted_mean(jaccard, w), f"{side}/set_f1": weighted_mean(f1, w)}
        for figure in ("jaccard", "set_f1", "interaction_rate"):
            out[f"difference/{figure}"] = out[f"model/{figure}"] - out[f"repeat/{figure}"]
        out["difference/interaction_rate_to_data"] = out["model/interaction_rate"] - out["data/interaction_rate"]
        return out

    found = bootstrap(figures, who[inside], np.zeros(n, np.int64), draws=draws, seed=seed)
    return row | {side: under(found, side) for side in (*sides, "difference")}
