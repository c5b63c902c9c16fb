"""The labelled cases of one part, and their record where the answers are no probability of a label.

    asked = Labelled.of(spec, scores, targets, part="test", patients=who, baseline=other, ...)
    measured = bootstrap(figures, asked.who, ...)
    record = asked.record(measured, metrics, counts=..., method="bootstrap of patients", subgroups=rows)

Effects of treatments, entities in texts and likelihoods of molecules share it; `evaluate.evaluate` makes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medserve.evaluation.intervals import DRAWS, LEVEL, Interval
from medserve.evaluation.sections import labelled, leaks_of, under
from medserve.models.spec import ModelSpec
from medserve.types import Array, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Arguments of `evaluate.evaluate`, of the N labelled cases alone.

    who: (N,) what the bootstrap draws. declared: whether that are patients. unlabelled: cases that are left out.
    """

    spec: ModelSpec
    scores: Scores
    targets: Array
    part: str
    who: Array
    declared: bool
    unlabelled: int
    groups: Mapping[str, Array]
    baseline: Scores | None
    baseline_spec: ModelSpec | None
    role: str
    leaky: Array | None
    openings: int | None
    refused: Mapping[str, int] | None
    policies: Mapping[str, Array]
    draws: int
    seed: int

    @classmethod
    def of(
        cls,
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
        policies: Mapping[str, Array] | None = None,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> "Labelled":
        """Of all cases of the part, labelled or not. Raises: BadData: none is labelled, or the numbers differ."""
        rows = labelled(spec.output.task, scores, targets)
        return cls(
            spec=spec,
            scores=scores[rows],
            targets=np.asarray(targets)[rows],
            part=part,
            who=np.arange(len(rows)) if patients is None else np.asarray(patients)[rows],
            declared=patients is not None,
            unlabelled=len(scores) - len(rows),
            groups={name: np.asarray(values)[rows] for name, values in (groups or {}).items()},
            baseline=None if baseline is None else baseline[rows],
            baseline_spec=baseline_spec,
            role=role,
            leaky=None if leaky is None else np.asarray(leaky, bool)[rows],
            openings=openings,
            refused=refused,
            policies={name: np.asarray(arms)[rows] for name, arms in (policies or {}).items()},
            draws=draws,
            seed=seed,
        )

    @property
    def outside(self) -> Array | None:
        """(N,) True where a case is in no leak; None where that parts nothing."""
        if self.leaky is None or not self.leaky.any() or self.leaky.all():
            return None
        return ~self.leaky

    def record(
        self,
        measured: Mapping[str, Interval],
        metrics: Mapping[str, Interval],
        *,
        counts: Mapping[str, int],
        method: str,
        lower: Sequence[str] = (),
        subgroups: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """The record of `evaluate.evaluate`: what these answers have not, such as calibration, prediction sets, an
        operating point or a decision curve, is None, and every case is answered.

        Args:
            measured: all intervals, with those under "baseline", "difference" and "without". metrics: the figures told.
            method: of the intervals. lower: metrics of which less is better.
        """
        n, spec = len(self.who), self.spec
        other = self.baseline_spec
        whole: Interval = {"value": 1.0, "low": None, "high": None}
        none: Interval = {"value": 0.0, "low": None, "high": None}
        return {
            "model": {"name": spec.name, "version": spec.version},
            "task": spec.output.task,
            "labels": list(spec.output.labels),
            "part": self.part,
            "n": n,
            "n_patients": len(np.unique(self.who)),
            "patients_declared": self.declared,
            "unlabelled": self.unlabelled,
            "counts": dict(counts),
            "openings": self.openings,
            "intervals": {"level": LEVEL, "method": method, "draws": self.draws, "seed": self.seed},
            "metrics": dict(metrics),
            "lower_is_better": list(lower),
            "cross_check": None,
            "majority": None,
            "per_label": [],
            "calibration": None,
            "conformal": None,
            "operating": None,
            "answers": {
                "answered": n,
                "abstained": 0,
                "out_of_distribution": 0,
                "refused_before_scoring": dict(self.refused or {}),
                "shares": {"answered": whole, "abstained": none, "out_of_distribution": none},
                "accuracy_answered": None,
            },
            "confusion": None,
            "survival": None,
            "medicines": None,
            "curves": {},
            "decision": None,
            "subgroups": list(subgroups),
            "baseline": {
                "role": self.role,
                "other": "simple baseline" if self.role == "recipe" else "recipe's model",
                "architecture": None if other is None else other.architecture.name,
                "metrics": under(measured, "baseline"),
                "difference": under(measured, "difference"),
                "delong": None,
            }
            if self.baseline is not None
            else None,
            "threshold_rules": None,
            "leaks": None if self.leaky is None else leaks_of(self.leaky, measured, metrics),
        }
