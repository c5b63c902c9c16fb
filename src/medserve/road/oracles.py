"""Packages, and plain properties, as judges of new molecules.

    oracle = open_oracle(parse("models/drd2:active>"), trust)
    oracle.score(["CCO", ...])          # (N,) desirability, 0 to 1; 0 where the package refuses the molecule

A probability is taken as it is, a number by its place among the training values; a molecule unlike a package's training
data is worth nothing to that package, so that nothing is gained by leaving the ground it knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medserve.data.molecules.quality import Quality, quality
from medserve.errors import Refusal, Usage
from medserve.models.signing import Trust
from medserve.questions.answers import probabilities
from medserve.questions.objectives import Objective, refuse_harm
from medserve.runtime.inputs import SMILES
from medserve.runtime.model import LoadedModel
from medserve.types import Array

BATCH = 64


class Oracle(Protocol):
    @property
    def name(self) -> str: ...

    def score(self, smiles: Sequence[str]) -> Array:
        """(N,) float64 in [0, 1] of molecules in their standard form."""
        ...


@dataclass(frozen=True)
class Property:
    """QED as it is, SA score as (10 - sa) / 9; a range is 1 inside and falls to 0 over its own width outside."""

    name: str
    objective: Objective

    def score(self, smiles: Sequence[str]) -> Array:
        return np.array([self._one(quality(one)) for one in smiles], np.float64)

    def _one(self, found: Quality) -> float:
        value = float(getattr(found, self.objective.source))
        if self.objective.way == "=":
            away = max(self.objective.low - value, value - self.objective.high, 0.0)
            return max(0.0, 1 - away / (self.objective.high - self.objective.low))
        share = {"qed": value, "sa": 1 - (value - 1) / 9}[self.objective.source]
        more = self.objective.way == (">" if self.objective.source == "qed" else "<")
        return share if more else 1 - share


class PackageOracle:
    """One label of one package."""

    def __init__(self, objective: Objective, model: LoadedModel, column: int) -> None:
        self.name, self.objective, self.model, self.column = objective.text, objective, model, column
        self.input = model.spec.inputs[0].name

    def score(self, smiles: Sequence[str]) -> Array:
        found = np.zeros(len(smiles))
        for at in range(0, len(smiles), BATCH):
            rows, records = [], []
            for i, one in enumerate(smiles[at : at + BATCH], at):
                try:
                    records.append(self.model.load(one.encode(), media=SMILES))
                    rows.append(i)
                except Refusal:
                    continue
            if rows:
                found[rows] = self._desired(np.stack(records))
        return found

    def _desired(self, records: Array) -> Array:
        spec, scores = self.model.spec, self.model.score(records)
        value = probabilities(spec, scores.logits)[:, self.column]
        if spec.output.task == "number":
            value = 1 / (1 + np.exp(-np.clip(spec.output.standard(value), -30, 30)))
        value = value if self.objective.way == ">" else 1 - value
        if spec.ood is not None and scores.distance is not None:
            value = np.where(scores.distance <= spec.ood.threshold, value, 0.0)
        return np.asarray(value, np.float64)


def open_oracle(objective: Objective, trust: Trust) -> Oracle:
    """Raises: Refusal "objective-harmful"; Usage "objective-form", "objective-label", "objective-input"; BadPackage."""
    if objective.built_in:
        if objective.way != "=" and objective.source not in ("qed", "sa"):
            raise Usage("objective-form", f"{objective.source} takes a range.", hint="Write weight=200..500.")
        return Property(objective.text, objective)
    model = LoadedModel.open(Path(objective.source), trust, threads=1)
    spec = model.spec
    if [want.kind for want in spec.inputs] != ["molecule"] or spec.output.task not in (
        "binary", "multiclass", "multilabel", "number",
    ):  # fmt: skip
        raise Usage(
            "objective-input", f"{objective.source} does not judge a molecule alone.",
            hint="An objective is a package with one input of kind molecule that gives a label or a number.",
        )  # fmt: skip
    labels = list(spec.output.labels)
    label = objective.label or (labels[-1] if len(labels) <= 2 else "")
    if label not in labels:
        raise Usage(
            "objective-label", f"{objective.source} has no label {label!r}; it gives {', '.join(labels[:10])}.",
            hint="Write PACKAGE:LABEL>.",
        )  # fmt: skip
    two = spec.output.task == "binary"
    refuse_harm(objective, label, names_of(model, labels), unit=spec.output.unit, first=two and label == labels[0])
    return PackageOracle(objective, model, labels.index(label))


def names_of(model: LoadedModel, labels: Sequence[str]) -> list[str]:
    """What tells what a package measures: its name, its data set's, and of two classes both names."""
    data: dict[str, Any] = dict(model.card.get("data") or {})
    told = [model.name, model.spec.name, Path(str(model.package.folder)).name]
    told += [str(data.get(key) or "") for key in ("name", "source")]
    return told + (list(labels) if len(labels) <= 2 else [])


def joined(scores: Sequence[Array]) -> Array:
    """(N,) the geometric mean of every objective's desirability: what fails one fails."""
    return np.asarray(np.exp(np.mean(np.log(np.maximum(np.stack(scores), 1e-6)), axis=0)))
