"""One self-contained HTML page of a tuned model under load: the engines, the waiting, the refusals, where time goes.

    write_load_page(path, model=..., verdict=..., load=..., versions=..., front=svg)

The same look as the report of an evaluation, beside which it stands: it is of one machine, so it lies in that machine's
cache, and the package's signed report is not touched. No script, nothing loaded from elsewhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medserve.evaluation.figures import BLUE, GREEN, INK, LINES, ORANGE, RED, SOFT, drawing, legend
from medserve.evaluation.report import environment, image
from medserve.store.files import write_bytes

STAGES = ("read", "decode", "queue", "batch", "infer", "encode", "explain")


def write_load_page(
    path: Path,
    *,
    model: Mapping[str, Any],
    verdict: Mapping[str, Any],
    engines: Sequence[Mapping[str, Any]],
    load: Mapping[str, Any],
    versions: Mapping[str, str],
    front: bytes | None,
) -> None:
    """Write the page.

    Args:
        model: name, version, digest.
        verdict: of the tuner, as plain values.
        engines: rows to show, {"title", "shape", "per_s", "lone_ms", "off", "flipped", "auroc_drop", "code", "chosen"}.
        load: from `road.load.load_test`.
        versions: what the figures depend on, by name.
        front: picture of the tuner's Pareto front, an SVG.

    Raises: Fault "disk-full", "file-unwritable".
    """
    seventy = next((one for one in load["levels"] if round(one["share"], 2) == 0.7), load["levels"][0])
    page = (
        environment()
        .get_template("load.html")
        .render(
            model=model,
            verdict=verdict,
            engines=engines,
            load=load,
            seventy=seventy,
            last=load["levels"][-1],
            versions=versions,
            front=image(front),
            waits=image(waits(load)),
            rates=image(rates(load)),
            stages=image(stages(load)),
            batches=image(batches(load)),
            names=stage_names(load),
        )
    )
    write_bytes(path, page.encode(), mode=0o600)


def stage_names(load: Mapping[str, Any]) -> list[str]:
    """The parts of an answer that were timed, in the order of the road."""
    seen = {name for level in load["levels"] for name in level["stages_ms"]}
    return [name for name in STAGES if name in seen] + sorted(seen - set(STAGES))


def waits(load: Mapping[str, Any]) -> bytes:
    """Percentiles of the latency against the load, on a logarithmic scale."""
    levels = load["levels"]
    x = [100 * level["share"] for level in levels]
    with drawing(5.6, 3.7) as (ax, drawn):
        for name, colour in (("p50", GREEN), ("p95", ORANGE), ("p99", RED)):
            y = [level[f"{name}_ms"] or float("nan") for level in levels]
            ax.plot(x, y, "o-", color=colour, linewidth=1.6, markersize=4.5, label=name)
        if load["lone"]["p50_ms"]:
            ax.axhline(load["lone"]["p50_ms"], color=SOFT, linewidth=0.9, linestyle=":", label="alone (median)")
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_xticks(x)
        ax.set_xlabel("load, % of capacity")
        ax.set_ylabel("ms from the intended moment")
        legend(ax, "upper left")
    return drawn.svg


def rates(load: Mapping[str, Any]) -> bytes:
    """Answered, refused, late and failed of each level a second, until the last answer; beside what was offered."""
    levels = load["levels"]
    x = range(len(levels))
    with drawing(5.6, 3.7) as (ax, drawn):
        below = [0.0] * len(levels)
        for name, colour in (("answered", BLUE), ("refused", ORANGE), ("late", "#8e5ea2"), ("failed", RED)):
            share = [level[name] / level["took_s"] for level in levels]
            if any(share) or name == "answered":
                ax.bar(x, share, bottom=below, width=0.58, color=colour, label=name)
            below = [a + b for a, b in zip(below, share, strict=True)]
        ax.plot(
            x, [level["offered_per_s"] for level in levels], "_", color=INK, markersize=18, linewidth=0, label="offered"
        )
        ax.axhline(load["capacity_per_s"], color=INK, linewidth=0.9, linestyle=":", label="capacity")
        ax.set_xticks(list(x), [f"{100 * level['share']:.0f}" for level in levels])
        ax.set_xlabel("load, % of capacity")
        ax.set_ylabel("requests a second")
        ax.grid(axis="x", visible=False)
        legend(ax, "upper left")
    return drawn.svg


def stages(load: Mapping[str, Any]) -> bytes | None:
    """Mean time of each part of an answer, stacked, by level."""
    levels, names = load["levels"], stage_names(load)
    if not names:
        return None
    with drawing(5.6, 3.4) as (ax, drawn):
        left = [0.0] * len(levels)
        for k, name in enumerate(names):
            width = [level["stages_ms"].get(name, 0.0) for level in levels]
            ax.barh(range(len(levels)), width, left=left, height=0.58, color=LINES[k % len(LINES)], label=name)
            left = [a + b for a, b in zip(left, width, strict=True)]
        ax.set_yticks(range(len(levels)), [f"{100 * level['share']:.0f} %" for level in levels])
        ax.invert_yaxis()
        ax.set_xlabel("mean ms of an answer")
        ax.set_ylabel("load")
        ax.grid(axis="y", visible=False)
        legend(ax, "best")
    return drawn.svg


def batches(load: Mapping[str, Any]) -> bytes | None:
    """How many cases went through the engine together."""
    found = load["batches"]
    if not found:
        return None
    with drawing(5.6, 3.4) as (ax, drawn):
        total = sum(found.values())
        ax.bar(range(len(found)), [100 * count / total for count in found.values()], width=0.62, color=BLUE)
        ax.set_xticks(range(len(found)), list(found))
        ax.set_xlabel("cases of one pass, at most")
        ax.set_ylabel("% of passes")
        ax.grid(axis="x", visible=False)
    return drawn.svg
