"""What is wrong with a text that is no molecule, and where: RDKit says only that it cannot be read.

    what_is_wrong("c1ccccc")         # "ring 1 is opened at character 2 and never closed"
    what_is_wrong("CC(C")            # "the parenthesis at character 3 is never closed"

Places count from 1. It is asked of refused texts alone, and decides nothing.
Source: OpenSMILES specification 1.0, sections 3 (grammar) and 3.4 (ring closures).
"""

import re

_FOREIGN = re.compile(r"[^!-}]|[~{}|!\"',;<>?^_`&]")
_PIECES = re.compile(r"\[[^\[\]]*\]|Br|Cl|[BCNOPSFIbcnops*]|%\d\d|%\(\d{1,5}\)|\d|[-=#$:/\\().]|->|<-")
_RING = re.compile(r"%\d\d|%\(\d{1,5}\)|\d")


def foreign(text: str) -> int | None:
    """Where the first letter stands that no SMILES holds; dative arrows (-> and <-) are RDKit's own."""
    found = _FOREIGN.search(text.replace("->", "--").replace("<-", "--"))
    return None if found is None else found.start()


def what_is_wrong(text: str) -> str:
    """Of a SMILES, an InChI, a mol block or a Mol2 block that cannot be read."""
    if text.lstrip().startswith("@<TRIPOS>"):
        return "the Mol2 block cannot be read"
    if "\n" in text.strip():
        if "M  END" not in text:
            return "the mol block is torn: it has no line 'M  END'"
        return "the mol block cannot be read: its counts line or one of its atoms or bonds is wrong"
    if text.startswith("InChI="):
        return "the InChI cannot be read"
    at = foreign(text)
    if at is not None:
        return f"{_told(text, at)} belongs to no SMILES"
    return _smiles(text) or "a bond, a ring or the inside of a bracket is not written as in a SMILES"


def _smiles(text: str) -> str:
    """Nothing where no simple rule is broken."""
    opened: list[int] = []
    rings: dict[str, int] = {}
    at = 0
    while at < len(text):
        piece = _PIECES.match(text, at)
        if piece is None:
            if text[at] == "[":
                return f"the bracket at character {at + 1} is never closed"
            return f"{_told(text, at)} is no atom, bond or ring of a SMILES"
        word = piece[0]
        if word == "(":
            opened.append(at)
        elif word == ")":
            if not opened:
                return f"the parenthesis at character {at + 1} was never opened"
            opened.pop()
        elif _RING.fullmatch(word):
            number = word.strip("%()").lstrip("0") or "0"
            if rings.pop(number, None) is None:
                rings[number] = at
        at = piece.end()
    if opened:
        return f"the parenthesis at character {opened[-1] + 1} is never closed"
    if rings:
        number, start = next(iter(rings.items()))
        return f"ring {number} is opened at character {start + 1} and never closed"
    return ""


def _told(text: str, at: int) -> str:
    letter = text[at]
    shown = repr(letter) if letter.isprintable() and letter.isascii() else f"U+{ord(letter):04X}"
    return f"character {at + 1} ({shown})"
