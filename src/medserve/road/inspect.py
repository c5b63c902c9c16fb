"""`medserve inspect`: step 1 alone. Every file read once; counts, problems, repeats, leaks; a page to look at."""

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from medserve.data.forms import write_yaml
from medserve.data.forms.listing import Listing
from medserve.data.inspect import inspect
from medserve.data.prepare import Probe, probe
from medserve.data.records import describe_fields
from medserve.data.sheet import write_sheet
from medserve.data.transforms import default_transforms
from medserve.errors import BadData
from medserve.progress import SILENT, Progress
from medserve.road.collect import list_data, read_data
from medserve.settings import Settings

SIDE = 64  # pixels a side of what is compared and shown
MOST_INPUTS = 40  # rows at the terminal
MOST_REFUSED = 20  # files named at the terminal


def inspect_data(
    data: Path, *, settings: Settings, page: Path | None = None, seed: int = 0, progress: Progress = SILENT
) -> tuple[dict[str, Any], RenderableType]:
    """Read all of `data` and say what is there.

    Args:
        page: write the HTML page with the picture sheet here.
        seed: of the split that training would make.

    Returns: `data.inspect.inspect`'s record, and the same for a person at a terminal.
    """
    listing = list_data(data, settings)
    if listing.kind == "record":
        return _inspect_records(listing, settings, page, seed, progress)
    seen = _probe(listing)
    depth = (min(SIDE, seen.shape[0]),) if listing.kind == "volume" else ()
    shape = (3 if seen.colour else 1, *depth, SIDE, SIDE)
    transforms = default_transforms(shape=shape, colour=seen.colour, unit=seen.unit)
    with tempfile.TemporaryDirectory(dir=settings.folder("work")) as work:
        cohort = read_data(listing, transforms, shape, Path(work), progress)
        result = inspect(cohort, seed=seed, progress=progress)
        if page is not None:
            write_sheet(page, cohort, result)
            result["page"] = str(page)
    return result, _shown(result)


def _inspect_records(
    listing: Listing, settings: Settings, page: Path | None, seed: int, progress: Progress
) -> tuple[dict[str, Any], RenderableType]:
    """The same for cases that are records, with a row about each input instead of pictures."""
    with tempfile.TemporaryDirectory(dir=settings.folder("work")) as work:
        cohort = read_data(listing, [], (), Path(work), progress)
        result = inspect(cohort, seed=seed, progress=progress)
        result["inputs"] = describe_fields(cohort)
        if page is not None:
            write_sheet(page, cohort, result)
            result["page"] = str(page)
    inputs = Table(show_edge=False)
    for column in ("input", "kind", "known", "missing", "values"):
        inputs.add_column(column, overflow="fold")
    for row in result["inputs"][:MOST_INPUTS]:
        inputs.add_row(row["name"], row["kind"], str(row["known"]), str(row["missing"]), _values(row))
    more = len(result["inputs"]) - MOST_INPUTS
    rest: list[RenderableType] = [f"and {more} more inputs; --json lists all"] if more > 0 else []
    return result, Group(_shown(result), inputs, *rest)


def _values(row: dict[str, Any]) -> str:
    if "median" in row:
        return f"{row['low']:.4g} .. {row['median']:.4g} .. {row['high']:.4g} {row.get('unit') or ''}".strip()
    return row.get("said") or ", ".join(f"{word} {n}" for word, n in row.get("most", {}).items())


def _probe(listing: Listing) -> Probe:
    """What the items look like; where none can be read, any shape will do to list each file with its code."""
    try:
        return probe(listing)
    except BadData as error:
        if error.code != "nothing-readable":
            raise
    flat = (SIDE, SIDE)
    return Probe(
        shape=(SIDE, *flat) if listing.kind == "volume" else flat, colour=False, modalities=None, unit=None, seen=0
    )


def yaml_of(data: Path, settings: Settings) -> str:
    """What was understood, as a dataset.yaml to correct by hand."""
    return write_yaml(list_data(data, settings))


def _shown(result: dict[str, Any]) -> RenderableType:
    bad = len(result["refused"])
    of = f"{result['cases'] + bad} rows" if "inputs" in result else f"{result['files']} files, {result['read']} read"
    head = f"{result['name']}: {of}, {bad} refused, {result['cases']} cases; split: {result['rule']['rule']}"
    counts = Table(show_edge=False)
    for column in ("part", "cases", "patients", "classes"):
        counts.add_column(column)
    for name, part in result["parts"].items():
        classes = ", ".join(f"{label} {n}" for label, n in part.get("classes", {}).items())
        patients = "-" if part["patients"] is None else str(part["patients"])
        counts.add_row(name, str(part["cases"]), patients, classes)
    problems = Table(show_edge=False)
    for column in ("problem", "count", "what"):
        problems.add_column(column)
    for problem in result["problems"]:
        problems.add_row(problem["code"], str(problem["count"]), problem["message"])
    leaks: dict[tuple[str, str, str], int] = {}
    for leak in result["leaks"]:
        key = (leak["kind"], leak["part_a"], leak["part_b"])
        leaks[key] = leaks.get(key, 0) + 1
    crossing = Table(show_edge=False)
    for column in ("leak", "between", "count"):
        crossing.add_column(column)
    molecules = "molecule" in result["kinds"].get("inputs", {})
    for (kind, a, b), n in sorted(leaks.items()):
        crossing.add_row("InChIKey" if molecules and kind == "pixels" else kind, f"{a} and {b}", str(n))
    refused = Table(show_edge=False)
    for column in ("refused", "code", "why"):
        refused.add_column(column, overflow="fold")
    for entry in result["refused"][:MOST_REFUSED]:
        refused.add_row(entry["file"], entry["code"], entry["message"])
    more = len(result["refused"]) - MOST_REFUSED
    found: list[RenderableType] = [head, counts, problems if result["problems"] else "no problems"]
    found += [refused] if result["refused"] else []
    found += [f"and {more} more; --json lists all"] if more > 0 else []
    return Group(*found, crossing if leaks else "no leaks")
