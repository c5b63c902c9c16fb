"""Which molecules of a cohort are of one family, for splits that ask about new chemistry.

families(["CCO", None, "c1ccccc1O"], "scaffold")       # ("", "unknown", "c1ccccc1")
"""

from collections.abc import Sequence

from medserve.data.molecules.scaffolds import MOST_CLUSTERED, clusters, scaffold
from medserve.errors import BadData

FAMILIES = ("scaffold", "cluster")


def families(smiles: Sequence[str | None], by: str) -> tuple[str, ...]:
    """A name for each molecule's family; those without a molecule are one of their own.

    Raises: BadData "split-too-large": too many molecules to cluster.
    """
    if by == "scaffold":
        return tuple("unknown" if one is None else scaffold(one) for one in smiles)
    if len(smiles) > MOST_CLUSTERED:
        raise BadData(
            "split-too-large", f"{len(smiles)} molecules cannot be clustered; at most {MOST_CLUSTERED}.",
            hint="Write `split: {by: scaffold}`, or name a column of parts.",
        )  # fmt: skip
    there = [i for i, one in enumerate(smiles) if one is not None]
    found = ["unknown"] * len(smiles)
    for i, number in zip(there, clusters([str(smiles[i]) for i in there]).tolist(), strict=True):
        found[i] = str(number)
    return tuple(found)
