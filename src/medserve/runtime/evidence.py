"""The evidence for one answer of a loaded model, with the verdict of its audit: as data, as a picture, and in words.

    explainer = Explainer(package, records, domain, engine)
    explainer.explain("occlusion", tensor, scores)["png"]       # as the wire has it
    explainer.evidence("shapley", record, target).items         # of a record

The engine is the one that the audit judged, in full precision, whichever engine scores what is asked. Which methods are
offered is `KnownModel.offered`.
"""

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from medserve.data.fields import Records
from medserve.explain import advice
from medserve.explain.cam import cam
from medserve.explain.explainers import Target, explain, target_of
from medserve.explain.neighbours import SHOWN
from medserve.explain.overlay import pack, render
from medserve.explain.records import MOST_ITEMS, Evidence, explain_record, neighbours
from medserve.explain.rules import rule_lines, with_lines
from medserve.models.package import SELFCHECK, Package
from medserve.runtime.domain import DomainReader
from medserve.runtime.engine import Engine
from medserve.runtime.reviewed import closed_of
from medserve.types import Array, Scores

RECORD_NOTE = "Each weight says what an input moved this model's score, in logits; it is no cause of disease."
NUMBER_NOTE = "Each weight says what an input moved this model's number, on the scale it learned; it is no cause."
NEIGHBOUR_NOTE = (
    "Training molecules that this one is most like, with their measured labels; weight: Tanimoto similarity."
)
_NOTES = {"neighbours": NEIGHBOUR_NOTE, advice.METHOD: advice.NOTE}
NOTE = "The map shows what moved this model's score; it does not outline disease."


class Explainer:
    """Of one model. Safe to use from several threads.

    Args:
        records: the fields of a model of records; None of one of pictures.
        domain: what is known of the training molecules, where the package tells it.
        reference: scores what the methods ask.
    """

    def __init__(
        self, package: Package, records: Records | None, domain: DomainReader | None, reference: Engine
    ) -> None:
        self._package, self._spec = package, package.spec
        self._records, self._domain, self._reference = records, domain, reference

    def explain(
        self, method: str, tensor: Array, scores: Scores, held: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The evidence for one prediction.

        Args:
            tensor: (C, H, W) or (C, D, H, W) uint8, or (F,) float32 of a record: what entered the graph.
            scores: of this one case; its class activation map is used where the reference drew it.
            held: `safety` of the answer; its rules are said, and drawn, with the evidence.

        Returns: method, verdict, label; `png`: base64, the picture with the evidence in colour; `map`: shape, dtype and
            base64 of the raw values, in the geometry of the tensor; note.
        """
        audit = next(m for m in self._spec.explanations if m.name == method)
        target = target_of(self._spec.output, scores.logits[0])
        said = f"Audit: {audit.verdict}{f' ({audit.role})' if audit.role else ''}."
        if self._records is not None:
            told = self.evidence(method, tensor, target, held)
            usual = NUMBER_NOTE if self._spec.output.task == "number" else RECORD_NOTE
            return {
                "method": method,
                "verdict": audit.verdict,
                "label": target.label,
                "png": base64.b64encode(told.png).decode(),
                "map": None if told.heat is None else pack(told.heat),
                "values": told.items[:MOST_ITEMS],
                "base": told.base,
                "total": told.total if told.items else None,
                "svg": told.svg,
                "note": f"{said} {_NOTES.get(method, usual)}",
                "rules": [] if held is None else rule_lines(held),
            }
        if method == "cam" and scores.cam is not None:
            heat = cam(scores.cam, np.array([target.column]), tensor.shape[1:])[0]
        else:
            heat = explain(method, self._reference, tensor, target.column)
        return {
            "method": method,
            "verdict": audit.verdict,
            "label": target.label,
            "png": base64.b64encode(render(tensor, heat)).decode(),
            "map": pack(heat),
            "values": [],
            "base": None,
            "total": None,
            "svg": None,
            "note": f"{said} {NOTE}",
            "rules": [],
        }

    def evidence(self, method: str, record: Array, target: Target, held: Mapping[str, Any] | None = None) -> Evidence:
        """What each input of a record, or each part of one, moved. record: (F,) float32. held: as for `explain`.

        A dose that is not offered has no evidence, which would tell it: only the rules are shown.
        """
        if held is None:
            return self._evidence(method, record, target)
        if self._spec.output.task == "number" and held["withheld"]:
            return Evidence([], [], None, 0.0, 0.0, with_lines(None, rule_lines(held)))
        found = self._evidence(method, record, target, held)
        return found if method == advice.METHOD else replace(found, png=with_lines(found.png, rule_lines(held)))

    def _evidence(self, method: str, record: Array, target: Target, held: Mapping[str, Any] | None = None) -> Evidence:
        assert self._records is not None

        def score(rows: Array) -> Array:
            return self._reference.score(np.ascontiguousarray(rows, np.float32)).logits

        blocks = self._records.blocks
        if method == advice.METHOD:
            closed, lines = closed_of(held), () if held is None else rule_lines(held)
            return advice.what_would_change(score, record, blocks, self._spec.output, target.column, closed, lines)
        if method == "neighbours":
            found = [] if self._domain is None else self._domain.neighbours(record, SHOWN)
            return neighbours(found, record, blocks, float(score(record[None])[0, target.column]))
        background = np.asarray(self._package.tensors(SELFCHECK)["background"], np.float32)
        return explain_record(method, score, record, background, blocks, target.column, label=target.label)
