"""A screen from its library to its results: scored chunk by chunk, ranked, written; killed and begun again, the same.

    result = screen(library, out, plan, settings=settings, workers=4, progress=progress)

Chunks lie beside the results' folder (OUT.screen) until all is done. The results are made from them in one piece, in
order, and hold nothing of when or by how many processes they were made.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medserve.data.molecules.library import Entry, Library
from medserve.evaluation.enrichment import enrichment
from medserve.progress import Progress
from medserve.road.kept import processes
from medserve.road.screening.parts import Parts
from medserve.road.screening.plan import Plan, seen_by
from medserve.road.screening.ranking import Best, Places
from medserve.road.screening.results import write_results
from medserve.road.screening.worker import Crew
from medserve.settings import Settings
from medserve.store.files import new_folder
from medserve.types import Array

UNREAD = ("molecule-", "row-")  # codes of what is no molecule
MOSTLY = 0.5  # share of refused rows above which the column is doubted aloud


def screen(
    library: Library, out: Path, plan: Plan, *, settings: Settings, workers: int = 0, progress: Progress
) -> dict[str, Any]:
    """
    Args:
        workers: processes; 0 takes every core.

    Returns: the summary: counts, codes, figures, the first hits, seconds.
    Raises: Usage "out-exists", "screen-other", "screen-running", "screen-label"; BadData; what a package raises.
    """
    started = time.monotonic()
    with new_folder(out) as work:
        parts = Parts(out.with_name(out.name + ".screen"), plan, seen_by(plan, settings))
        with parts:
            _score(library, parts, plan, settings, workers or processes(), progress)
            summary = _ranked(parts, work, plan, library, settings, progress)
    parts.remove()
    return summary | {"out": str(out), "seconds": round(time.monotonic() - started, 1)}


def _score(library: Library, parts: Parts, plan: Plan, settings: Settings, workers: int, progress: Progress) -> None:
    waiting: dict[int, list[Entry]] = {}

    def chunks() -> Iterator[tuple[int, list[str | None]]]:
        for number, entries in _chunks(library, plan.chunk, parts.done):
            waiting[number] = entries
            yield number, [entry.text for entry in entries]

    progress.say("Counting the library ...")
    total = library.count()
    bar = progress.start("Screening", total)
    refused = 0
    if parts.done:
        progress.say(f"{len(parts.done)} chunks of {plan.chunk} were scored before; going on.")
        progress.step(bar, min(total, len(parts.done) * plan.chunk))
    try:
        with Crew(plan.job(settings), workers) as crew:
            for number, told in crew.work(chunks()):
                entries = waiting.pop(number)
                refused += parts.keep(number, entries, told)
                progress.step(bar, len(entries), note=f"{refused} refused" if refused else "")
    finally:
        progress.end(bar)


def _chunks(library: Library, size: int, done: set[int]) -> Iterator[tuple[int, list[Entry]]]:
    """What is not done yet."""
    first = 0
    while first in done:
        first += 1
    number, entries = first, []
    for entry in library.entries(first * size):
        entries.append(entry)
        if len(entries) == size:
            if number not in done:
                yield number, entries
            number, entries = number + 1, []
    if entries and number not in done:
        yield number, entries


def _ranked(
    parts: Parts, work: Path, plan: Plan, library: Library, settings: Settings, progress: Progress
) -> dict[str, Any]:
    columns = [f"key_{k}" for k in range(len(plan.models))] + (["alike"] if plan.known else [])
    labelled = bool(plan.columns[2])
    places = {column: Places(labelled) for column in columns}
    codes: Counter[str] = Counter()
    rows = same = 0
    for frame in progress.track(parts.frames(), "Ranking", len(parts.done)):
        rows += len(frame)
        same += int(frame["seen"].sum())
        codes.update(code for code in frame["code"].to_list() if code)
        scored = frame.filter(pl.col("code") == "")
        for column, one in places.items():
            one.add(scored[column].to_numpy(), _sides(scored))
    best, both = Best(plan.top), Places(labelled)
    ranking = {c: one for c, one in places.items() if plan.by == "consensus" or c != "alike"}
    ranked, known = work / "scores.parts", pl.Series([name for name, _ in plan.known], dtype=pl.String)
    ranked.mkdir()
    for number, frame in enumerate(progress.track(parts.frames(), "Writing", len(parts.done))):
        frame = _with_ranks(frame, ranking)
        scored = frame.filter(pl.col("code") == "")
        both.add(-scored["consensus"].to_numpy(), _sides(scored))
        for row in scored.filter(pl.col("consensus") <= best.limit).iter_rows(named=True):
            order = (row["consensus"], *(-row[column] for column in ranking), row["row"])
            best.offer(order, row["smiles"], row)
        if plan.known:  # the name of the nearest one in the place of its number
            frame = frame.with_columns(known.gather(frame["nearest"]).alias("nearest"))
        frame.write_parquet(ranked / f"part-{number:07d}.parquet")
    figures: dict[str, Any] = {}
    if labelled:
        names = dict(zip(columns, [*(f"model {k + 1}" for k in range(len(plan.models))), "nearest"], strict=False))
        figures = {names[column]: enrichment(one.counts()) for column, one in places.items()}
        if len(ranking) > 1:
            figures["consensus"] = enrichment(both.counts())
    scored_rows = rows - sum(codes.values())
    unread = sum(n for code, n in codes.items() if code.startswith(UNREAD))
    by = "consensus" if len(ranking) > 1 else "model 1" if plan.models else "nearest"
    summary = {
        "library": plan.library[0], "molecules": rows, "scored": scored_rows, "refused": rows - scored_rows,
        "codes": dict(sorted(codes.items())), "models": [_said(model) for model in plan.models],
        "known": len(plan.known), "known_from": plan.known_from, "seen": same, "ranked_by": by,
        "figures": figures, "warnings": _warnings(library, rows, unread),
    }  # fmt: skip
    return write_results(work, ranked, best.sorted(), summary, plan, settings, progress)


def _with_ranks(frame: pl.DataFrame, places: Mapping[str, Places]) -> pl.DataFrame:
    """With the consensus: the mean of the shares of the library that stand before it, by each model and by likeness."""
    scored = (frame["code"] == "").to_numpy()
    shares: Array = np.zeros(int(scored.sum()))
    for column, one in places.items():
        shares += one.shares(frame[column].to_numpy()[scored]) / len(places)
    consensus = np.full(len(frame), np.nan)
    consensus[scored] = shares
    return frame.with_columns(pl.Series("consensus", consensus).fill_nan(None))


def _sides(frame: pl.DataFrame) -> Array | None:
    """(n,) 1 active, 0 inactive, -1 unknown; None without labels. What a package was trained on, or is one of the known
    actives itself, proves nothing and counts as unknown."""
    if "active" not in frame.columns:
        return None
    sides = frame["active"].cast(pl.Int8).fill_null(-1).to_numpy()
    return np.where(frame["seen"].to_numpy(), -1, sides)


def _said(model: Any) -> dict[str, Any]:
    return {"name": model.name, "version": model.version, "digest": model.digest, "label": model.label,
            "unit": model.unit, "seek": "high" if model.high else "low"}  # fmt: skip


def _warnings(library: Library, rows: int, unread: int) -> list[str]:
    """unread: rows that are no molecules; what a model refused is another thing."""
    if unread < MOSTLY * rows:
        return []
    column = f" of column {library.column!r}" if library.column else ""
    other = library.suggest()
    advice = f"{other!r} holds molecules: --column {other}" if other else "is it the right file? See --column"
    return [f"Only {rows - unread} of {rows} rows{column} are molecules: {advice}."]
