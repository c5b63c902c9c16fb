"""`medserve tune`: the fastest engine for a package on this machine that answers as the package was measured to.

    result = tune_package(Path("models/chest"), Path("chest.npz"), settings=settings)
    result["verdict"]["chosen"], result["record"], result["picture"]

The gate looks at the calibration part of the data that the package was trained on, recognised by the keyed hashes in
the package. The test part stays sealed: none of its cases is scored, and nothing is counted.
"""

import io
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from medserve.errors import BadData
from medserve.models.package import GRAPH, Package, open_package
from medserve.models.signing import Trust
from medserve.progress import SILENT, Progress
from medserve.road.build import who
from medserve.road.evaluate import read_parts, view_of
from medserve.road.finish import groups_of
from medserve.runtime.engine import TITLES, versions
from medserve.runtime.graphfile import read_graph
from medserve.runtime.quantise import RANGES, Quantiser
from medserve.runtime.tuned import Verdict, write_verdict
from medserve.runtime.tuner import Evidence, front, tune
from medserve.settings import Settings
from medserve.store.files import write_bytes
from medserve.types import Array

PART = "calibration"
COLOURS = {"onnxruntime/fp32": "#66727f", "onnxruntime/int8": "#8e5ea2", "openvino/fp32": "#1f6fb2",
           "openvino/bf16": "#d9822b", "openvino/int8": "#c0392b"}  # fmt: skip


def tune_package(
    folder: Path,
    data: Path | None = None,
    *,
    settings: Settings,
    threads: int = 0,
    progress: Progress = SILENT,
    **tuning: Any,
) -> dict[str, Any]:
    """Measure the package in `folder` and write the verdict down, beside a picture of speed against waiting.

    Args:
        data: what the package was trained on; None leaves reduced precision out.
        threads: processor threads of the service; 0 means all cores.
        tuning: further arguments of `runtime.tuner.tune`.

    Returns: {"verdict", "record": path, "picture": path or None, "model": {"name", "version", "digest"}}.
    Raises: BadData "foreign-data": `data` holds no case of the calibration part.
    """
    package = open_package(folder, Trust.load(settings))
    quantised = b""
    if data is None:
        verdict = tune(package, threads=threads, progress=progress, **tuning)
    else:
        with tempfile.TemporaryDirectory(dir=settings.folder("work")) as work:
            evidence, ranges = _evidence(package, data, Path(work), settings, progress)
            quantiser = Quantiser(read_graph(package.path(GRAPH)), ranges)
            verdict = tune(
                package, threads=threads, evidence=evidence, quantiser=quantiser, progress=progress, **tuning
            )
        if verdict.quantised:
            quantised = quantiser.of(verdict.chosen.engine)
    record = write_verdict(settings.folder("tuned"), verdict, quantised)
    picture = _picture(verdict, record.with_suffix(".svg"), package.spec.name)
    model = {"name": package.spec.name, "version": package.spec.version, "digest": package.digest}
    missing = [TITLES[name] for name in TITLES if name not in versions()]
    return {
        "model": model,
        "verdict": msgspec.to_builtins(verdict),
        "record": str(record),
        "picture": None if picture is None else str(picture),
        "missing": missing,
    }


def _evidence(
    package: Package, data: Path, work: Path, settings: Settings, progress: Progress
) -> tuple[Evidence, Array]:
    """What the gate judges on, and other cases, of the training part, that give int8 its ranges."""
    cohort, of = read_parts(package, data, work, settings, progress)
    part, _ = view_of(cohort, of, PART, package.spec, data)
    try:
        train, _ = view_of(cohort, of, "train", package.spec, data)
        rows = np.random.default_rng(0).permutation(len(train))[:RANGES]
        ranges = train.take(np.sort(rows))
    except BadData:  # the calibration part alone was kept; int8 then says what it lacks
        ranges = part.take(np.arange(0))
    return Evidence(part, None if cohort.independent else who(part), groups_of(part), cohort.name), ranges


def _picture(verdict: Verdict, path: Path, name: str) -> Path | None:
    """Cases a second against the wait of a lone case; hollow: not allowed, line: the Pareto front, star: chosen."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    edge = front(verdict.rows)
    ax.plot([r.lone_ms or 0 for r in edge], [r.images_per_s or 0 for r in edge], color="#2f8f5b", linewidth=1,
            label="Pareto front", zorder=1)  # fmt: skip
    named = set()
    for row in verdict.rows:
        if row.lone_ms is None or row.images_per_s is None:
            continue
        c = row.choice
        colour, label = COLOURS[f"{c.engine}/{c.precision}"], None if str(c) in named else str(c)
        named.add(str(c))
        ax.scatter(row.lone_ms, row.images_per_s, s=150 if c == verdict.chosen else 36, color=colour, label=label,
                   marker="*" if c == verdict.chosen else "o", facecolor="none" if row.code else colour)  # fmt: skip
        ax.annotate(f"{c.streams}x{c.batch}", (row.lone_ms, row.images_per_s), xytext=(5, 3),
                    textcoords="offset points", fontsize=7, color="#66727f")  # fmt: skip
    ax.set_xlabel("a lone case waits (ms)")
    ax.set_ylabel("cases a second")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_title(f"{name} on {verdict.cores} threads (labels: streams x batch)", fontsize=10, loc="left")
    ax.legend(fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    write_bytes(path, out.getvalue(), mode=0o600)
    return path
