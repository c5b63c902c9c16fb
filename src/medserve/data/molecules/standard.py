"""One form for each molecule, whatever way it was written.

    molecule = standardise("[Na+].CC(=O)[O-]")      # Molecule(smiles="CC(=O)O", atoms=4)
    standardise("c1ccccc1 O")                       # Refusal "molecule-invalid"

The largest fragment is kept (salts and water go; a complex written as the ions of its metal and its ligands is refused:
the ligand alone is another substance), functional groups are written in one way, charges are neutralised
where a proton can do it. Tautomers stay as they were drawn unless asked. Two molecules are the same when their
InChIKeys are. Bounds come before chemistry, so that no text makes the service work for long.
Source: RDKit MolStandardize, after the rules of ChEMBL's structure pipeline (Bento et al., J Cheminform 12:51, 2020).
"""

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

from medserve.data.molecules.syntax import foreign, what_is_wrong
from medserve.errors import Refusal, Usage

MOST_TEXT = 20_000  # characters of a mol block; a SMILES is bounded by its atoms
MOST_SMILES = 2_000
MOST_ATOMS = 200  # heavy atoms of what is kept
MOST_DRAWN = 1_000  # atoms before fragments are chosen
MOST_TAUTOMERS = 500  # that are compared; RDKit's bound is 1,000
ORGANIC = frozenset({1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 53})  # what models of drugs know; others are refused

COMPLEXING = frozenset({*range(21, 30), *range(39, 49), *range(57, 81), *range(89, 113)})
# transition metals, lanthanides and actinides, written as ions too; zinc is left out, a common counter-ion


@dataclass(frozen=True, slots=True)
class Molecule:
    """smiles: canonical, of the standard form. atoms: heavy."""

    smiles: str
    atoms: int

    @property
    def key(self) -> str:
        """InChIKey; computed when asked, since no answer needs it."""
        return standard_key(self.smiles)


def standard_key(smiles: str) -> str:
    """InChIKey of a standard form; one is made up for the few that InChI cannot name."""
    found: str = chemistry().MolToInchiKey(chemistry().MolFromSmiles(smiles))
    return found or f"no-inchi:{smiles}"


@cache
def chemistry() -> Any:
    """RDKit's Chem, quiet. Raises: Usage "chemistry-missing"."""
    try:
        from rdkit import Chem, RDLogger
    except ImportError as error:
        raise Usage(
            "chemistry-missing", "Molecules are read with RDKit, which is not installed.",
            hint="Install it: pip install 'medserve[molecules]'",
        ) from error  # fmt: skip
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]  # what is wrong is said by the refusal
    return Chem


def standardise(text: str, *, tautomer: bool = False, name: str = "molecule") -> Molecule:
    """
    Args:
        text: SMILES, "InChI=...", a mol block (V2000 or V3000) or a Tripos Mol2 block.
        tautomer: also choose one form of tautomers; slower, and not what was measured.
        name: of the input, for messages.

    Raises: Refusal "molecule-invalid", "molecule-too-large", "molecule-reaction", "molecule-metal", "molecule-empty".
    """
    chem, tools = chemistry(), _tools()
    mol = read(text, name=name)
    if len(chem.GetMolFrags(mol)) > 1:
        _no_metal(mol, _complexing(), name)
        mol = tools.fragments.choose(mol)
    if mol.GetNumHeavyAtoms() > MOST_ATOMS:
        raise Refusal(
            "molecule-too-large", f"{name}: {mol.GetNumHeavyAtoms()} atoms; at most {MOST_ATOMS} without hydrogen.",
            hint="Proteins and polymers are no molecules for this model.",
        )  # fmt: skip
    _no_metal(mol, _strange(), name)
    try:
        if tautomer or mol.HasSubstructMatch(_changeable()):  # of most molecules nothing changes, in half of the time
            mol = tools.normalizer.normalize(mol)
            mol = tools.uncharger.uncharge(mol)
            if tautomer:
                mol = tools.tautomers.Canonicalize(mol)
            chem.SanitizeMol(mol)
        smiles = chem.MolToSmiles(mol)
    except (ValueError, RuntimeError) as error:  # RDKit's own exceptions are ValueErrors
        raise _invalid(name, "its standard form cannot be made") from error
    return Molecule(smiles, mol.GetNumHeavyAtoms())


def read(text: str, *, name: str = "molecule") -> Any:
    """RDKit's molecule as it was written, sanitised. Raises: see `standardise`."""
    chem = chemistry()
    tripos = text.lstrip().startswith("@<TRIPOS>")
    block = tripos or "\n" in text.strip()
    if len(text) > (MOST_TEXT if block else MOST_SMILES):
        raise Refusal("molecule-too-large", f"{name}: the text is too long for a molecule.", hint="Send one molecule.")
    text = text if block else text.strip()
    if not text:
        raise Refusal("molecule-empty", f"{name}: nothing is written.", hint="Leave the input out when it is missing.")
    if not block and ">" in text and text.count(">") == 2:
        raise Refusal(
            "molecule-reaction", f"{name}: a reaction, and one molecule was expected.", hint="Send the product alone."
        )
    try:
        if tripos:
            mol = _tripos(text)
        elif block:
            mol = chem.MolFromMolBlock(text, sanitize=False, removeHs=False)
        elif text.startswith("InChI="):
            mol = chem.MolFromInchi(text, sanitize=False, removeHs=False)
        else:
            if len(text.split()) > 1:
                raise _invalid(name, "a SMILES holds no spaces")
            if foreign(text) is not None:  # RDKit drops such letters at either end: "C\u0421" would be methane
                raise _invalid(name, what_is_wrong(text))
            mol = chem.MolFromSmiles(text, sanitize=False)
        if mol is None:
            raise _invalid(name, what_is_wrong(text))
        if mol.GetNumAtoms() > MOST_DRAWN:
            raise Refusal(
                "molecule-too-large",
                f"{name}: {mol.GetNumAtoms()} atoms; at most {MOST_DRAWN}.",
                hint="Proteins and polymers are no molecules for this model.",
            )
        if mol.HasSubstructMatch(_anything()):
            raise _invalid(name, "it holds an atom that stands for anything (*)")
        chem.SanitizeMol(mol)
        if block or ":" in text:
            for atom in mol.GetAtoms():
                atom.SetAtomMapNum(0)  # the number of an atom in a reaction is nothing of the molecule
        if mol.GetNumAtoms() > mol.GetNumHeavyAtoms():
            mol = chem.RemoveHs(mol)
        if block:
            chem.AssignStereochemistryFrom3D(mol) if mol.GetNumConformers() and mol.GetConformer().Is3D() else None
    except (ValueError, RuntimeError, OverflowError) as error:
        raise _invalid(name, _reason(str(error))) from error
    if not mol.GetNumHeavyAtoms():
        raise Refusal("molecule-empty", f"{name}: it holds no atom.", hint="Leave the input out when it is not known.")
    return mol


def _tripos(text: str) -> Any:
    """RDKit takes the hydrogens of a Mol2 block for all there are, and its coordinates for a form in space. Here, where
    none is drawn, they follow from the valences, or ethanol would be [C][C]O; what lies in a plane is a drawing."""
    chem = chemistry()
    mol = chem.MolFromMol2Block(text, sanitize=False, removeHs=False)
    if mol is None:
        return None
    atoms = list(mol.GetAtoms())
    if all(atom.GetAtomicNum() != 1 for atom in atoms):
        for atom in atoms:
            atom.SetNoImplicit(False)
            alone = all(one.GetFormalCharge() <= 0 for one in atom.GetNeighbors())  # no azide or the like
            if atom.GetAtomicNum() == 7 and atom.GetFormalCharge() < 0 and alone:  # RDKit's, for lack of hydrogens
                atom.SetFormalCharge(0)
    if mol.GetNumConformers() and not mol.GetConformer().GetPositions()[:, 2].any():
        mol.GetConformer().Set3D(False)
        for atom in atoms:
            atom.SetChiralTag(chem.ChiralType.CHI_UNSPECIFIED)
    return mol


def _no_metal(mol: Any, query: Any, name: str) -> None:
    """Asked in one call: to walk over atoms takes a fifth of the whole. Raises: Refusal "molecule-metal"."""
    if mol.HasSubstructMatch(query):
        strange = sorted({mol.GetAtomWithIdx(i).GetSymbol() for (i,) in mol.GetSubstructMatches(query)})
        raise Refusal(
            "molecule-metal", f"{name}: it holds {', '.join(strange[:5])}, which no model of organic molecules knows.",
            hint="Metal complexes cannot be asked about.",
        )  # fmt: skip


@cache
def _complexing() -> Any:
    """An atom of a metal that forms complexes."""
    return chemistry().MolFromSmarts(f"[{','.join(f'#{number}' for number in sorted(COMPLEXING))}]")


@cache
def _strange() -> Any:
    """An atom that is not organic."""
    return chemistry().MolFromSmarts(f"[{';'.join(f'!#{number}' for number in sorted(ORGANIC))}]")


@cache
def _changeable() -> Any:
    """An atom that a rule of the normaliser or of the uncharger could touch: a charge, or another valence than that of
    carbon, an amine, an ether, a halide, or a sulfone. Every rule asks for at least one of them."""
    usual = ("#1", "#5", "#6", "#14", "#7;v3", "#8;v2", "#9;v1", "#16;v2", "#16;v6;D4", "#17;v1", "#35;v1", "#53;v1")
    return chemistry().MolFromSmarts("[!+0," + "".join(f"!$([{one}])&" for one in usual).rstrip("&") + "]")


@cache
def _anything() -> Any:
    """An atom that stands for anything."""
    return chemistry().MolFromSmarts("[#0]")


class _Tools(threading.local):
    """RDKit's tools, one set a thread: to make them takes longer than what they do, and nobody says that two threads
    may share one."""

    def __init__(self) -> None:
        chemistry()
        from rdkit.Chem.MolStandardize import rdMolStandardize

        self.fragments: Any = rdMolStandardize.LargestFragmentChooser()
        self.normalizer: Any = rdMolStandardize.Normalizer()
        self.uncharger: Any = rdMolStandardize.Uncharger()
        bounds: Any = rdMolStandardize.CleanupParameters()
        bounds.maxTautomers = bounds.maxTransforms = MOST_TAUTOMERS
        self.tautomers: Any = rdMolStandardize.TautomerEnumerator(bounds)


@cache
def _tools() -> _Tools:
    return _Tools()


def _reason(text: str) -> str:
    """RDKit names atoms by number and element: nothing of a patient, and what a chemist looks for."""
    first = text.strip().splitlines()[0] if text.strip() else ""
    return first[:160].rstrip(".") or "it cannot be read"


def _invalid(name: str, why: str) -> Refusal:
    return Refusal(
        "molecule-invalid", f"{name}: {why}.", hint="Send a SMILES such as CC(=O)Oc1ccccc1C(=O)O, or a mol block."
    )
