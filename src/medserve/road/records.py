"""The road's own work on records: their audit, their dangers, and data that is to fit a model's inputs."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from medserve.data.cohort import Cohort
from medserve.data.fields import Block, Records
from medserve.data.split import PartView
from medserve.errors import BadData, Refusal
from medserve.evaluation.dangers import danger_checks, survival_labels
from medserve.evaluation.shortcuts import SOURCES, label_columns
from medserve.models.spec import Method, ModelSpec
from medserve.road.build import Built
from medserve.road.run import Prepared
from medserve.types import SEQUENCES, Array

if TYPE_CHECKING:
    from medserve.explain.records import Evidence

CASES, QUICK_CASES = 48, 16
MOST_IMPORTANT = 12  # inputs named by their mean weight
LOOK = 4000  # cases that the checks of the data read, at most


def blocks_of(spec: ModelSpec) -> tuple[Block, ...]:
    return Records.build(spec.transforms).blocks


def check_inputs(cohort: Cohort, spec: ModelSpec) -> Records:
    """The model's own fields, for data that brings every one of its inputs.

    Raises: BadData "inputs-differ".
    """
    here, wanted = {f.name: f.kind for f in cohort.fields}, {i.name: i.kind for i in spec.inputs}
    missing = [name for name in wanted if name not in here]
    if missing:
        raise BadData(
            "inputs-differ",
            f"The data has no input {', '.join(map(repr, missing[:5]))}; the model takes {len(wanted)}.",
            hint="Name the columns as in training, or declare `inputs: {NAME: {column: ...}}` in a dataset.yaml.",
        )
    other = [name for name, kind in wanted.items() if here[name] != kind]
    if other:
        raise BadData(
            "inputs-differ",
            f"Input {other[0]!r} is a {here[other[0]]} here; the model takes a {wanted[other[0]]}.",
            hint="Declare its kind in a dataset.yaml.",
        )
    return Records.build(spec.transforms)


def audit_records(built: Built, prepared: Prepared, *, quick: bool, seed: int) -> list[Method]:
    """Each method that suits the inputs, on trial on held-out cases; the best first.

    additivity (Shapley values): largest gap between the sum of the weights and the logit. deletion: how much further
    the logit moves when what is named first is hidden than when as much else is, over the spread of the logits.
    importance (Shapley values of inputs): mean size of the weight of each, over the same cases.
    randomised: rank correlation with the weights of the same model with its tensors shuffled; high means that the
    method shows the data, not the model. Of words also sufficiency, comprehensiveness and denial: `explain.words`.
    """
    from medserve.explain.records import methods_of

    if built.spec.output.task in SEQUENCES:  # no method has been tried on one entity, or on a likelihood
        return []

    found = [_audit(name, built, prepared, quick, seed) for name in methods_of(blocks_of(built.spec))]
    kept = [method for method in found if method is not None]
    best = next((m for m in kept if m.verdict == "PASS"), next((m for m in kept if m.verdict == "CAUTION"), None))
    roles = {m.name: "not offered" if m.verdict == "FAIL" else "primary" if m is best else "secondary" for m in kept}
    return [msgspec.structs.replace(m, role=roles[m.name]) for m in sorted(kept, key=lambda m: m is not best)]


def _audit(name: str, built: Built, prepared: Prepared, quick: bool, seed: int) -> Method | None:
    """One method's record; None where no held-out case has the input that it explains."""
    from scipy.stats import spearmanr

    from medserve.explain.records import ADDITIVE, explain_record

    blocks, part, background = blocks_of(built.spec), prepared.parts.val, built.background
    assert background is not None
    random = np.random.default_rng(seed)
    costly = (name == "words" and any(b.facts.get("tokenizer") == "wordpiece" for b in blocks)) or (
        name == "atoms" and any("pieces" in b.facts for b in blocks)
    )  # a pretrained encoder
    records = part.take(np.sort(random.permutation(len(part))[: QUICK_CASES if quick or costly else CASES]))
    score, shuffled = _scorer(built.served), _scorer(_shuffled(built.served, seed))
    spread = float(np.std(score(records)[:, 0])) or 1.0
    gaps, gains, alike, sizes = [], [], [], Counter[str]()
    for record in records:
        try:
            told = explain_record(name, score, record, background, blocks, 0, seed=seed)
        except Refusal:
            continue
        count = len(told.items)
        top = min(3, max(1, count // 2)) if name == "shapley" else max(1, round(0.2 * count))
        away = _away(name, record, background, blocks)
        weights = np.array([i["weight"] for i in told.items])
        way = 1.0 if weights.sum() >= 0 else -1.0  # weights that pull both ways would cancel when hidden together
        first = np.argsort(-way * weights)[:top]
        moved = way * _fall(score, record, away, told, first)
        others = [random.permutation(count)[:top] for _ in range(4)]
        chance = [way * _fall(score, record, away, told, chosen) for chosen in others]
        gaps.append(abs(told.gap))
        sizes.update({_named(i): abs(i["weight"]) for i in told.items})  # type: ignore[arg-type]
        gains.append((moved - float(np.mean(chance))) / spread)
        if count > 3:
            again = explain_record(name, shuffled, record, background, blocks, 0, seed=seed)
            weight = {int(p[0]): i["weight"] for p, i in zip(again.places, again.items, strict=True)}
            ours = np.abs([i["weight"] for i in told.items])
            theirs = np.abs([weight[int(p[0])] for p in told.places])
            flat = min(np.ptp(ours), np.ptp(theirs)) == 0
            alike.append(0.0 if flat else float(spearmanr(ours, theirs).statistic))
    if not gains:
        return None
    draws = random.choice(gains, (1000, len(gains))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    like = float(np.median(alike)) if alike else 0.0
    figures: dict[str, Any] = {
        "deletion": {
            "value": float(np.mean(gains)), "low": float(low), "high": float(high), "n": len(gains),
            "level": "PASS" if low > 0 else "FAIL",
        },
        "randomised": {"value": like, "level": "PASS" if like <= 0.5 else "CAUTION"},
    }  # fmt: skip
    if name == "words":
        from medserve.explain.words import text_checks

        figures |= text_checks(score, records, blocks, seed=seed)
    if name in ADDITIVE:
        figures["additivity"] = {"value": max(gaps), "level": "PASS" if max(gaps) <= 1e-3 else "FAIL"}
    levels = [f["level"] for f in figures.values()]
    verdict = "FAIL" if "FAIL" in levels else "CAUTION" if "CAUTION" in levels else "PASS"
    if name == "shapley":
        figures["importance"] = {part: size / len(gains) for part, size in sizes.most_common(MOST_IMPORTANT)}
    figures |= {"mode": "quick" if quick else "full", "seed": seed}
    return Method(name=name, verdict=verdict, figures=figures)  # type: ignore[arg-type]


def _named(item: dict[str, Any]) -> str:
    return f"{item['input']}: {item['part']}" if item["part"] else str(item["input"])


def _away(name: str, record: Array, background: Array, blocks: tuple[Block, ...]) -> Array:
    """(k, F): what stands in the place of something hidden, by the method's own way of hiding."""
    from medserve.explain.films import film_hidden
    from medserve.explain.records import unknown

    if name == "shapley":
        return unknown(background, blocks)
    away = np.array(record[None])
    for block in blocks:
        here = slice(block.start, block.start + block.size)
        if block.kind == "timeline":
            away[:, here] = np.nan
        elif block.kind == "protein":
            away[:, block.start + 1 : block.start + block.size] = 0
        elif block.kind == "text":
            away[:, here] = float(block.facts.get("unknown", 0))
        elif block.kind == "waveform":
            leads = record[here].reshape(block.shape)
            known = np.isfinite(leads)
            means = np.where(known, leads, 0).sum(1) / np.maximum(known.sum(1), 1)
            away[:, here] = np.repeat(means, block.shape[1])
        elif block.kind == "image":
            away = film_hidden(away[0], block)[None]
    return away


def _fall(score: Callable[[Array], Array], record: Array, away: Array, told: "Evidence", chosen: Array) -> float:
    """How much of the logit is lost when the chosen items are hidden."""
    if told.hide is not None:
        rows = np.concatenate([record[None], told.hide(chosen.tolist())])
        logits = score(rows)[:, 0]
        return float(logits[0] - logits[1])
    return _moved(score, record, away, [told.places[i] for i in chosen])


def _moved(score: Callable[[Array], Array], record: Array, away: Array, places: list[Array]) -> float:
    """How much of the logit is lost, on average over the background, when some places become unknown."""
    rows = np.repeat(record[None], len(away), axis=0)
    where = np.concatenate(places)
    rows[:, where] = away[:, where]
    return float(score(record[None])[0, 0] - score(rows)[:, 0].mean())


def _scorer(served: Any) -> Callable[[Array], Array]:
    return lambda rows: served.scores(np.ascontiguousarray(rows, np.float32)).logits


def _shuffled(served: Any, seed: int) -> Any:
    """A copy whose learned numbers are dealt out anew within each tensor; indices stay, so that it still runs."""
    import copy

    import torch

    other = copy.deepcopy(served)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in other.net.state_dict().values():
            if tensor.is_floating_point() and tensor.numel() > 1:
                flat = tensor.flatten()
                tensor.copy_(flat[torch.randperm(len(flat), generator=generator)].view_as(tensor))
    return other


def record_checks(built: Built, prepared: Prepared, *, seed: int) -> list[dict[str, Any]]:
    """The dangers of records, on the training part (never the test part)."""
    if built.spec.output.task in SEQUENCES:
        return []
    part = prepared.parts.train
    rows = np.arange(len(part))
    if len(rows) > LOOK:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:LOOK])
    columns, known = _columns(part, rows, blocks_of(built.spec))
    cases = [part.cases[int(row)] for row in rows]
    targets, survival = np.asarray(part.targets[rows], np.float64), built.spec.output.task == "survival"
    labels = survival_labels(targets) if survival else label_columns(targets, built.spec.output.task)
    facts = [{n: str(v) for n, v in c.groups.items() if n.lower() in SOURCES} for c in cases]
    who = np.array([c.patient for c in cases])
    follow_up = targets if survival else None
    return danger_checks(columns, known, labels, patients=who, facts=facts, follow_up=follow_up, seed=seed)


def _columns(part: PartView, rows: Array, blocks: tuple[Block, ...]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Features of each input without a model: numbers, levels, and of timelines each channel's mean and presence."""
    records = part.take(rows)
    columns: dict[str, Array] = {}
    known: dict[str, Array] = {}
    there: Any
    for block in blocks:
        x = records[:, block.start : block.start + block.size].reshape(len(rows), *block.shape)
        there = np.isfinite(x)
        if block.kind == "number":
            columns[block.name], known[block.name] = _filled(x), there[:, 0]
        elif block.kind == "category":
            known[block.name] = there[:, 0]
            levels = min(int(block.facts["levels"]), 33)
            columns[block.name] = (x == np.arange(levels)).astype(float)
        elif block.kind == "timeline":
            count = there.sum(axis=2)
            mean = np.where(count > 0, np.where(there, x, 0).sum(axis=2) / np.maximum(count, 1), np.nan)
            columns[block.name], known[block.name] = _filled(mean), count > 0
        else:
            known[block.name] = there.reshape(len(rows), -1).any(axis=1)
    return columns, known


def _filled(x: Array) -> Array:
    there = np.isfinite(x)
    middle = np.array([np.median(c[k]) if k.any() else 0.0 for c, k in zip(x.T, there.T, strict=True)])
    return np.where(there, x, middle)
