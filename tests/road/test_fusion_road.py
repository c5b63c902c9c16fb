"""A film, a note and a number in one case: every verb, with all of them and without some, and over the network."""

import base64
import csv
import json
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from made_fusion import YAML, write_fused
from tiny_package import SMALL, serving

from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.cli import run as command
from medserve.models.package import ALTERNATIVE
from medserve.models.signing import Trust
from medserve.road.evaluate import evaluate_package
from medserve.road.run import Options
from medserve.road.sample import write_case
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings

CASES = 120


class Fused:
    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.data = write_fused(folder / "data", CASES, gaps=True)
        self.package = folder / "model"
        self.settings = Settings(home=self.home)
        options = Options(epochs=4, audit="quick", keep="recipe", seed=1)
        self.result = train_package(self.data, self.package, settings=self.settings, options=options)
        self.model = LoadedModel.open(self.package, Trust.load(self.settings), threads=1)

    def inputs(self, row: int = 0, *names: str) -> dict[str, Any]:
        """Some inputs of one case, as a request carries them."""
        with open(self.data / "cases.csv", newline="") as file:
            said = list(csv.DictReader(file))[row]
        film = base64.b64encode((self.data / said["path"]).read_bytes()).decode()
        whole = {"film": {"media_type": "image/png", "data": film}, "note": said["note"], "crp": float(said["crp"])}
        return {name: whole[name] for name in names or whole}


@pytest.fixture(scope="module")
def fused(tmp_path_factory) -> Fused:
    return Fused(tmp_path_factory.mktemp("fused"))


@pytest.fixture
def call(fused, monkeypatch, capsys):
    """One command line in the home of the package. Returns: the one JSON object."""
    monkeypatch.setenv("MEDSERVE_HOME", str(fused.home))

    def _call(*argv: object, status: int = 0) -> dict[str, Any]:
        assert command([*map(str, argv), "--json"]) == status
        return json.loads(capsys.readouterr().out)

    return _call


def test_inspection_names_the_three_inputs(fused, call, tmp_path):
    """Kind, gaps, and the size of the films; the page shows them."""
    rows = {row["name"]: row for row in call("inspect", fused.data, "--out", tmp_path / "page.html")["inputs"]}
    assert {name: row["kind"] for name, row in rows.items()} == {"film": "image", "note": "text", "crp": "number"}
    assert [rows[n]["missing"] for n in ("film", "note", "crp")] == [CASES // 7, CASES // 9, CASES // 11]
    assert rows["film"]["said"] == "24 x 24, grey" and "film" in (tmp_path / "page.html").read_text()


def test_the_network_of_all_inputs_is_the_default(fused):
    """The recipe for a picture beside others, its figures, and boosted trees that take the film as well."""
    assert fused.result["recipe"] == "image-beside"
    other = LoadedModel.open(fused.package / ALTERNATIVE, Trust.load(fused.settings), threads=1)
    assert other.spec.architecture.name == "record-trees"
    case = json.dumps(fused.inputs()).encode()
    assert other.predict(case)["model"]["digest"] != fused.model.predict(case)["model"]["digest"]
    spec = fused.model.spec
    assert {i.name: i.kind for i in spec.inputs} == {"film": "image", "note": "text", "crp": "number"}
    assert fused.model.engine.score(fused.model.load(case)[None]).logits.shape == (1, 1)


def test_evaluating_again_gives_the_same_numbers(fused):
    """The films of the data are prepared as the package says: the record of the report, again."""
    told = json.loads((fused.package / "evaluation" / "test.json").read_text())
    again = evaluate_package(fused.package, fused.data, "test", settings=fused.settings, draws=50)
    assert again["n"] == told["n"]
    for name in ("auroc", "log_loss"):
        assert again["metrics"][name]["value"] == pytest.approx(told["metrics"][name]["value"], abs=1e-6)
    hidden = {tuple(row["inputs"]): row for row in told["conformal"]["hidden"]}
    assert {("film",), ("note",), ("crp",), ("film", "note")} <= set(hidden)
    assert all(0 <= row["coverage"] <= 1 and row["n"] > 0 for row in hidden.values())
    assert told["conformal"]["lacking"]["n"] > 0


def test_foreign_films_are_prepared_as_the_package_says(fused, tmp_path):
    """Data whose films are larger: brought to the model's own size, not to the one that they would have got."""
    from PIL import Image

    data = write_fused(tmp_path / "foreign", 40, seed=5)
    for path in (data / "films").iterdir():
        Image.open(path).resize((60, 60)).save(path)
    found = evaluate_package(fused.package, data, "all", settings=fused.settings, draws=50)
    assert found["n"] + sum(found["answers"]["refused_before_scoring"].values()) == 40


def test_what_is_left_out_is_said_and_widens_the_set(fused, call, tmp_path):
    """Without the film, without the note, without both: answered, named among the reasons, a superset of labels."""
    case = tmp_path / "case.json"

    def answer(*names: str) -> dict[str, Any]:
        case.write_text(json.dumps({"inputs": fused.inputs(0, *names)}))
        return call("predict", fused.package, "--input", case)

    whole = answer()
    assert not [r for r in whole["reasons"] if r["code"] == "input-missing"]
    for names, gone in ((("note", "crp"), "film"), (("film", "crp"), "note"), (("film", "note"), "crp")):
        found = answer(*names)
        said = [r["message"] for r in found["reasons"] if r["code"] == "input-missing"]
        assert len(said) == 1 and gone in said[0] and "prediction set allows for it" in said[0]
        assert found["outputs"] != whole["outputs"]
        record = fused.model.load(case.read_bytes())
        scores = fused.model.score(record[None])
        unaware = fused.model.answer(scores)  # the same logits, as if nothing were missing
        assert set(unaware["prediction_set"]) <= set(found["prediction_set"])
    entries = fused.model.spec.calibration.conformal.absent
    assert {tuple(e.inputs) for e in entries} >= {("film",), ("note",), ("crp",)}


def test_a_case_of_the_data_can_be_sent_as_it_stands(fused, tmp_path):
    """The sample that the demo writes: the film's bytes in base64, which the model reads."""
    path = write_case(fused.data, tmp_path, fused.settings, name="sample.json")
    record = fused.model.load(path.read_bytes())
    assert np.isfinite(record).any() and np.array_equal(
        record, fused.model.load(json.dumps(fused.inputs()).encode()), equal_nan=True
    )


def test_a_place_of_the_film_and_a_word_of_the_note_explain_the_answer(fused, call, tmp_path):
    """Every kind has its method, audited; what is offered is data, and a picture of the film's own shape."""
    methods = {m.name: m.verdict for m in fused.model.spec.explanations}
    assert set(methods) == {"shapley", "words", "occlusion"}
    case = tmp_path / "case.json"
    case.write_text(json.dumps(fused.inputs()))
    for name, verdict in methods.items():
        if verdict == "FAIL":
            assert call("explain", fused.package, "--input", case, "--out", tmp_path / "x.png", "--method", name,
                        status=2)["error"]["code"] == "explanation-not-offered"  # fmt: skip
            continue
        call("explain", fused.package, "--input", case, "--out", tmp_path / "why.png", "--method", name)
        told = json.loads((tmp_path / "why.json").read_text())
        inputs = {item["input"] for item in told["values"]}
        assert inputs == {"shapley": {"film", "note", "crp"}, "words": {"note"}, "occlusion": {"film"}}[name]
        assert ("map" in told) == (name == "occlusion")
        assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_service_takes_the_film_in_json(fused):
    """The same answer over HTTP; a broken or foreign film is refused with its code; the schema says how to send it."""
    keys = KeyRing.open(fused.settings)
    key = keys.create("tests").key
    application = build(fused.settings, [fused.package], keys=keys, limits=SMALL, threads=1)
    film = fused.inputs()["film"]
    refused = {
        "image-expected": {"media_type": "image/png", "data": "no base64"},
        "format-unknown": {"data": base64.b64encode(b"GIF89a" + bytes(64)).decode()},
        "media-type-mismatch": {**film, "media_type": "image/jpeg"},
        "file-truncated": {"data": film["data"][:400]},
    }
    with (
        serving(application) as port,
        httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}, timeout=20
        ) as http,
    ):

        def ask(inputs: dict[str, Any]) -> httpx2.Response:
            return http.post("/v1/models/fused/predict", json={"inputs": inputs})

        found = ask(fused.inputs())
        assert found.status_code == 200
        here = fused.model.predict(json.dumps(fused.inputs()).encode())
        assert found.json()["outputs"][1]["probability"] == pytest.approx(here["outputs"][1]["probability"], abs=1e-6)
        assert "input-missing" in [r["code"] for r in ask(fused.inputs(0, "note")).json()["reasons"]]
        for code, sent in refused.items():
            answer = ask(fused.inputs() | {"film": sent})
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)
        body = http.get("/openapi.json").json()["paths"]["/v1/models/fused/predict"]["post"]["requestBody"]["content"]
        forms = body["application/json"]["schema"]["anyOf"]  # the inputs, or a stored case
        inputs = next(form["properties"]["inputs"] for form in forms if "properties" in form)
        ways = inputs["properties"]["film"]["anyOf"]
        assert {"media_type", "data"} == set(ways[0]["properties"])
    keys.close()


def test_the_same_film_in_two_parts_is_a_leak(fused, tmp_path):
    """Copies of films under other patients and notes: found by their pixels, and out of the training part."""
    from medserve.progress import SILENT
    from medserve.road.collect import list_data
    from medserve.road.prepare import collect

    data = write_fused(tmp_path / "data", 100, seed=3)
    with open(data / "cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        row["part"] = ("train", "train", "val", "calibration", "test")[i % 5]
    for i in (0, 5, 10):  # a test case gets the film of a training case
        rows[i + 4]["path"] = rows[i]["path"]
    with open(data / "cases.csv", "w", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    (data / "dataset.yaml").write_text(YAML + "split: part\n")
    found = collect(list_data(data, fused.settings), tmp_path / "work", fused.settings, Options(), SILENT)
    assert found.removed.as_dict()["removed"] == {"train": 3}
    left = {found.cohort.cases[row].id for row in found.removed.rows}
    assert left == {"row 2", "row 7", "row 12"}


@pytest.mark.slow
def test_all_kinds_together_beat_each_alone(tmp_path):
    """Two of three independent signs make a case ill: the AUROC of the fused model lies above that of every single."""
    settings = Settings(home=tmp_path / "home")
    aurocs = {}
    for name in ("all", "film", "note", "crp"):
        data = write_fused(tmp_path / name, 400)
        if name != "all":
            gone = tuple(f"  {other}:" for other in ("film", "note", "crp") if other != name)
            lines = [line for line in YAML.splitlines() if not line.startswith(gone)]
            (data / "dataset.yaml").write_text("\n".join(lines))
        options = Options(epochs=20, audit="none", keep="recipe", seed=1)
        found = train_package(data, tmp_path / f"{name}-model", settings=settings, options=options)
        aurocs[name] = found["metrics"]["auroc"]["value"]
    assert aurocs["all"] > 0.8 and all(aurocs["all"] > aurocs[name] + 0.02 for name in ("film", "note", "crp")), aurocs
    assert np.isfinite(list(aurocs.values())).all()
