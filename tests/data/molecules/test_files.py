"""Files of molecules are tables; a broken record costs itself alone."""

from medserve.data.forms.table import read_table


def sdf(smiles: list[str]) -> str:
    from rdkit import Chem

    parts = []
    for i, one in enumerate(smiles):
        block = Chem.MolToMolBlock(Chem.MolFromSmiles(one))
        parts.append(f"m{i}{block}> <label>\n{i % 2}\n\n> <pIC50>  (1)\n{i}.5\n\n")
    return "$$$$\n".join(parts) + "$$$$\n"


def test_an_sdf_is_a_table_of_blocks_and_properties(tmp_path):
    """One row a record, in order; properties become columns, also where some records lack one."""
    (tmp_path / "a.sdf").write_text(sdf(["CCO", "CC", "C"]).replace("> <pIC50>  (1)\n1.5\n\n", ""))
    found = read_table(tmp_path / "a.sdf")
    assert found.columns["label"] == ["0", "1", "0"]
    assert found.columns["pIC50"] == ["0.5", "", "2.5"]
    assert len(found) == 3


def test_a_broken_record_does_not_take_its_neighbours_along(tmp_path):
    """The row stays, its molecule is refused when it is read, those after it are read."""
    from medserve.data.fields.molecule import Molecule
    from medserve.errors import Refusal

    parts = sdf(["CCO", "CC", "CCC"]).split("$$$$\n")
    parts[1] = parts[1][:30] + "\n> <label>\n1\n"
    (tmp_path / "a.sdf").write_text("$$$$\n".join(parts))
    read = []
    for cell in read_table(tmp_path / "a.sdf").columns["molecule"]:
        try:
            read.append(Molecule("m").parse(cell))
        except Refusal as error:
            read.append(error.code)
    assert read == ["CCO", "molecule-invalid", "CCC"]


def test_lines_of_smiles_have_names_behind_them(tmp_path):
    (tmp_path / "a.smi").write_text("# two\nCCO ethanol\nCC  ethane gas\n")
    found = read_table(tmp_path / "a.smi")
    assert found.columns == {"molecule": ["CCO", "CC"], "name": ["ethanol", "ethane gas"]}
