"""Files of molecules as tables: one row a molecule, its structure in the column `molecule`, its properties beside it.

    columns = read_sdf(path)           # {"molecule": [mol block, ...], "pIC50": ["7.2", ...]}

Records are cut apart by the format's own marks, and a broken one stays a row: what is wrong with it is said when it is
read, and those after it are not lost.
Sources: BIOVIA CTFile formats (SDF); Tripos Mol2; one SMILES a line, with a name behind it (SMI).
"""

import re
from pathlib import Path

from medserve.errors import BadData

STRUCTURE, NAME = "molecule", "name"
SUFFIXES = (".sdf", ".sd", ".mol2", ".smi", ".smiles")
_FIELD = re.compile(r"^>[^<\n]*<([^>\n]{1,200})>[^\n]*$", re.MULTILINE)


def read_molecules(path: Path) -> dict[str, list[str]]:
    """Raises: BadData "table-unreadable"."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n")
    except OSError as error:
        raise BadData("table-unreadable", f"{path.name}: {error.strerror}.", hint="Check the file.") from error
    if "\0" in text:
        raise BadData("table-unreadable", f"{path.name} is not text.", hint="SDF, MOL2 and SMILES files are text.")
    suffix = path.suffix.lower()
    if suffix in (".sdf", ".sd"):
        return _sdf(text)
    return _mol2(text) if suffix == ".mol2" else _smi(text)


def read_block(record: str) -> dict[str, str]:
    """One record of an SDF: its mol block, its name, and its fields."""
    end = re.search(r"^M  END[^\n]*$", record, re.MULTILINE)
    block = record[: end.end()] if end else record.partition("\n>")[0]
    found = {STRUCTURE: block + "\n", NAME: record.partition("\n")[0].strip()}
    rest = record[len(block) :]
    marks = list(_FIELD.finditer(rest))
    for mark, after in zip(marks, [*marks[1:], None], strict=False):  # a record without fields has no mark
        if mark[1] not in (STRUCTURE, NAME):
            found.setdefault(mark[1], rest[mark.end() : after.start() if after else len(rest)].strip())
    return found


def _sdf(text: str) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {STRUCTURE: [], NAME: []}
    for record in re.split(r"^\$\$\$\$[^\n]*\n?", text, flags=re.MULTILINE):
        if not record.strip():
            continue
        count = len(columns[STRUCTURE])
        for name, value in read_block(record).items():
            columns.setdefault(name, [""] * count).append(value)
        for column in columns.values():
            column += [""] * (count + 1 - len(column))
    return columns


def _mol2(text: str) -> dict[str, list[str]]:
    parts = text.split("@<TRIPOS>MOLECULE")[1:]
    blocks = ["@<TRIPOS>MOLECULE" + part for part in parts]
    return {STRUCTURE: blocks, NAME: [part.strip().partition("\n")[0].strip() for part in parts]}


def _smi(text: str) -> dict[str, list[str]]:
    rows = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {STRUCTURE: [row[0] for row in rows], NAME: [row[1].strip() if len(row) > 1 else "" for row in rows]}
