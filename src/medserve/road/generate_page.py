"""One self-contained page of new molecules: figures, and structures drawn. No script, nothing loaded from elsewhere.

write_page(path, title="...", figures={...}, shown=[{"smiles": ..., "told": {"QED": .8}}])
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medserve.data.molecules.draw import structure
from medserve.evaluation.figures import GREEN, SOFT, drawing, legend
from medserve.evaluation.report import environment, image
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
    x = [step["spent"] for step in steps]
    with drawing(7, 3) as (ax, drawn):
        ax.plot(x, [step["mean"] for step in steps], color=SOFT, label="mean of the step")
        ax.plot(x, [step["top10"] for step in steps], color=GREEN, label="best ten so far")
        ax.set(xlabel="molecules scored", ylabel="score", ylim=(0, 1.02))
        legend(ax)
    return drawn.svg
