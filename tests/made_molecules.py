"""Molecules that nobody measured: rings, linkers and ends joined in every way, with a label that chemistry decides.

rows = molecules(300)              # [("CCOc1ccccc1", False), ...]: whether it holds a nitro group
"""

import itertools
import random
from pathlib import Path

RINGS = ("c1ccccc1{}", "c1ccncc1{}", "C1CCCCC1{}", "c1ccsc1{}", "C1CCNCC1{}", "c1ccc2ccccc2c1{}", "C1CCOC1{}")
LINKS = ("", "C", "CC", "O", "CO", "NC(=O)", "C(=O)N", "S(=O)(=O)", "CCC")
ENDS = ("", "C", "O", "N", "Cl", "F", "C#N", "C(F)(F)F", "OC", "C(=O)O", "CN(C)C", "C1CC1", "C[N+](=O)[O-]")


def molecules(count: int, seed: int = 0) -> list[tuple[str, bool]]:
    every = [r.format(k + e) for r, k, e in itertools.product(RINGS, LINKS, ENDS) if k + e]
    random.Random(seed).shuffle(every)
    plain = [(s, False) for s in every if "[N+]" not in s]
    toxic = [(s, True) for s in every if "[N+]" in s]
    share = min(len(toxic), count // 3)
    rows = toxic[:share] + plain[: count - share]
    random.Random(seed + 1).shuffle(rows)
    return rows


def write_cohort(folder: Path, count: int = 240, split: str = "", *, public: bool = True) -> Path:
    folder.mkdir()
    lines = [f"{smiles},{'toxic' if toxic else 'clean'}" for smiles, toxic in molecules(count)]
    (folder / "m.csv").write_text("smiles,label\n" + "\n".join(lines) + "\n")
    (folder / "dataset.yaml").write_text(
        f"name: made\ntable: m.csv\nindependent: true\nsynthetic: enumerated\npublic: {str(public).lower()}\n" + split
        + "inputs: {smiles: {kind: molecule}}\ntarget: {column: label, kind: binary, classes: [clean, toxic]}\n"
    )  # fmt: skip
    return folder
