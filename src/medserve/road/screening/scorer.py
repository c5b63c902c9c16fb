"""Molecules in, what a screen wants to know of each out: the standard form, one score a model, the nearest known one.

    scorer = Scorer(job)
    told = scorer(["CCO", "c1ccccc1O", "CC(=O"])        # Told: columns, of which a refused molecule has only its code

The scores are those of the service: the same fields, the same graph, the same answers, the same refusals.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from medserve.data.fields import Records
from medserve.data.molecules.describe import morgan
from medserve.data.molecules.nearest import Nearest
from medserve.data.molecules.standard import chemistry, standardise
from medserve.errors import MedServeError, Refusal, Usage
from medserve.models.signing import Trust
from medserve.models.spec import ModelSpec
from medserve.questions.answers import answer_one
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings
from medserve.types import Array

TASKS = ("binary", "multilabel", "multiclass", "ordinal", "number")
EDGE = 1e-12  # probabilities are ranked by their logits, cut here


class Asked(msgspec.Struct, frozen=True):
    """One model. target: the label or number that ranks. high: whether more of it is better. given: other inputs."""

    package: str
    digest: str
    target: str
    high: bool
    given: dict[str, Any]


class Job(msgspec.Struct, frozen=True):
    """What a worker is told first. known: standard forms of actives or of what was asked to be alike."""

    home: str
    models: list[Asked]
    known: list[str]


class Scores(msgspec.Struct, array_like=True):
    """Of one model, one entry a molecule; None where it was refused. key: what is ranked, more is better."""

    value: list[float | None]
    key: list[float | None]
    low: list[float | None]
    high: list[float | None]
    status: list[str | None]


class Told(msgspec.Struct, array_like=True):
    """One entry a molecule. code: "" for one that was scored by every model."""

    smiles: list[str | None]
    code: list[str]
    message: list[str]
    models: list[Scores]
    alike: list[float | None]
    nearest: list[int | None]


def column_of(spec: ModelSpec, target: str) -> int:
    """Which column of the probabilities ranks. Raises: Usage "screen-target"."""
    labels = list(spec.output.labels)
    if spec.output.task not in TASKS:
        raise Usage("screen-target", f"A model of task {spec.output.task} ranks no molecules.")
    if not target and spec.output.task in ("binary", "number"):
        return len(labels) - 1
    if not target and len(labels) == 1:
        return 0
    if target in labels:
        return labels.index(target)
    raise Usage(
        "screen-target", f"{spec.name} answers {', '.join(labels[:12])}{' ...' if len(labels) > 12 else ''}.",
        hint="Say which one ranks: --target LABEL",
    )  # fmt: skip


class Scorer:
    """Raises: BadPackage, Usage as `LoadedModel.open` and `column_of`; Refusal of a given input."""

    def __init__(self, job: Job) -> None:
        settings = Settings.from_environment(Path(job.home))
        trust = Trust.load(settings)
        self._models = [_Model(one, LoadedModel.open(Path(one.package), trust, threads=1)) for one in job.models]
        self._nearest = Nearest(job.known) if job.known else None

    def __call__(self, texts: Sequence[str | None]) -> Told:
        n = len(texts)
        told = Told([None] * n, [""] * n, [""] * n, [], [None] * n, [None] * n)
        there: list[int] = []
        for i, text in enumerate(texts):
            try:
                told.smiles[i] = _standard(text)
                there.append(i)
            except Refusal as error:
                told.code[i], told.message[i] = error.code, error.message
        for model in self._models:
            told.models.append(model(told, there, texts))
        if self._nearest is not None:
            chem, prints = chemistry(), morgan()
            for i in there:
                told.alike[i], told.nearest[i] = self._nearest(
                    prints.GetFingerprint(chem.MolFromSmiles(told.smiles[i]))
                )
        return told


class _Model:
    def __init__(self, asked: Asked, model: LoadedModel) -> None:
        self._asked, self._model, self._column = asked, model, column_of(model.spec, asked.target)
        records = model.records
        assert records is not None
        self._records: Records = records
        self._molecule: Any = next(f for f in records.fields if f.kind == "molecule")
        raw = {self._molecule.name: None} | asked.given
        self._values = records.parse(raw)

    def __call__(self, told: Told, there: Sequence[int], texts: Sequence[str | None]) -> Scores:
        """Fills in a code where the model refuses."""
        n = len(texts)
        out = Scores([None] * n, [None] * n, [None] * n, [None] * n, [None] * n)
        rows: list[Array] = []
        at: list[int] = []
        for i in there:
            try:
                smiles = self._molecule.parse(texts[i]) if self._molecule.tautomer else told.smiles[i]
                self._molecule.check(smiles)
                rows.append(self._records.encode(self._values | {self._molecule.name: smiles}))
                at.append(i)
            except Refusal as error:
                told.code[i], told.message[i] = error.code, error.message
        if not rows:
            return out
        cases = np.stack(rows)
        spec = self._model.spec
        for i, one in zip(at, self._model.read_scores(self._model.score(cases), cases), strict=True):
            try:
                found = answer_one(spec, one.probs, one.distance, absent=one.absent, group=one.group)
            except MedServeError as error:
                told.code[i], told.message[i] = error.code, error.message
                continue
            value = float(one.probs[self._column])
            key = value
            if spec.output.task != "number":
                p = min(max(value, EDGE), 1 - EDGE)
                key = float(np.log(p / (1 - p)))
            out.value[i], out.key[i], out.status[i] = value, key if self._asked.high else -key, found.status
            if found.interval is not None:
                out.low[i], out.high[i] = found.interval
        return out


def _standard(text: str | None) -> str:
    if text is None:
        raise Refusal("row-unreadable", "The row is torn, or longer than any molecule.")
    return standardise(text).smiles
