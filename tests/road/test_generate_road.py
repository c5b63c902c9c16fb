"""From a file of molecules to new ones, and to new ones that score well: the same verbs, one package format."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_molecules import molecules, write_cohort

from medserve.cli import run as command
from medserve.errors import BadData, Refusal, Usage
from medserve.models.package import STEP, open_package
from medserve.models.signing import Trust
from medserve.progress import SILENT
from medserve.road import optimise as searching
from medserve.road.generate import TEMPERATURE, write_molecules
from medserve.road.optimise import optimise
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.runtime.writer import Writer
from medserve.settings import Settings

pytestmark = pytest.mark.slow


def writer_data(folder: Path) -> Path:
    folder.mkdir()
    (folder / "m.csv").write_text("smiles\n" + "\n".join(s for s, _ in molecules(700)) + "\n")
    (folder / "dataset.yaml").write_text(
        "name: made-writer\ntable: m.csv\nindependent: true\nsynthetic: enumerated\npublic: true\n"
        "inputs: {smiles: {kind: molecule}}\ntarget: {kind: generate}\n"
    )
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Settings, Path, dict[str, Any], Path]:
    """Settings, the writer's package, what its training told, and a package that tells molecules of a nitro group."""
    folder = tmp_path_factory.mktemp("generate")
    settings = Settings(home=folder / "home")
    options = Options(audit="none", keep="recipe", epochs=40)
    told = train_package(writer_data(folder / "data"), folder / "prior", settings=settings, options=options)
    data = write_cohort(folder / "labels")
    text = (data / "dataset.yaml").read_text().replace("classes: [clean, toxic]", "classes: [plain, nitro]")
    (data / "dataset.yaml").write_text(text)
    table = (data / "m.csv").read_text().replace(",toxic", ",nitro").replace(",clean", ",plain")
    (data / "m.csv").write_text(table)
    options = Options(audit="none", recipe="linear", keep="recipe", name="nitro")
    train_package(data, folder / "nitro", settings=settings, options=options)
    return settings, folder / "prior", told, folder / "nitro"


def test_a_writer_is_a_package_like_every_other(made):
    """Signed, with its card and report, better than shares of letters, and served: a molecule has its likelihood."""
    settings, prior, told, _ = made
    package = open_package(prior, Trust.load(settings))
    assert package.spec.output.task == "generate" and package.path(STEP).is_file()
    assert told["metrics"]["perplexity"]["low"] > 1
    assert told["decision"]["difference"]["low"] > 0  # the network beats the simple model
    page = (prior / "evaluation" / "report.html").read_text()
    assert "equally likely" in page and "never made nor measured" in json.dumps(package.card)
    model = LoadedModel.open(prior, Trust.load(settings))
    usual, strange = (model.predict(s)["outputs"][0]["value"] for s in (b"Clc1ccccc1", b"FC(F)(F)C#CC#CC#CS"))
    assert strange < usual < 0


def test_it_writes_molecules_that_are_valid_new_and_the_same_for_the_same_seed(made, tmp_path):
    """CSV, figures and a page with structures drawn; a stopped run goes on with the same molecules."""
    settings, prior, _, _ = made
    found = write_molecules(prior, tmp_path / "a.csv", count=1200, settings=settings, seed=3)
    assert found["valid"] > 0.6 and 0 < found["novel"] < 1 and found["barred"]["molecules"] == 0
    assert found["temperature"] == TEMPERATURE < 1
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert sum(int(r["drawn"]) for r in rows) == 1200 and found["written"] == sum(r["valid"] == "1" for r in rows)
    assert "data:image/svg" in (tmp_path / "a.html").read_text()
    write, calls = Writer.write, []

    def once(self, *args, **more):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return write(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "write", once)
        with pytest.raises(KeyboardInterrupt):
            write_molecules(prior, tmp_path / "b.csv", count=1200, settings=settings, seed=3)
    assert not (tmp_path / "b.csv").exists()
    write_molecules(prior, tmp_path / "b.csv", count=1200, settings=settings, seed=3)
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_what_is_barred_is_counted_and_written_nowhere(made, tmp_path):
    """A site's own list: its molecule and close analogues stand in no file that is left."""
    settings, prior, _, _ = made
    first = write_molecules(prior, tmp_path / "a.csv", count=500, settings=settings)
    rows = [r["smiles"] for r in csv.DictReader((tmp_path / "a.csv").read_text().splitlines()) if r["valid"] == "1"]
    barred = max(rows, key=len)
    (tmp_path / "bar.smi").write_text(barred + "\n")
    found = write_molecules(prior, tmp_path / "b.csv", count=500, settings=settings, bar=tmp_path / "bar.smi")
    assert found["barred"]["molecules"] > 0 and found["written"] < first["written"]
    left = [r["smiles"] for r in csv.DictReader((tmp_path / "b.csv").read_text().splitlines())]
    assert barred not in left and all(barred not in p.read_text() for p in tmp_path.glob("b.*"))
    (tmp_path / "bar.smi").write_text("no molecule\n")
    with pytest.raises(BadData):
        write_molecules(prior, tmp_path / "c.csv", count=10, settings=settings, bar=tmp_path / "bar.smi")


def test_learning_finds_more_than_drawing_and_goes_on_where_it_stopped(made, tmp_path):
    """Within the same budget the best molecules score higher than the best that were merely drawn; a run that was
    stopped ends with the same file."""
    settings, prior, _, nitro = made
    asked: dict[str, Any] = {"objectives": [f"{nitro}:nitro>", "qed>"], "budget": 320, "settings": settings, "seed": 1}
    found = optimise(prior, tmp_path / "a.csv", **asked)
    assert found["spent"] == {"learned": 320, "screened": 320} or found["warnings"]
    assert found["score"]["difference"]["low"] > 0
    learn, calls = searching.Book.spend, []

    def stopping(self, texts):
        calls.append(1)
        if len(calls) > 12:
            raise KeyboardInterrupt
        return learn(self, texts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching.Book, "spend", stopping)
        with pytest.raises(KeyboardInterrupt):
            optimise(prior, tmp_path / "b.csv", **asked)
    again = optimise(prior, tmp_path / "b.csv", **asked)
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()
    assert again["score"] == found["score"] and "Learning curve" in (tmp_path / "b.html").read_text()


def test_a_judge_is_another_package(made, tmp_path):
    """One that was an objective has seen everything."""
    settings, prior, _, nitro = made
    with pytest.raises(Usage) as caught:
        optimise(prior, tmp_path / "a.csv", objectives=[f"{nitro}:nitro>"], judge=f"{nitro}:nitro>", settings=settings)
    assert caught.value.code == "judge-not-independent"


def test_an_objective_that_seeks_harm_is_refused_at_the_command_line(made, tmp_path, capsys):
    """Exit code 2, the code on stdout, and nothing written; the same package is allowed the other way."""
    settings, prior, _, nitro = made
    harmful = tmp_path / "data"
    data = write_cohort(harmful)  # its classes are clean and toxic
    train_package(data, tmp_path / "tox", settings=settings, options=Options(audit="none", recipe="linear"))
    home = ["--home", str(settings.home), "--json", "--out", str(tmp_path / "x.csv")]
    assert command(["generate", str(prior), "--objective", f"{tmp_path / 'tox'}:toxic>", *home]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "objective-harmful"
    assert command(["generate", str(prior), "--objective", f"{tmp_path / 'tox'}:clean<", *home]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "objective-harmful"
    fentanyl = "CCC(=O)N(c1ccccc1)C1CCN(CCc2ccccc2)CC1"
    assert command(["generate", str(prior), "--like", fentanyl, *home]) == 2
    told = capsys.readouterr().out
    assert json.loads(told)["error"]["code"] == "objective-controlled" and fentanyl not in told
    assert not (tmp_path / "x.csv").exists()
    with pytest.raises(Refusal):
        searching.open_oracle(searching.parse(f"{tmp_path / 'tox'}:toxic>"), Trust.load(settings))
    allowed = searching.open_oracle(searching.parse(f"{tmp_path / 'tox'}:toxic<"), Trust.load(settings))
    assert np.all(allowed.score(["CCO"]) >= 0)


def test_other_packages_write_nothing(made, tmp_path):
    """A code, and the next step."""
    settings, _, _, nitro = made
    with pytest.raises(Usage) as caught:
        write_molecules(nitro, tmp_path / "a.csv", count=10, settings=settings)
    assert caught.value.code == "not-a-writer" and SILENT.quiet
