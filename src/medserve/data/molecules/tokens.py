"""A SMILES as words: atoms, bonds, rings and branches, one token each.

tokens("CC(=O)Cl")         # ["C", "C", "(", "=", "O", ")", "Cl"]

Source: the pattern of Schwaller et al., Chem Sci 9:6091 (2018).
"""

import re

_TOKEN = re.compile(
    r"(\[[^\]]+\]|Br|Cl|Si|Se|se|As|as|@@|@|%\d{2}|B|C|N|O|P|S|F|I|b|c|n|o|p|s|\(|\)|\.|=|#|-|\+|\\|/|:|~|\*|\$|\d)"
)


def tokens(smiles: str) -> list[str]:
    return _TOKEN.findall(smiles)


def is_atom(token: str) -> bool:
    return token[0] == "[" or token[0].isalpha()
