"""The listing of a table: one row per file (or per folder of slices), columns declared or guessed.

A row that names no file is refused as `label-file-missing`, a file without a row as `label-missing`; both are counted,
and the rest of the data set works.
"""

import hashlib
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from medserve.data.declaration import Dataset, Split
from medserve.data.forms import table as tb
from medserve.data.forms.files import looks_like_image, walk
from medserve.data.forms.labels import Labels
from medserve.data.forms.listing import PART_NAMES, Listing, is_number, part_of, warn_positive
from medserve.data.forms.match import DirectIndex, FileIndex
from medserve.data.forms.rows import files_of_rows, join_rows
from medserve.data.pseudonym import pseudonym
from medserve.data.readers.records._time import iso_hours
from medserve.errors import BadData
from medserve.types import Part


def list_table(
    root: Path,
    tables: Sequence[tuple[Path, Part | None]],
    files: list[Path] | None,
    declared: Dataset | None,
    key: bytes,
    *,
    path: Path,
    read: int = 0,
) -> Listing:
    """
    Args:
        tables: with the official part that a table's own name gives ("test.csv").
        files: of the folder, tables and declaration left out; None for a manifest, which names all files itself.
        read: files of the data set that were read already (its declaration).

    Raises: BadData "table-...", "column-missing", "columns-unknown", "part-unknown", "declaration-value".
    """
    table, from_names = join_tables(tables)
    index = DirectIndex(root) if files is None else FileIndex(root, [f for f in files if looks_like_image(f)])
    roles = roles_of(table, index, declared)
    if files is None and roles.get("file") and not index.hits([c for c in table.columns[roles["file"]] if c]):
        index = FileIndex(root, [f for f in walk(root) if looks_like_image(f)])
    target = declared.target if declared else None
    labels = Labels.of(table, target_columns(table, roles, declared), target)
    groups = group_columns_of(table, roles, declared)
    parts = parts_of(table, roles, from_names, declared)
    patients, facts = pseudonyms(table, roles, key), facts_of(table, groups)
    joined = join_rows(files_of_rows(table, roles, index, files), labels, root, patients, facts, parts)
    joined.finish(files or ())
    warnings = [] if target and target.classes else warn_positive(labels.classes) if labels.task == "binary" else []
    if joined.repeats:
        warnings.append(f"{joined.repeats} rows of {table.name} repeat an earlier row.")
    warnings += [] if declared and declared.target else [_said(roles, labels)]
    return Listing(
        path=path,
        name=(declared.name if declared else None) or (root.name if path.is_dir() else path.stem),
        form="table",
        task=labels.task,
        labels=labels.classes,
        items=joined.items,
        files=len({i.file for i in joined.items}) + len(joined.refused) + len(tables) + read,
        refused=joined.refused,
        source=(declared.described if declared else {}) | {"warnings": warnings},
        independent="patient" not in roles,
        kind="volume" if declared and declared.input and declared.input.kind == "volume" else "image",
        unit=labels.unit,
        split=rule_of(declared),
        subgroups=tuple(groups),
        laterality_safe=bool(declared and declared.laterality_safe),
        tables=tuple(t.name for t, _ in tables),
        columns=roles | {"label": ", ".join(labels.columns)},
        declaration=declared,
        key=key,
    )


def rule_of(declared: Dataset | None) -> dict[str, Any] | None:
    """The declared rule of the split, for `Listing.split`."""
    rule = declared.split if declared and isinstance(declared.split, Split) else None
    return None if rule is None else {name: getattr(rule, name) for name in Split.__struct_fields__}


def usable(tables: Sequence[tuple[Path, Part | None]], root: Path, files: list[Path]) -> bool:
    """Whether these tables name files of the folder and something to predict, by guessing alone."""
    try:
        table, _ = join_tables(tables)
    except BadData:
        return False
    roles = tb.guess(table, FileIndex(root, [f for f in files if looks_like_image(f)]).hits)
    known = set(roles) & {"file", "patient"}
    return bool(known) and bool("label" in roles or tb.flag_columns(table, roles.values()))


def join_tables(
    tables: Sequence[tuple[Path, Part | None]], keep: Collection[str] = ()
) -> tuple[tb.Table, list[Part | None]]:
    """All tables below each other; a column that one lacks is empty there. keep: see `read_table`."""
    read = [(tb.read_table(path, keep=keep), part) for path, part in tables]
    names = list(dict.fromkeys(n for table, _ in read for n in table.columns))
    columns = {n: [c for t, _ in read for c in t.columns.get(n, [""] * len(t))] for n in names}
    parts = [part for t, part in read for _ in range(len(t))]
    return tb.Table(" + ".join(t.name for t, _ in read), columns), parts


def roles_of(table: tb.Table, index: FileIndex, declared: Dataset | None) -> dict[str, str]:
    roles = tb.guess(table, index.hits)
    if declared is None:
        return roles
    said: dict[str, str] = {}
    if declared.input and declared.input.column and not declared.records:
        said["file"] = declared.input.column
    if declared.patient:
        said["patient"] = declared.patient
    if isinstance(declared.split, str):
        said["part"] = declared.split
    if declared.target and isinstance(declared.target.column, str):
        said["label"] = declared.target.column
    for role, column in said.items():
        table.column(column, f"`{role}`")
    roles = {r: c for r, c in roles.items() if r not in said and c not in said.values()} | said
    if declared.independent:
        roles.pop("patient", None)
    if isinstance(declared.split, Split):
        roles.pop("part", None)
    return roles


def target_columns(table: tb.Table, roles: dict[str, str], declared: Dataset | None) -> list[str]:
    column = declared.target.column if declared and declared.target else None
    if isinstance(column, list):
        for name in column:
            table.column(name, "the target")
        return column
    if "label" in roles:
        return [roles["label"]]
    flags = tb.flag_columns(table, roles.values())
    if flags:
        return flags
    raise BadData(
        "columns-unknown",
        f"{table.name}: no column of labels among {', '.join(table.columns)}.",
        hint="Name it `label`, or write a dataset.yaml: target: {column: NAME, kind: binary}.",
    )


def group_columns_of(table: tb.Table, roles: dict[str, str], declared: Dataset | None) -> list[str]:
    if declared and declared.subgroups:
        for name in declared.subgroups:
            table.column(name, "`subgroups`")
        return list(declared.subgroups)
    return tb.group_columns(table, roles.values())


def parts_of(
    table: tb.Table, roles: dict[str, str], fixed: list[Part | None], declared: Dataset | None
) -> list[Part | None]:
    """Official parts: of the tables, of a column, or by a declared rule of sites or time."""
    split = declared.split if declared else None
    if isinstance(split, Split) and split.by in ("site", "time") and split.column:
        return _by_rule(table.column(split.column, "`split`"), split)
    if "part" not in roles:
        return fixed
    cells = table.columns[roles["part"]]
    parts = [part_of(c) if c else None for c in cells]
    unknown = sum(1 for c, p in zip(cells, parts, strict=True) if c and p is None)
    if unknown and isinstance(split, str):
        raise BadData(
            "part-unknown",
            f"{table.name}: {unknown} cells of column {split!r} name no part.",
            hint=f"Parts are {', '.join(sorted(PART_NAMES))}.",
        )
    if unknown:  # a guessed column that says something else, such as the number of a fold
        del roles["part"]
        return fixed
    return [p or f for p, f in zip(parts, fixed, strict=True)]


def _by_rule(cells: list[str], rule: Split) -> list[Part | None]:
    """Test part by rule: whole sites drawn by the seed, or the latest rows; at least one site or row."""
    wanted = rule.test * len(cells)
    if rule.by == "time":
        times = _times(cells, str(rule.column))
        first = sorted(times)[len(times) - max(1, round(wanted))] if times else 0.0
        return ["test" if time >= first > -math.inf else "train" for time in times]
    sites = sorted(set(cells), key=lambda s: hashlib.sha256(f"{rule.seed}/{s}".encode()).digest())
    chosen: set[str] = set()
    count = 0
    for site in sites[:-1]:  # one site at least stays for training
        if count >= wanted:
            break
        chosen.add(site)
        count += cells.count(site)
    return ["test" if cell in chosen else "train" for cell in cells]


def _times(cells: list[str], column: str) -> list[float]:
    """Dates, or numbers such as years, as what can be ordered; an empty cell stands before all.

    Raises: BadData "split-time".
    """
    read = float if all(map(is_number, filter(None, cells))) else iso_hours
    times: list[float] = []
    for cell in cells:
        time = read(cell) if cell else -math.inf
        if time is None or math.isnan(time):
            raise BadData(
                "split-time", f"Column {column!r} holds {cell[:40]!r}, which is no date.",
                hint="Write dates as 2024-05-31, or give numbers only.",
            )  # fmt: skip
        times.append(time)
    return times


def _said(roles: dict[str, str], labels: Labels) -> str:
    said = ", ".join(f"{role}: {column}" for role, column in roles.items() if role != "label")
    return f"Columns were guessed ({said}, target: {', '.join(labels.columns)} as {labels.task}); see --write-yaml."


def pseudonyms(table: tb.Table, roles: dict[str, str], key: bytes) -> list[str | None]:
    """A pseudonym per row."""
    if "patient" not in roles:
        return [None] * len(table)
    cells = table.columns[roles["patient"]]
    known = {raw: pseudonym(key, raw) for raw in set(cells) if raw}
    return [known.get(raw) for raw in cells]


def facts_of(table: tb.Table, groups: list[str]) -> list[dict[str, str]]:
    """The subgroups of each row; equal ones are one dictionary, so that large tables stay small."""
    shared: dict[tuple[str, ...], dict[str, str]] = {}
    out = []
    for cells in zip(*(table.columns[c] for c in groups), strict=True) if groups else [()] * len(table):
        if cells not in shared:
            values = ((c, tb.group_value(c, cell)) for c, cell in zip(groups, cells, strict=True))
            shared[cells] = {c: v for c, v in values if v}
        out.append(shared[cells])
    return out
