"""What simple models see of a molecule: how often each circular fragment is there, and named physical descriptors.

    row = describe("CCO")             # (2048 + D,) float32
    descriptor_names()                # ("MaxAbsEStateIndex", ..., "MolLogP", ...)

Fragments are Morgan environments of radius 2, counted and folded into `BITS` places. Descriptors are RDKit's list;
those that overflow or depend on the order of atoms are left out.
Source: Rogers and Hahn, J Chem Inf Model 50:742 (2010).
"""

from functools import cache
from typing import Any

import numpy as np

from medserve.data.molecules.standard import chemistry
from medserve.types import Array

BITS, RADIUS = 2048, 2
_LEFT_OUT = {"Ipc", "AvgIpc", "SPS"}
LARGEST = 1e6


@cache
def _descriptors() -> tuple[tuple[str, Any], ...]:
    chemistry()
    from rdkit.Chem import Descriptors

    return tuple((name, work) for name, work in Descriptors.descList if name not in _LEFT_OUT)


def descriptor_names() -> tuple[str, ...]:
    return tuple(name for name, _ in _descriptors())


@cache
def morgan() -> Any:
    chemistry()
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS, includeChirality=True)


def describe(smiles: str) -> Array:
    """(BITS + D,) float32: counts, then descriptors, NaN where one cannot be computed. smiles: of a standard form."""
    return describe_mol(chemistry().MolFromSmiles(smiles))


def count_fragments(smiles: str) -> Array:
    """(BITS,) float32: the first part of `describe`, in a tenth of its time."""
    counts: Array = morgan().GetCountFingerprintAsNumPy(chemistry().MolFromSmiles(smiles)).astype(np.float32)
    return counts


def describe_mol(mol: Any) -> Array:
    counts = morgan().GetCountFingerprintAsNumPy(mol).astype(np.float32)
    return np.concatenate([counts, descriptors_of(mol)])


def descriptors_of(mol: Any) -> Array:
    found = np.empty(len(_descriptors()), np.float32)
    for i, (_, work) in enumerate(_descriptors()):
        try:
            value = float(work(mol))
        except (ValueError, ZeroDivisionError, RuntimeError, OverflowError):
            value = np.nan
        found[i] = value if abs(value) <= LARGEST else np.nan
    return found


def fingerprint(smiles: str) -> Any:
    """RDKit's bit vector, for similarities."""
    return morgan().GetFingerprint(chemistry().MolFromSmiles(smiles))
