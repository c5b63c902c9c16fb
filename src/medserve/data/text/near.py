"""The same note twice: copies with another header or a few other words.

    pairs = near_texts([(0, note), (1, other), ...])         # [(0, 1, 0.93), ...]

Two texts are near when their runs of three tokens agree: |A and B| / |A or B| >= `SAME` (Jaccard). MinHash proposes
pairs in linear time, and each proposed pair is counted exactly. Numbers count as tokens, so the same template filled in
for two patients is near only where little of it differs.

Source: Broder, Compression and Complexity of Sequences 1997 (MinHash, shingles); Leskovec et al., Mining of Massive
Datasets, 3.4 (bands).
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from medserve.data.text.tokens import clean, tokens
from medserve.types import Array

SAME = 0.8  # agreement from which two texts are near
RUN = 3  # tokens of a shingle
# 64 values in 16 bands of 4: a pair of agreement .8 is missed once in 5,000, of .9 once in 10 million.
BANDS, ROWS = 16, 4
LEAST = 8  # shingles; shorter texts are near only if they are equal
CROWD = 64  # proposed texts of one band beyond which each is compared with its nearest `BESIDE` only
BESIDE = 8
_MIX = np.uint64(0x9E3779B97F4A7C15)


def near_texts(texts: Iterable[tuple[int, str]]) -> list[tuple[int, int, float]]:
    """Pairs of near texts.

    Args:
        texts: (number, text); read once, and only digests are kept: 8 bytes a token.

    Returns: (a, b, agreement), a before b in the order given, sorted; equal texts have agreement 1.0. Of many copies of
        one text each is paired with the first, and of a crowd of near ones with some of the others: the pairs tell
        which texts belong together, not every pair among them.
    """
    numbers: list[int] = []
    shingles: list[Array] = []
    signatures: list[Array] = []
    first_of: dict[bytes, int] = {}
    pairs: dict[tuple[int, int], float] = {}
    words: dict[str, int] = {}
    multiply, add = _permutations(BANDS * ROWS)
    for position, (number, text) in enumerate(texts):
        found = _shingles(tokens(clean(text)), words)
        numbers.append(number)
        if not len(found):
            continue
        digest = hashlib.blake2b(found.tobytes(), digest_size=16).digest()
        if digest in first_of:
            pairs[first_of[digest], position] = 1.0
            continue
        first_of[digest] = position
        if len(found) >= LEAST:
            # Multiply-shift hashing: the upper half of (a * x + b) modulo 2^64.
            hashed = (found[:, None] * multiply + add) >> np.uint64(32)
            signatures.append(hashed.min(0).astype(np.uint32))
            shingles.append(np.append(found, np.uint64(position)))  # its place, at the end
    places = [int(s[-1]) for s in shingles]
    for a, b in _proposed(np.array(signatures, np.uint32).reshape(-1, BANDS * ROWS)):
        agreement = _agreement(shingles[a][:-1], shingles[b][:-1])
        if agreement >= SAME:
            pairs[places[a], places[b]] = agreement
    return [(numbers[a], numbers[b], round(float(s), 4)) for (a, b), s in sorted(pairs.items())]


def _permutations(count: int) -> tuple[Array, Array]:
    random = np.random.default_rng(1997)
    multiply = random.integers(1, 2**63, count, dtype=np.uint64) | np.uint64(1)
    return multiply, random.integers(0, 2**63, count, dtype=np.uint64)


def _shingles(words: list[str], known: dict[str, int]) -> Array:
    """Sorted different 64-bit digests of every run of `RUN` tokens (of the whole text, if shorter)."""
    row = np.empty(len(words), np.uint64)
    for i, word in enumerate(words):
        value = known.get(word)
        if value is None:
            value = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
            if len(known) < 1_000_000:
                known[word] = value
        row[i] = value
    if not len(row):
        return row
    run = min(RUN, len(row))
    made = row[: len(row) - run + 1].copy()
    for step in range(1, run):
        made = (made ^ (made >> np.uint64(29))) * _MIX + row[step : len(row) - run + 1 + step]
    made = (made ^ (made >> np.uint64(32))) * _MIX
    return np.unique(made)


def _proposed(signatures: Array) -> list[tuple[int, int]]:
    """Pairs that agree in all rows of at least one band."""
    found: set[tuple[int, int]] = set()
    for band in range(BANDS if len(signatures) else 0):
        part = np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])
        keys = part.view([("", np.uint32)] * ROWS).ravel()
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        edges = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        for members in np.split(order, edges):
            crowded = len(members) > CROWD
            for i, a in enumerate(members.tolist()):
                beside = members[i + 1 : i + 1 + BESIDE] if crowded else members[i + 1 :]
                found.update((a, b) for b in beside.tolist())
                if crowded and i:
                    found.add((int(members[0]), a))
    return sorted(found)


def _agreement(a: Array, b: Array) -> float:
    if min(len(a), len(b)) < SAME * max(len(a), len(b)):
        return 0.0  # cannot reach it
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)
