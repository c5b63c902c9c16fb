"""What each atom of a molecule moved, drawn on its structure.

svg = draw(smiles, weights)          # weights: (V,), falls of the logit; red raises, blue lowers
"""

from typing import Any

import numpy as np

from medserve.data.molecules.standard import chemistry
from medserve.types import Array

WIDTH, HEIGHT = 520, 360  # pixels


def draw(smiles: str, weights: Array, *, png: bool = False) -> bytes:
    """An SVG of the structure, its atoms and bonds shaded by weight; or a PNG."""
    chem = chemistry()
    from rdkit.Chem.Draw import rdMolDraw2D

    mol = chem.MolFromSmiles(smiles)
    most = float(np.abs(weights).max()) or 1.0
    colours = {i: _colour(float(w) / most) for i, w in enumerate(weights)}
    bonds = {}
    for bond in mol.GetBonds():
        two = weights[bond.GetBeginAtomIdx()] + weights[bond.GetEndAtomIdx()]
        bonds[bond.GetIdx()] = _colour(float(two) / 2 / most)
    made: Any = (rdMolDraw2D.MolDraw2DCairo if png else rdMolDraw2D.MolDraw2DSVG)(WIDTH, HEIGHT)
    made.drawOptions().useBWAtomPalette()
    made.drawOptions().highlightBondWidthMultiplier = 12
    rdMolDraw2D.PrepareAndDrawMolecule(
        made, mol, highlightAtoms=list(colours), highlightAtomColors=colours, highlightBonds=list(bonds),
        highlightBondColors=bonds,
    )  # fmt: skip
    made.FinishDrawing()
    text = made.GetDrawingText()
    return bytes(text) if png else str(text).encode()


def _colour(share: float) -> tuple[float, float, float]:
    """White at 0, red at 1, blue at -1."""
    s = min(1.0, abs(share))
    return (1.0, 1 - 0.75 * s, 1 - 0.75 * s) if share >= 0 else (1 - 0.75 * s, 1 - 0.6 * s, 1.0)
