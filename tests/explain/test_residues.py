"""Stretches of a protein: hidden without moving anything else, weighed right, and drawn."""

import io

import numpy as np
from PIL import Image

from medserve.data.fields import Block
from medserve.data.fields.protein import Protein
from medserve.explain.residues import MOST_STRETCHES, render_sequence, residues, stretches

FIELD = Protein("t", 200, True)
BLOCK = Block("t", "protein", 3, FIELD.shape, FIELD.facts)


def test_stretches_cover_every_residue_once():
    """From the first to the last, of like length, at most eighty."""
    for count in (1, 3, 17, 200, 1200):
        cut = stretches(count)
        assert [low for low, _ in cut[1:]] == [high for _, high in cut[:-1]]
        assert cut[0][0] == 0 and cut[-1][1] == count and len(cut) <= MOST_STRETCHES


def test_the_weight_is_what_the_score_loses():
    """A score that counts W: only stretches that hold a W weigh, in proportion, and nothing but letters is hidden."""
    record = np.concatenate([[1.0, 2.0, 3.0], FIELD.encode("A" * 40 + "WWWW" + "A" * 60)]).astype(np.float32)

    def score(rows):
        assert (rows[:, :4] == record[:4]).all() and (np.isfinite(rows) == np.isfinite(record)).all()
        return (rows[:, 4:] == 23).sum(1, keepdims=True).astype(float)

    heat = residues(score, record, BLOCK, 0)
    cut = stretches(104)
    inside = np.array([low < 44 and high > 40 for low, high in cut])
    near = np.convolve(inside, np.ones(5), "same") > 0  # a wide stretch reaches two further
    assert heat[inside].min() > heat[~inside].max() and (heat[~near] == 0).all()


def test_the_picture_shades_what_raises_and_what_lowers():
    """Red where the weight is above 0, blue below, white at 0; a line of sixty residues each."""
    image = Image.open(io.BytesIO(render_sequence("A" * 130, np.r_[[1.0, -1.0], np.zeros(128)])))
    first, second, third = (image.getpixel((64 + 14 * i + 1, 6)) for i in range(3))
    assert first[0] > first[2] and second[2] > second[0] and third == (255, 255, 255)
    assert image.height == 3 * 22 + 8
