"""Does the model serve everybody alike? Error rates, coverage and abstention by subgroup, each against the rest.

    subgroups(judged, patients, {"sex": sex, "site": site}, hit=hit, abstained=abstained)

Groups and pairs of groups with at least 50 cases are measured; smaller ones are named and not judged. A gap in missed
cases (FNR; for several labels, in errors), in the C index or in coverage above .05 whose 95 % interval excludes 0 is
red. Where the line lies is the user's decision, so it is a parameter and the report prints it.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from medserve.evaluation.intervals import bootstrap, strata_of
from medserve.questions import censored
from medserve.questions.metrics import Judged, seen, spent, within_20
from medserve.questions.weighted import calibration_line, rank_auroc, ratio
from medserve.types import Array

FEWEST = 50
GAP = 0.05
_MOST_PAIRS = 40
FLAGGED = ("fnr", "error", "c_index", "coverage")
_HIGHER_IS_BETTER = ("coverage", "c_index")


def subgroups(
    judged: Judged,
    patients: Array,
    groups: Mapping[str, Array],
    *,
    hit: Array | None = None,
    abstained: Array | None = None,
    gap: float = GAP,
    draws: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row a group: {"group", "value", "n", "judged", "metrics", "gaps", "level", "flags"}.

    Args:
        groups: column name -> (N,) values; empty means unknown and forms no group.
        hit: (N,) whether the prediction set holds the truth, where there are sets.
        abstained: (N,) whether the model gave no decision.
    """
    rows: list[dict[str, Any]] = []
    members: list[Array] = []
    for name, value, inside in groups_with_pairs(groups):
        n = int(inside.sum())
        row = {"group": name, "value": value, "n": n, "judged": FEWEST <= n < len(judged), "metrics": {}, "gaps": {}}
        if not row["judged"] and "x" in name.split():
            continue  # small pairs are many and say nothing
        rows.append({**row, "level": "green" if row["judged"] else "none", "flags": []})
        members.append(inside)
    chosen = [i for i, row in enumerate(rows) if row["judged"]]
    if not chosen:
        return rows

    def figures(w: Array) -> dict[str, Array]:
        out = {}
        for i in chosen:
            here = _figures(judged, members[i], w, hit, abstained)
            rest = _figures(judged, ~members[i], w, hit, abstained)
            out.update({f"{i}/m/{name}": v for name, v in here.items()})
            out.update({f"{i}/g/{name}": here[name] - v for name, v in rest.items()})
            if judged.task == "binary":
                part = judged.keep(members[i])
                out[f"{i}/m/calibration_slope"] = calibration_line(
                    part.targets == 1, part.probs[:, 1], w[:, members[i]]
                )[1]
        return out

    found = bootstrap(figures, patients, strata_of(judged.task, judged.targets), draws=draws, seed=seed)
    for key, span in found.items():
        at, side, name = key.split("/")
        rows[int(at)]["metrics" if side == "m" else "gaps"][name] = span
    for i in chosen:
        rows[i]["flags"] = [name for name in FLAGGED if _worse(rows[i]["gaps"].get(name), name, gap)]
        rows[i]["level"] = "red" if rows[i]["flags"] else "green"
    return rows


def groups_with_pairs(groups: Mapping[str, Array]) -> list[tuple[str, str, Array]]:
    """(column, value, (N,) who belongs to it) of every group, and of pairs of groups that are large enough."""
    columns = {name: np.asarray(values).astype(str) for name, values in groups.items()}
    single = [
        (name, str(value), values == value)
        for name, values in columns.items()
        for value in np.unique(values)
        if value not in ("", "nan", "None")
    ]
    pairs = [
        (f"{a} x {b}", f"{va} x {vb}", ina & inb)
        for (a, va, ina), (b, vb, inb) in combinations(single, 2)
        if a != b and (ina & inb).sum() >= FEWEST
    ]
    return single + pairs[:_MOST_PAIRS]


def _figures(
    judged: Judged, inside: Array, weights: Array, hit: Array | None, abstained: Array | None
) -> dict[str, Array]:
    w, part = weights[:, inside], judged.keep(inside)
    out: dict[str, Array] = {}
    if judged.task == "binary":
        y, alert = part.targets == 1, part.chosen == 1
        out["fnr"] = ratio(w @ (y & ~alert), w @ y)
        out["fpr"] = ratio(w @ (~y & alert), w @ ~y)
        out["auroc"] = rank_auroc(y, part.probs[:, 1], w)
    elif judged.task == "survival":
        times, events, eta, _ = seen(part)
        base, _, seen_in_time = spent(part)
        out["c_index"] = censored.concordance(times, events, eta, w)
        out["expected_observed"] = censored.expected_observed(base * np.exp(np.minimum(eta, 50.0)), seen_in_time, w)
    elif judged.task == "number":
        out["mae"] = ratio(w @ np.abs(part.probs[:, 0] - part.targets), w.sum(axis=1))
        if (judged.targets > 0).all():
            out["within_20"] = within_20(part, w)
    elif judged.task == "multilabel":
        known = ~np.isnan(part.targets)
        wrong = known & (part.chosen != (part.targets == 1))
        out["error"] = ratio(w @ wrong.sum(axis=1), w @ known.sum(axis=1))
    else:
        out["error"] = ratio(w @ (part.chosen != part.targets), w.sum(axis=1))
    for name, flag in (("coverage", hit), ("abstention", abstained)):
        if flag is not None:
            out[name] = ratio(w @ flag[inside], w.sum(axis=1))
    return out


def _worse(span: Mapping[str, float | None] | None, name: str, gap: float) -> bool:
    """Is this group surely worse than the rest by more than the gap?"""
    if span is None or span["value"] is None or span["low"] is None or span["high"] is None:
        return False
    if name in _HIGHER_IS_BETTER:
        return span["value"] < -gap and span["high"] < 0
    return span["value"] > gap and span["low"] > 0
