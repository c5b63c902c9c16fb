"""A dose walks the road: learnt on the scale of its size, held within its range, never named without an interval."""

import csv
import json

import numpy as np
import pytest

from medserve.evaluation.report import write_report
from medserve.models.package import ALTERNATIVE
from medserve.models.signing import Trust
from medserve.progress import SILENT
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.safety.policy import Standing
from medserve.settings import Settings

YAML = """
name: made-doses
table: patients.csv
patient: person
inputs:
  weight: {kind: number, unit: kg, range: [20, 200], fhir: "loinc|29463-7"}
  gene: {kind: category, classes: [common, slow]}
  people: {kind: category, classes: [north, south, east]}
target:
  column: dose
  kind: number
  unit: mg/wk
  scale: sqrt
  range: [4, 90]
  bands: [21, 49]
  interval_by: people
  medicine: B01AA03
subgroups: [people]
"""
OPTIONAL = Standing(None, "no rules are asked in these tests", required=False)
NOISE = {"north": 0.1, "south": 0.9, "east": 0.3}  # of the square root
FEW = "east"


def write(folder, n=1500, yaml=YAML):
    rng = np.random.default_rng(4)
    folder.mkdir(parents=True)
    with open(folder / "patients.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["person", "weight", "gene", "people", "dose"])
        for i in range(n):
            people = FEW if i % 40 == 0 else ("north", "south")[i % 2]
            weight, gene = round(float(rng.uniform(45, 110)), 1), ("common", "slow")[rng.random() < 0.3]
            root = 2.5 + 0.04 * weight - 1.2 * (gene == "slow") + NOISE[people] * rng.normal()
            out.writerow([f"p{i}", weight, gene, people, 300 if i in (5, 6) else round(max(root, 2.01) ** 2, 2)])
    (folder / "dataset.yaml").write_text(yaml)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doses")
    settings, data = Settings(home=folder / "home"), write(folder / "data")
    options = Options(audit="none", recipe="boosting", keep="recipe", seed=2)
    told = train_package(data, folder / "package", settings=settings, options=options, progress=SILENT)
    return folder / "package", settings, told


@pytest.fixture(scope="module")
def model(trained):
    return LoadedModel.open(trained[0], Trust.load(trained[1]), threads=1, rules=OPTIONAL)


def ask(model, **inputs):
    record = model.load(json.dumps({"inputs": inputs}).encode(), media="application/json")
    return model.answer(model.score(record[None]), case=record)


def evaluation(package):
    return json.loads((package / "evaluation" / "test.json").read_text())


def test_a_dose_is_a_question_of_treatment_and_names_its_medicine(model, trained):
    assert model.spec.question == "treatment"
    assert model.spec.output.codes["dose"].code == "B01AA03"
    card = json.loads((trained[0] / "card.json").read_text())
    assert card["question"] == "treatment"


def test_a_dose_without_review_says_that_no_rule_of_safety_was_asked(model, trained):
    """Where the installation lets it be named at all: by default it is not."""
    answer = ask(model, weight=80, gene="common", people="north")
    assert "safety-not-reviewed" in [reason["code"] for reason in answer["reasons"]]
    strict = LoadedModel.open(trained[0], Trust.load(trained[1]), threads=1, rules=Standing.open(trained[1]))
    answer = ask(strict, weight=80, gene="common", people="north")
    assert "safety-required" in [reason["code"] for reason in answer["reasons"]]
    assert answer["outputs"][0]["value"] is None and answer["status"] == "abstained"


def test_an_input_of_the_package_is_read_out_of_a_bundle(model):
    """The declared element, in the unit of the Bundle; the body of a request may then be FHIR."""
    assert "application/fhir+json" in model.spec.media_types and model.spec.inputs[0].fhir == "loinc|29463-7"
    code = {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]}
    weight = {"resourceType": "Observation", "status": "final", "code": code,
              "valueQuantity": {"value": 80000, "unit": "g"}}  # fmt: skip
    entries = [{"resource": one} for one in ({"resourceType": "Patient", "id": "p"}, weight)]
    body = json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()
    record, about = model.take(body, media="application/fhir+json")
    assert record[0] == 80 and about.subject == "Patient/p"


def test_the_interval_grows_with_the_dose(model):
    low, high = (ask(model, weight=w, gene=g, people="north")["outputs"][0] for w, g in ((46, "slow"), (108, "common")))
    assert low["interval"][0] < low["value"] < low["interval"][1]
    assert high["value"] == pytest.approx((2.5 + 0.04 * 108) ** 2, rel=0.1)
    width = [one["interval"][1] - one["interval"][0] for one in (low, high)]
    assert width[1] > 1.5 * width[0]
    upper, lower = high["interval"][1] - high["value"], high["value"] - high["interval"][0]
    assert upper > lower  # symmetric on the scale of the square root


def test_a_group_with_more_noise_gets_a_wider_interval_of_its_own(model):
    width = {}
    for people in ("north", "south", "east"):
        answer = ask(model, weight=80, gene="common", people=people)
        low, high = answer["outputs"][0]["interval"]
        width[people] = high - low
        codes = [reason["code"] for reason in answer["reasons"]]
        assert ("group-small" in codes) == (people == FEW)
    assert width["south"] > 3 * width["north"]


def test_coverage_holds_in_each_group_of_the_test_part(trained):
    sets = evaluation(trained[0])["conformal"]
    groups = {row["group"]: row for row in sets["groups"]}
    assert groups["north"]["own"] and groups["south"]["own"] and not groups[FEW]["own"]
    for name in ("north", "south"):
        assert groups[name]["inside"], groups[name]
    assert sets["half_width"] is None  # it is not of one width


def test_no_answer_leaves_the_range_and_says_when_it_was_held(model, trained):
    spec = model.spec
    far = np.array([[12.0]], np.float32)  # standard deviations above the mean
    assert spec.output.value(far)[0, 0] == 90
    from medserve.questions.answers import answer_one, probabilities

    found = answer_one(spec, probabilities(spec, far)[0], group="north")
    assert found.value == 90 and found.interval is not None and found.interval[1] == 90
    assert "value-at-limit" in [reason["code"] for reason in found.reasons]


def test_labels_outside_the_range_are_left_out_one_by_one(trained):
    told = trained[2]
    assert sum(told["parts"].values()) == 1498
    assert told["model"]["name"] == "made-doses"


def test_the_errors_stand_by_band_of_the_dose_and_by_group(trained):
    rows = {(row["group"], row["value"]): row for row in evaluation(trained[0])["subgroups"]}
    assert {"below 21 mg/wk", "21 to 49 mg/wk", "49 and more mg/wk"} >= {
        value for group, value in rows if group == "true dose"
    }
    judged = rows["true dose", "21 to 49 mg/wk"]
    assert 0 < judged["metrics"]["within_20"]["value"] <= 1
    assert rows["people", "south"]["metrics"]["mae"]["value"] > rows["people", "north"]["metrics"]["mae"]["value"]


def test_the_report_shows_the_coverage_of_each_group(trained, tmp_path):
    write_report(tmp_path / "report.html", evaluation=evaluation(trained[0]), model={})
    page = (tmp_path / "report.html").read_text()
    assert "Coverage of each group" in page and "Within 20 %" in page


def test_without_an_interval_no_dose_is_named(model):
    import msgspec

    from medserve.questions.answers import answer_one

    bare = msgspec.structs.replace(model.spec.calibration, conformal=None)
    spec = msgspec.structs.replace(model.spec, calibration=bare)
    found = answer_one(spec, np.array([30.0]))
    assert found.value is None and found.status == "abstained"
    assert "interval-missing" in [reason["code"] for reason in found.reasons]


def test_the_baseline_beside_it_is_on_the_same_scale(trained):
    spec = json.loads((trained[0] / ALTERNATIVE / "model.json").read_text())
    assert spec["output"]["scale"] == "sqrt" and spec["output"]["range"] == [4, 90]
