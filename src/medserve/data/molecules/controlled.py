"""Substances that nobody is helped to make: families of chemical weapons and well-known scheduled drugs.

    named = controlled("CCO")            # None, or the name of what it is, or is a close analogue of

Chemical weapons are told by their families, as the treaty defines them; scheduled drugs by the Tanimoto similarity of
Morgan fragments (radius 2, 2048 bits, without stereochemistry), `CLOSE` or more. The list is short and public: it stops
carelessness, not intent, and a site adds its own by `medserve generate --bar FILE`.

Sources: Chemical Weapons Convention, Annex on Chemicals, Schedule 1 A; International Narcotics Control Board, Yellow
List (Single Convention, 1961) and Green List (Convention on Psychotropic Substances, 1971).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from medserve.data.molecules.standard import chemistry

CLOSE = 0.7
# Families of Schedule 1 A, each as a pattern of the bonds that define it.
_FAMILIES = {
    "organophosphorus fluorides": "P(=[O,S])F",
    "phosphoramidocyanidates": "[NX3]P(=O)C#N",
    "aminoethyl phosphonothiolates": "[#6]P(=O)(O)SCC[NX3]",
    "sulfur mustards": "[Cl][CH2][CH2][SX2][CH2]",
    "nitrogen mustards": "[Cl]CCN(CC[Cl])[$([CH3]),$([CH2][CH3]),$([CH2][CH2][Cl])]",
    "lewisites": "[Cl][CH]=[CH][As]",
}
_SCHEDULED = {
    "fentanyl": "CCC(=O)N(c1ccccc1)C1CCN(CCc2ccccc2)CC1",
    "acetylfentanyl": "CC(=O)N(c1ccccc1)C1CCN(CCc2ccccc2)CC1",
    "butyrfentanyl": "CCCC(=O)N(c1ccccc1)C1CCN(CCc2ccccc2)CC1",
    "furanylfentanyl": "O=C(c1ccco1)N(c1ccccc1)C1CCN(CCc2ccccc2)CC1",
    "carfentanil": "CCC(=O)N(c1ccccc1)C1(C(=O)OC)CCN(CCc2ccccc2)CC1",
    "sufentanil": "CCC(=O)N(c1ccccc1)C1(COC)CCN(CCc2cccs2)CC1",
    "remifentanil": "CCC(=O)N(c1ccccc1)C1(C(=O)OC)CCN(CCC(=O)OC)CC1",
    "etonitazene": "CCOc1ccc(Cc2nc3cc([N+](=O)[O-])ccc3n2CCN(CC)CC)cc1",
    "isotonitazene": "CC(C)Oc1ccc(Cc2nc3cc([N+](=O)[O-])ccc3n2CCN(CC)CC)cc1",
    "heroin": "CC(=O)Oc1ccc2c3c1OC1C(OC(C)=O)C=CC4C(C2)N(C)CCC314",
    "U-47700": "CN(C)C1CCCCC1N(C)C(=O)c1ccc(Cl)c(Cl)c1",
    "morphine": "CN1CCC23C4C1Cc1ccc(O)c(c12)OC3C(O)C=C4",
    "amphetamine": "CC(N)Cc1ccccc1",
    "methamphetamine": "CNC(C)Cc1ccccc1",
    "MDMA": "CNC(C)Cc1ccc2OCOc2c1",
    "mephedrone": "CNC(C)C(=O)c1ccc(C)cc1",
    "phencyclidine": "C1CCC(CC1)(c1ccccc1)N1CCCCC1",
    "LSD": "CCN(CC)C(=O)C1CN(C)C2Cc3c[nH]c4cccc(c34)C2=C1",
    "cocaine": "COC(=O)C1C(OC(=O)c2ccccc2)CC2CCC1N2C",
}


def controlled(smiles: str, *, more: Sequence[str] = (), close: float = CLOSE) -> str | None:
    """The family or substance that a molecule belongs to or is a close analogue of; None for every other one.

    Args:
        smiles: of a standard form. more: SMILES that a site bars beside the list.
    """
    mol = chemistry().MolFromSmiles(smiles)
    for name, pattern in _patterns():
        if mol.HasSubstructMatch(pattern):
            return name
    from rdkit import DataStructs

    names, prints = _barred(tuple(more))
    alike = DataStructs.BulkTanimotoSimilarity(_generator().GetFingerprint(mol), prints)
    nearest = max(range(len(alike)), key=alike.__getitem__)
    return names[nearest] if alike[nearest] >= close else None


@cache
def _patterns() -> tuple[tuple[str, Any], ...]:
    return tuple((name, chemistry().MolFromSmarts(smarts)) for name, smarts in _FAMILIES.items())


@cache
def _barred(more: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    listed = _SCHEDULED | {f"barred here, number {i + 1}": smiles for i, smiles in enumerate(more)}
    chem, make = chemistry(), _generator()
    return tuple(listed), tuple(make.GetFingerprint(chem.MolFromSmiles(smiles)) for smiles in listed.values())


@cache
def _generator() -> Any:
    chemistry()
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
