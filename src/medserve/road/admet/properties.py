"""What follows from the structure alone: eleven properties, as ADMET-AI computes them with RDKit.

    properties(mol)         # (11,) float64, in the order of the first endpoints

Sources: Lipinski et al. 2001; QED, Bickerton et al., Nat Chem 4:90 (2012); PAINS, Baell and Holloway 2010; Brenk et al.
2008; NIH, Jadhav et al. 2010: alerts are counted by the catalogues that come with RDKit.
"""

from functools import cache
from typing import Any

import numpy as np

from medserve.data.molecules.standard import chemistry
from medserve.types import Array

ALERTS = ("PAINS", "BRENK", "NIH")


def properties(mol: Any) -> Array:
    """mol: RDKit's, sanitised."""
    from rdkit.Chem import QED, Descriptors
    from rdkit.Chem.rdMolDescriptors import CalcNumAtomStereoCenters, CalcNumHBA, CalcNumHBD, CalcTPSA

    ask: Any = Descriptors
    known = QED.properties(mol)  # among them logP, which is not computed twice
    weight, fat, takes, gives = ask.MolWt(mol), known.ALOGP, CalcNumHBA(mol), CalcNumHBD(mol)
    holds = (weight <= 500) + (fat <= 5) + (takes <= 10) + (gives <= 5)
    like, centres = QED.qed(mol, qedProperties=known), CalcNumAtomStereoCenters(mol)
    alerts = [len(catalogue.GetMatches(mol)) for catalogue in _catalogues()]
    return np.array([weight, fat, takes, gives, holds, like, centres, CalcTPSA(mol), *alerts], np.float64)


@cache
def _catalogues() -> tuple[Any, ...]:
    chemistry()
    from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

    made = []
    for name in ALERTS:
        wanted = FilterCatalogParams()
        wanted.AddCatalog(getattr(FilterCatalogParams.FilterCatalogs, name))
        made.append(FilterCatalog(wanted))
    return tuple(made)
