"""The same picture twice: exact repeats by digest, near repeats by descriptor, confirmed on pixels.

    code  = perceptual_hash(thumb)                      # 64 bits, kept with each Case
    pairs = find_duplicates(cohort.cases, cohort.thumbs)

Exact repeats share the digest of their bytes or of their decoded pixels. A near repeat is the same picture after
re-encoding, resizing, another brightness or a crop of a few per cent. Hashes of medical pictures collide (all chest
films look alike), so nearness of a descriptor only proposes pairs, and `registration.agreement` decides on pixels.
Memory stays at a few hundred bytes a case plus one block of similarities.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medserve.data.cohort import Case, Cohort, Shelf
from medserve.data.registration import agreement, band_pass, shared_patterns
from medserve.progress import SILENT, Progress
from medserve.types import Array

Kind = Literal["bytes", "pixels", "near-duplicate"]

# Agreement of copies is above these, of different patients' films below (figures: benchmarks/leaks.py).
SAME_PICTURE, SAME_OWN = 0.967, 0.85  # of the whole picture, and of what it does not share with all others
SAME_ALONE = 0.97  # of the whole picture where too few are at hand to learn what they share
NEIGHBOURS = 5  # proposed for each picture within its own part and within each other part
_SIDE = 64  # thumbnails are 64 x 64
_HASHED, _DESCRIBED = 8, 12  # lowest cosine frequencies along each axis
_WHITEN_FROM = 256  # pictures; below, the spread of a descriptor cannot be estimated
_DIRECTIONS = 64
_PROPOSE, _PROPOSE_WHITENED = 0.75, 0.50  # cosine similarity from which a pair is looked at
_TEXTURE = 1.0  # grey levels; a flatter picture has nothing to compare
_BLOCK = 256
_SAMPLE = 512  # pictures from which the shared patterns are learned
_CHUNK = 1024
_SIMILARITIES = 2**19  # held at once, whatever the size of the data set


@dataclass(frozen=True, slots=True)
class Pair:
    """Positions a < b of two cases that show the same picture; similarity is 1.0 for exact repeats."""

    a: int
    b: int
    kind: Kind
    similarity: float


def _cosines(side: int, count: int) -> Array:
    """The first `count` rows of the type-II cosine transform: (count, side) float32."""
    angle = np.pi * (2 * np.arange(side) + 1) / (2 * side)
    return np.cos(np.arange(count)[:, None] * angle).astype(np.float32)


_HASH_BASIS, _BASIS = _cosines(_SIDE, _HASHED), _cosines(_SIDE, _DESCRIBED)
_RADIUS = np.hypot(*np.mgrid[:_DESCRIBED, :_DESCRIBED])
_WEIGHT = np.where(_RADIUS < _DESCRIBED, _RADIUS, 0).astype(np.float32)  # undoes the 1/f fall of pictures; no mean


def perceptual_hash(thumb: Array) -> int:
    """A 64-bit hash that survives re-encoding, resizing and a change of brightness.

    Args:
        thumb: (64, 64) uint8 grey thumbnail.

    Returns: one bit for each of the 8 x 8 lowest cosine frequencies, set where the coefficient is above the median.
    Source: the "pHash" scheme of Zauner, Implementation and benchmarking of perceptual image hash functions (2010).
    """
    low = (_HASH_BASIS @ thumb.astype(np.float32) @ _HASH_BASIS.T).ravel()
    bits = low > np.partition(low, (31, 32))[31:33].mean()  # the median, ten times faster
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def exact_groups(cases: Sequence[Case]) -> list[list[int]]:
    """Positions of cases with the very same decoded pixels, groups of two or more, in order of appearance."""
    return _grouped(cases, lambda case: case.pixels)


def exact_kind(a: Case, b: Case) -> Kind:
    """Of two cases with the same pixels: were the bytes of the files the same too?"""
    return "bytes" if a.sha256 == b.sha256 else "pixels"


def find_duplicates(
    cases: Sequence[Case],
    thumbs: Shelf | None,
    *,
    parts: Sequence[Hashable] | None = None,
    near: bool = True,
    texts: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> list[Pair]:
    """Every case that repeats an earlier one.

    Args:
        cases: of one cohort.
        thumbs: its thumbnails, record `case.index`; None for records, which are compared by value alone.
        texts: the free text of each case, for near repeats of notes.
        parts: one label a case; neighbours are then sought in each part, so that alike pictures of its own part
            never hide a leak.
        near: also look for near repeats.

    Returns: exact repeats as (first of its group and part, repeat), the first of a further part as (first of the
        group, itself); near repeats between those firsts.
    """
    groups = exact_groups(cases)
    pairs: list[Pair] = []
    repeats = set()
    for group in groups:
        firsts: dict[Hashable, int] = {}
        for row in group:
            first = firsts.setdefault(parts[row] if parts else None, row)
            repeats |= {row} - {first}
            if row != group[0]:
                origin = first if first != row else group[0]
                pairs.append(Pair(origin, row, exact_kind(cases[origin], cases[row]), 1.0))
    if texts is not None and near:
        from medserve.data.text.near import near_texts

        notes = [(i, text) for i, text in enumerate(texts) if i not in repeats and text]
        pairs += [Pair(a, b, "near-duplicate", round(likeness, 4)) for a, b, likeness in near_texts(notes)]
    if near and thumbs is not None:
        unique = [i for i, case in enumerate(cases) if i not in repeats and not case.blank]
        rows = np.asarray(
            sorted(unique, key=lambda i: (cases[i].pixels, cases[i].id)), np.int64
        )  # any order, one answer
        numbers: dict[Hashable, int] = {}
        codes = np.asarray([numbers.setdefault(parts[i] if parts else None, len(numbers)) for i in rows], np.int64)
        pairs += _near(cases, thumbs, rows, codes, progress)
    return sorted(pairs, key=lambda p: (p.a, p.b))


def texts_of(cohort: Cohort, rows: Sequence[int] | None = None) -> list[str] | None:
    """The notes of record cases, for `find_duplicates`; None where no input is a text."""
    names = [field.name for field in cohort.fields if field.kind == "text"]
    if not names:
        return None
    chosen = range(len(cohort)) if rows is None else rows
    stored = cohort.values.each([cohort.cases[row].index for row in chosen])
    return ["\n".join(values.get(name) or "" for name in names).strip() for values in stored]


def _near(cases: Sequence[Case], thumbs: Shelf, rows: Array, codes: Array, progress: Progress) -> list[Pair]:
    if len(rows) < 2:
        return []
    described, textured = _describe(cases, thumbs, rows)
    rows, described = rows[textured], described[textured]
    if len(rows) < 2:
        return []
    proposed = _propose(described, codes[textured])
    shared = shared_patterns(_read(cases, thumbs, rows[:: -(-len(rows) // _SAMPLE)]))
    found: list[Pair] = []
    blocks = range(0, len(proposed), _CHUNK)
    for at in progress.track(blocks, "comparing alike pictures") if len(blocks) > 1 else blocks:
        chunk = proposed[at : at + _CHUNK]
        firsts, seconds = rows[chunk[:, 0]], rows[chunk[:, 1]]
        differ = np.asarray([cases[i].pixels != cases[j].pixels for i, j in zip(firsts, seconds, strict=True)], bool)
        firsts, seconds = firsts[differ], seconds[differ]
        likeness, own = agreement(_read(cases, thumbs, firsts), _read(cases, thumbs, seconds), shared)
        same = likeness >= SAME_ALONE if shared is None else (likeness >= SAME_PICTURE) & (own >= SAME_OWN)
        for i in np.flatnonzero(same):
            a, b = sorted((int(firsts[i]), int(seconds[i])))
            found.append(Pair(a, b, "near-duplicate", round(float(min(likeness[i], 1.0)), 4)))
    return found


def _read(cases: Sequence[Case], thumbs: Shelf, rows: Array) -> Array:
    return band_pass(thumbs.take([cases[row].index for row in rows])[:, 0])


def _describe(cases: Sequence[Case], thumbs: Shelf, rows: Array) -> tuple[Array, Array]:
    """(N, D) float32 descriptors of unit length, and (N,) bool: is there anything to compare?

    The descriptor is the low cosine spectrum, each frequency weighted so that fine structure counts as much as coarse.
    With enough pictures it is whitened by their own spread, so that what all chest films share no longer counts.
    """
    spectra = np.empty((len(rows), _DESCRIBED**2), np.float32)
    textured = np.empty(len(rows), bool)
    for at in range(0, len(rows), _BLOCK):
        block = slice(at, at + _BLOCK)
        images = thumbs.take([cases[row].index for row in rows[block]])[:, 0].astype(np.float32)
        spectra[block] = ((_BASIS @ images @ _BASIS.T) * _WEIGHT).reshape(len(images), -1)
        textured[block] = images.std((1, 2)) > _TEXTURE
    spectra /= np.maximum(np.linalg.norm(spectra, axis=1, keepdims=True), 1e-6)
    if textured.sum() >= _WHITEN_FROM:
        centre = spectra[textured].mean(0)
        values, vectors = np.linalg.eigh(np.cov(spectra[textured].T.astype(np.float64)))
        scale = 1 / np.sqrt(values[-_DIRECTIONS:] + 0.3 * values.mean())
        spectra = (spectra - centre) @ (vectors[:, -_DIRECTIONS:] * scale).astype(np.float32)
        spectra /= np.maximum(np.linalg.norm(spectra, axis=1, keepdims=True), 1e-6)
    return spectra, textured


def _propose(described: Array, codes: Array) -> Array:
    """(P, 2) positions whose descriptors are near: the nearest few of each picture in each part."""
    least = _PROPOSE_WHITENED if described.shape[1] == _DIRECTIONS else _PROPOSE
    found = [np.empty((0, 2), np.int64)]
    for code in np.unique(codes):
        theirs = np.flatnonzero(codes == code)
        count = min(NEIGHBOURS, len(theirs))
        block = max(16, _SIMILARITIES // len(theirs))
        for at in range(0, len(described), block):
            mine = np.arange(at, min(at + block, len(described)))
            near = described[mine] @ described[theirs].T
            near[mine[:, None] == theirs] = -1
            best = np.argpartition(near, len(theirs) - count, axis=1)[:, len(theirs) - count :]
            keep = np.take_along_axis(near, best, axis=1).ravel() >= least
            i, j = np.repeat(mine, count)[keep], theirs[best.ravel()[keep]]
            found.append(np.stack([np.minimum(i, j), np.maximum(i, j)], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _grouped(cases: Sequence[Case], key: Callable[[Case], Hashable]) -> list[list[int]]:
    together: dict[Hashable, list[int]] = defaultdict(list)
    for i, case in enumerate(cases):
        together[key(case)].append(i)
    return [group for group in together.values() if len(group) > 1]
