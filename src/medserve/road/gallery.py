"""Right, wrong and abstained test cases with their heat maps, or of records the pictures of their evidence.

    gallery = make_gallery(built, scores, parts.test, public=False, folder=..., draws=4)

Pictures and texts of patients are put into a report only when the data set says `public: true`; otherwise pictures stay
on this machine, in a folder that only its owner can read, and texts are not shown.
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from medserve.data.fields import Records
from medserve.data.records import values_of
from medserve.data.split import PartView
from medserve.data.text.tags import places
from medserve.data.text.words import words
from medserve.errors import Refusal
from medserve.explain.explainers import EXPLAINERS, explain, target_of
from medserve.explain.overlay import render
from medserve.explain.records import explain_record
from medserve.models.spec import ModelSpec
from medserve.questions.answers import answer_one, probabilities
from medserve.questions.tags import decoded_all
from medserve.road.build import Built
from medserve.road.explain import offered_methods
from medserve.store.files import write_bytes
from medserve.types import Scores

EACH, EACH_RECORD = 6, 3  # cases of each kind; the evidence of one record costs hundreds of passes
PERMUTATIONS = 4  # of Shapley values: the picture stays, at a quarter of what a service spends
PICTURES = 2  # of one record: by the two best methods that have something to say of it
_SHOWN = ("binary", "multiclass", "ordinal")


def make_gallery(
    built: Built, spec: ModelSpec, scores: Scores, part: PartView, *, public: bool, folder: Path
) -> dict[str, Any] | None:
    """The cases that teach most: the surest right ones, the surest wrong ones, the abstentions nearest to a decision.

    Args:
        scores: of the whole part, row for row.
        folder: where the pictures go when they are not public.

    Returns: what `evaluation.report` draws; None for tasks that have no right or wrong case, and for records where no
        method of explanation passed its audit.
    """
    # Neighbours are other molecules: no evidence that a look at the case itself could draw.
    offered = [m.name for m in offered_methods(spec.explanations) if m.name != "neighbours"]
    if spec.output.task not in _SHOWN or (spec.is_record and not offered):
        return None
    probs = probabilities(spec, scores.logits)
    kinds = _kinds(spec, scores, probs, part)
    draw, each = (_draw_record, EACH_RECORD) if spec.is_record else (_draw, EACH)
    cases = []
    for kind in ("right", "wrong", "abstained"):
        rows = [row for row, found in enumerate(kinds) if found == kind]
        sure = probs[rows].max(axis=1) if rows else np.zeros(0)
        for at in np.argsort(-sure)[:each]:
            cases.append(draw(built, spec, part, rows[at], kind, probs[rows[at]], offered))
    if not public:
        _keep(cases, folder)
    where = f"MEDSERVE_HOME/{folder.parent.name}/{folder.name}"  # a report does not tell whose home
    return {"public": public, "where": where, "cases": cases}


def text_gallery(spec: ModelSpec, scores: Scores, part: PartView) -> dict[str, Any]:
    """Some public texts with their entities marked: half with a mistake, half without.

    Returns: {"public": True, "where": None, "texts": [[(piece, "" | "found" | "missed" | "extra"), ...], ...]}; a piece
        whose border is wrong is missed as far as it is true, and extra beyond that.
    """
    shown: dict[bool, list[list[tuple[str, str]]]] = {True: [], False: []}
    for row, (true, given) in zip(part.rows, decoded_all(spec.output, scores.logits, part.targets), strict=True):
        wanted, found = places(true.tolist()), places(given.tolist())
        right = set(wanted) == set(found)
        if (wanted or found) and len(shown[right]) < EACH:
            text = next(v for v in values_of(part.cohort, int(row)).values() if v is not None)
            shown[right].append(_pieces(text, wanted, found))
    return {"public": True, "where": None, "texts": shown[False] + shown[True]}


def _pieces(text: str, wanted: list[tuple[int, int, int]], given: list[tuple[int, int, int]]) -> list[tuple[str, str]]:
    spans = words(text)
    kinds = [""] * len(spans)
    for entities, kind in ((given, "extra"), (wanted, "missed"), (sorted(set(wanted) & set(given)), "found")):
        for a, b, _ in entities:
            kinds[a:b] = [kind] * (b - a)
    begins = {a for a, _, _ in (*wanted, *given)}
    out: list[tuple[str, str]] = []
    at = 0
    for i, (start, stop) in enumerate(spans):
        goes_on = i > 0 and kinds[i] and kinds[i] == kinds[i - 1] and i not in begins
        if goes_on:
            out[-1] = (out[-1][0] + text[at:stop], kinds[i])
        else:
            out += [(text[at:start], ""), (text[start:stop], kinds[i])]
        at = stop
    return [piece for piece in [*out, (text[at:], "")] if piece[0]]


def _kinds(spec: ModelSpec, scores: Scores, probs: np.ndarray, part: PartView) -> list[str]:
    kinds = []
    for row, truth in enumerate(part.targets):
        distance = None if scores.distance is None else float(scores.distance[row])
        try:
            found = answer_one(spec, probs[row], distance)
        except Refusal:
            kinds.append("refused")
            continue
        if found.abstained or found.decision is None:
            kinds.append("abstained")
        else:
            kinds.append("right" if found.decision["label"] == spec.output.labels[int(truth)] else "wrong")
    return kinds


def _draw(
    built: Built, spec: ModelSpec, part: PartView, row: int, kind: str, probs: np.ndarray, offered: list[str]
) -> dict[str, Any]:
    method = next((name for name in offered if not EXPLAINERS[name].needs_torch), None)
    image = part.take(np.array([row]))[0]
    score = built.engine.score(image[None])
    target = target_of(spec.output, score.logits[0])
    blank = np.zeros(image.shape[1:], np.float32)
    heat = None if method is None else render(image, explain(method, built.engine, image, target.column))
    said = _said(spec, part, row, kind, probs)
    return said | {"png": render(image, blank), "heat_png": heat, "method": method}


def _draw_record(
    built: Built, spec: ModelSpec, part: PartView, row: int, kind: str, probs: np.ndarray, offered: list[str]
) -> dict[str, Any]:
    """The case as its evidence shows it; no picture where it lacks whatever the methods explain."""
    record = part.take(np.array([row]))[0]
    target = target_of(spec.output, built.engine.score(record[None]).logits[0])
    blocks, background = Records.build(spec.transforms).blocks, built.background
    assert background is not None
    drawn: dict[str, bytes] = {}
    for method in offered:
        if len(drawn) < PICTURES:
            with contextlib.suppress(Refusal):  # the case lacks what the method explains
                drawn[method] = explain_record(
                    method, lambda rows: built.engine.score(np.ascontiguousarray(rows, np.float32)).logits, record,
                    background, blocks, target.column, label=target.label, permutations=PERMUTATIONS,
                ).png  # fmt: skip
    pictures = [*drawn.values(), None, None]
    said = _said(spec, part, row, kind, probs)
    return said | {"png": pictures[0], "heat_png": pictures[1], "method": ", ".join(drawn) or None, "record": True}


def _said(spec: ModelSpec, part: PartView, row: int, kind: str, probs: np.ndarray) -> dict[str, Any]:
    found, best = answer_one(spec, probs), int(np.argmax(probs))
    return {
        "kind": kind,
        "truth": spec.output.labels[int(part.targets[row])],
        "answer": spec.output.labels[best],
        "probability": float(probs[best]),
        "set": None if found.prediction_set is None else list(found.prediction_set),
    }


def _keep(cases: list[dict[str, Any]], folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number, case in enumerate(cases):
        for name in ("png", "heat_png"):
            if case[name] is not None:
                write_bytes(folder / f"{case['kind']}-{number:02d}-{name.split('_')[0]}.png", case[name], mode=0o600)
