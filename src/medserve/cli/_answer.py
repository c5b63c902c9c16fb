"""What a verb gives back: data for machines, a renderable for people; `main` prints the one that was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from medserve.errors import Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """data: the one JSON object of `--json`. shown: what a person reads on stdout. exit_code: 1 where the answer to a
    question is no."""

    data: dict[str, Any]
    shown: RenderableType = ""
    exit_code: int = 0


def table(title: str, *columns: str, rows: "Sequence[tuple[str, ...]]") -> Table:
    """A plain table for the terminal."""
    out = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        out.add_column(column, overflow="fold")
    for row in rows:
        out.add_row(*row)
    return out


def figure(metric: dict[str, Any] | None, digits: int = 3) -> str:
    """`0.983 [0.974, 0.990]`, or a dash."""
    if metric is None or metric.get("value") is None:
        return "-"
    text = f"{metric['value']:.{digits}f}"
    if metric.get("low") is None:
        return text
    return f"{text} [{metric['low']:.{digits}f}, {metric['high']:.{digits}f}]"


def decision_of(bounds: tuple[float, float] | None, why: str) -> tuple[float, float, str] | None:
    """The declared range of the decision curve.

    Raises: Usage "decision-range": not two rising probabilities, or no reason.
    """
    if bounds is None:
        return None
    low, high = bounds
    if not 0 < low < high < 1 or not why.strip():
        raise Usage(
            "decision-range",
            "A decision range is two rising probabilities between 0 and 1, and a reason.",
            hint='For instance: --decision-range 0.05 0.3 --decision-why "a film costs little"',
        )
    return low, high, why.strip()
