"""`medserve screen`: a library of molecules, ranked."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from medserve.cli._answer import Answer, figure
from medserve.errors import Usage
from medserve.progress import Progress
from medserve.settings import Settings


def screen(
    *,
    library: Path,
    out: Path,
    model: tuple[Path, ...] = (),
    query: tuple[str, ...] = (),
    actives: Path | None = None,
    by: Literal["consensus", "model"] = "consensus",
    target: tuple[str, ...] = (),
    seek: tuple[Literal["high", "low"], ...] = (),
    given: tuple[str, ...] = (),
    column: str = "",
    name: str = "",
    label: str = "",
    top: int = 1000,
    diverse: int = 50,
    pick: Literal["maxmin", "sphere"] = "maxmin",
    explain: int = 0,
    workers: int = 0,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Rank a library by packages, by likeness to known molecules, or by both. Run again after a stop, it goes on.

        medserve screen --library enamine.smi.gz --model models/herg --seek low --out screened
        medserve screen --library lib.csv --model models/drd2 --actives known.smi --label active --out screened
        medserve screen --library lib.sdf --query "CC(=O)Oc1ccccc1C(=O)O" --out alike

    Molecules that cannot be read, or that a model refuses, are listed with their code; the rest goes on.

    Parameters
    ----------
    library
        CSV, TSV, .smi, SDF or MOL2, also with .gz; or Parquet.
    out
        A folder for scores.parquet, hits.csv, hits.sdf, refused.csv, report.html and screen.json.
    model
        A folder that `medserve train` wrote, of a model that takes one molecule; several may take part.
    query
        A SMILES, or a file of molecules, to be alike.
    actives
        A file of known actives: the baseline, and a part of the consensus. Left out, those that a package of public
        data was trained on.
    by
        Whether likeness to them is a part of the rank, or the packages alone rank.
    target
        Which label of the model ranks, where it has several; one for all packages, or one for each.
    seek
        Whether more or less of it is better; one for all packages, or one for each.
    given
        Another input of the model, the same for all molecules: NAME=VALUE.
    column
        The column that holds the structures, where it is not guessed.
    name
        The column that names the molecules.
    label
        The column that says 1 or 0, active or inactive: then EF 1 %, BEDROC and their intervals are told.
    top
        How many hits are listed.
    diverse
        How many of them are picked to be unlike each other.
    pick
        How they are picked: MaxMin, or sphere exclusion in the order of the ranks.
    explain
        How many of the first hits are drawn with their atoms shaded by what they moved.
    workers
        Processes; 0 takes every core.
    home
        Keys, database, caches; left out, MEDSERVE_HOME or ~/.medserve.
    json
        Print one JSON object.
    """
    from medserve.data.molecules.library import Library
    from medserve.road.screening.plan import make_plan
    from medserve.road.screening.run import screen as run

    if not library.is_file():
        raise Usage("input-missing", f"{library} is not a file.", hint="Name a library: --library FILE")
    if top < 1 or diverse < 0 or explain < 0 or workers < 0:
        raise Usage("screen-option", "--top is at least 1; --diverse, --explain and --workers are not below 0.")
    settings = Settings.from_environment(home)
    opened = Library.open(library, column=column, name=name, label=label)
    plan = make_plan(
        opened, settings=settings, packages=model, targets=target, seek=seek, given=_given(given), queries=query,
        actives=actives, by=by, top=top, diverse=diverse, pick=pick, explain=explain,
    )  # fmt: skip
    with Progress(quiet=json) as progress:
        result = run(opened, out, plan, settings=settings, workers=workers, progress=progress)
    return Answer(result, _shown(result))


def _given(said: tuple[str, ...]) -> dict[str, str]:
    """Raises: Usage "screen-option"."""
    found = {}
    for text in said:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise Usage("screen-option", f"--given {text[:40]}: NAME=VALUE was expected.")
        found[name] = value
    return found


def _shown(result: dict[str, Any]) -> Table:
    title = f"{result['library']}: {result['scored']} of {result['molecules']} scored, by {result['ranked_by']}"
    out = Table(title=title, title_justify="left", show_edge=False)
    scores = [key for key in (result["top"] or [{}])[0] if key.startswith(("score", "similarity"))]
    for head in ("rank", "name", *scores, "SMILES"):
        out.add_column(head)
    for hit in result["top"]:
        out.add_row(str(hit["rank"]), hit["name"], *(f"{hit[key]:.4g}" for key in scores), hit["smiles"])
    for name, row in result["figures"].items():
        out.add_row("", name, *[""] * len(scores), ", ".join(f"{key} {figure(span)}" for key, span in row.items()))
    for code, count in result["codes"].items():
        out.add_row("", code, *[""] * len(scores), f"{count} refused")
    for text in result["warnings"]:
        out.add_row("", "", *[""] * len(scores), text)
    out.add_row("", "", *[""] * len(scores), str(Path(result["out"]) / "report.html"))
    return out
