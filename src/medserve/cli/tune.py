"""`medserve tune`: which engine serves a model fastest on this machine without changing its answers."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Group, RenderableType

from medserve.cli._answer import Answer, table
from medserve.progress import Progress
from medserve.runtime.engine import Choice
from medserve.settings import Settings


def tune(
    package: Path,
    /,
    *,
    data: Path | None = None,
    threads: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    torch: Annotated[bool, Parameter(negative=())] = False,
    load: Annotated[bool, Parameter(negative=())] = False,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Measure engines, precisions, streams and batch sizes, and keep the fastest that answers alike.

    Serve and predict use what was found, on this machine alone; the package is not touched. bfloat16 and int8 have to
    pass an accuracy gate on the calibration part of the data that the model was trained on, of 100 cases or more:
    AUROC drop at most 0.005, calibration error at most 0.01 higher, at most 0.5 % other answers, in every declared
    subgroup too. The ranges of int8 come from the training part; the test part is not opened. Run it while the
    machine has nothing else to do.

        medserve tune models/chest --data chest.npz
        medserve tune models/chest --data chest.npz --load

    Parameters
    ----------
    package
        A folder that `medserve train` wrote.
    data
        What it was trained on. Without it only full precision (fp32) can be chosen.
    threads
        Processor threads that the service will use (serve --threads); 0 means all cores.
    torch
        Also measure PyTorch (pip install 'medserve[train]'), eager and compiled, to compare; takes a minute more.
    load
        Then start the service on a port of this machine, send it load for a minute, and write a page of it: waiting
        and refusals at 30 to 110 % of its capacity. Needs --data.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print one JSON object.
    """
    from medserve.road.tune import tune_package

    settings = Settings.from_environment(home)
    with Progress(quiet=json) as progress:
        result = tune_package(
            package, data, settings=settings, threads=threads, load=load, compare=torch, progress=progress
        )
    return Answer(result, _shown(result))


def _shown(result: dict[str, Any]) -> RenderableType:
    from medserve.road.tune import best

    verdict = result["verdict"]
    chosen = verdict["chosen"]
    rows = [_row(row, row["choice"] == chosen) for row in best(verdict["rows"], chosen)]
    judged = f", gate on {verdict['cases']} calibration cases" if verdict["cases"] else ""
    engine = str(msgspec.convert(chosen, Choice))
    lines = [
        f"chosen:   {engine}, {chosen['streams']} stream(s), batch {chosen['batch']}",
        f"verdict:  {result['record']}",
        f"picture:  {result['picture'] or 'not drawn: matplotlib is not installed'}",
    ]
    if result["load"] is not None:
        lines += [f"page:     {result['page']}", f"load:     {_said(result['load'])}"]
    hidden = len(verdict["rows"]) - len(rows)
    lines += [f"note:     {hidden} slower rows are in the verdict and in --json"] if hidden else []
    lines += [f"note:     {verdict['note']}"] if verdict["note"] else []
    lines += [f"note:     {name} is not installed: pip install 'medserve[openvino]'" for name in result["missing"]]
    title = f"{result['model']['name']} on {verdict['processor']}, {verdict['cores']} threads{judged}"
    columns = ("", "engine", "streams x batch", "cases/s", "lone ms", "flipped", "verdict")
    why = {f"{msgspec.convert(r['choice'], Choice)}: {r['reason']}": None
           for r in verdict["rows"] if r["code"]}  # fmt: skip
    shown = table(title, *columns, rows=rows)
    for column in (*shown.columns[3:], shown.columns[1]):
        column.no_wrap = True  # a name in two lines is read as two, and a number as another one
    return Group(shown, "", *lines, *(f"kept out: {reason}" for reason in why))


def _said(load: dict[str, Any]) -> str:
    """The load test in one line."""
    level = next((one for one in load["levels"] if round(one["share"], 2) == 0.7), load["levels"][0])
    p99 = "none" if level["p99_ms"] is None else f"{level['p99_ms']:.3g} ms"
    return f"{load['capacity_per_s']:.3g} requests a second at most; p99 at {level['share']:.0%} of that: {p99}"


def _again(row: dict[str, Any]) -> str:
    return f" at {row['again']:.0%}" if row["choice"].get("second") and row["gate"] else ""


def _row(row: dict[str, Any], chosen: bool) -> tuple[str, ...]:
    choice, gate = row["choice"], row["gate"] or {}
    flipped = gate.get("figures", {}).get("flipped")
    speed, wait = row["images_per_s"], row["lone_ms"]
    return (
        "*" if chosen else "",
        str(msgspec.convert(choice, Choice)).replace(" with a", "\n  with a") + _again(row),
        f"{choice['streams']} x {choice['batch'] or '-'}",
        "-" if speed is None else f"{speed:.0f}",
        "-" if wait is None else f"{wait:.2f}",
        "-" if flipped is None else f"{flipped['value']:.2%}",
        row["code"] or "ok",
    )
