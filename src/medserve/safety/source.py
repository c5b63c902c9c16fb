"""A source of rules: a folder with `header.yaml` and tables, whole and unaltered or not at all.

    source = Source.open(Path("rules/hospital"))
    source.header.id, source.header.version, source.digest

Where a `SHA256SUMS` lies beside them (`sha256sum header.yaml *.csv > SHA256SUMS`), every file must be as it says.
The format stands in docs/safety.md.
"""

import datetime
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from medserve.errors import BadData, MedServeError, neighbours
from medserve.safety.rules import (
    Allergy,
    Contraindication,
    DoseLimit,
    Drug,
    Duplicate,
    Group,
    Interaction,
    Meaning,
    Measure,
    Rule,
)
from medserve.safety.tables import RULES, TABLES, read_table
from medserve.safety.words import SEVERITIES, Codes, tidy

STARTER = Path(__file__).parent / "starter"
HEADER, SUMS = "header.yaml", "SHA256SUMS"
Action = Literal["block", "warn"]
MAX_HEADER = 2**18
OLD_DAYS = 180  # a source that is older is offered with a warning
_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


class Unavailable(MedServeError):
    """The rules cannot be asked, so nothing is offered."""

    kind, status, exit_code = "fault", 503, 1


def unavailable(why: str) -> Unavailable:
    hint = "Nothing is offered until the rules can be read: medserve safety --sources --rules FOLDER"
    return Unavailable("safety-unavailable", f"The rules of safety cannot be asked: {why}", hint=hint)


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`header.yaml`. id: stands beside every rule's own. coverage: what the source does not cover, in a sentence.

    severity: what is done about each, where the policy of the service says nothing else. lab_days: an older
    laboratory value is as good as none; None: any is taken. liver, pregnant: codes of conditions that ask for a class
    of Child-Pugh, and that tell a pregnancy.
    """

    id: str
    title: str
    version: str
    date: datetime.date
    licence: str
    origin: str
    coverage: str
    severity: dict[str, Action]
    lab_days: int | None = None
    liver: list[str] = []
    pregnant: list[str] = []


@dataclass(frozen=True, slots=True)
class Source:
    """digest: of all files. The rest: the tables, in the order of their lines."""

    header: Header
    digest: str
    liver: Codes
    pregnant: Codes
    drugs: tuple[Drug, ...]
    groups: tuple[Group, ...]
    measures: tuple[Measure, ...]
    codes: tuple[Meaning, ...]
    interactions: tuple[Interaction, ...]
    contraindications: tuple[Contraindication, ...]
    limits: tuple[DoseLimit, ...]
    allergies: tuple[Allergy, ...]
    duplicates: tuple[Duplicate, ...]

    @property
    def rules(self) -> Iterator[Rule]:
        for table in (self.interactions, self.contraindications, self.limits, self.allergies, self.duplicates):
            yield from table

    @classmethod
    def open(cls, folder: Path) -> "Source":
        """
        Raises: BadData "rules-missing", "rules-header", "rules-file", "rules-id", and those of `tables.read_table`;
            Unavailable "safety-unavailable" where a file differs from its digest.
        """
        files = _files(folder)
        _check_sums(folder, files)
        header = _header(files[HEADER])
        tables: dict[str, Any] = {
            name.removesuffix(".csv"): tuple(read_table(files[name], name)) if name in files else () for name in TABLES
        }
        seen: dict[str, str] = {}
        for name in RULES:
            for rule in tables[name.removesuffix(".csv")]:
                if rule.id in seen:
                    said = f"{name}, line {rule.line}: the id {rule.id[:60]!r} stands in {seen[rule.id]} already."
                    raise BadData("rules-id", said, hint="Each rule has an id of its own.")
                seen[rule.id] = f"{name}, line {rule.line}"
        if not any(tables.values()):
            raise BadData("rules-missing", f"{folder.name} holds no table.", hint=f"Tables: {', '.join(TABLES)}.")
        parts = b"".join(name.encode() + b"\0" + hashlib.sha256(files[name]).digest() for name in sorted(files))
        digest = f"sha256:{hashlib.sha256(parts).hexdigest()}"
        return cls(header, digest, _codes(header.liver, "liver"), _codes(header.pregnant, "pregnant"), **tables)


def _files(folder: Path) -> dict[str, bytes]:
    """The header and the tables. A table of another name is an error: its rules would not be there."""
    try:
        if not (folder / HEADER).is_file():
            raise BadData("rules-missing", f"{folder.name} holds no {HEADER}.", hint="See docs/safety.md.")
        found = {path.name: path for path in folder.iterdir() if path.suffix.lower() == ".csv" or path.name == HEADER}
        for name in sorted(set(found) - set(TABLES) - {HEADER}):
            hint = f"Rename it ({neighbours(name, TABLES)}), or take it away."
            raise BadData("rules-file", f"{name[:60]!r} is no table of rules.", hint=hint)
        return {name: path.read_bytes() for name, path in found.items()}
    except OSError as error:
        raise BadData("rules-missing", f"{folder.name} cannot be read: {error.strerror}.") from error


def _check_sums(folder: Path, files: dict[str, bytes]) -> None:
    if not (folder / SUMS).is_file():
        return
    said: dict[str, str] = {}
    for line in (folder / SUMS).read_text("utf-8", errors="replace").splitlines():
        digest, _, name = line.partition(" ")
        said[name.strip().removeprefix("*")] = digest
    for name in sorted({*files, *said}):
        if name not in said or name not in files or hashlib.sha256(files[name]).hexdigest() != said[name]:
            raise unavailable(f"{folder.name}/{name} is not as {SUMS} says.")


def _header(data: bytes) -> Header:
    try:
        if len(data) > MAX_HEADER:
            raise ValueError(f"larger than {MAX_HEADER} bytes")
        header = msgspec.convert(yaml.safe_load(data), Header)
    except (yaml.YAMLError, msgspec.ValidationError, ValueError, RecursionError) as error:
        raise BadData("rules-header", f"{HEADER}: {str(error).splitlines()[0]}.", hint="See docs/safety.md.") from error
    check_severity(header.severity, HEADER, whole=True)
    if not _ID.fullmatch(header.id):
        raise BadData("rules-header", f"{HEADER}: id is a word of small letters, digits, dots and dashes.")
    for name in ("title", "version", "licence", "origin", "coverage"):
        said = getattr(header, name)
        if not said.strip() or not said.isprintable():
            raise BadData("rules-header", f"{HEADER}: {name} is empty or cannot be printed.")
    return header


def check_severity(said: dict[str, Action], file: str, *, whole: bool = False) -> None:
    """What is contraindicated is blocked, whatever a file says.

    Raises: BadData "rules-severity".
    """
    wrong = sorted(set(said) - set(SEVERITIES))
    lack = [word for word in SEVERITIES if whole and word not in said]
    if wrong or lack or said.get("contraindicated", "block") != "block":
        raise BadData(
            "rules-severity",
            f"{file}: severity names {', '.join(SEVERITIES)}, each block or warn; contraindicated is always block.",
            hint="For instance: severity: {contraindicated: block, major: block, moderate: warn, minor: warn}",
        )


def _codes(said: list[str], name: str) -> Codes:
    found = [tidy(one) for one in said]
    if None in found:
        raise BadData("rules-header", f"{HEADER}: {name} holds a code that is not system|code.")
    return tuple(one for one in found if one)
