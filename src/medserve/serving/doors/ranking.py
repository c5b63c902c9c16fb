"""The best items of a batch by their score: what a screen over the network is asked for.

    top, label, high = asked_ranking([("top", "100"), ("seek", "low")])
    page = ranked("b-...", batches.results(row), top, label, high)           # blocks: it reads every answer

Only the best are in memory, whatever the batch holds.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from medserve.errors import Usage
from medserve.serving.schema import Ranked, Ranking

MOST_TOP = 10_000
RANKING: list[dict[str, Any]] = [
    {"name": "top", "in": "query", "description": "How many.",
     "schema": {"type": "integer", "minimum": 1, "maximum": MOST_TOP, "default": 100}},
    {"name": "label", "in": "query", "description": "Which output ranks; left out, the last one.",
     "schema": {"type": "string"}},
    {"name": "seek", "in": "query", "description": "Whether more or less of it is better.",
     "schema": {"enum": ["high", "low"], "default": "high"}},
]  # fmt: skip


class _Output(msgspec.Struct):
    label: str
    probability: float | None = None
    value: float | None = None


class _Answer(msgspec.Struct):
    status: str
    outputs: list[_Output]


class _Result(msgspec.Struct):
    item: int
    id: str | None = None
    answer: _Answer | None = None


_read = msgspec.json.Decoder(_Result).decode


def asked_ranking(query: Sequence[tuple[str, str]]) -> tuple[int, str, bool]:
    """(top, label, high). Raises: Usage "query-invalid"."""
    said = dict(query)
    top, seek = said.get("top", "100"), said.get("seek", "high")
    number = int(top) if top.isascii() and top.isdigit() and len(top) < 7 else 0
    known = set(said) <= {"top", "label", "seek"} and len(said) == len(query)
    if not known or not 1 <= number <= MOST_TOP or seek not in ("high", "low"):
        raise Usage(
            "query-invalid", f"The address takes top (1 to {MOST_TOP}), label, and seek (high or low), once each.",
            hint="For instance ?top=100&seek=high",
        )  # fmt: skip
    return number, said.get("label", ""), seek == "high"


def ranked(batch: str, results: Iterable[bytes], top: int, label: str, high: bool) -> Ranking:
    """results: lines of the batch. Raises: Usage "ranking-label": no answer has it."""
    page = Ranking(batch, label, "high" if high else "low", 0, 0, [])

    def scored() -> Iterator[tuple[float, _Result]]:
        for line in results:
            one = _read(line)
            if one.answer is None or not one.answer.outputs:
                page.errors += 1
                continue
            page.label = page.label or one.answer.outputs[-1].label
            output = next((output for output in one.answer.outputs if output.label == page.label), None)
            found = None if output is None else output.value if output.probability is None else output.probability
            if found is None:
                raise Usage(
                    "ranking-label", "No output of the model has this label, or it has no score.",
                    hint=f"Labels: {', '.join(output.label for output in one.answer.outputs[:20])}.",
                )  # fmt: skip
            page.of += 1
            yield found, one

    sign = -1.0 if high else 1.0
    best = heapq.nsmallest(top, scored(), key=lambda pair: (sign * pair[0], pair[1].item))
    for rank, (score, one) in enumerate(best, 1):
        assert one.answer is not None
        page.hits.append(Ranked(rank, one.item, one.id, score, one.answer.status == "abstained"))
    return page
