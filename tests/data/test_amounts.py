"""Assay values: units are brought together, bounds are counted and never taken for values in silence."""

import json

import pytest

from medserve.cli import run as command
from medserve.data.declaration import Target
from medserve.data.forms.amounts import Amount, WrongUnit, amount_of, is_bound
from medserve.data.forms.labels import Labels, Unlabelled
from medserve.data.forms.table import read_table
from medserve.errors import BadData


@pytest.mark.parametrize(("cell", "unit", "wanted"), [
    ("7.2", None, (7.2, "")), (">10", None, (10.0, ">")), ("<= 5,5", None, (5.5, "<")), ("≥3e-2", "uM", (0.03, ">")),
    ("<5 uM", "nmol/L", (5000.0, "<")), ("12 nM", "µM", (0.012, "")), ("4 mg/L", "mg/L", (4.0, "")),
    ("~6", None, (6.0, "")),
])  # fmt: skip
def test_amounts_are_read(cell, unit, wanted):
    """The value in the declared unit, and on which side of it the truth lies."""
    found = amount_of(cell, unit)
    assert found == Amount(pytest.approx(wanted[0]), wanted[1]) and is_bound(cell) == bool(wanted[1])


def test_what_is_no_amount_is_none_and_another_unit_is_an_error():
    """Words are no number; mg is no concentration of nM."""
    assert amount_of("inactive") is None and amount_of("1-2") is None and amount_of("1e999") is None
    for cell, unit in (("5 mg", "nM"), ("5 nM", None), ("5 nM", "mg")):
        with pytest.raises(WrongUnit):
            amount_of(cell, unit)


def table(tmp_path, *cells):
    (tmp_path / "a.csv").write_text("smiles,ic50\n" + "".join(f"{'C' * (i + 1)},{c}\n" for i, c in enumerate(cells)))
    return read_table(tmp_path / "a.csv")


def test_bounds_wait_for_a_declaration(tmp_path):
    """Undeclared they are refused with their count; declared they are dropped or taken, and counted."""
    found = table(tmp_path, "1.5", ">10", "<0.1 nM", "2.5", "3 mg")
    with pytest.raises(BadData) as told:
        Labels.of(found, ["ic50"], Target(column="ic50", kind="number", unit="nM"))
    assert (
        told.value.code == "labels-censored" and "2 of 5" in told.value.message and "censored: drop" in told.value.hint
    )
    drop = Labels.of(found, ["ic50"], Target(column="ic50", kind="number", unit="nM", censored="drop"))
    codes = []
    for row in range(5):
        try:
            codes.append(drop.label(row))
        except Unlabelled as error:
            codes.append(error.code)
    assert codes == [1.5, "label-censored", "label-censored", 2.5, "label-unit"]
    bound = Labels.of(found, ["ic50"], Target(column="ic50", kind="number", unit="nM", censored="bound"))
    assert [bound.label(row) for row in range(4)] == [1.5, 10.0, 0.1, 2.5]
    assert "2 values of ic50 are bounds (1 lower and 1 upper); they were taken for the value" in bound.notes[0]


def test_inspect_counts_bounds(tmp_path, capsys, monkeypatch):
    """The whole way: the warning says how many, and dropped rows are listed with their code."""
    monkeypatch.setenv("MEDSERVE_HOME", str(tmp_path / "home"))
    table(tmp_path, *(f"{i}.5" for i in range(20)), ">10", ">20")
    (tmp_path / "dataset.yaml").write_text(
        "name: a\ntable: a.csv\nindependent: true\ninputs: {smiles: {kind: molecule}}\n"
        "target: {column: ic50, kind: number, unit: nmol/L, censored: drop}\n"
    )
    assert command(["inspect", str(tmp_path), "--json"]) == 0
    said = capsys.readouterr().out
    assert "2 values of ic50 are bounds (2 lower)" in said and "label-censored" in said
    assert json.loads(said)["cases"] == 20
