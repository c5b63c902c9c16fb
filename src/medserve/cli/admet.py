"""`medserve admet`: what molecules are likely to do in a body, by ADMET-AI's models and packages of one's own."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Group
from rich.table import Table

from medserve.cli._answer import Answer, table
from medserve.progress import Progress
from medserve.settings import Settings

SHOWN = 3  # molecules whose values a person sees without a folder


def admet(
    file: Path,
    /,
    *,
    out: Path | None = None,
    model: tuple[Path, ...] = (),
    only_own: Annotated[bool, Parameter(negative=())] = False,
    column: str = "",
    seen: tuple[Path, ...] = (),
    workers: int = 0,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Absorption, distribution, metabolism, excretion and toxicity of the molecules of FILE, as screening ranks.

        medserve admet candidates.csv --out panel
        medserve admet aspirin.smi
        medserve admet candidates.sdf --model models/herg --out panel

    52 values a molecule with their percentile among approved drugs; what lies beyond the bounds of its quantity is cut
    and flagged. A molecule that cannot be read has its code in its row. Run again after a stop, it goes on from there.

    Parameters
    ----------
    file
        CSV, TSV, .smi, SDF or MOL2, also with .gz; or Parquet.
    out
        A folder for the table (CSV, Parquet), the page, and what was refused. Needed for more than 1,000 molecules.
    model
        A package of molecules that answers beside the shipped models; may be given several times.
    only_own
        Leave ADMET-AI's models out.
    column
        The column of structures; left out, one called smiles, inchi, structure or the like.
    seen
        A file of molecules that a model was trained on, for instance of Therapeutics Data Commons; they are flagged.
    workers
        Processes; 0 takes every core.
    home
        Keys, models, caches; left out, MEDSERVE_HOME or ~/.medserve.
    json
        Print one JSON object.
    """
    from medserve.road.admet.run import Asked, run_panel

    asked = Asked(column=column, models=model, shipped=not only_own, seen=seen, workers=workers)
    with Progress(quiet=json) as progress:
        result = run_panel(file, asked, out=out, settings=Settings.from_environment(home), progress=progress)
        if result["warning"]:
            progress.say(f"warning column-doubtful: {result['warning']}")
    return Answer(result, _shown(result))


def _shown(result: dict[str, Any]) -> Group:
    refused = ", ".join(f"{code} {n}" for code, n in result["refused"].items())
    lines = f"{result['answered']} of {result['n']} molecules answered" + (f"; refused: {refused}" if refused else "")
    if "out" in result:
        return Group(lines, f"{result['out']}/report.html", result["notes"][0])
    names = {e["id"]: e for e in result["endpoints"]}
    tables = [_one(one, names) for one in result["molecules"][:SHOWN]]
    more = len(result["molecules"]) - SHOWN
    return Group(*tables, lines, *([f"{more} more: --json, or --out FOLDER"] if more > 0 else []), result["notes"][0])


def _one(one: dict[str, Any], names: dict[str, Any]) -> Table:
    if "error" in one:
        return table(f"{one['name']}: {one['error']['code']}", "", rows=[(one["error"]["message"],)])
    rows = []
    for id, found in one["endpoints"].items():
        flags = " ".join(flag.partition(":")[2] for flag in one["flags"] if flag.startswith(f"{id}:"))
        weak = "weak model" if names[id]["weak"] else ""
        rows.append((names[id]["name"], f"{found['value']:.3g} {found['unit']}", f"{found['percentile']:.0f}",
                     " ".join(filter(None, (flags, weak)))))  # fmt: skip
    for own in one["own"]:
        for output in own.get("outputs") or ():
            value = output.get("value", output.get("probability"))
            interval = output.get("interval")
            between = f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""
            said = f"{value:.3g}{between} {output.get('unit') or ''}".strip()
            rows.append((f"{own['model']}: {output['label']}", said, "", "seen in training" if own["seen"] else ""))
        if "code" in own:
            rows.append((own["model"], own["code"], "", own["message"]))
    near = one["nearest_approved"]
    title = f"{one['name']}: {one['smiles']}"
    if near is not None:
        title += f"\nnearest approved drug: {near['name']} ({near['similarity']:.2f})"
    if whole := [flag for flag in one["flags"] if ":" not in flag]:
        title += f"\nflags: {', '.join(whole)}"
    return table(title, "endpoint", "value", "percentile", "flags", rows=rows)
