"""What a chemist asks of a molecule that nobody has made: is it drug-like, can it be made, does it raise alerts.

    found = quality("CC(=O)Oc1ccccc1C(=O)O")   # Quality(qed=.55, sa=1.6, weight=180.2, logp=1.3, pains=())
    diversity(smiles)                          # 1 - mean Tanimoto similarity of pairs

Sources: Bickerton et al., Nat Chem 4:90 (2012) (QED); Ertl and Schuffenhauer, J Cheminform 1:8 (2009) (SA score, 1 easy
to 10 hard, by RDKit's contributed script); Baell and Holloway, J Med Chem 53:2719 (2010) (PAINS); Polykovskiy et al.,
Front Pharmacol 11:565644 (2020) (internal diversity).
"""

import gzip
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from medserve.data.molecules.describe import fingerprint
from medserve.data.molecules.standard import chemistry
from medserve.errors import Usage

MOST_PAIRED = 1000  # molecules of which every pair is compared


@dataclass(frozen=True, slots=True)
class Quality:
    """qed: 0 to 1. sa: 1 (easy) to 10. weight: g/mol. logp: Crippen's. pains: names of the alerts."""

    qed: float
    sa: float
    weight: float
    logp: float
    pains: tuple[str, ...]


def quality(smiles: str) -> Quality:
    """smiles: of a standard form."""
    mol = chemistry().MolFromSmiles(smiles)
    from rdkit.Chem import QED, Crippen, Descriptors

    alerts = tuple(entry.GetDescription() for entry in _pains().GetMatches(mol))
    logp, weight = float(Crippen.MolLogP(mol)), float(Descriptors.MolWt(mol))  # type: ignore[attr-defined]
    return Quality(float(QED.qed(mol)), sa_score(mol), weight, logp, alerts)


def sa_score(mol: Any) -> float:
    """Raises: Usage "chemistry-missing": this RDKit was installed without its contributed scripts."""
    return float(_script().calculateScore(mol))


def diversity(smiles: Sequence[str], *, seed: int = 0) -> float | None:
    """1 - mean Tanimoto similarity over pairs, a molecule with itself left out; of at most `MOST_PAIRED` drawn ones."""
    if len(smiles) < 2:
        return None
    from rdkit import DataStructs

    rows = np.random.default_rng(seed).permutation(len(smiles))[:MOST_PAIRED]
    prints = [fingerprint(smiles[i]) for i in sorted(rows.tolist())]
    total = sum(sum(DataStructs.BulkTanimotoSimilarity(one, prints[i + 1 :])) for i, one in enumerate(prints))
    return 1 - float(total) / (len(prints) * (len(prints) - 1) / 2)


@cache
def _pains() -> Any:
    chemistry()
    from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

    params = FilterCatalogParams()
    params.AddCatalog(FilterCatalogParams.FilterCatalogs.PAINS)
    return FilterCatalog(params)


@cache
def _script() -> Any:
    """RDKit's script with its table. The table is a pickle, which is never opened as one: its text is numbers alone."""
    chemistry()
    from rdkit import RDConfig

    folder = Path(RDConfig.RDContribDir) / "SA_Score"
    spec = importlib.util.spec_from_file_location("rdkit_sascorer", folder / "sascorer.py")
    if spec is None or spec.loader is None or not (folder / "fpscores.pkl.gz").is_file():
        raise Usage(
            "chemistry-missing", "The installed RDKit has no SA score.", hint="Install it: pip install rdkit"
        )  # fmt: skip
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    vars(script)["_fscores"] = _table(gzip.decompress((folder / "fpscores.pkl.gz").read_bytes()))
    return script


_NUMBERS = re.compile(rb"(F-?[\d.]+(?:e-?\d+)?|I\d+L?)\n")


def _table(text: bytes) -> dict[int, float]:
    """Fragment -> score, from lists written as text, each a score (F...) and then the fragments (I...) that have it."""
    found: dict[int, float] = {}
    score = 0.0
    for match in _NUMBERS.finditer(text):
        word = match[1]
        if word[:1] == b"F":
            score = float(word[1:])
        else:
            found[int(word[1:].rstrip(b"L"))] = score
    return found
