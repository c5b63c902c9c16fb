"""A folder of tagged words: train, val (dev) and test files of CoNLL form; each sentence is a case.

    listing = list_conll(root, files, declared, key)     # task "tags", one text a case, official parts
    Tags.of(table, target, "note")                       # the same target in a table: a column of spans

A sentence becomes a text, its words with a space between; its entities become places in that text, and those become
tags of the words that `data.text.words` finds there: files and tables, training and serving, read words in one way.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medserve.data.cohort import Item, Label, Refused
from medserve.data.declaration import Dataset, Input, Target
from medserve.data.forms.files import relative
from medserve.data.forms.labels import Unlabelled
from medserve.data.forms.listing import Listing, part_of
from medserve.data.forms.table import Table
from medserve.data.pseudonym import pseudonym
from medserve.data.text.tags import entities, numbered, read_conll
from medserve.data.text.words import words
from medserve.errors import BadData
from medserve.types import PARTS, Part

SUFFIXES = (".txt", ".tsv", ".conll", ".bio", ".iob", ".iob2")
NAME = "text"  # of the one input, unless declared
LOOKED_AT = 64  # lines that tell whether a file is one of tagged words
_LINE = re.compile(r"\S+\s(?:.*\s)?(?:O|[BIES]-\S{1,100})")
Span = tuple[int, int, str]  # first character, character after the last, name


def conll_files(root: Path, files: Sequence[Path]) -> dict[Part, Path]:
    """The files of tagged words that stand in a folder, by part; nothing without one for training."""
    found: dict[Part, Path] = {}
    for file in files:
        part = part_of(file.stem)
        if file.parent == root and part is not None and file.suffix.lower() in SUFFIXES and _tagged(file):
            found.setdefault(part, file)
    return {part: found[part] for part in PARTS if part in found} if "train" in found else {}


def _tagged(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(64 * 1024).decode("utf-8-sig", "replace").splitlines()[:LOOKED_AT]
    lines = [line.strip() for line in head if line.strip()]
    return bool(lines) and all(_LINE.fullmatch(line) for line in lines[:-1] or lines)


@dataclass(frozen=True)
class RawTexts:
    """The text of each case, under the name of the one input."""

    name: str
    texts: list[str]

    def __call__(self, item: Item) -> Mapping[str, Any]:
        assert item.row is not None
        return {self.name: self.texts[item.row[1]]}


def list_conll(
    root: Path,
    files: Sequence[Path],
    parts: Mapping[Part, Path],
    declared: Dataset | None,
    key: bytes,
    *,
    read: int = 0,
) -> Listing:
    """
    Args:
        parts: from `conll_files`.

    Raises: BadData "tags-...", naming file and line.
    """
    read_files = {part: read_conll(file) for part, file in parts.items()}
    found = {tag[2:] for said in read_files.values() for s in said for tag in s.tags if tag != "O"}
    names = tuple((declared.target.classes if declared and declared.target else None) or sorted(found))
    texts: list[str] = []
    items: list[Item] = []
    for part, said in read_files.items():
        for number, sentence in enumerate(said, 1):
            text, spans = " ".join(sentence.words), _places(sentence.words, sentence.tags)
            label, _ = tags_of(text, [s for s in spans if s[2] in names], names)
            who = pseudonym(key, f"{parts[part].name} document {sentence.document}") if sentence.document else None
            items.append(Item(f"{part} sentence {number}", parts[part], ("texts", len(texts)), label, who, part))
            texts.append(text)
    inputs = dict(declared.inputs if declared and declared.inputs else {NAME: Input(kind="text")})
    taken = set(parts.values())
    others = [relative(f, root) for f in files if f not in taken]
    refused = [Refused(name, "not-tagged-words", "Not one of the files of tagged words.") for name in others]
    return Listing(
        path=root,
        name=(declared.name if declared else None) or root.name,
        form="conll",
        task="tags",
        labels=names,
        items=items,
        files=len(items) + len(refused) + len(parts) + read,
        refused=refused,
        source=declared.described if declared else {},
        independent=not any(item.patient for item in items),
        kind="record",
        inputs=inputs,
        raw=RawTexts(next(iter(inputs)), texts),
        declaration=declared,
        key=key,
    )


def _places(said: Sequence[str], tags: Sequence[str]) -> list[Span]:
    """Entities of a sentence as places in its text."""
    starts, at = [], 0
    for word in said:
        starts.append(at)
        at += len(word) + 1
    return [(starts[a], starts[b - 1] + len(said[b - 1]), name) for a, b, name in entities(tags)]


def tags_of(text: str, spans: Iterable[Span], names: Sequence[str]) -> tuple[tuple[float, ...], int]:
    """Tags of every word of a text, as numbers (`data.text.tags.numbered`), and how many entities were widened because
    they begin or end inside a word."""
    places, found, widened = words(text), [], 0
    for start, stop, name in spans:
        inside = [i for i, (a, b) in enumerate(places) if a < stop and b > start]
        if inside:
            found.append((inside[0], inside[-1] + 1, names.index(name)))
            widened += places[inside[0]][0] < start or places[inside[-1]][1] > stop
    return tuple(numbered(found, len(places))), widened


@dataclass
class Tags:
    """A target over a table: a column of spans beside a column of text.

    A cell of spans is JSON: [[start, end, name], ...] or [{"start", "end", "label"}, ...] in characters of the text,
    the end excluded; [] where the text holds none, nothing where nobody looked.
    """

    table: Table
    columns: tuple[str, ...]
    texts: str
    classes: tuple[str, ...]
    task: str = "tags"
    unit: str | None = None
    widened: int = 0
    spans: list[list[Span] | None] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, table: Table, declared: Target, texts: str) -> "Tags":
        """texts: the column of the text. Raises: BadData "declaration-value", "column-missing"."""
        if not isinstance(declared.column, str):
            raise BadData(
                "declaration-value", "A target of kind tags has one `column` of spans.",
                hint="Write `target: {kind: tags, column: NAME}`; a cell is [[start, end, name], ...].",
            )  # fmt: skip
        spans = [_spans(cell) for cell in table.column(declared.column, "the target")]
        found = {name for row in spans for _, _, name in row or ()}
        classes = tuple(declared.classes or sorted(found))
        return cls(table, (declared.column,), texts, classes, spans=spans)

    def label(self, row: int) -> Label:
        """Raises: Unlabelled "label-missing", "label-invalid", "label-unknown"."""
        spans, text = self.spans[row], self.table.columns[self.texts][row]
        cell = self.table.columns[self.columns[0]][row]
        if not cell:
            raise Unlabelled("label-missing", f"Row {row + 2}, column {self.columns[0]!r}: no spans.")
        if spans is None or any(not 0 <= a < b <= len(text) for a, b, _ in spans):
            raise Unlabelled(
                "label-invalid",
                f"Row {row + 2}, column {self.columns[0]!r}: [[start, end, name], ...] within the text was expected.",
            )
        if any(name not in self.classes for _, _, name in spans):
            raise Unlabelled("label-unknown", f"Row {row + 2}, column {self.columns[0]!r}: none of the declared names.")
        label, widened = tags_of(text, spans, self.classes)
        self.widened += widened
        return label

    @property
    def notes(self) -> list[str]:
        """Sentences for a person, once every row has been asked."""
        many = self.widened
        return [f"{many} entities begin or end inside a word; they were widened to whole words."] if many else []


def _spans(cell: str) -> list[Span] | None:
    """None where the cell is not one of spans."""
    try:
        found = json.loads(cell) if cell else []
        rows = [(r["start"], r["end"], r["label"]) if isinstance(r, dict) else tuple(r) for r in found]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    fits = all(
        len(r) == 3 and type(r[0]) is int and type(r[1]) is int and isinstance(r[2], str) and r[2].strip() for r in rows
    )
    return rows if isinstance(found, list) and fits else None  # type: ignore[return-value]
