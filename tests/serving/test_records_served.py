"""A model of records on the network: JSON in, an answer with its reasons out, and a code for everything else."""

import base64
import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import httpx2
import numpy as np
import pytest
from tiny_package import SMALL, Running, png, ramp, serving

from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.serving.logs import make_log
from medserve.settings import Settings

YAML = """
name: ward
table: visits.csv
patient: person
inputs:
  age: {kind: number, unit: a, range: [0, 120]}
  protein: {kind: number, unit: g/L, range: [0, 200]}
  ward: {kind: category}
target: {column: sepsis, kind: binary, classes: ["no", "yes"]}
"""
CASE = {"age": 71, "protein": 60.5, "ward": "icu"}
HEAVY = ("torch", "sklearn", "lightgbm", "pandas", "interpret", "shap", "lifelines", "polars", "scipy.stats")


@dataclass
class Served(Running):
    package: Path


@pytest.fixture(scope="session")
def ward(tmp_path_factory) -> tuple[Path, Settings]:
    """A package of three inputs, boosted trees, with its explanation audited. Returns: it, and the settings."""
    folder = tmp_path_factory.mktemp("ward")
    settings, random = Settings(home=folder / "home"), np.random.default_rng(5)
    data = folder / "data"
    data.mkdir()
    with open(data / "visits.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["person", "age", "protein", "ward", "sepsis"])
        for i in range(240):
            age, protein, ward = random.integers(20, 90), random.normal(70, 8), ["icu", "general", "surgery"][i % 3]
            logit = 0.1 * (age - 55) - 0.15 * (protein - 70) + (ward == "icu")
            ill = random.random() < 1 / (1 + np.exp(-logit))
            out.writerow([f"p{i}", age, round(protein, 1) if i % 6 else "", ward, "yes" if ill else "no"])
    (data / "dataset.yaml").write_text(YAML)
    options = Options(recipe="boosting", keep="recipe", audit="quick", seed=2)
    train_package(data, folder / "model", settings=settings, options=options)
    return folder / "model", settings


@pytest.fixture(scope="module")
def running(ward) -> Iterator[Served]:
    package, settings = ward
    keys = KeyRing.open(settings)
    key = keys.create("tests").key
    application = build(settings, [package], keys=keys, limits=SMALL, threads=1)
    log = StringIO()
    application._log = make_log(log)
    with serving(application) as port:
        yield Served(f"http://127.0.0.1:{port}", port, key, settings, application, log, package)
    keys.close()


def ask(http: httpx2.Client, inputs: object, **params: str) -> httpx2.Response:
    return http.post("/v1/models/ward/predict", json={"inputs": inputs}, params=params)


def risk(answer: dict) -> float:
    return next(o["probability"] for o in answer["outputs"] if o["label"] == "yes")


def test_a_case_is_answered(http):
    """The whole answer of the wire; a value in another unit, as text, left out or null says the same thing."""
    answer = ask(http, CASE).json()
    assert answer["model"]["name"] == "ward" and answer["status"] in ("answered", "abstained")
    assert sum(o["probability"] for o in answer["outputs"]) == pytest.approx(1, abs=1e-6)
    for same in (CASE | {"protein": {"value": 6.05, "unit": "g/dL"}}, CASE | {"age": {"value": 852, "unit": "mo"}},
                 CASE | {"age": "71"}, dict(reversed(CASE.items()))):  # fmt: skip
        assert risk(ask(http, same).json()) == pytest.approx(risk(answer), abs=1e-6), same
    plain = http.post("/v1/models/ward/versions/1/predict", json=CASE)
    assert plain.status_code == 200 and risk(plain.json()) == risk(answer)
    less, null = ask(http, {"age": 71, "ward": "icu"}), ask(http, CASE | {"protein": None})
    assert less.status_code == 200 and risk(less.json()) == risk(null.json())
    assert risk(ask(http, CASE | {"age": 22, "ward": "general"}).json()) < risk(answer)


def test_an_explanation_adds_up_and_has_a_picture(http):
    """?explain=shapley: one weight for each input, which with the base make the model's logit; a PNG."""
    plain = ask(http, CASE).json()
    answer = ask(http, CASE, explain="shapley").json()
    told = answer["explanation"]
    assert told["method"] == "shapley" and told["verdict"] in ("PASS", "CAUTION") and told["label"] == "yes"
    assert {i["input"]: i["value"] for i in told["values"]} == CASE
    total = told["base"] + sum(i["weight"] for i in told["values"])
    assert total == pytest.approx(told["total"], abs=1e-6)
    weights = [abs(i["weight"]) for i in told["values"]]
    assert weights == sorted(weights, reverse=True) and weights[0] > 0
    assert base64.b64decode(told["png"]).startswith(b"\x89PNG\r\n\x1a\n") and told["note"]
    assert risk(answer) == risk(plain) and answer["explanation"] != plain["explanation"] is None
    missing = ask(http, {"age": 71}, explain="shapley").json()["explanation"]["values"]
    assert {i["input"]: i["value"] for i in missing} == {"age": 71, "protein": "missing", "ward": "missing"}


REFUSED = [
    ({**CASE, "ward": "morgue"}, 422, "unknown-code"),
    ({**CASE, "protein": {"value": 60, "unit": "mmol"}}, 422, "wrong-unit"),
    ({**CASE, "protein": {"value": 60, "unit": "furlong"}}, 422, "wrong-unit"),
    ({**CASE, "age": 431}, 422, "value-out-of-range"),
    ({**CASE, "age": {"value": 4000, "unit": "mo"}}, 422, "value-out-of-range"),
    ({**CASE, "age": "old"}, 422, "number-expected"),
    ({**CASE, "age": [71]}, 422, "number-expected"),
    ({**CASE, "age": True}, 422, "number-expected"),
    ({**CASE, "age": 10**400}, 422, "number-expected"),
    ({**CASE, "ward": {"word": "icu"}}, 422, "category-expected"),
    ({**CASE, "weight": 70}, 422, "input-unknown"),
    ({"age": None, "protein": None, "ward": None}, 422, "case-empty"),
    ({}, 422, "case-empty"),
    ([71, 60.5, "icu"], 400, "json-invalid"),
    ("icu", 400, "json-invalid"),
]


@pytest.mark.parametrize(("inputs", "status", "code"), REFUSED, ids=lambda v: str(v)[:36])
def test_what_cannot_be_answered_has_a_code(http, running, inputs, status, code):
    """A coded refusal with the next step, no score beside it; the service answers the next case."""
    said = ask(http, inputs)
    error = said.json()["error"]
    assert (said.status_code, error["code"]) == (status, code) and error["hint"] and "outputs" not in said.json()
    assert ask(http, CASE).status_code == 200
    assert "failure" not in running.line(said.json()["trace"])


@pytest.mark.parametrize(
    ("body", "media", "status", "code"),
    [
        (png(ramp()), "image/png", 415, "media-type"),
        (b"short of breath", "text/plain", 415, "media-type"),
        (png(ramp()), "application/json", 400, "json-invalid"),
        (b"", "application/json", 422, "file-empty"),
        (b'{"inputs": ' * 50_000, "application/json", 400, "json-invalid"),
        (b'{"inputs": {"age": NaN}}', "application/json", 400, "json-invalid"),
        (json.dumps({"inputs": {"ward": "x" * 2**21}}).encode(), "application/json", 422, "category-expected"),
        (b" " * (4 * 2**20), "application/json", 413, "body-too-large"),
    ],
    ids=lambda v: str(v)[:24],
)
def test_a_body_of_another_kind_has_a_code(http, body, media, status, code):
    """A picture, a text, cut or endless JSON; the service answers the next case."""
    said = http.post("/v1/models/ward/predict", content=body, headers={"content-type": media})
    assert (said.status_code, said.json()["error"]["code"]) == (status, code)
    assert ask(http, CASE).status_code == 200


def test_an_explanation_that_is_not_offered_is_refused(http):
    """A method of pictures, or one that nobody knows."""
    for method in ("cam", "guess"):
        said = ask(http, CASE, explain=method)
        error = said.json()["error"]
        assert said.status_code == 400 and error["code"] == "explanation-not-offered" and "shapley" in error["hint"]


def test_the_document_has_the_schema_of_this_model(http):
    """/openapi.json: an address of the model's own, its inputs with their words, units and ranges, and no more."""
    document = http.get("/openapi.json").json()
    operation = document["paths"]["/v1/models/ward/predict"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]["anyOf"][0]
    inputs = schema["properties"]["inputs"]
    assert inputs["properties"].keys() == CASE.keys() and inputs["additionalProperties"] is False
    assert set(inputs["properties"]["ward"]["enum"]) == {"icu", "general", "surgery", None}
    assert inputs["properties"]["protein"]["description"] == "in g/L"
    age = inputs["properties"]["age"]["anyOf"][0]
    assert (age["minimum"], age["maximum"]) == (0, 120)
    ids = [o["operationId"] for item in document["paths"].values() for o in item.values() if "operationId" in o]
    assert len(ids) == len(set(ids))
    page = http.get("/v1/models/ward").json()
    assert [i["name"] for i in (page.get("inputs") or page["versions"][0]["inputs"])] == list(CASE)


def test_no_value_of_a_patient_stands_in_the_log(http, running):
    """Neither of an answered nor of a refused case."""
    ask(http, {"age": 71.03125, "ward": "icu"})
    ask(http, CASE | {"ward": "Mr Smith, room 7"})
    log = running.log.getvalue()
    assert "71.03125" not in log and "Smith" not in log and "unknown-code" in log


def test_nothing_that_trains_is_loaded_to_serve(ward, tmp_path):
    """A fresh process opens the package, answers, converts a unit and explains without torch or a training library."""
    package, settings = ward
    code = (
        "import json, sys; from pathlib import Path; from medserve.app import build; import medserve.serving.asgi;"
        "from medserve.models.signing import Trust; from medserve.runtime.model import LoadedModel;"
        "from medserve.settings import Settings; settings = Settings(home=Path(sys.argv[2]));"
        "model = LoadedModel.open(Path(sys.argv[1]), Trust.load(settings), threads=1);"
        "case = {'inputs': {'age': 71, 'protein': {'value': 6, 'unit': 'g/dL'}, 'ward': 'icu'}};"
        "answer = model.predict(json.dumps(case).encode(), explain='shapley');"
        "print(json.dumps([len(answer['explanation']['values']), sorted(sys.modules)]))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(package), str(settings.home)], capture_output=True, text=True,
                         timeout=120)  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    values, modules = json.loads(ran.stdout)
    assert values == 3 and not set(HEAVY) & set(modules)
