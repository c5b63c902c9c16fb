"""Promises of data/duplicates.py."""

import numpy as np
import pytest
from made_cohorts import CHANGES, fields, make_cohort, recoded

from medserve.data.duplicates import Pair, exact_groups, find_duplicates, perceptual_hash
from medserve.data.phantoms import draw_phantoms


def _bits(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def test_the_hash_survives_what_does_not_change_the_picture():
    """64 bits; a re-encoded or brighter copy differs in at most 10, unrelated pictures in 32 on average."""
    pictures = fields(60)
    codes = [perceptual_hash(p) for p in pictures]
    assert all(0 <= code < 2**64 for code in codes)
    for change in ("recoded", "resized", "brighter"):
        assert max(_bits(c, perceptual_hash(CHANGES[change](p))) for c, p in zip(codes, pictures, strict=True)) <= 10
    apart = [_bits(a, b) for i, a in enumerate(codes) for b in codes[i + 1 :]]
    assert np.mean(apart) == pytest.approx(32, abs=2) and min(apart) > 10


@pytest.mark.parametrize("count", [40, 320])
def test_changed_copies_are_found_and_nothing_else(tmp_path, count):
    """Of each kind of copy at least 95 % are found; no unrelated pair is named, in small sets and in larger ones."""
    originals = fields(count)
    pictures, truth = list(originals), {}
    for i, (name, change) in enumerate(CHANGES.items()):
        for row in range(10 * i, 10 * i + 10):
            truth[row, len(pictures)] = name
            pictures.append(change(originals[row]))
    cohort = make_cohort(tmp_path, [0] * len(pictures), pictures=pictures)
    found = {(p.a, p.b) for p in find_duplicates(cohort.cases, cohort.thumbs)}
    for name in CHANGES:
        wanted = {pair for pair, kind in truth.items() if kind == name}
        assert len(found & wanted) >= 0.95 * len(wanted), name
    assert found <= set(truth)


def test_exact_repeats_are_told_by_bytes_and_by_pixels(tmp_path):
    """The same file twice is "bytes"; the same pixels in another file are "pixels"; both at similarity 1."""
    a, b, c = fields(3)
    cohort = make_cohort(
        tmp_path, [0] * 5, pictures=[a, b, a, c, b], sources=[b"a.png", b"b.png", b"a.png", b"c.png", b"b.tif"]
    )
    assert find_duplicates(cohort.cases, cohort.thumbs) == [Pair(0, 2, "bytes", 1.0), Pair(1, 4, "pixels", 1.0)]
    assert exact_groups(cohort.cases) == [[0, 2], [1, 4]]


def test_repeats_in_its_own_part_do_not_hide_a_leak(tmp_path):
    """Nine near copies in train and one in test: the pair across parts is among those found."""
    rng = np.random.default_rng(3)
    first = fields(1)[0]
    burst = [np.clip(first + rng.normal(0, 2, first.shape), 0, 255).astype(np.uint8) for _ in range(9)]
    pictures = [*burst, recoded(recoded(first)), *fields(60, seed=5)]
    parts = ["train"] * 9 + ["test"] + ["train"] * 60
    cohort = make_cohort(tmp_path, [0] * len(pictures), pictures=pictures)
    pairs = find_duplicates(cohort.cases, cohort.thumbs, parts=parts)
    assert {p.a for p in pairs if p.b == 9} == set(range(9))


def test_films_of_one_anatomy_are_no_copies(tmp_path):
    """400 films that share an anatomy and differ in their own structure: at most 0.1 % false pairs, copies found."""
    anatomy = fields(1, seed=9)[0].astype(float)
    films = [np.clip(anatomy + 0.12 * (f - 128.0), 0, 255).astype(np.uint8) for f in fields(400, seed=2)]
    cohort = make_cohort(tmp_path, [0] * 420, pictures=[*films, *(recoded(film) for film in films[:20])])
    found = {(p.a, p.b) for p in find_duplicates(cohort.cases, cohort.thumbs)}
    copies = {(i, 400 + i) for i in range(20)}
    assert len(found & copies) >= 19 and not found - copies


def test_generated_films_of_different_patients_are_no_copies(tmp_path):
    """Drawn chest phantoms share body, ribs and lungs almost exactly: still not one false pair among 300 patients."""
    films = {film.patient: film for film in draw_phantoms(600, size=64, seed=3)}
    pictures = [np.clip(film.stored / 16, 0, 255).astype(np.uint8) for film in films.values()][:300]
    cohort = make_cohort(tmp_path, [0] * len(pictures), pictures=pictures)
    assert len(pictures) > 250 and find_duplicates(cohort.cases, cohort.thumbs) == []


def test_blank_and_flat_pictures_are_not_compared(tmp_path):
    """Nearly black pictures are near to everything and to nothing: they make no near-duplicates."""
    rng = np.random.default_rng(0)
    flat = [rng.integers(0, 2, (64, 64)).astype(np.uint8) for _ in range(20)]
    blank = [np.full((64, 64), level, np.uint8) for level in (0, 3)]
    cohort = make_cohort(tmp_path, [0] * 22, pictures=[*flat, *blank])
    assert find_duplicates(cohort.cases, cohort.thumbs) == []
