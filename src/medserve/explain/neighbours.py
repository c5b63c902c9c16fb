"""The training molecules that one is most like, drawn beside it with their labels.

drawn = draw_beside("CCO", [("CCCO", "0.62 mol/L", 0.5)])         # SVG; png=True for a PNG
"""

from collections.abc import Sequence
from typing import Any

from medserve.data.molecules.standard import chemistry

SHOWN = 5
WIDTH, HEIGHT = 260, 220  # pixels of one structure
MOST_SAID = 32  # letters of a label under a structure


def draw_beside(smiles: str, found: Sequence[tuple[str, str, float]], *, png: bool = False) -> bytes:
    """Args: found: SMILES, label, similarity of each."""
    chem = chemistry()
    from rdkit.Chem.Draw import rdMolDraw2D

    said = ["asked", *(f"{label[:MOST_SAID]} ({alike:.2f})" for _, label, alike in found)]
    mols = [chem.MolFromSmiles(one) for one in (smiles, *(one for one, *_ in found))]
    across = min(3, len(mols))
    down = -(-len(mols) // across)
    kind: Any = rdMolDraw2D.MolDraw2DCairo if png else rdMolDraw2D.MolDraw2DSVG
    made = kind(across * WIDTH, down * HEIGHT, WIDTH, HEIGHT)
    made.drawOptions().padding = 0.1  # else a long chain reaches into the words below
    made.DrawMolecules(mols, legends=said)
    made.FinishDrawing()
    text = made.GetDrawingText()
    return bytes(text) if png else str(text).encode()
