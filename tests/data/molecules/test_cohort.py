"""A table of molecules as a cohort: what is one molecule, what is refused and why, which column is read."""

import json

import pytest

from medserve.data.forms import list_items, write_yaml
from medserve.data.inspect import inspect
from medserve.data.leaks import act_on, find_leaks
from medserve.data.molecules.columns import other_columns, structure_column
from medserve.data.molecules.standard import standardise
from medserve.data.records import prepare_records, values_of
from medserve.data.sheet import render_sheet
from medserve.data.split import declared_split
from medserve.errors import BadData

THEOPHYLLINE, OTHER = "Cn1c(=O)c2[nH]cnc2n(C)c1=O", "Cn1c(=O)c2nc[nH]c2n(C)c1=O"  # two tautomers, one InChIKey


def cohort(folder, rows, *, said="smiles: {kind: molecule}", split="split: part\n", names="smiles,y,part"):
    folder.mkdir()
    (folder / "m.csv").write_text(names + "\n" + "\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text(
        f"table: m.csv\nindependent: true\n{split}inputs: {{{said}}}\n"
        "target: {column: y, kind: binary, classes: ['0', '1']}\n"
    )
    return prepare_records(list_items(folder), folder / "work")


def chains(part, first, count):
    """Alcohols of one length each: no two are alike."""
    return [f"{'C' * n}O,{n % 2},{part}" for n in range(first, first + count)]


@pytest.fixture
def apart(tmp_path):
    rows = [*chains("train", 1, 4), f"{THEOPHYLLINE},0,train", *chains("val", 5, 2), *chains("calibration", 7, 2)]
    return cohort(tmp_path / "d", [*rows, *chains("test", 9, 2), f"{OTHER},1,test", f"{OTHER},0,test"])


def test_two_tautomers_of_one_inchikey_are_one_molecule(apart):
    """Across parts they are a leak, and the training side leaves; their labels contradict each other."""
    assert standardise(THEOPHYLLINE).smiles != standardise(OTHER).smiles
    assert standardise(THEOPHYLLINE).key == standardise(OTHER).key
    parts = declared_split(apart, seed=1)
    leaks = find_leaks(parts)
    assert {(leak.kind, leak.part_a, leak.part_b) for leak in leaks} == {("pixels", "train", "test")}
    kept, removed = act_on(parts, leaks)
    assert [apart.cases[row].id for row in removed.rows] == ["row 6"] and len(kept.test) == 4
    conflict = next(p for p in inspect(apart)["problems"] if p["code"] == "label-conflict")
    assert "the same molecule" in conflict["message"] and "row 6" in conflict["files"]


def test_a_tautomer_option_gives_both_one_form(tmp_path):
    """With it the two are the same bytes; without it they keep what was drawn."""
    rows = [f"{THEOPHYLLINE},0,train", f"{OTHER},1,train"]
    one = cohort(tmp_path / "a", rows, said="smiles: {kind: molecule, tautomer: true}")
    assert one.fields[0].tautomer and one.cases[0].sha256 == one.cases[1].sha256
    two = cohort(tmp_path / "b", rows)
    assert [values_of(two, i)["smiles"] for i in (0, 1)] == [THEOPHYLLINE, OTHER]
    assert two.cases[0].sha256 != two.cases[1].sha256 and two.cases[0].pixels == two.cases[1].pixels
    written = write_yaml(list_items(tmp_path / "a"))
    assert "tautomer: true" in written and "descriptors" not in written


def test_a_tautomer_option_is_of_molecules(tmp_path):
    with pytest.raises(BadData, match="tautomer"):
        cohort(tmp_path / "d", ["CCO,1,train"], said="smiles: {kind: category, tautomer: true}")


def test_each_refused_row_has_its_own_code_and_reason(tmp_path):
    """No row hides behind another's message; the page shows the structures of the others."""
    found = cohort(tmp_path / "d", ["CCO,1,train", "CC(C,0,train", "[Cu],1,train", ",0,train"])
    assert {r.file: r.code for r in found.refused} == {
        "row 3": "molecule-invalid", "row 4": "molecule-metal", "row 5": "case-empty",
    }  # fmt: skip
    assert "character 3" in found.refused[0].message and found.troubles == ()
    page = render_sheet(found, json.loads(json.dumps(inspect(found))))
    assert "character 3" in page and "data:image/svg+xml" in page and "same picture" not in page


@pytest.mark.parametrize("kind", ["binary", "number", "survival"])
def test_a_set_of_which_nothing_can_be_read_is_inspected(tmp_path, kind):
    """Every row is listed; nothing is dealt and nothing crashes."""
    (tmp_path / "m.csv").write_text("smiles,y,e\nC(,1.5,1\nC),2.5,0\n")
    (tmp_path / "dataset.yaml").write_text(
        "table: m.csv\nindependent: true\ninputs: {smiles: {kind: molecule}}\n"
        f"target: {{column: {'e' if kind == 'binary' else 'y'}, kind: {kind}{', event: e' * (kind == 'survival')}}}\n"
    )
    result = inspect(prepare_records(list_items(tmp_path), tmp_path / "work"))
    assert result["cases"] == 0 and len(result["refused"]) == 2


def test_the_column_of_structures_is_told_by_name_then_by_its_cells():
    """A column of drug names is none; one of another name is suggested, not taken."""
    names, smiles = ["aspirin", "ibuprofen", "phenol"], ["CC(=O)Oc1ccccc1C(=O)O", "CC(C)Cc1ccccc1", "Oc1ccccc1"]
    assert structure_column({"drug": names, "Structure": smiles}) == "Structure"
    assert structure_column({"smiles": smiles, "drug": names}) == "smiles"
    assert structure_column({"ligand": smiles}) == ""
    assert other_columns({"drug": names, "SMI": smiles, "atom": ["C", "N", "O"]}, but="drug") == ["SMI"]


def test_of_a_bare_table_the_molecule_alone_is_guessed(tmp_path):
    """Weights, identifiers and predictions of others stay out until they are declared."""
    path = tmp_path / "m.csv"
    path.write_text(
        "id,smiles,weight,label\n" + "".join(f"{n},{'C' * n}O,{14 * n + 18},{n % 2}\n" for n in range(1, 9))
    )
    listing = list_items(path)
    assert {name: said.kind for name, said in listing.inputs.items()} == {"smiles": "molecule"}
    assert "weight" in " ".join(listing.source["warnings"])


def test_a_bare_table_of_molecules_without_a_label_says_what_to_write(tmp_path):
    """The hint speaks of molecules, not of pictures, and names what could be the target."""
    path = tmp_path / "m.csv"
    path.write_text("name,smiles,logs\n" + "".join(f"m{n},{'C' * n}O,{n / 3}\n" for n in range(1, 30)))
    with pytest.raises(BadData) as told:
        list_items(path)
    assert told.value.code == "columns-unknown" and "{smiles: {kind: molecule}}" in told.value.hint
    assert "logs" in told.value.hint
