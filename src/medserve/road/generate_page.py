"""One self-contained page of new molecules: figures, and structures drawn. No script, nothing loaded from elsewhere.

write_page(path, title="...", figures={...}, shown=[{"smiles": ..., "told": {"QED": .8}}])
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medserve.evaluation.report import environment, image
from medserve.explain.atoms import structure
from medserve.store.files import write_bytes


def write_page(
    path: Path,
    *,
    title: str,
    figures: Mapping[str, Any],
    shown: Sequence[Mapping[str, Any]],
    note: str = "",
    warnings: Sequence[Mapping[str, str]] = (),
    curve: bytes | None = None,
) -> None:
    """
    Args:
        figures: name -> figure. shown: {"smiles", "told": name -> figure} of each structure.
        warnings: {"code", "message"}. curve: an SVG of how the run went.
    """
    drawn = [{**one, "svg": image(structure(str(one["smiles"])))} for one in shown]
    page = (
        environment()
        .get_template("molecules.html")
        .render(title=title, figures=figures, shown=drawn, note=note, warnings=warnings, curve=image(curve))
    )
    write_bytes(path, page.encode())


def learning_curve(steps: Sequence[Mapping[str, Any]]) -> bytes:
    """An SVG of the mean score of each step's molecules, and of the best ten so far, against molecules scored."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    x = [step["spent"] for step in steps]
    axes.plot(x, [step["mean"] for step in steps], color="0.5", label="mean of the step")
    axes.plot(x, [step["top10"] for step in steps], color="tab:blue", label="best ten so far")
    axes.set(xlabel="molecules scored", ylabel="score", ylim=(0, 1.02))
    axes.legend(frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
