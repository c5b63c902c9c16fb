"""The most alike of some known molecules, and a choice of molecules that are unlike each other.

    known = Nearest(["CCO", "c1ccccc1O"])
    known(fingerprint("CCCO"))                      # (0.44, 0): Tanimoto similarity, and which one it is
    unlike(prints, 20)                              # [0, 17, 4, ...]: the first, then ever the one furthest from all
    apart(prints, 20, alike=0.6)                    # the first, then ever the next that is no neighbour of those taken

Sources: Tanimoto similarity of circular fragments, Rogers and Hahn 2010; MaxMin, Ashton et al., Quant Struct-Act Relat
21:598 (2002); sphere exclusion, Hudson et al., Quant Struct-Act Relat 15:285 (1996).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medserve.data.molecules.describe import fingerprint

MOST_KNOWN = 50_000  # of known molecules; each molecule of a library is compared with all of them


class Nearest:
    """smiles: of known molecules, in their standard form; at least one."""

    def __init__(self, smiles: Sequence[str]) -> None:
        self._prints = [fingerprint(one) for one in smiles]

    def __call__(self, print: Any) -> tuple[float, int]:
        """(similarity, index); the first of several that are as alike. print: RDKit's bit vector."""
        from rdkit import DataStructs

        found = np.asarray(DataStructs.BulkTanimotoSimilarity(print, self._prints))
        best = int(found.argmax())
        return float(found[best]), best


def unlike(prints: Sequence[Any], count: int) -> list[int]:
    """MaxMin: the first, then ever the molecule whose nearest one among those taken is furthest away."""
    from rdkit import DataStructs

    left = np.ones(len(prints))  # distance to the nearest of those taken
    taken: list[int] = []
    at = 0
    while prints and len(taken) < min(count, len(prints)):
        taken.append(at)
        left = np.minimum(left, 1 - np.asarray(DataStructs.BulkTanimotoSimilarity(prints[at], prints)))
        left[taken] = -1.0
        at = int(left.argmax())
    return taken


def apart(prints: Sequence[Any], count: int, *, alike: float = 0.6) -> list[int]:
    """Sphere exclusion: in the given order, each that is less alike than `alike` to all that were taken."""
    from rdkit import DataStructs

    taken: list[int] = []
    for at, one in enumerate(prints):
        if len(taken) == count:
            break
        if not taken or max(DataStructs.BulkTanimotoSimilarity(one, [prints[i] for i in taken])) < alike:
            taken.append(at)
    return taken
