"""`medserve admet`: the whole panel over small made models, so that it runs where ADMET-AI is not installed."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from made_admet import ASPIRIN, made_shipped
from made_molecules import molecules

from medserve.cli import run as command
from medserve.errors import Usage
from medserve.progress import SILENT
from medserve.road.admet.endpoints import ENDPOINTS, PLACES, clamp
from medserve.road.admet.run import Asked, run_panel
from medserve.road.admet.shipped import NAMES, Shipped, find_library
from medserve.settings import Settings

ROWS = [
    ("aspirin", ASPIRIN), ("<script>alert(1)</script>", "c1ccccc1CCN"), ("broken", "CC(=O"), ("reaction", "CCO>>CC=O"),
    ("large", "C" * 1999), ("nothing", ""), ("platinum", "Cl[Pt](Cl)(N)N"), ("salt", "[Na+].CC(=O)[O-]"),
    ("words", "not a molecule"),
]  # fmt: skip
CODES = {
    "molecule-invalid": 2,
    "molecule-reaction": 1,
    "molecule-too-large": 1,
    "molecule-empty": 1,
    "molecule-metal": 1,
}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """ADMET-AI is what `made_admet` makes."""
    monkeypatch.setattr(Shipped, "open", classmethod(lambda cls, home, progress: made_shipped(home / "resources")))
    monkeypatch.setenv("MEDSERVE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path) -> Path:
    with open(tmp_path / "m.csv", "w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([("name", "smiles"), *ROWS])
    return tmp_path / "m.csv"


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def test_every_output_of_the_models_has_its_endpoint():
    """41 outputs and 11 rules, no name twice; an endpoint that is bounded is bounded in the right direction."""
    assert len(ENDPOINTS) == len(PLACES) == 52 and set(NAMES) == {e.id for e in ENDPOINTS[11:]}
    assert all(e.low is None or e.high is None or e.low < e.high for e in ENDPOINTS)


@pytest.mark.parametrize(("name", "value", "kept"), [
    ("PPBR_AZ", 107.8, (100.0, "above-range")), ("VDss_Lombardo", -0.4, (0.0, "below-range")),
    ("PPBR_AZ", 99.0, (99.0, "")), ("Solubility_AqSolDB", -9.0, (-9.0, "")),
])  # fmt: skip
def test_a_value_stays_within_what_its_quantity_can_be(name, value, kept):
    """A share of 107.8 % is cut at 100 and says so; what has no bound is left alone."""
    assert clamp(ENDPOINTS[PLACES[name]], value) == kept


def test_one_bad_row_costs_only_itself(home, file, capsys):
    """Each refused row has its code, all others are answered, and the exit code is 0."""
    assert command(["admet", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n"] == 9 and told["answered"] == 3 and told["refused"] == CODES
    by_name = {one["name"]: one for one in told["molecules"]}
    assert by_name["broken"]["error"]["code"] == "molecule-invalid"
    assert by_name["salt"]["smiles"] == "CC(=O)O"
    aspirin = by_name["aspirin"]
    ppbr = aspirin["endpoints"]["PPBR_AZ"]
    assert ppbr["value"] == 100 and abs(ppbr["raw"] - 107.8) < 1e-4 and "PPBR_AZ:above-range" in aspirin["flags"]
    assert ppbr["interval"] is None and ppbr["spread"] is not None and ppbr["unit"] == "%"
    assert aspirin["approved_drug"] and aspirin["nearest_approved"]["name"] == "aspirin"
    assert aspirin["nearest_approved"]["similarity"] == 1 and "approved-drug" in aspirin["flags"]
    assert "unlike-approved-drugs" in by_name["<script>alert(1)</script>"]["flags"]
    assert told["models"][0]["licence"] == "MIT" and told["models"][0]["training"].startswith("unknown")


def test_without_a_folder_every_molecule_is_in_the_answer(home, tmp_path):
    """None is left out of the JSON in silence; with a folder the table holds them all."""
    path = tmp_path / "many.smi"
    path.write_text("\n".join(smiles for smiles, _ in molecules(130)) + "\n")
    told = run_panel(path, Asked(workers=1), out=None, settings=Settings(home=home), progress=SILENT)
    assert told["n"] == len(told["molecules"]) == 130


def test_a_folder_holds_the_table_the_page_and_what_was_refused(home, file, tmp_path, capsys):
    """CSV and Parquet agree, names are escaped on the page, and the columns are explained."""
    import polars as pl

    out = tmp_path / "panel"
    assert command(["admet", str(file), "--out", str(out)]) == 0
    rows = rows_of(out / "panel.csv")
    assert [r["code"] for r in rows if r["code"]] == [r["code"] for r in rows_of(out / "refused.csv")]
    assert len(rows) == 9 and rows[0]["PPBR_AZ"] == "100" and rows[2]["PPBR_AZ"] == ""
    frame = pl.read_parquet(out / "panel.parquet")
    assert frame.columns == list(rows[0]) and frame["PPBR_AZ"].to_list()[0] == 100.0
    page = (out / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and page.count("data:image/svg+xml") == 3
    assert "cut at the upper bound" in page and "DrugBank" in page and "MIT" in page
    told = {r["column"]: r for r in rows_of(out / "columns.csv")}
    assert (
        told["VDss_Lombardo"]["weak"] == "yes" and told["AMES"]["weak"] == "no" and told["PPBR_AZ"]["high"] == "100.0"
    )


def test_percentiles_are_shares_of_the_approved_drugs(home, file):
    """Three drugs answer 0, 0.5 and 1000 everywhere: a probability between the first two stands at a third."""
    told = run_panel(file, Asked(), out=None, settings=Settings(home=home), progress=SILENT)
    found = told["molecules"][0]["endpoints"]
    for id, one in found.items():
        below = (one["raw"] > 0) + (one["raw"] > 0.5) + (one["raw"] > 1000)
        if one["raw"] not in (0, 0.5):
            assert one["percentile"] == pytest.approx(100 * below / 3), id


def test_molecules_of_a_training_list_are_flagged_by_inchikey(home, file, tmp_path):
    """However it is written: the salt of the list is the acid of the file."""
    (tmp_path / "tdc.smi").write_text("CC(=O)O\nOC(=O)c1ccccc1OC(C)=O aspirin\nbroken(\n")
    told = run_panel(file, Asked(seen=[tmp_path / "tdc.smi"]), out=None, settings=Settings(home=home), progress=SILENT)
    seen = {one["name"]: one["seen"] for one in told["molecules"] if "error" not in one}
    assert seen == {"aspirin": ["tdc.smi"], "salt": ["tdc.smi"], "<script>alert(1)</script>": []}
    assert told["flags"]["seen"] == 2


def test_a_stopped_panel_goes_on_where_it_was(home, tmp_path, monkeypatch):
    """Parts that were answered are not asked again, and the table is what an unbroken run writes."""
    from medserve.road.admet import run
    from medserve.road.admet.panel import Panel

    path = tmp_path / "many.smi"
    path.write_text("\n".join(s for s, _ in molecules(12)) + "\n")
    monkeypatch.setattr(run, "PART", 4)
    settings, asked = Settings(home=home), Asked(workers=1)
    run_panel(path, asked, out=tmp_path / "whole", settings=settings, progress=SILENT)
    calls: list[int] = []
    answer = Panel.__call__

    def counted(self: Any, texts: Any) -> Any:
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answer(self, texts)

    monkeypatch.setattr(Panel, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        run_panel(path, asked, out=tmp_path / "cut", settings=settings, progress=SILENT)
    assert not (tmp_path / "cut").exists() and len(calls) == 3
    with pytest.raises(Usage) as told:
        run_panel(path, Asked(workers=1, seen=[path]), out=tmp_path / "cut", settings=settings, progress=SILENT)
    assert told.value.code == "admet-other"
    run_panel(path, asked, out=tmp_path / "cut", settings=settings, progress=SILENT)
    assert len(calls) == 4 and not (tmp_path / "cut.admet").exists()
    assert (tmp_path / "cut" / "panel.csv").read_bytes() == (tmp_path / "whole" / "panel.csv").read_bytes()


@pytest.mark.parametrize(("text", "more", "code"), [
    ("", [], "table-empty"),
    ("a,b\nCCO,1\n", [], "column-missing"),
    ("smiles\nCCO\n", ["--column", "drug"], "column-missing"),
    ("smiles\nCCO\n", ["--only-own"], "models-missing"),
    ("smiles\n" + "CCO\n" * 1001, [], "out-missing"),
])  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_with_a_code(home, tmp_path, capsys, text, more, code):
    """Empty, without a column of structures, with too many rows for a terminal: exit code 2."""
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert command(["admet", str(path), "--json", *more]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_a_wrong_column_is_doubted_aloud(home, tmp_path):
    """The column called smiles holds names; the structures stand elsewhere and are found when they are named."""
    path = tmp_path / "m.csv"
    path.write_text("smiles,code\naspirin,CCO\nibuprofen,CCN\n")
    settings = Settings(home=home)
    assert "--column" in run_panel(path, Asked(), out=None, settings=settings, progress=SILENT)["warning"]
    told = run_panel(path, Asked(column="code"), out=None, settings=settings, progress=SILENT)
    assert told["warning"] is None and told["answered"] == 2


def test_a_broken_record_of_an_sdf_costs_only_itself(home, tmp_path):
    """Between two good records: its neighbours are answered under their own names."""
    from medserve.data.molecules.standard import chemistry

    chem = chemistry()
    blocks = []
    for name, smiles in (("one", "CCO"), ("three", "CCN")):
        mol = chem.MolFromSmiles(smiles)
        mol.SetProp("_Name", name)
        blocks.append(chem.MolToMolBlock(mol))
    path = tmp_path / "m.sdf"
    path.write_text(f"{blocks[0]}$$$$\ntwo\n  torn\n\n  9 9 0\nM  END\n$$$$\n{blocks[1]}$$$$\n")
    told = run_panel(path, Asked(), out=None, settings=Settings(home=home), progress=SILENT)
    assert [(one["name"], "error" in one) for one in told["molecules"]] == [
        ("one", False),
        ("two", True),
        ("three", False),
    ]


def test_without_the_library_it_says_what_to_install(monkeypatch):
    """A code and the command; the library is looked for without being imported."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Usage) as told:
        find_library()
    assert told.value.code == "admet-missing" and "medserve[admet]" in told.value.hint


def test_an_own_package_answers_beside_or_alone(home, made, tmp_path):
    """With its set, and whether it was trained on the molecule: known for this installation's own cohort."""
    settings, trained = made
    known = [smiles for smiles, _ in molecules(240)]
    path = tmp_path / "ask.smi"
    path.write_text("\n".join([*known, "CCCCCCCCO", "CC("]) + "\n")
    asked = Asked(models=[Path(trained["package"])], shipped=False, workers=1)
    told = run_panel(path, asked, out=tmp_path / "panel", settings=settings, progress=SILENT)
    assert told["answered"] == 241 and told["endpoints"] == [] and told["models"][0]["training"].startswith("known")
    rows = rows_of(tmp_path / "panel" / "panel.csv")
    name = told["models"][0]["name"]
    seen = [row[f"{name}_seen"] for row in rows]
    assert 100 < seen[:240].count("yes") < 240 and seen[240:] == ["no", ""]
    first = told["molecules"][0]["own"][0]
    assert first["prediction_set"] and {o["label"] for o in first["outputs"]} == {"clean", "toxic"}
    assert first["domain"]["similarity"] == float(rows[0][f"{name}_similarity"])
    assert float(rows[0][f"{name}_toxic"]) == pytest.approx(first["outputs"][1]["probability"], rel=1e-4)


def test_an_own_answer_is_that_of_the_service(home, made, tmp_path):
    """Beside the shipped models, in one row: the same probability and set as `medserve predict` gives."""
    from medserve.models.signing import Trust
    from medserve.runtime.model import LoadedModel

    settings, trained = made
    (tmp_path / "a.smi").write_text("[Cl-].c1(C[NH3+])ccc2ccccc2c1 amine\n")
    asked = Asked(models=[Path(trained["package"])], workers=1)
    told = run_panel(tmp_path / "a.smi", asked, out=None, settings=settings, progress=SILENT)["molecules"][0]
    wanted = LoadedModel.open(Path(trained["package"]), Trust.load(settings)).predict(b"NCc1ccc2ccccc2c1", name="a.smi")
    for name in ("outputs", "prediction_set", "coverage", "domain", "status"):
        assert told["own"][0][name] == wanted[name]
    assert len(told["endpoints"]) == 52
