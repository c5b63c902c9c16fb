"""Entities found in texts against those that are there, strictly: precision, recall and F1, each with its interval.

    result = evaluate_entities(Labelled.of(spec, scores, targets, part="test", patients=who, baseline=other, ...))
    result["metrics"]["entity_f1"]      # {"value": .81, "low": .79, "high": .84}
    result["entities"]["rows"]          # the same for each name

The record has the keys of `evaluate.evaluate`; what marks of words do not have (calibration, prediction sets, an
operating point, a decision curve) is None there, and the report says so. An entity counts as found only with both its
ends and its name right; figures are over all entities of all texts, intervals by drawing patients (or documents).

Sources: Tjong Kim Sang and De Meulder, CoNLL 2003 (scoring); Efron 1979 (bootstrap).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from medserve.data.text.tags import places
from medserve.evaluation import sections
from medserve.evaluation.intervals import bootstrap
from medserve.evaluation.labelled import Labelled
from medserve.evaluation.subgroups import FEWEST, GAP, groups_with_pairs
from medserve.models.spec import ModelSpec
from medserve.questions.tags import decoded_all, f1_of
from medserve.questions.weighted import ratio
from medserve.types import Array, Scores

METRICS = ("entity_f1", "entity_precision", "entity_recall", "word_accuracy")
MISTAKES = ("name", "border", "missed", "extra")


def evaluate_entities(asked: Labelled) -> dict[str, Any]:
    """Measure one part.

    Args:
        asked: targets (N, T) numbers of tags, NaN beyond the last word; a case of NaN alone is unlabelled.

    Returns: what `evaluate.evaluate` does, without `claims`, which it adds.
    """
    spec, truth = asked.spec, asked.targets
    labels = tuple(spec.output.labels)
    found = _Found(spec, asked.scores, truth)
    other = None if asked.baseline is None else _Found(asked.baseline_spec or spec, asked.baseline, truth)

    def figures(w: Array) -> dict[str, Array]:
        out = found.figures(w)
        for k in range(len(labels)):
            out |= sections.prefixed(str(k), found.figures(w, k))
        if other is not None:
            simple = other.figures(w)
            out |= sections.prefixed("baseline", simple)
            out |= sections.prefixed("difference", {name: out[name] - v for name, v in simple.items()})
        if asked.outside is not None:
            out |= sections.prefixed("without", found.figures(w, inside=asked.outside))
        return out

    strata = np.zeros(len(truth), np.int64)
    trials = found.trials(asked.who)
    measured = bootstrap(figures, asked.who, strata, draws=asked.draws, seed=asked.seed, trials=trials)
    metrics = {name: measured[name] for name in METRICS}
    record = asked.record(
        measured,
        metrics,
        counts={label: int(found.wanted[:, k].sum()) for k, label in enumerate(labels)},
        method="bootstrap of patients",
        subgroups=_subgroups(found, asked.who, asked.groups, asked.draws, asked.seed),
    )
    told = {
        "words": int(found.words.sum()),
        "given": int(found.given.sum()),
        "rows": [
            {
                "label": label,
                "n": int(found.wanted[:, k].sum()),
                "given": int(found.given[:, k].sum()),
                "metrics": sections.under(measured, str(k)),
            }
            for k, label in enumerate(labels)
        ],
        "mistakes": found.mistakes,
    }
    return record | {"entities": told}


class _Found:
    """Counts of every case: (N, E) entities right, wanted and given by name; (N,) words, and words tagged rightly."""

    def __init__(self, spec: ModelSpec, scores: Scores, targets: Array) -> None:
        n, names = len(targets), len(spec.output.labels)
        self.right, self.wanted, self.given = (np.zeros((n, names)) for _ in range(3))
        self.words, self.agreed = np.zeros(n), np.zeros(n)
        self.mistakes = dict.fromkeys(MISTAKES, 0)
        for row, (true, given) in enumerate(decoded_all(spec.output, scores.logits, targets)):
            self.words[row], self.agreed[row] = len(true), (true == given).sum()
            a, b = places(true.tolist()), places(given.tolist())
            for counts, entities in ((self.right, set(a) & set(b)), (self.wanted, a), (self.given, b)):
                for _, _, name in entities:
                    counts[row, name] += 1
            self._mistakes(a, b)

    def _mistakes(self, wanted: list[tuple[int, int, int]], given: list[tuple[int, int, int]]) -> None:
        """Why an entity does not count: another name at its place, another border, not seen; or there is none."""
        both = set(wanted) & set(given)
        at = {(a, b) for a, b, _ in given}
        for a, b, name in wanted:
            if (a, b, name) in both:
                continue
            touched = any(c < b and d > a for c, d, _ in given)
            self.mistakes["name" if (a, b) in at else "border" if touched else "missed"] += 1
        self.mistakes["extra"] += sum(not any(c < b and d > a for c, d, _ in wanted) for a, b, _ in given)

    def figures(self, w: Array, name: int | None = None, inside: Array | None = None) -> dict[str, Array]:
        """w: (D, N) weights. name: one entity's alone. inside: (N,) mask of the cases that count."""
        w = w if inside is None else w * inside
        columns = (self.right, self.wanted, self.given)
        right, wanted, given = (w @ (c.sum(1) if name is None else c[:, name]) for c in columns)
        out = {
            "entity_f1": f1_of(right, wanted, given),
            "entity_precision": ratio(right, given),
            "entity_recall": ratio(right, wanted),
        }
        return out if name is not None else out | {"word_accuracy": ratio(w @ self.agreed, w @ self.words)}

    def trials(self, who: Array) -> dict[str, int]:
        """Patients behind each share, for the bound of one that is exactly 0 or 1."""
        masks = {
            "entity_recall": self.wanted.any(1),
            "entity_precision": self.given.any(1),
            "word_accuracy": who == who,
        }
        for k in range(self.wanted.shape[1]):
            masks |= {f"{k}/entity_recall": self.wanted[:, k] > 0, f"{k}/entity_precision": self.given[:, k] > 0}
        return sections.patients_behind(masks, who)


def _subgroups(found: _Found, who: Array, groups: Mapping[str, Array], draws: int, seed: int) -> list[dict[str, Any]]:
    """Does it find the entities of everybody alike? Rows as of `subgroups.subgroups`."""
    rows: list[dict[str, Any]] = []
    members: dict[int, Array] = {}
    for name, value, inside in groups_with_pairs(groups):
        n = int(inside.sum())
        judged = FEWEST <= n < len(who)
        if not judged and " x " in name:
            continue
        if judged:
            members[len(rows)] = inside
        rows.append({"group": name, "value": value, "n": n, "judged": judged, "metrics": {}, "gaps": {},
                     "level": "green" if judged else "none", "flags": []})  # fmt: skip

    def figures(w: Array) -> dict[str, Array]:
        out: dict[str, Array] = {}
        for i, inside in members.items():
            here, rest = found.figures(w, inside=inside), found.figures(w, inside=~inside)
            for name in ("entity_f1", "entity_recall"):
                out |= {f"{i}/metrics/{name}": here[name], f"{i}/gaps/{name}": here[name] - rest[name]}
        return out

    if not members:
        return rows
    for key, span in bootstrap(figures, who, np.zeros(len(who), np.int64), draws=draws, seed=seed).items():
        at, side, name = key.split("/")
        rows[int(at)][side][name] = span
    for i in members:
        gap = rows[i]["gaps"]["entity_recall"]
        if gap["high"] is not None and gap["value"] < -GAP and gap["high"] < 0:
            rows[i] |= {"flags": ["entity_recall"], "level": "red"}
    return rows
