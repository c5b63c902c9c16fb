"""One form for each molecule; what cannot be read is refused with its own code."""

import pytest

from medserve.data.molecules import standard
from medserve.data.molecules.standard import MOST_ATOMS, chemistry, standardise
from medserve.errors import Refusal

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@pytest.mark.parametrize("written", [
    ASPIRIN, "OC(=O)c1ccccc1OC(C)=O", "O=C(C)Oc1ccccc1C(=O)[O-].[Na+]", " CC(=O)Oc1ccccc1C(=O)O\n",
    "InChI=1S/C9H8O4/c1-6(10)13-8-5-3-2-4-7(8)9(11)12/h2-5H,1H3,(H,11,12)",
])  # fmt: skip
def test_every_way_to_write_a_molecule_gives_one_form(written):
    """Order, salts, charges and notation change nothing; the key is the published InChIKey of aspirin."""
    found = standardise(written)
    assert found.smiles == ASPIRIN
    assert found.key == "BSYNRYMUTXBXSQ-UHFFFAOYSA-N"
    assert found.atoms == 13


@pytest.mark.parametrize("ion", ["[Na+]", "[K+]", "[Ca+2]", "[Mg+2]", "[Zn+2]", "[Li+]", "[Al+3]", "[Cl-]"])
def test_a_counter_ion_goes(ion):
    """Salts of simple ions are their organic part, as many ions as there are."""
    assert standardise(f"{ion}.{ion}.O=C(C)Oc1ccccc1C(=O)[O-]").smiles == ASPIRIN


def test_a_mol_block_is_read_as_its_smiles():
    """V2000 and Tripos Mol2 of one molecule agree with its SMILES."""
    from rdkit import Chem

    block = Chem.MolToMolBlock(Chem.MolFromSmiles(ASPIRIN))
    assert standardise(block).smiles == ASPIRIN


@pytest.mark.parametrize("written", [
    "CN(=O)=O", "C[N+](=O)[O-]", "CS(C)=O", "CS(C)(=O)=O", "C[S+2]([O-])([O-])C", "CN=[N+]=[N-]", "CN=N#N", "CC=N#N",
    "c1ccccn1=O", "OP(O)(O)=O", "C[P+]([O-])(C)C", "CC(=O)[O-]", "C[NH3+]", "C[N+](C)(C)C", "C=[S]=O", "CI(=O)=O",
    "CC(N)=[NH2+]", "NCC(=O)O", "[O-]C=C[NH+]=C", "C[Se](C)=O", "CS(=N)(C)=O", "N[S+]([O-])C", "[NH3+]CC(=O)[O-]",
    "OCl(=O)(=O)=O", "C[Si](C)(C)C", "OB(O)c1ccccc1", "[2H]C([2H])O", "C[C@H](N)C(=O)O", "C/C=C/C", "c1cc[nH]c1",
    ASPIRIN,
])  # fmt: skip
def test_what_needs_no_change_has_the_form_that_every_step_gives(written, monkeypatch):
    """The steps that are left out for most molecules would have changed nothing."""
    short = standardise(written)
    monkeypatch.setattr(standard, "_changeable", lambda: chemistry().MolFromSmarts("*"))
    assert standardise(written) == short


def test_stereochemistry_stays():
    """Two mirror images are two molecules."""
    left, right = standardise("C[C@H](N)C(=O)O"), standardise("C[C@@H](N)C(=O)O")
    assert left.smiles != right.smiles and left.key != right.key


@pytest.mark.parametrize(("written", "code"), [
    ("c1ccccc", "molecule-invalid"),
    ("CC(=O", "molecule-invalid"),
    ("C(C)(C)(C)(C)C", "molecule-invalid"),
    ("C*", "molecule-invalid"),
    ("hello world", "molecule-invalid"),
    ("", "molecule-empty"),
    ("[H][H]", "molecule-empty"),
    ("CCO>>CC=O", "molecule-reaction"),
    ("N[Pt](N)(Cl)Cl", "molecule-metal"),
    ("[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1", "molecule-metal"),
    ("[Gd+3].CC(=O)[O-].CC(=O)[O-].CC(=O)[O-]", "molecule-metal"),
    ("C" * (MOST_ATOMS + 1), "molecule-too-large"),
    ("C" * 2000, "molecule-too-large"),
    ("C" * 100_000, "molecule-too-large"),
    ("broken\n\n\n  3  2  0\nM  END\n", "molecule-invalid"),
    ("C1" * 900, "molecule-invalid"),
    ("[" * 500, "molecule-invalid"),
])  # fmt: skip
def test_what_is_no_molecule_is_refused_with_its_code(written, code):
    """Syntax, valence, reactions, metals, sizes: each by name, and none crashes."""
    with pytest.raises(Refusal) as told:
        standardise(written)
    assert told.value.code == code


@pytest.mark.parametrize(("written", "said"), [
    ("C\u0421", "character 2 (U+0421)"),
    ("\u2212CCO", "character 1 (U+2212)"),
    ("C\u00e9", "character 2 (U+00E9)"),
    ("C~C", "character 2 ('~')"),
    ("CCO>CC=O", "character 4 ('>')"),
    ("c1ccccc", "ring 1 is opened at character 2"),
    ("CC(C", "parenthesis at character 3 is never closed"),
    ("CC)C", "parenthesis at character 3 was never opened"),
    ("C[NH", "bracket at character 2 is never closed"),
    ("CCQ", "character 3 ('Q')"),
    ("InChI=1S/foo", "InChI"),
    ("a\n\n\n  2  1  0", "M  END"),
])  # fmt: skip
def test_what_is_wrong_with_a_text_is_said_with_its_place(written, said):
    """No letter is passed over in silence: "C" and a Cyrillic letter is not methane."""
    with pytest.raises(Refusal) as told:
        standardise(written)
    assert told.value.code == "molecule-invalid" and said in str(told.value)


def test_numbers_of_atoms_in_a_reaction_are_no_part_of_the_molecule():
    """A mapped SMILES is the same molecule as the plain one."""
    assert standardise("[CH3:1][CH2:2][OH:3]") == standardise("CCO")


MOL2 = "@<TRIPOS>MOLECULE\nm\n {n} {m} 0 0 0\nSMALL\nNO_CHARGES\n\n@<TRIPOS>ATOM\n{atoms}@<TRIPOS>BOND\n{bonds}"


def tripos(atoms, bonds):
    """atoms: Tripos types, drawn in a plane; bonds: (first, second, order)."""
    lines = "".join(f"{i} X{i} {i}.0 {i * i % 3}.0 0.0 {kind} 1 L 0.0\n" for i, kind in enumerate(atoms, 1))
    told = "".join(f"{i} {a} {b} {order}\n" for i, (a, b, order) in enumerate(bonds, 1))
    return MOL2.format(n=len(atoms), m=len(bonds), atoms=lines, bonds=told)


@pytest.mark.parametrize(("atoms", "bonds", "smiles"), [
    (["C.3", "C.3", "O.3"], [(1, 2, 1), (2, 3, 1)], "CCO"),
    (["C.3", "C.2", "O.2", "N.am"], [(1, 2, 1), (2, 3, 2), (2, 4, 1)], "CC(N)=O"),
    (["C.3", "N.3"], [(1, 2, 1)], "CN"),
    (["C.3", "N.pl3", "O.2", "O.3"], [(1, 2, 1), (2, 3, 2), (2, 4, 1)], "C[N+](=O)[O-]"),
    (["C.3", "H", "H", "H", "O.3", "H"], [(1, 2, 1), (1, 3, 1), (1, 4, 1), (1, 5, 1), (5, 6, 1)], "CO"),
    (["P.3", "S.2", "O.3", "C.3", "O.3", "C.3", "S.3", "C.3"],
     [(1, 2, 2), (1, 3, 1), (3, 4, 1), (1, 5, 1), (5, 6, 1), (1, 7, 1), (7, 8, 1)], "COP(=S)(OC)SC"),
])  # fmt: skip
def test_a_mol2_block_without_hydrogens_is_the_molecule_that_was_meant(atoms, bonds, smiles):
    """Hydrogens that are not drawn follow from the valences, and a drawing in a plane has no form in space."""
    assert standardise(tripos(atoms, bonds)).smiles == smiles
