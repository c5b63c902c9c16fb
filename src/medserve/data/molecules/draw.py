"""The structure of a molecule as a picture.

svg = structure("CC(=O)Oc1ccccc1C(=O)O")
"""

from medserve.data.molecules.standard import chemistry


def structure(smiles: str, width: int = 260, height: int = 170) -> bytes:
    """An SVG of a molecule, nothing shaded. width, height: pixels."""
    chem = chemistry()
    from rdkit.Chem.Draw import rdMolDraw2D

    made = rdMolDraw2D.MolDraw2DSVG(width, height)
    rdMolDraw2D.PrepareAndDrawMolecule(made, chem.MolFromSmiles(smiles))
    made.FinishDrawing()
    return str(made.GetDrawingText()).encode()
