"""Which column of a table holds the molecules: told by its name, and by its cells where several have such a name.

    structure_column({"drug": ["aspirin", ...], "smiles": ["CC(=O)O", ...]})    # "smiles"
    other_columns(columns, but="structure")                                     # ["SMI_CANON"], to be suggested

A column is never taken by its cells alone: "C", "N" and "O" are words too.
"""

import re
from collections.abc import Mapping, Sequence

from medserve.data.molecules.standard import read
from medserve.errors import Refusal

NAMES = ("smiles", "smile", "canonicalsmiles", "isomericsmiles", "inchi", "molblock", "drug", "structure")
SAMPLE = 50  # cells that are looked at
ENOUGH, MOST = 0.5, 0.9  # shares of them that are molecules, in a column of such a name and in any other
LEAST = 4  # letters a cell, on average, of a column that is suggested


def structure_column(columns: Mapping[str, Sequence[str]]) -> str:
    """The first column of such a name whose cells are molecules, or else the first of such a name; "" for none."""
    by_plain = {_plain(name): name for name in reversed(list(columns))}
    named = [by_plain[word] for word in NAMES if word in by_plain]
    if len(named) < 2:
        return "".join(named)
    return next((name for name in named if share(columns[name]) >= ENOUGH), named[0])


def other_columns(columns: Mapping[str, Sequence[str]], *, but: str) -> list[str]:
    """Columns of other names whose cells are molecules."""
    found = []
    for name, cells in columns.items():
        some = [cell for cell in cells if cell][:SAMPLE]
        long = some and sum(map(len, some)) >= LEAST * len(some)
        if name != but and long and share(some) >= MOST:
            found.append(name)
    return found


def share(cells: Sequence[str]) -> float:
    """Of the first cells that hold something, how many are molecules."""
    some = [cell for cell in cells if cell][:SAMPLE]
    return sum(map(_reads, some)) / len(some) if some else 0.0


def _reads(cell: str) -> bool:
    try:
        read(cell)
    except Refusal as error:
        return error.code == "molecule-too-large"
    return True


def _plain(name: str) -> str:
    """As `forms.table.plain`, which reads these files too."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
