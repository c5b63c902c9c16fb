"""The drawings of the report, each as one SVG without any outside reference.

    svg = roc(result)              # bytes, or None where the task has no such figure

Drawn with matplotlib's object interface: no display, its settings put back, the same bytes for the same numbers.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, GRID = "#1f2933", "#66727f", "#e3e8ee"
BLUE, ORANGE, GREEN, RED, BAND = "#1f6fb2", "#d9822b", "#2f8f5b", "#c0392b", "#cfe2f3"
LINES = (BLUE, ORANGE, GREEN, "#8e5ea2", "#5d6d7e", "#b9770e", "#148f77", RED)
_RC: dict[Any, Any] = {
    "svg.hashsalt": "medserve", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9,
    "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "axes.linewidth": 0.8, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
}  # fmt: skip


class _Drawn:
    """Holds the SVG once the drawing is closed."""

    svg: bytes = b""


@contextmanager
def drawing(width: float = 4.4, height: float = 3.6, rows: Sequence[float] = (1,)) -> Iterator[tuple[Any, _Drawn]]:
    """Axes in the look of the report, of which `svg` is there once the block ends."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=list(rows), sharex=len(rows) > 1)[:, 0]
        drawn = _Drawn()
        for ax in axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(color=GRID, linewidth=0.7)
            ax.set_axisbelow(True)
        yield (axes[0] if len(rows) == 1 else axes), drawn
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        drawn.svg = out.getvalue()


def _unit(ax: "Axes") -> None:
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)


def legend(ax: "Axes", where: Any = "best", size: float = 8, *, beside: bool = False) -> None:
    """Readable over lines. beside: on the right of the axes, where points fill them."""
    at: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if beside else {"loc": where}
    ax.legend(**at, fontsize=size, frameon=True, framealpha=0.9, edgecolor="none")


def roc(result: Mapping[str, Any]) -> bytes | None:
    """ROC with its bootstrap band and the served operating point; one line a label where there are several."""
    lines = result["curves"].get("roc")
    if not lines:
        return None
    with drawing() as (ax, drawn):
        ax.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=":")
        for k, line in enumerate(lines):
            band = line.get("band")
            if band:
                ax.fill_between(band["fpr"], band["low"], band["high"], color=BAND, linewidth=0, label="95% band")
            x, y = np.array(line["points"]).T
            ax.step(x, y, where="post", color=LINES[k % len(LINES)], linewidth=1.6,
                    label=f"{line['label']} {line['auroc']:.3f}")  # fmt: skip
        if result["task"] == "binary":
            m = result["metrics"]
            if m["specificity"]["value"] is not None and m["sensitivity"]["value"] is not None:
                ax.plot([1 - m["specificity"]["value"]], [m["sensitivity"]["value"]], "o", color=ORANGE,
                        markeredgecolor="white", markersize=8, label="served threshold")  # fmt: skip
        _unit(ax)
        ax.set(xlabel="False positive rate (1 - specificity)", ylabel="Sensitivity")
        legend(ax, "lower right", 8 if len(lines) < 8 else 6)
    return drawn.svg


def pr(result: Mapping[str, Any]) -> bytes | None:
    """Precision against recall, with the prevalence that a coin would reach."""
    lines = result["curves"].get("pr")
    if not lines:
        return None
    with drawing() as (ax, drawn):
        for k, line in enumerate(lines):
            colour = LINES[k % len(LINES)]
            x, y = np.array(line["points"]).T
            ax.step(x, y, where="pre", color=colour, linewidth=1.6, label=f"{line['label']} {line['auprc']:.3f}")
            only = len(lines) == 1
            ax.axhline(line["prevalence"], color=SOFT if only else colour, linewidth=0.8, linestyle=":",
                       label=f"prevalence {line['prevalence']:.3f}" if only else None)  # fmt: skip
        _unit(ax)
        ax.set(xlabel="Recall (sensitivity)", ylabel="Precision (PPV)")
        legend(ax, "best", 8 if len(lines) < 8 else 6)
    return drawn.svg


def reliability(result: Mapping[str, Any]) -> bytes | None:
    """Stated against true probability, with what chance allows, over a histogram of what is stated."""
    found = result["curves"].get("reliability")
    if not found:
        return None
    bins = found["bins"]
    x, y, n, low, high, null_low, null_high = (
        np.array([b[k] for b in bins]) for k in ("stated", "true", "n", "low", "high", "null_low", "null_high")
    )
    with drawing(height=4.4, rows=(4, 1)) as ((ax, under), drawn):
        ax.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=":")
        ax.fill_between(x, null_low, null_high, color=BAND, linewidth=0, label="95% of a perfectly calibrated model")
        ax.errorbar(x, y, yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)], fmt="o", color=BLUE, markersize=4,
                    linewidth=1, label="this part, 95% interval")  # fmt: skip
        _unit(ax)
        ax.set(ylabel=f"True share ({found['of']})")
        legend(ax, "best")
        under.bar(x, n, width=0.04, color=SOFT)
        under.set(xlabel="Stated probability", ylabel="Cases")
    return drawn.svg


def histogram(result: Mapping[str, Any]) -> bytes | None:
    """How often each probability is stated, for cases with and without the label."""
    found = result["curves"].get("histogram")
    if not found or result["task"] != "binary":
        return None
    edges = np.array(found["edges"])
    with drawing() as (ax, drawn):
        width = edges[1] - edges[0]
        ax.bar(edges[:-1], found["no_event"], width, align="edge", color=SOFT, alpha=0.65, label=result["labels"][0])
        ax.bar(edges[:-1], found["event"], width, align="edge", color=BLUE, alpha=0.65, label=result["labels"][1])
        ax.axvline(result["operating"]["points"][0]["threshold"], color=ORANGE, linewidth=1.4, label="served threshold")
        ax.set(xlabel=f"Stated probability of {result['labels'][1]}", ylabel="Cases", xlim=(0, 1))
        legend(ax, "upper center")
    return drawn.svg


def confusion(result: Mapping[str, Any]) -> bytes | None:
    """Decisions against truth: counts, shaded by the share of each true label."""
    found = result["confusion"]
    if not found:
        return None
    counts = np.array(found["counts"], float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    k = len(counts)
    with drawing(max(4.4, 0.62 * k + 2), max(3.6, 0.5 * k + 1.6)) as (ax, drawn):
        ax.pcolormesh(np.arange(k + 1) - 0.5, np.arange(k + 1) - 0.5, share, cmap="Blues", vmin=0, vmax=1)
        ax.invert_yaxis()
        ax.set_aspect("equal")
        ax.grid(False)
        for i, j in np.ndindex(k, k):
            ax.text(j, i, f"{int(counts[i, j])}\n{share[i, j]:.0%}", ha="center", va="center",
                    fontsize=9 if k < 8 else 6, color="white" if share[i, j] > 0.55 else INK)  # fmt: skip
        ax.set_xticks(range(k), found["labels"], rotation=0 if k < 4 else 40, ha="center" if k < 4 else "right")
        ax.set_yticks(range(k), found["labels"])
        ax.set(xlabel="Decision", ylabel="Truth")
    return drawn.svg


def decision(result: Mapping[str, Any]) -> bytes | None:
    """Net benefit of the model, of treating everybody, of treating nobody."""
    found = result["decision"]
    if not found:
        return None
    points = found["points"]
    x = [p["threshold"] for p in points]
    value, low, high = ([p["model"][k] for p in points] for k in ("value", "low", "high"))
    with drawing() as (ax, drawn):
        ax.fill_between(x, low, high, color=BAND, linewidth=0, label="95% interval")
        ax.plot(x, value, color=BLUE, linewidth=1.6, label="model")
        ax.plot(x, [p["all"] for p in points], color=ORANGE, linewidth=1.2, linestyle="--", label="treat all")
        ax.axhline(0, color=SOFT, linewidth=1.2, label="treat none")
        ax.set_ylim(min(-0.05, *low), max(high) * 1.08 + 0.01)
        ax.set(xlabel="Threshold probability", ylabel="Net benefit per case")
        legend(ax, "best")
    return drawn.svg


def risk_coverage(result: Mapping[str, Any]) -> bytes | None:
    """Error rate among the most confident cases, against how many are answered."""
    found = result["curves"].get("risk_coverage")
    if not found:
        return None
    x, y = np.array(found["points"]).T
    with drawing() as (ax, drawn):
        ax.step(x, y, where="post", color=BLUE, linewidth=1.6, label=f"area under the curve {found['aurc']:.4f}")
        answered = result["answers"]["shares"]["answered"]["value"]
        right = result["answers"]["accuracy_answered"]
        if right is not None and right["value"] is not None:
            ax.plot([answered], [1 - right["value"]], "o", color=ORANGE, markeredgecolor="white", markersize=8,
                    label="as served")  # fmt: skip
        ax.set(xlabel="Share of cases answered, most confident first", ylabel="Error rate", xlim=(0, 1.02))
        ax.set_ylim(0, max(0.02, float(y[len(y) // 20 :].max()) * 1.25))
        legend(ax, "upper left")
    return drawn.svg


def agreement(result: Mapping[str, Any]) -> bytes | None:
    """For a number: mean estimate against mean truth in groups of like estimate."""
    bins = result["curves"].get("agreement")
    if not bins:
        return None
    x, y, low, high = (np.array([b[k] for b in bins]) for k in ("stated", "true", "low", "high"))
    with drawing() as (ax, drawn):
        ends = [min(x.min(), low.min()), max(x.max(), high.max())]
        ax.plot(ends, ends, color=SOFT, linewidth=0.8, linestyle=":")
        ax.errorbar(x, y, yerr=[y - low, high - y], fmt="o", color=BLUE, markersize=4, linewidth=1)
        ax.set(xlabel="Mean estimate of a group", ylabel="Mean truth, 95% interval")
    return drawn.svg


def kaplan_meier(result: Mapping[str, Any]) -> bytes | None:
    """For survival: the observed share free of the event by risk group, and what the model stated."""
    lines = result["curves"].get("kaplan_meier")
    if not lines:
        return None
    with drawing() as (ax, drawn):
        for k, line in enumerate(lines):
            x, observed, stated = np.array(line["points"]).T
            colour = (GREEN, ORANGE, RED)[k] if len(lines) == 3 else LINES[k]
            ax.step(x, observed, where="post", color=colour, linewidth=1.6, label=f"{line['label']} (n={line['n']})")
            ax.plot(x, stated, color=colour, linewidth=1.0, linestyle="--", label="stated" if k == 0 else None)
        ax.set_ylim(-0.02, 1.02)
        ax.set(xlabel=_time_axis(result), ylabel=f"Free of {result['survival']['event']}")
        legend(ax, "best")
    return drawn.svg


def risk(result: Mapping[str, Any]) -> bytes | None:
    """For survival: mean stated risk by the middle horizon against the observed one, in groups of like risk."""
    found = result["curves"].get("risk")
    if not found or not found["bins"]:
        return None
    x, y, low, high = (np.array([b[k] for b in found["bins"]]) for k in ("stated", "true", "low", "high"))
    with drawing() as (ax, drawn):
        ax.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=":")
        ax.errorbar(x, y, yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)], fmt="o", color=BLUE, markersize=4,
                    linewidth=1)  # fmt: skip
        _unit(ax)
        ax.set(xlabel=f"Mean stated risk of a group, {result['survival']['main_label']}",
               ylabel="Observed (Kaplan-Meier), 95% interval")  # fmt: skip
    return drawn.svg


def _time_axis(result: Mapping[str, Any]) -> str:
    unit = result["survival"]["unit"]
    return f"Time ({unit})" if unit else "Time"


def history(epochs: Sequence[Mapping[str, Any]], best: int | None) -> bytes | None:
    """Training and validation loss by epoch, the kept epoch marked."""
    if not epochs:
        return None
    x = [e["epoch"] for e in epochs]
    with drawing(width=9.0, height=2.8) as (ax, drawn):
        for name, colour, label in (("loss", SOFT, "training"), ("val_loss", BLUE, "validation")):
            y = [e[name] if e.get(name) is not None and np.isfinite(e[name]) else np.nan for e in epochs]
            if np.isfinite(y).any():
                ax.plot(x, y, color=colour, linewidth=1.6, marker="." if len(x) < 40 else None, label=label)
        if best is not None and 0 <= best < len(x):
            ax.axvline(x[best], color=ORANGE, linewidth=1.2, label=f"kept: epoch {x[best]}")
        ax.set(xlabel="Epoch", ylabel="Loss")
        legend(ax, "upper right")
    return drawn.svg


def forest(result: Mapping[str, Any], name: str) -> bytes | None:
    """One figure of every judged subgroup with its interval, and the whole part as a line."""
    rows = [r for r in result["subgroups"] if r["judged"] and (r["metrics"].get(name) or {}).get("low") is not None]
    if not rows:
        return None
    with drawing(width=9.0, height=0.6 + 0.3 * len(rows) + 0.5) as (ax, drawn):
        for i, row in enumerate(reversed(rows)):
            span = row["metrics"][name]
            colour = RED if row["level"] == "red" else BLUE
            ax.plot([span["low"], span["high"]], [i, i], color=colour, linewidth=2, solid_capstyle="round")
            ax.plot([span["value"]], [i], "o", color=colour, markeredgecolor="white", markersize=7)
        ax.set_yticks(range(len(rows)), [f"{r['group']}: {r['value']} (n={r['n']})" for r in reversed(rows)])
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.set(xlabel=FOREST[name])
    return drawn.svg


FOREST = {"fnr": "Share of missed cases (FNR)", "error": "Error rate", "mae": "Mean absolute error",
          "c_index": "C index", "average_effect": "Average effect"}  # fmt: skip


def importance(sizes: Mapping[str, float]) -> bytes | None:
    """Mean size of the Shapley value of each input, the largest on top."""
    if not sizes:
        return None
    rows = list(sizes.items())[:8][::-1]
    with drawing(width=4.4, height=0.9 + 0.32 * len(rows)) as (ax, drawn):
        ax.barh(range(len(rows)), [size for _, size in rows], color=BLUE, height=0.6)
        ax.set_yticks(range(len(rows)), [_fit(name) for name, _ in rows])
        ax.set(xlabel="Mean |Shapley value|, logits")
    return drawn.svg


def effects(found: Mapping[str, Any] | None) -> bytes | None:
    """What can be read off the glass box: a panel a curve, or a bar a weight."""
    if not found:
        return None
    if "effects" in found:
        rows = [tuple(row) for row in found["effects"]][::-1]
        if not rows:
            return None
        with drawing(width=4.4, height=0.9 + 0.32 * len(rows)) as (ax, drawn):
            ax.barh(range(len(rows)), [w for _, w in rows], color=[RED if w > 0 else BLUE for _, w in rows], height=0.6)
            ax.set_yticks(range(len(rows)), [_fit(name) for name, _ in rows])
            ax.axvline(0, color=SOFT, linewidth=0.8)
            ax.set(xlabel="Logit per standard deviation")
        return drawn.svg
    return _curves([c for c in found["curves"] if len(c["points"]) > 1])


def _curves(rows: Sequence[Mapping[str, Any]]) -> bytes | None:
    import matplotlib
    from matplotlib.figure import Figure

    if not rows:
        return None
    with matplotlib.rc_context(_RC):
        high = -(-len(rows) // 4)
        figure = Figure(figsize=(9.0, 0.3 + 1.9 * high), layout="constrained")
        panels = figure.subplots(high, min(4, len(rows)), squeeze=False, sharey=True).ravel()
        for ax in panels[len(rows) :]:
            ax.set_visible(False)
        for ax, row in zip(panels, rows, strict=False):
            ax.spines[["top", "right"]].set_visible(False)
            ax.axhline(0, color=SOFT, linewidth=0.8)
            ax.step(row["points"], row["scores"], where="mid", color=BLUE, linewidth=1.6)
            ax.set_title(_fit(row["name"]), fontsize=8)
            ax.tick_params(labelsize=7)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _fit(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
