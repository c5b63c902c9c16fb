"""Words with tags: files of named entities, the entities in a row of tags, and how well they were found.

    sentences = read_conll(path)                         # [Sentence(words, tags)], tags "B-Disease", "I-Disease", "O"
    entities(["B-Disease", "I-Disease", "O"])            # [(0, 2, "Disease")]
    score = score_entities(true, predicted)              # strict precision, recall and F1 with a 95 % interval

A file holds one word a line, its tag in the last column; a blank line ends a sentence. BIO (IOB2), IOB1 and BIOES tags
are read; they are turned into BIO. Strict: an entity counts as found only with both its ends and its type right.

Source: Tjong Kim Sang and De Meulder, CoNLL 2003 (form and scoring); bootstrap over sentences, Efron 1979.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medserve.errors import BadData

MAX_BYTES = 256 * 2**20
MAX_LINE = 10_000
LONGEST = 2000  # words of one sentence
_TAG = re.compile(r"O|[BIES]-[^\s]{1,100}")
_BIO = {"B": "B", "S": "B", "I": "I", "E": "I"}


@dataclass(frozen=True, slots=True)
class Sentence:
    """As many tags as words."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


def read_conll(path: Path) -> list[Sentence]:
    """Every sentence of a file, tags in BIO.

    Raises: BadData: "tags-too-large", "tags-encoding", "tags-line" (the file and the line are named), "tags-empty".
    """
    if path.stat().st_size > MAX_BYTES:
        raise BadData("tags-too-large", f"{path.name} is larger than {MAX_BYTES} bytes.", hint="Split it.")
    found: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                columns = line.split()
                if not columns or columns[0] == "-DOCSTART-":
                    _end(found, words, tags)
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
                    _end(found, words, tags)
    except UnicodeDecodeError as error:
        raise BadData("tags-encoding", f"{path.name} is not UTF-8.", hint="Convert it to UTF-8.") from error
    _end(found, words, tags)
    if not found:
        raise BadData("tags-empty", f"{path.name} holds no tagged word.", hint="One word and its tag a line.")
    return found


def _end(found: list[Sentence], words: list[str], tags: list[str]) -> None:
    if words:
        found.append(Sentence(tuple(words), tuple(as_bio(tags))))
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


@dataclass(frozen=True, slots=True)
class EntityScore:
    """Shares of 1; NaN where nothing was to be counted. low, high: 95 % interval of F1, resampling sentences."""

    precision: float
    recall: float
    f1: float
    low: float
    high: float
    entities: int


def score_entities(
    true: Sequence[Sequence[str]], given: Sequence[Sequence[str]], *, draws: int = 1000, seed: int = 0
) -> EntityScore:
    """Micro-averaged over all entities of all sentences."""
    counts = np.zeros((len(true), 3))  # right, wanted, given
    for row, wanted, found in zip(counts, true, given, strict=True):
        a, b = set(entities(wanted)), set(entities(found))
        row[:] = len(a & b), len(a), len(b)
    right, wanted_all, given_all = counts.sum(0)
    random = np.random.default_rng(seed)
    drawn = np.array([counts[random.integers(0, len(counts), len(counts))].sum(0) for _ in range(draws)])
    f1 = _f1(drawn)
    known = f1[np.isfinite(f1)]
    low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
    return EntityScore(
        right / given_all if given_all else float("nan"),
        right / wanted_all if wanted_all else float("nan"),
        float(_f1(counts.sum(0, keepdims=True))[0]),
        float(low),
        float(high),
        int(wanted_all),
    )


def _f1(counts: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        made: np.ndarray = 2 * counts[:, 0] / (counts[:, 1] + counts[:, 2])
    return made
