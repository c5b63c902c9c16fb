"""Packages of this installation beside the shipped models: the answer of the service, interval and set included.

package = Own.open(folder, settings)
package(["CCO", "c1ccccc1O"])           # [{"model": ..., "outputs": [...], "seen": False, ...}, {"code": ...}]
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medserve.data.pseudonym import pseudonym_key
from medserve.errors import MedServeError, Usage
from medserve.models.signing import Trust
from medserve.road.membership import knows, trained_on
from medserve.road.screening.scorer import TASKS
from medserve.runtime.inputs import MOLECULES
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings


class Own:
    """One package that takes a molecule. `about`: what a result says of it."""

    def __init__(self, model: LoadedModel, key: bytes) -> None:
        self._model = model
        spec = model.spec
        taken = [want.name for want in spec.inputs if want.kind == "molecule"]
        if len(taken) != 1 or spec.output.task not in TASKS:
            raise Usage(
                "inputs-mismatch", f"{model.name} does not answer about one molecule.",
                hint="Name a package trained on molecules.",
            )  # fmt: skip
        self._input, self._key = taken[0], key
        self._trained_on = trained_on(model.package.split, key) if len(spec.inputs) == 1 else None
        conformal = spec.calibration.conformal
        self.about: dict[str, Any] = {
            "name": model.name, "version": model.version, "digest": model.digest, "labels": list(spec.output.labels),
            "task": spec.output.task, "unit": spec.output.unit, "licence": "as its trainer says",
            "intervals": "none" if conformal is None else f"conformal, {1 - conformal.alpha:.0%}",
            "training": "not known to this installation" if self._trained_on is None else "known to this installation",
        }  # fmt: skip

    @classmethod
    def open(cls, folder: Path, settings: Settings) -> "Own":
        """Raises: BadPackage; Usage "inputs-mismatch"."""
        model = LoadedModel.open(folder, Trust.load(settings), threads=1, tuned=settings.home / "tuned")
        return cls(model, pseudonym_key(settings))

    def __call__(self, smiles: Sequence[str]) -> list[dict[str, Any]]:
        """An answer for each, or its code and message. smiles: of standard forms."""
        found: list[dict[str, Any]] = [{} for _ in smiles]
        cases, rows = [], []
        for row, text in enumerate(smiles):
            try:
                cases.append(self._model.load(text.encode(), media=MOLECULES[0]))
                rows.append(row)
            except MedServeError as error:
                found[row] = {"code": error.code, "message": error.message}
        if not cases:
            return found
        stack = np.stack(cases)
        scores = self._model.read_scores(self._model.score(stack), stack)
        for row, case, scored in zip(rows, cases, scores, strict=True):
            try:
                answer = self._model.answer(scored, case=case)
            except MedServeError as error:
                found[row] = {"code": error.code, "message": error.message}
                continue
            kept = ("status", "outputs", "prediction_set", "coverage", "reasons", "domain")
            found[row] = {name: answer[name] for name in kept}
        return [one | {"seen": self.seen(text)} for one, text in zip(found, smiles, strict=True)]

    def seen(self, smiles: str) -> bool | None:
        """Whether it was trained on this molecule, by InChIKey; None where this installation cannot know."""
        if self._trained_on is None:
            return None
        return knows(self._trained_on, self._key, self._input, smiles)
