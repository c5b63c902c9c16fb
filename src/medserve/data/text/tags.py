"""Words with tags: files of named entities, and the entities in a row of tags.

    sentences = read_conll(path)                         # [Sentence(words, tags)], tags "B-Disease", "I-Disease", "O"
    entities(["B-Disease", "I-Disease", "O"])            # [(0, 2, "Disease")]
    places([1, 2, 0])                                    # [(0, 2, 0)]: the same, tags and names as numbers

A file holds one word a line, its tag in the last column; a blank line ends a sentence, -DOCSTART- a document. BIO
(IOB2), IOB1 and BIOES tags are read; they are turned into BIO.

Source: Tjong Kim Sang and De Meulder, CoNLL 2003.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medserve.errors import BadData

MAX_BYTES = 256 * 2**20
MAX_LINE = 10_000
LONGEST = 500  # words of one sentence; a longer one is cut
_TAG = re.compile(r"O|[BIES]-[^\s]{1,100}")
_BIO = {"B": "B", "S": "B", "I": "I", "E": "I"}


@dataclass(frozen=True, slots=True)
class Sentence:
    """As many tags as words. document: its number in the file, from 1; 0 where the file marks no documents."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    document: int = 0


def read_conll(path: Path) -> list[Sentence]:
    """Every sentence of a file, tags in BIO.

    Raises: BadData: "tags-too-large", "tags-encoding", "tags-line" (the file and the line are named), "tags-empty".
    """
    if path.stat().st_size > MAX_BYTES:
        raise BadData("tags-too-large", f"{path.name} is larger than {MAX_BYTES} bytes.", hint="Split it.")
    found: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    document = 0
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                columns = line.split()
                if not columns or columns[0] == "-DOCSTART-":
                    _end(found, words, tags, document)
                    document += bool(columns)
                    continue
                if len(line) > MAX_LINE or len(columns) < 2 or not _TAG.fullmatch(columns[-1]):
                    raise BadData(
                        "tags-line",
                        f"{path.name}, line {number}: a word and, last, its tag were expected.",
                        hint="Tags are O, B-NAME and I-NAME; a blank line ends a sentence.",
                    )
                words.append(columns[0])
                tags.append(columns[-1])
                if len(words) == LONGEST:
                    _end(found, words, tags, document)
    except UnicodeDecodeError as error:
        raise BadData("tags-encoding", f"{path.name} is not UTF-8.", hint="Convert it to UTF-8.") from error
    _end(found, words, tags, document)
    if not found:
        raise BadData("tags-empty", f"{path.name} holds no tagged word.", hint="One word and its tag a line.")
    return found


def _end(found: list[Sentence], words: list[str], tags: list[str], document: int) -> None:
    if words:
        found.append(Sentence(tuple(words), tuple(as_bio(tags)), document))
    words.clear()
    tags.clear()


def as_bio(tags: Sequence[str]) -> list[str]:
    """IOB1, IOB2 or BIOES -> BIO: every entity begins with B, and no entity goes on under another name."""
    made: list[str] = []
    for tag in tags:
        if tag == "O":
            made.append(tag)
            continue
        letter, name = _BIO[tag[0]], tag[2:]
        goes_on = letter == "I" and made and made[-1] != "O" and made[-1][2:] == name
        made.append(f"{'I' if goes_on else 'B'}-{name}")
    return made


def entities(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """(first word, word after the last, name) of every entity in BIO tags."""
    found: list[tuple[int, int, str]] = []
    start, name = 0, ""
    for i, tag in enumerate([*tags, "O"]):
        if name and (tag[0] != "I" or tag[2:] != name):
            found.append((start, i, name))
            name = ""
        if tag != "O" and not name:
            start, name = i, tag[2:]
    return found


def places(indices: Sequence[int]) -> list[tuple[int, int, int]]:
    """(first word, word after the last, number of the name) of every entity in tags as numbers: 0 is O, 1 + 2k begins
    an entity of name k, 2 + 2k goes on with it. One that goes on without a beginning begins."""
    found: list[tuple[int, int, int]] = []
    start, name = 0, -1
    for i, tag in enumerate([*indices, 0]):
        tag = int(tag)
        if name >= 0 and tag != 2 + 2 * name:
            found.append((start, i, name))
            name = -1
        if tag and name < 0:
            start, name = i, (tag - 1) // 2
    return found


def numbered(entities: Iterable[tuple[int, int, int]], count: int) -> list[float]:
    """The way back: (first word, word after the last, number of the name) -> `count` tags as numbers. Of entities that
    overlap the longest stays, of equal ones the first."""
    tags = [0.0] * count
    for a, b, name in sorted(entities, key=lambda e: (e[0] - e[1], e[0])):
        if not any(tags[a:b]):
            tags[a:b] = [1.0 + 2 * name, *[2.0 + 2 * name] * (b - a - 1)]
    return tags
