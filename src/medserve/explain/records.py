"""Evidence for one answer about a record: what each input moved, as data and as a picture. No training library.

    methods_of(blocks)         # ["shapley", "words"]: what suits these inputs, before any audit
    told = explain_record("shapley", score, record, background, blocks, column)
    told.items[0]              # {"input": "age", "value": 71.0, "weight": 0.42}

"shapley" weighs whole inputs, channels of a timeline and leads of a waveform; with the base its weights sum to the
logit. An input is "unknown" by what takes its place: numbers and categories take the values of summaries of the
training part, everything else is left out, as if it had not been sent. "events" weighs the events of a history one by
one, in the same way and beside the rest of the case. "segments" hides stretches of a waveform, "words" the words of a
text, "occlusion" the places of a picture, "atoms" the atoms of a molecule, one at a time, "residues" stretches
of a protein; their weights are falls of the logit, and sum to nothing. "neighbours" shows training molecules of public
data; their weights are similarities. "effect" says what would change the advice on a treatment: `explain.advice`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medserve.data.fields import SCALARS, Block
from medserve.data.fields.molecule import Molecule, written
from medserve.data.fields.protein import residues as letters_of
from medserve.data.molecules.tokens import atom_spans
from medserve.errors import Refusal
from medserve.explain.atoms import draw
from medserve.explain.events import events, happenings, render_times
from medserve.explain.films import film_cells, film_heat, film_levels
from medserve.explain.neighbours import draw_beside
from medserve.explain.overlay import render
from medserve.explain.residues import render_sequence, residues, stretches
from medserve.explain.segments import render_strip, segments, windows
from medserve.explain.shapley import permutation_shapley, render_bars
from medserve.explain.words import render_text, spots, weigh_spots
from medserve.types import Array

RECORD_METHODS = ("shapley", "events", "segments", "words", "occlusion", "atoms", "residues", "neighbours", "effect")
BY_KIND = {
    "timeline": "events", "waveform": "segments", "text": "words", "image": "occlusion", "molecule": "atoms",
    "protein": "residues",
}  # fmt: skip
ADDITIVE = ("shapley", "events")  # methods whose weights and base sum to the logit
MOST_ITEMS = 150  # of an answer; the picture shows all
PERMUTATIONS, FEW_PERMUTATIONS, MANY = 16, 4, 50  # fewer where there are many groups
Score = Callable[[Array], Array]  # (B, F) records -> (B, K) logits


@dataclass(frozen=True, slots=True)
class Group:
    """Places of the record that are known or unknown together. input: the field; part: within it, or ""."""

    input: str
    part: str
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """items: the largest weight first. places: of each item, its columns of the record. total: the logit.

    base: the logit with every input unknown, None where weights are falls; gap: of base and weights to the logit.
    heat: (H, W) of a picture, in logits. hide: records (1, F) with some items hidden, where no columns stand for them.
    svg: the picture of a molecule, in lines.
    """

    items: list[dict[str, Any]]
    places: list[Array]
    base: float | None
    total: float
    gap: float
    png: bytes
    heat: Array | None = None
    hide: Callable[[Sequence[int]], Array] | None = None
    svg: str | None = None


def groups_of(blocks: Sequence[Block]) -> list[Group]:
    """What is explained as one thing: an input, or a channel of it where the field names its channels."""
    found = []
    for block in blocks:
        names = block.facts.get("names") or block.facts.get("leads")
        if names and len(block.shape) == 2 and len(names) == block.shape[0]:
            step = block.size // len(names)
            for i, part in enumerate(names):
                start = block.start + i * step
                found.append(Group(block.name, str(part), tuple(range(start, start + step))))
        else:
            found.append(Group(block.name, "", tuple(range(block.start, block.start + block.size))))
    return found


def unknown(background: Array, blocks: Sequence[Block]) -> Array:
    """The background with everything but numbers and categories left out."""
    out = np.array(background, np.float32)
    for block in blocks:
        if block.kind not in SCALARS:
            out[:, block.start : block.start + block.size] = np.nan
    return out


def methods_of(blocks: Sequence[Block]) -> list[str]:
    """The methods that say something of records of these blocks."""
    found = ["shapley"] if len(groups_of(blocks)) > 1 else []
    return found + list(dict.fromkeys(BY_KIND[b.kind] for b in blocks if b.kind in BY_KIND))


def explain_record(
    method: str,
    score: Score,
    record: Array,
    background: Array,
    blocks: Sequence[Block],
    column: int,
    *,
    label: str = "",
    permutations: int | None = None,
    seed: int = 0,
) -> Evidence:
    """One record, one logit, one method.

    Args:
        record: (F,). background: (k, F) summaries of at least 10 training cases each.
        column: of the logits. label: what it speaks for, for the picture.
    """
    if method == "events":
        return _events(score, record, blocks, column, permutations, seed)
    if method == "segments":
        return _segments(score, record, blocks, column)
    if method == "occlusion":
        return _places(score, record, blocks, column)
    if method == "atoms":
        return _atoms(score, record, blocks, column)
    if method == "residues":
        return _residues(score, record, blocks, column)
    if method == "words":
        return _words(score, record, blocks, column, label)
    assert method == "shapley", method  # "neighbours" asks other cases, see `neighbours`
    return _shapley(score, record, background, blocks, column, permutations, seed)


def _events(
    score: Score, record: Array, blocks: Sequence[Block], column: int, permutations: int | None, seed: int
) -> Evidence:
    """Every event of the case's histories; the time is hours before the prediction."""
    _first(record, blocks, "timeline")
    found = happenings(record, blocks)
    weights, base, gap = events(score, record, found, column, permutations=permutations, seed=seed)
    items = [
        {"input": h.input, "part": f"{h.channel}, {h.said}", "time": round(h.middle_h, 4), "value": h.value,
         "unit": h.unit, "weight": float(weight)}
        for h, weight in zip(found, weights, strict=True)
    ]  # fmt: skip
    places = [np.asarray(h.columns) for h in found]
    return _ordered(items, places, base, base + float(weights.sum()), gap, render_times(found, weights))


def _segments(score: Score, record: Array, blocks: Sequence[Block], column: int) -> Evidence:
    """Stretches of the first waveform that is there."""
    block = _first(record, blocks, "waveform")
    leads, samples = block.shape
    hz = float(block.facts.get("hz") or 0)
    importance = segments(score, record, block, column)
    values = record[block.start : block.start + block.size].reshape(block.shape)
    names = [str(n) for n in block.facts.get("leads", [])] or [f"lead {i + 1}" for i in range(leads)]
    items, places = [], []
    for row, name in enumerate(names):
        for j, (low, high) in enumerate(windows(samples, hz)):
            at = f"{low / hz:.2f} to {high / hz:.2f} s" if hz else f"samples {low + 1} to {high}"
            items.append(
                {"input": block.name, "part": f"{name}, {at}", "value": None, "weight": float(importance[row, j])}
            )
            places.append(np.arange(block.start + row * samples + low, block.start + row * samples + high))
    png = render_strip(values, hz, importance, leads=names, unit=str(block.facts.get("unit", "")))
    return _ordered(items, places, None, float(score(record[None])[0, column]), 0.0, png)


def _places(score: Score, record: Array, blocks: Sequence[Block], column: int) -> Evidence:
    """Cells of the first picture that is there."""
    block = _first(record, blocks, "image")
    heat = film_heat(score, record, block, column)
    cells = film_cells(heat, block)
    items = [{"input": block.name, "part": said, "value": None, "weight": weight} for said, weight, _ in cells]
    png = render(film_levels(record, block), heat)
    total = float(score(record[None])[0, column])
    return replace(_ordered(items, [places for *_, places in cells], None, total, 0.0, png), heat=heat)


def _words(score: Score, record: Array, blocks: Sequence[Block], column: int, label: str) -> Evidence:
    """Words of every text that is there; those that training did not know show as a dot."""
    _first(record, blocks, "text")
    found = spots(record, blocks)
    importance = weigh_spots(score, record, found, column)
    items: list[dict[str, Any]] = []
    tokens: list[str] = []
    shown: list[float] = []
    texts = {spot.block.name for spot in found}
    for spot, weight in zip(found, importance.tolist(), strict=True):
        begin, end = (int(spot.words[i][0]) - spot.block.start + 1 for i in (0, -1))
        part = f"word {begin}" if len(spot.words) == 1 else f"words {begin} to {end}"
        if len(texts) > 1 and (not items or items[-1]["input"] != spot.block.name):
            tokens.append(f"{spot.block.name}:")
            shown.append(0.0)
        items.append({"input": spot.block.name, "part": part, "value": spot.text, "weight": weight})
        tokens.append(spot.text)
        shown.append(weight)
    png = render_text(tokens, np.array(shown), label)
    return _ordered(items, [s.places for s in found], None, float(score(record[None])[0, column]), 0.0, png)


def _atoms(score: Score, record: Array, blocks: Sequence[Block], column: int) -> Evidence:
    """Every atom of the first molecule that is there. Raises: Refusal "molecule-too-long"."""
    block = _first(record, blocks, "molecule")
    facts = block.facts
    smiles = written(record[block.start : block.start + block.size], int(facts["length"]))
    if smiles is None:
        raise _too_long()
    atoms, names = int(facts.get("atoms", 0)), tuple(facts["descriptors"])
    field = Molecule(
        block.name, length=int(facts["length"]), names=names, graph=atoms > 0, atoms=atoms, fragments=not names,
        tokenizer=facts.get("tokenizer_json", ""), pieces=int(facts.get("pieces", 0)),
    )  # fmt: skip

    def hidden(sets: Sequence[Sequence[int]] | None) -> Array:
        found = field.hidden(smiles, sets)
        rows = np.repeat(record[None], len(found), axis=0)
        rows[:, block.start : block.start + block.size] = found
        return rows

    logits = score(np.concatenate([record[None], hidden(None)]))[:, column].astype(np.float64)
    weights = logits[0] - logits[1:]
    spans = atom_spans(smiles)
    items: list[dict[str, Any]] = [
        {"input": block.name, "part": f"atom {i + 1}", "value": smiles[slice(*spans[i])], "weight": float(weight)}
        for i, weight in enumerate(weights)
    ]
    order = sorted(range(len(items)), key=lambda i: -abs(items[i]["weight"]))
    told = _ordered(items, [np.array([i]) for i in range(len(items))], None, float(logits[0]), 0.0, b"")
    return replace(
        told, png=draw(smiles, weights, png=True), svg=draw(smiles, weights).decode(),
        hide=lambda chosen: hidden([[order[i] for i in chosen]]),
    )  # fmt: skip


def neighbours(
    found: Sequence[tuple[str, str, float]], record: Array, blocks: Sequence[Block], total: float
) -> Evidence:
    """Training molecules with their labels, beside the one that is asked about.

    Args: found: SMILES, label and similarity of each, the nearest first.
    """
    block = _first(record, blocks, "molecule")
    smiles = written(record[block.start : block.start + block.size], int(block.facts["length"]))
    if smiles is None:
        raise _too_long()
    items: list[dict[str, Any]] = [
        {"input": block.name, "part": one, "value": label, "weight": alike} for one, label, alike in found
    ]
    told = _ordered(items, [np.zeros(0, np.int64)] * len(items), None, total, 0.0, b"")
    return replace(told, png=draw_beside(smiles, found, png=True), svg=draw_beside(smiles, found).decode())


def _too_long() -> Refusal:
    return Refusal(
        "molecule-too-long", "The molecule is longer than those the model was trained on.",
        hint="Ask for the prediction without an explanation.",
    )  # fmt: skip


def _residues(score: Score, record: Array, blocks: Sequence[Block], column: int) -> Evidence:
    """Stretches of the first protein that is there; `heat` (1, residues) gives each residue its stretch's weight."""
    block = _first(record, blocks, "protein")
    letters = letters_of(record[block.start : block.start + block.size])
    weights, cut = residues(score, record, block, column), stretches(len(letters))
    items: list[dict[str, Any]] = [
        {
            "input": block.name,
            "part": f"residues {low + 1} to {high}",
            "value": letters[low:high],
            "weight": float(weight),
        }
        for (low, high), weight in zip(cut, weights, strict=True)
    ]
    each = np.repeat(weights, [high - low for low, high in cut])
    places = [np.arange(block.start + 1 + low, block.start + 1 + high) for low, high in cut]
    total = float(score(record[None])[0, column])
    return replace(_ordered(items, places, None, total, 0.0, render_sequence(letters, each)), heat=each[None])


def _first(record: Array, blocks: Sequence[Block], kind: str) -> Block:
    """Raises: Refusal "input-missing"."""
    for block in blocks:
        if block.kind == kind and np.isfinite(record[block.start : block.start + block.size]).any():
            return block
    raise Refusal("input-missing", f"The case holds no {kind} to explain.", hint="Ask for another method, or send it.")


def _ordered(
    items: list[dict[str, Any]], places: list[Array], base: float | None, total: float, gap: float, png: bytes
) -> Evidence:
    order = sorted(range(len(items)), key=lambda i: -abs(items[i]["weight"]))
    return Evidence([items[i] for i in order], [places[i] for i in order], base, total, gap, png)


def _shapley(
    score: Score,
    record: Array,
    background: Array,
    blocks: Sequence[Block],
    column: int,
    permutations: int | None,
    seed: int,
) -> Evidence:
    """Shapley values of the inputs for one logit, by sampled permutations.

    Source: Strumbelj and Kononenko, "Explaining prediction models and individual predictions with feature
        contributions", 2014.
    """
    groups = [g for g in groups_of(blocks) if np.isfinite(record[list(g.columns)]).any() or g.part == ""]
    places = [np.asarray(g.columns) for g in groups]
    few = PERMUTATIONS if len(groups) <= MANY else FEW_PERMUTATIONS
    values, base, gap = permutation_shapley(
        lambda rows: score(rows)[:, column],
        record,
        unknown(background, blocks),
        places,
        permutations=permutations or few,
        seed=seed,
    )
    by_name = {b.name: b for b in blocks}
    items: list[dict[str, Any]] = []
    for group, weight in zip(groups, values, strict=True):
        block = by_name[group.input]
        shown = _shown(record, block) if block.kind in SCALARS else None
        items.append({"input": group.input, "part": group.part, "value": shown, "weight": float(weight)})
    total = base + float(np.sum(values))
    told = _ordered(items, places, float(base), total, float(gap), b"")
    items = told.items
    names = [f"{i['input']}: {i['part']}" if i["part"] else i["input"] for i in items]
    texts = ["" if i["value"] is None else str(i["value"]) for i in items]
    png = render_bars(names, [i["weight"] for i in items], texts, base, total)
    return replace(told, png=png)


def _shown(record: Array, block: Block) -> Any:
    value = float(record[block.start])
    if not np.isfinite(value):
        return "missing"
    if block.kind == "category":
        words = block.facts.get("words", [])
        return words[int(value)] if int(value) < len(words) else "other"
    return float(f"{value:.6g}")  # float32 has no more digits
