"""Which stretches of a protein the answer rests on: hide one at a time and see how far the logit falls.

    cut  = stretches(900)                                  # [(0, 12), (12, 24), ...]: residues, from 0
    heat = residues(score, record, block, column=0)        # (len(cut),) falls of the logit
    png  = render_sequence("MKTAY...", per_residue)        # the letters in lines, red raises, blue lowers

A hidden residue becomes the letter that is not told, which the encoder met while training, so that the sequence keeps
its length and everything else its place. Two widths are used, as for waveforms: a motif and a domain are both found.
Source: Zeiler and Fergus, ECCV 2014 (occlusion), here along a sequence.
"""

import io
from collections.abc import Callable

import numpy as np

from medserve.data.fields import Block
from medserve.types import Array

Score = Callable[[Array], Array]  # (B, F) float32 records -> (B, K) logits
SHORTEST, MOST_STRETCHES = 4, 80  # residues of a stretch, at least; stretches of a sequence, at most
WIDTHS = (1, 3)  # of what is hidden, in stretches
BATCH = 64
PER_LINE = 60
_CELL, _LINE, _MARGIN = 14, 22, 64  # pixels
_RAISES, _LOWERS = (214, 96, 77), (67, 147, 195)  # Brewer's red and blue, safe for the colour-blind


def stretches(count: int) -> list[tuple[int, int]]:
    """[(first, after last)] that cover a sequence of `count` residues."""
    cells = int(np.clip(count // SHORTEST, 1, MOST_STRETCHES))
    edges = np.linspace(0, count, cells + 1).round().astype(int)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def residues(score: Score, record: Array, block: Block, column: int) -> Array:
    """(stretches,) float32, in logits: what the score loses without each; positive: it raised the score.

    Args:
        record: (F,) of one case whose protein is there. column: of the logits.
    """
    start = block.start + 1
    count = int(np.isfinite(record[start : block.start + block.size]).sum())
    cut = stretches(count)
    jobs = [(max(0, at), min(len(cut), at + width), width) for width in WIDTHS for at in range(1 - width, len(cut))]
    rows = np.repeat(np.asarray(record, np.float32)[None], 1 + len(jobs), axis=0)
    for row, (first, last, _) in zip(rows[1:], jobs, strict=True):
        row[start + cut[first][0] : start + cut[last - 1][1]] = 0
    parts = [np.asarray(score(rows[i : i + BATCH]), np.float64)[:, column] for i in range(0, len(rows), BATCH)]
    logits = np.concatenate(parts)
    total = np.zeros(len(cut))
    for fall, (first, last, width) in zip(logits[0] - logits[1:], jobs, strict=True):
        total[first:last] += fall / width  # every stretch lies in `width` hidden ones of this width
    return (total / len(WIDTHS)).astype(np.float32)


def render_sequence(letters: str, weights: Array) -> bytes:
    """PNG: the sequence in lines of 60 with the number of the first residue, each letter on its weight's colour.

    Args:
        weights: (len(letters),); shades are shares of the largest size.
    """
    from PIL import Image, ImageDraw, ImageFont

    lines = -(-len(letters) // PER_LINE)
    image = Image.new("RGB", (_MARGIN + PER_LINE * _CELL + 8, max(1, lines) * _LINE + 8), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    most = float(np.abs(weights).max(initial=0.0)) or 1.0
    for i, (letter, weight) in enumerate(zip(letters, weights.tolist(), strict=True)):
        x, y = _MARGIN + i % PER_LINE * _CELL, 4 + i // PER_LINE * _LINE
        if i % PER_LINE == 0:
            draw.text((6, y + 2), str(i + 1), fill=(110, 110, 110), font=font)
        share, full = abs(weight) / most, _RAISES if weight >= 0 else _LOWERS
        shade = tuple(round(255 + (c - 255) * share) for c in full)
        draw.rectangle((x, y, x + _CELL - 1, y + _LINE - 4), fill=shade)
        draw.text((x + _CELL / 2, y + 2), letter, fill="black", font=font, anchor="ma")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
