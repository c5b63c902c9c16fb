"""What a verb gives back: data for machines, a renderable for people; `main` prints the one that was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Answer:
    """data: the one JSON object of `--json`. shown: what a person reads on stdout."""

    data: dict[str, Any]
    shown: RenderableType = ""


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
