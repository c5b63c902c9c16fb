"""Progress of long work, on stderr: a bar with the time left for a person, nothing for a machine.

with Progress(quiet=json) as progress:
    for item in progress.track(items, "reading"): ...
    progress.say("3 cases left the training part")
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as _Bars

T = TypeVar("T")


class Progress:
    """One display for a whole run; `note` is the short text at the end of the current bar.

    With MEDSERVE_PROGRESS=lines in the environment there are no bars but plain lines, at most one a second, also of a
    quiet run: what a log of a job shows.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._lines, self._said_at = os.environ.get("MEDSERVE_PROGRESS") == "lines", 0.0
        self._console = Console(file=sys.stderr)
        self._bars = _Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=quiet or self._lines or not self._console.is_terminal,
        )

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """One plain line, kept above the bars."""
        if self._lines:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        elif not self.quiet:
            self._console.print(text, markup=False, highlight=False)

    def start(self, what: str, total: int | None) -> TaskID:
        return self._bars.add_task(what, total=total, note="")

    def step(self, bar: TaskID, advance: int = 1, *, note: str | None = None) -> None:
        self._bars.update(bar, advance=advance)
        if note is not None:
            self._bars.update(bar, note=note)
        if self._lines and time.monotonic() - self._said_at >= 1:
            self._said_at = time.monotonic()
            task = next(task for task in self._bars.tasks if task.id == bar)
            total = "" if task.total is None else f"/{task.total:g}"
            self.say(f"{task.description} {task.completed:g}{total} {task.fields['note']}".rstrip())

    def end(self, bar: TaskID) -> None:
        self._bars.remove_task(bar)

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        if total is None and isinstance(items, Sized):
            total = len(items)
        bar = self.start(what, total)
        try:
            for item in items:
                yield item
                self.step(bar)
        finally:
            self.end(bar)


SILENT = Progress(quiet=True)
