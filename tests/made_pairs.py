"""Drugs and proteins that nobody measured: a pair binds where the drug holds a nitrogen ring and the protein a motif.

folder = write_pairs(tmp_path / "data")           # pairs.csv and dataset.yaml
"""

import csv
import random
from pathlib import Path

DRUGS = tuple(ring.format(end) for ring in ("c1ccncc1{}", "C1CCCCC1{}") for end in
              ("C", "CC", "O", "CO", "CCl", "CF", "C#N", "OC", "C(=O)O", "CN(C)C", "CCC", "CCO"))  # fmt: skip
MOTIF = "WHDFGW"
_PLAIN = "ACEIKLMNPQRSTVY"


def proteins(count: int, length: int = 60, seed: int = 0) -> list[tuple[str, int | None]]:
    """(sequence, where the motif begins from 0; None: it has none)."""
    draw = random.Random(seed)
    found: list[tuple[str, int | None]] = []
    for i in range(count):
        sequence = "".join(draw.choice(_PLAIN) for _ in range(length + draw.randrange(20)))
        place = draw.randrange(5, length - 10) if i % 2 else None
        if place is not None:
            sequence = sequence[:place] + MOTIF + sequence[place + len(MOTIF) :]
        found.append((sequence, place))
    return found


def affinity(smiles: str, place: int | None) -> float:
    return 5.0 + 2.0 * ("n" in smiles) * (place is not None)


def write_pairs(folder: Path, targets: int = 16, more: str = "", residues: str = "") -> Path:
    folder.mkdir()
    noise = random.Random(1)
    with open(folder / "pairs.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["drug", "target", "smiles", "sequence", "pkd"])
        for i, smiles in enumerate(DRUGS):
            for j, (sequence, place) in enumerate(proteins(targets)):
                pkd = affinity(smiles, place) + noise.gauss(0, 0.1)
                out.writerow([f"d{i}", f"t{j}", smiles, sequence, f"{pkd:.3f}"])
    (folder / "dataset.yaml").write_text(
        "name: pairs\ntable: pairs.csv\nindependent: true\nsynthetic: a planted motif\npublic: true\n" + more
        + f"inputs: {{smiles: {{kind: molecule}}, sequence: {{kind: protein{residues}}}}}\n"
        + "target: {column: pkd, kind: number}\n"
    )  # fmt: skip
    return folder
