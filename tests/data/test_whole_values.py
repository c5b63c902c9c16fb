"""Cases that share a drug or a target: parts that keep them together, and intervals that draw them together."""

import pytest
from made_pairs import write_pairs

from medserve.data.declaration import parse
from medserve.data.molecules.standard import chemistry
from medserve.data.split import folds, split
from medserve.errors import BadData
from medserve.progress import SILENT
from medserve.road.build import drawn
from medserve.road.collect import list_data, read_data
from medserve.settings import Settings


@pytest.fixture
def cohort(tmp_path):
    more = "intervals: drug\nsplit: {by: column, column: target, test: 0.25}\n"
    listing = list_data(write_pairs(tmp_path / "data", more=more), Settings(home=tmp_path / "home"))
    return read_data(listing, [], (), tmp_path, SILENT)


def test_no_value_of_the_column_stands_in_two_parts(cohort):
    """A cold-target split: each part has its own targets, and so has each fold; the rule is named."""
    parts = split(cohort, fractions=(0.5, 0.125, 0.125, 0.25))
    seen = [{cohort.families[int(row)] for row in view.rows} for view in parts]
    assert parts.rule["rule"] == "whole values of target" and parts.rule["by"] == "target"
    assert all(not seen[i] & seen[j] for i in range(4) for j in range(i)) and all(seen)
    for train, held in folds(parts, 3):
        assert not {cohort.families[int(r)] for r in train.rows} & {cohort.families[int(r)] for r in held.rows}


@pytest.mark.parametrize("column", ["smiles", "sequence"])
def test_no_molecule_and_no_protein_stands_in_two_parts(tmp_path, column):
    """A cold-drug and a cold-target split by the input itself. A third of the rows spell theirs in another way (the
    atoms of a SMILES in another order, a sequence in small letters), which parts them no more than a name would."""
    data = write_pairs(tmp_path / "data", more=f"split: {{by: column, column: {column}, test: 0.25}}\n")
    lines = (data / "pairs.csv").read_text().splitlines()
    header, *rows = [line.split(",") for line in lines]
    at = header.index(column)
    for row in rows[::3]:
        chem = chemistry()
        again = chem.MolToSmiles(chem.MolFromSmiles(row[at]), rootedAtAtom=1) if column == "smiles" else row[at].lower()
        assert again != row[at]
        row[at] = again
    (data / "pairs.csv").write_text("".join(f"{','.join(row)}\n" for row in [header, *rows]))
    cohort = read_data(list_data(data, Settings(home=tmp_path / "home")), [], (), tmp_path, SILENT)
    parts = split(cohort, fractions=(0.5, 0.125, 0.125, 0.25))
    assert parts.rule["rule"] == f"whole values of {column}"
    seen = [{one[column] for one in cohort.values.each([case.index for case in view.cases])} for view in parts]
    assert all(not seen[i] & seen[j] for i in range(4) for j in range(i)) and all(seen)


def test_a_bootstrap_draws_whole_drugs(cohort):
    """`intervals: drug`: as many keys as drugs, one for all pairs with it, and no name among them."""
    part = split(cohort).train
    keys = drawn(part)
    drugs = [case.id for case in part.cases]
    assert len(set(keys)) == 24 < len(drugs) and not {f"d{i}" for i in range(24)} & set(keys)


@pytest.mark.parametrize(("text", "code"), [
    ("patient: p\nintervals: drug\ninputs: {a: {kind: number}}", "declaration-value"),
    ("independent: true\nintervals: drug\ninputs: {film: {kind: image}}", "declaration-value"),
    ("split: {by: column}\ninputs: {a: {kind: number}}", "declaration-key"),
    ("split: {by: column, column: drug}\ninputs: {film: {kind: image}}", "declaration-value"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(text, code):
    """Patients are always drawn whole; both are for tables whose rows are cases."""
    with pytest.raises(BadData) as told:
        parse(text.encode())
    assert told.value.code == code
