"""`medserve tune`: the fastest engine for a package on this machine that answers as the package was measured to.

    result = tune_package(Path("models/chest"), Path("chest.npz"), settings=settings)
    result["verdict"]["chosen"], result["record"], result["picture"]

The gate looks at the calibration part of the data that the package was trained on, recognised by the keyed hashes in
the package. The test part stays sealed: none of its cases is scored, and nothing is counted.
"""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from medserve.errors import BadData, Usage
from medserve.evaluation.figures import GREEN, SOFT, drawing, legend
from medserve.evaluation.load_page import write_load_page
from medserve.models.package import GRAPH, Package, open_package
from medserve.models.signing import Trust
from medserve.progress import SILENT, Progress
from medserve.road.build import who
from medserve.road.collect import list_data
from medserve.road.evaluate import read_parts, view_of
from medserve.road.finish import groups_of
from medserve.road.load import SECONDS, load_test, service_versions
from medserve.road.sample import bodies
from medserve.runtime.engine import TITLES, Choice, versions
from medserve.runtime.graphfile import read_graph
from medserve.runtime.quantise import RANGES, Quantiser
from medserve.runtime.tuned import Verdict, write_verdict
from medserve.runtime.tuner import Evidence, front, tune
from medserve.settings import Settings
from medserve.store.files import write_bytes
from medserve.types import Array

OTHER = "#148f77"
PART = "calibration"
SENT = 32  # different cases under load
COLOURS = {"onnxruntime/fp32": "#66727f", "onnxruntime/int8": "#8e5ea2", "openvino/fp32": "#1f6fb2",
           "openvino/bf16": "#d9822b", "openvino/int8": "#c0392b"}  # fmt: skip


def tune_package(
    folder: Path,
    data: Path | None = None,
    *,
    settings: Settings,
    threads: int = 0,
    load: bool = False,
    seconds: float = SECONDS,
    progress: Progress = SILENT,
    **tuning: Any,
) -> dict[str, Any]:
    """Measure the package in `folder` and write the verdict down, beside a picture of speed against waiting.

    Args:
        data: what the package was trained on; None leaves reduced precision out.
        threads: processor threads of the service; 0 means all cores.
        load: then serve it and send it load (see `road.load`) for `seconds`; the page lies beside the verdict.
        tuning: further arguments of `runtime.tuner.tune`.

    Returns: {"verdict", "record": path, "picture": path or None, "model": {"name", "version", "digest"}, "missing",
        "load" and "page": None without `load`}.
    Raises: Usage "load-needs-data"; BadData "foreign-data": `data` holds no case of the calibration part.
    """
    if load and data is None:
        raise Usage("load-needs-data", "There is nothing to send.", hint="Name what it was trained on: --data DATA")
    package = open_package(folder, Trust.load(settings))
    quantised = b""
    sent: list[tuple[bytes, str]] = []
    if data is None:
        verdict = tune(package, threads=threads, progress=progress, **tuning)
    else:
        with tempfile.TemporaryDirectory(dir=settings.folder("work")) as work:
            evidence, ranges, ids = _evidence(package, data, Path(work), settings, progress)
            quantiser = Quantiser(read_graph(package.path(GRAPH)), ranges)
            verdict = tune(
                package, threads=threads, evidence=evidence, quantiser=quantiser, progress=progress, **tuning
            )
            if load:
                sent = bodies(list_data(data, settings), ids, SENT)
        if verdict.quantised:
            quantised = quantiser.of(verdict.chosen.engine)
    record = write_verdict(settings.folder("tuned"), verdict, quantised)
    picture = _picture(verdict, record.with_suffix(".svg"), package.spec.name)
    model = {"name": package.spec.name, "version": package.spec.version, "digest": package.digest}
    told: dict[str, Any] = {
        "model": model,
        "verdict": msgspec.to_builtins(verdict),
        "record": str(record),
        "picture": None if picture is None else str(picture),
        "missing": [] if "openvino" in versions() else [TITLES["openvino"]],
        "load": None,
        "page": None,
    }
    if load:
        told["load"] = load_test(
            package, sent, settings=settings, record=record, threads=threads, streams=verdict.chosen.streams,
            seconds=seconds, progress=progress,
        )  # fmt: skip
        told["page"] = str(record.with_suffix(".html"))
        write_load_page(
            record.with_suffix(".html"),
            model=model,
            verdict=told["verdict"],
            engines=[_shown(row, row["choice"] == told["verdict"]["chosen"]) for row in best(told["verdict"]["rows"],
                     told["verdict"]["chosen"])],
            load=told["load"],
            versions=service_versions(),
            front=None if picture is None else picture.read_bytes(),
        )  # fmt: skip
    return told


def _shown(row: dict[str, Any], chosen: bool) -> dict[str, Any]:
    """A row of the table as the page shows it."""
    choice, figures = row["choice"], (row["gate"] or {}).get("figures", {})
    drop = next((span["high"] for name, span in figures.items() if name.endswith("_drop") and "/" not in name), None)
    return {
        "title": str(msgspec.convert(choice, Choice))
        + (f", {row['again']:.0%} of cases" if choice.get("second") else ""),
        "shape": f"{choice['streams']} x {choice['batch'] or '-'}",
        "per_s": row["images_per_s"],
        "lone_ms": row["lone_ms"],
        "flipped": figures.get("flipped", {}).get("value"),
        "rank_drop": drop,
        "ece_rise": figures.get("ece_rise", {}).get("value"),
        "code": row["code"],
        "chosen": chosen,
    }


def best(rows: list[dict[str, Any]], chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each engine and precision the fastest row, and the chosen one: the fastest last."""
    kept: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["choice"] == chosen, row["images_per_s"] or 0)):
        kept[row["choice"]["engine"], row["choice"]["precision"], row["choice"].get("second", False)] = row
    return sorted(kept.values(), key=lambda row: row["images_per_s"] or 0)


def _evidence(
    package: Package, data: Path, work: Path, settings: Settings, progress: Progress
) -> tuple[Evidence, Array, set[str]]:
    """What the gate judges on; other cases, of the training part, that give int8 its ranges; the ids of the former."""
    cohort, of = read_parts(package, data, work, settings, progress)
    if PART not in of:
        raise BadData(
            "foreign-data",
            f"{data.name} holds no case of this model's {PART} part.",
            hint="Name the data that `medserve train` was given for this package, unchanged and on this installation.",
        )
    part, _ = view_of(cohort, of, PART, package.spec, data)
    try:
        train, _ = view_of(cohort, of, "train", package.spec, data)
        rows = np.random.default_rng(0).permutation(len(train))[:RANGES]
        ranges = train.take(np.sort(rows))
    except BadData:  # the calibration part alone was kept; int8 then says what it lacks
        ranges = part.take(np.arange(0))
    evidence = Evidence(part, None if cohort.independent else who(part), groups_of(part), cohort.name)
    return evidence, ranges, {case.id for case in part.cases}


def _picture(verdict: Verdict, path: Path, name: str) -> Path | None:
    """Cases a second against the wait of a lone case; hollow: kept out, line: the Pareto front, star: chosen, diamond:
    with a second look."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    with drawing(8.2, 4.0) as (ax, drawn):
        edge = front(verdict.rows)
        ax.plot([r.lone_ms or 0 for r in edge], [r.images_per_s or 0 for r in edge], color=GREEN, linewidth=1.2,
                label="Pareto front", zorder=1)  # fmt: skip
        named = set()
        for row in verdict.rows:
            if row.lone_ms is None or row.images_per_s is None:
                continue
            c = row.choice
            colour, label = COLOURS.get(f"{c.engine}/{c.precision}", OTHER), None if str(c) in named else str(c)
            named.add(str(c))
            won = c == verdict.chosen
            marker = "*" if won else "D" if c.second else "o"
            ax.scatter(row.lone_ms, row.images_per_s, s=150 if won else 30, marker=marker, color=colour,
                       facecolor="none" if row.code else colour)  # fmt: skip
            ax.scatter([], [], marker="D" if c.second else "o", color=colour, s=30, label=label)
        ax.scatter([], [], marker="o", color=SOFT, facecolor="none", s=30, label="hollow: kept out")
        ax.scatter([], [], marker="*", color=SOFT, s=150, label="star: chosen")
        told = {str(r.choice): r for r in sorted(verdict.rows, key=lambda r: r.images_per_s or 0)}
        for row in told.values():  # the fastest of each; all of them would lie upon each other
            if row.lone_ms is not None and row.images_per_s is not None:
                at, shape = (row.lone_ms, row.images_per_s), f"{row.choice.streams} x {row.choice.batch}"
                ax.annotate(shape, at, xytext=(6, 3), textcoords="offset points", fontsize=7, color=SOFT)
        ax.set_xlabel("a lone case waits (ms)")
        ax.set_ylabel("cases a second")
        ax.margins(x=0.12)
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        ax.set_title(f"{name} on {verdict.cores} threads (labels: streams x batch)")
        legend(ax, beside=True)
    write_bytes(path, drawn.svg, mode=0o600)
    return path
