"""What a screen keeps of each chunk: a Parquet file that is whole or absent, one row a molecule of the library.

    parts = Parts(folder, plan)           # locks it, and finds what an earlier run has done
    parts.done                            # {0, 1, 4}
    parts.keep(5, entries, told)
    for frame in parts.frames(): ...      # in the order of the library

Raises where the folder is of another screen, or where another process is at it.
"""

import io
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import polars as pl

from medserve.data.molecules.library import Entry
from medserve.errors import Usage
from medserve.road.kept import Kept
from medserve.road.screening.plan import Plan
from medserve.road.screening.scorer import Told
from medserve.store.files import write_bytes

ACTIVE = dict.fromkeys(("1", "1.0", "true", "yes", "y", "active", "actives", "positive"), True) | dict.fromkeys(
    ("0", "0.0", "false", "no", "n", "inactive", "inactives", "decoy", "decoys", "negative"), False
)


class Parts:
    """folder: of this screen alone. seen: molecules that a package was trained on, or that are known actives."""

    def __init__(self, folder: Path, plan: Plan, seen: Container[object]) -> None:
        self.folder, self._plan, self._seen = folder, plan, seen
        self._kept = Kept(folder, msgspec.json.format(msgspec.json.encode(plan)), code="screen", word="screen")
        self.done = {int(path.stem.removeprefix("part-")) for path in folder.glob("part-*.parquet")}

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._kept.close()

    def keep(self, number: int, entries: Sequence[Entry], told: Told) -> int:
        """Returns: how many were refused. Raises: Usage "screen-label"; Fault "disk-full"."""
        columns: dict[str, Any] = {
            "row": pl.Series([entry.row + 1 for entry in entries], dtype=pl.Int64),
            "name": pl.Series([entry.name for entry in entries], dtype=pl.String),
            "smiles": pl.Series(told.smiles, dtype=pl.String),
            "code": pl.Series(told.code, dtype=pl.String),
            "message": pl.Series(told.message, dtype=pl.String),
        }
        if self._plan.columns[2]:
            columns["active"] = pl.Series([_active(entry, self._plan) for entry in entries], dtype=pl.Boolean)
        for k, scores in enumerate(told.models):
            for what in ("value", "key", "low", "high"):
                columns[f"{what}_{k}"] = pl.Series(getattr(scores, what), dtype=pl.Float64)
            columns[f"status_{k}"] = pl.Series(scores.status, dtype=pl.String)
        if self._plan.known:
            columns["alike"] = pl.Series(told.alike, dtype=pl.Float64)
            columns["nearest"] = pl.Series(told.nearest, dtype=pl.Int64)
        columns["seen"] = pl.Series([one in self._seen for one in told.smiles], dtype=pl.Boolean)
        out = io.BytesIO()
        pl.DataFrame(columns).write_parquet(out)
        write_bytes(self.path(number), out.getvalue())
        self.done.add(number)
        return sum(code != "" for code in told.code)

    def frames(self) -> Iterator[pl.DataFrame]:
        for number in sorted(self.done):
            yield pl.read_parquet(self.path(number))

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:07d}.parquet"

    def remove(self) -> None:
        """When the results stand where they belong."""
        self._kept.remove()


def _active(entry: Entry, plan: Plan) -> bool | None:
    """Raises: Usage "screen-label"."""
    word = entry.label.strip().lower()
    if word in ("", "nan", "na", "null", "none"):
        return None
    if word not in ACTIVE:
        raise Usage(
            "screen-label", f"Row {entry.row + 1}, column {plan.columns[2]}: it says neither active nor inactive.",
            hint="Write 1 or 0, active or inactive, true or false; nothing where it is not known.",
        )  # fmt: skip
    return ACTIVE[word]
