"""Which places of a picture within a record an answer rests on: occlusion, told in cells and drawn over the picture.

    heat  = film_heat(score, record, block, column=0)        # (H, W), in logits
    cells = film_cells(heat, block)                          # [("rows 1 to 4, columns 9 to 12", weight, places), ...]
    away  = film_hidden(record, block)                       # the record with the whole picture blurred

The rest of the record stays as it is, so the map says what the picture adds to this case's other inputs.
"""

from collections.abc import Callable

import numpy as np

from medserve.data.fields import Block
from medserve.explain.maps import blurred
from medserve.explain.occlusion import occlusion
from medserve.types import Array

Score = Callable[[Array], Array]  # (B, F) records -> (B, K) logits
CELLS = 7  # a side, at most


def film_levels(record: Array, block: Block) -> Array:
    """(C, H, W) uint8, what the field prepared."""
    unit = record[block.start : block.start + block.size].reshape(block.shape)
    return np.rint(np.nan_to_num(unit) * 255).astype(np.uint8)


def film_hidden(record: Array, block: Block) -> Array:
    """(F,) the record with its picture blurred, as a hidden patch is."""
    out = np.array(record, np.float32)
    out[block.start : block.start + block.size] = blurred(film_levels(record, block)[None]).ravel() / np.float32(255)
    return out


def film_heat(score: Score, record: Array, block: Block, column: int) -> Array:
    """(H, W) float32: the fall of one logit when the place is blurred; see `occlusion`."""

    def of_films(films: Array) -> Array:
        rows = np.repeat(record[None].astype(np.float32), len(films), axis=0)
        rows[:, block.start : block.start + block.size] = films.reshape(len(films), -1) / np.float32(255)
        return score(rows)

    return np.asarray(occlusion(of_films, film_levels(record, block)[None], np.array([column]))[0])


def film_cells(heat: Array, block: Block) -> list[tuple[str, float, Array]]:
    """Equal cells that cover the picture: (where, mean of the map, its columns of the record in all channels)."""
    _, height, width = block.shape
    places = np.arange(block.size).reshape(block.shape) + block.start
    down, across = (np.linspace(0, side, min(CELLS, side) + 1).round().astype(int) for side in (height, width))
    found = []
    for top, bottom in zip(down[:-1], down[1:], strict=True):
        for left, right in zip(across[:-1], across[1:], strict=True):
            said = f"rows {top + 1} to {bottom}, columns {left + 1} to {right}"
            cell = places[:, top:bottom, left:right].ravel()
            found.append((said, float(heat[top:bottom, left:right].mean()), cell))
    return found
