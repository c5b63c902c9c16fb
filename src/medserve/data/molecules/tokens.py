"""Where the atoms stand in a SMILES.

    atom_spans("CC(=O)Cl")         # [(0, 1), (1, 2), (4, 5), (6, 8)]

Source: the pattern of Schwaller et al., Chem Sci 9:6091 (2018).
"""

import re

_TOKEN = re.compile(
    r"(\[[^\]]+\]|Br|Cl|Si|Se|se|As|as|@@|@|%\d{2}|B|C|N|O|P|S|F|I|b|c|n|o|p|s|\(|\)|\.|=|#|-|\+|\\|/|:|~|\*|\$|\d)"
)


def atom_spans(smiles: str) -> list[tuple[int, int]]:
    """Of each atom, in the order of RDKit's numbering of a canonical SMILES: its letters."""
    return [m.span() for m in _TOKEN.finditer(smiles) if m[0][0] == "[" or m[0][0].isalpha()]
