"""The medicines of a visit on the whole road: trained, reported, evaluated again, asked, explained."""

import json

import numpy as np
import pytest
from made_tables import Made
from made_visits import ATC, YAML, made

from medserve.errors import BadData, MedServeError, Refusal, Usage
from medserve.explain.explainers import target_of
from medserve.models.package import ALTERNATIVE, open_package
from medserve.models.signing import Trust
from medserve.progress import SILENT
from medserve.road.collect import list_data
from medserve.road.evaluate import evaluate_package
from medserve.road.medicines import settle_medicines
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.safety.policy import Standing
from medserve.serving.oip.columns import columns
from medserve.settings import Settings

EVENTS = [
    [100.0, "icd10|E11"], [100.0, "loinc|8480-6", 138, "mm[Hg]"], [100.5, "rxnorm|6809"],
    [1000.0, "icd10|J02"], [1000.0, "loinc|8480-6", 142, "mm[Hg]"],
]  # fmt: skip
CALLED = "agreement with past prescribing"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("clinic")
    data, settings = made(folder / "data", 60), Settings(home=folder / "home")
    options = Options(seed=0, epochs=40, audit="none", keep="recipe")
    result = train_package(data, folder / "package", settings=settings, options=options, progress=SILENT)
    return Made(data, folder / "package", settings, result)


def told_of(clinic: Made) -> dict:
    return json.loads((clinic.package / "evaluation" / "test.json").read_text())


def test_two_packages_one_of_which_repeats(clinic):
    """The recurrent net and repeating the last visit, with the rules of safety that both were held against."""
    trust = Trust.load(clinic.settings)
    specs = [open_package(folder, trust).spec for folder in (clinic.package, clinic.package / ALTERNATIVE)]
    assert [spec.architecture.name for spec in specs] == ["medicine-net", "repeat-last"]
    spec = specs[0]
    assert spec.question == "treatment" and spec.output.labels == sorted(ATC)
    assert spec.output.codes["metformin"].code == "A10BA02"  # written as RxNorm, named by the tables
    pairs = [(spec.output.labels[a], spec.output.labels[b]) for a, b in spec.output.medicines.pairs]
    assert pairs == [("celecoxib", "warfarin")] and 0 < spec.output.medicines.rate < 0.2
    assert len({point.threshold for point in spec.operating_points}) == 1
    assert {point.threshold for point in specs[1].operating_points} == {0.5}


def test_the_report_stands_beside_repeating_the_last_visit(clinic):
    """Paired on the same visits; visits with an earlier one by themselves; every page says what the figures are."""
    told = told_of(clinic)["medicines"]
    every, had, first = told["rows"]
    assert every["n"] == had["n"] + first["n"] == told_of(clinic)["n"] and had["n"] > first["n"] > 0
    gap = had["difference"]["jaccard"]
    assert gap["value"] == pytest.approx(had["model"]["jaccard"]["value"] - had["repeat"]["jaccard"]["value"])
    assert gap["low"] < gap["value"] < gap["high"] and every["difference"]["jaccard"]["value"] > 0
    baseline = told_of(clinic)["baseline"]["metrics"]["jaccard"]["value"]
    assert baseline == pytest.approx(every["repeat"]["jaccard"]["value"])  # the candidate repeats what the history says
    page = (clinic.package / "evaluation" / "report.html").read_text()
    card = json.loads((clinic.package / "card.json").read_text())
    assert CALLED in page and "measure of benefit" in page
    assert card["medicines"]["called"] == CALLED and card["medicines"]["rules"][0]["digest"].startswith("sha256:")
    assert "past-prescribing" in {one["code"] for one in card["limits"] + card["claims"]}
    assert clinic.result["decision"]["metric"].endswith(CALLED)


def test_evaluating_again_gives_the_same_figures(clinic):
    """The labels are those of the package, whatever codes the data hold."""
    again = evaluate_package(clinic.package, clinic.data, "test", settings=clinic.settings)
    for name in ("jaccard", "interaction_rate", "prauc"):
        assert again["metrics"][name]["value"] == pytest.approx(told_of(clinic)["metrics"][name]["value"], abs=1e-6)
    assert again["medicines"]["rows"] == told_of(clinic)["medicines"]["rows"]


PATIENT = {"age_years": 61, "sex": "female", "pregnancy": "not-pregnant", "conditions": [], "allergies": [],
           "medicines": [{"drug": "atc|B01AA03"}]}  # fmt: skip


def asked(clinic: Made, settings: Settings) -> LoadedModel:
    """The model under the rules of an installation."""
    return LoadedModel.open(clinic.package, Trust.load(clinic.settings), threads=1, rules=Standing.open(settings))


def ask(model: LoadedModel, events: list, patient: dict | None = None) -> dict:
    inputs = {"sex": "F", "history": {"events": events, "prediction_time": 1000.5}}
    return model.predict(json.dumps({"inputs": inputs} | ({"patient": patient} if patient else {})).encode())


@pytest.fixture(scope="module")
def free(clinic, tmp_path_factory) -> LoadedModel:
    """Where a review is optional."""
    home = tmp_path_factory.mktemp("free")
    (home / "safety.yaml").write_text("review: optional\n")
    return asked(clinic, Settings(home=home))


def test_an_answer_lists_candidates_and_what_they_are(free):
    """In the order of probability, with the codes by which rules of safety take them; never without the label."""
    answer = ask(free, EVENTS)
    chances = [one["probability"] for one in answer["outputs"]]
    assert chances == sorted(chances, reverse=True)
    chosen = answer["decision"]["labels"]
    assert chosen == [one["label"] for one in answer["outputs"]][: len(chosen)] and "metformin" in chosen
    assert answer["outputs"][0]["code"]["system"] == "http://www.whocc.no/atc"
    _, rows = columns(free.spec, [answer], ["probability"])["probability"]
    by_label = {one["label"]: one["probability"] for one in answer["outputs"]}
    assert rows[0].tolist() == [by_label[label] for label in free.spec.output.labels]  # Open Inference: the signature's
    reasons = {one["code"]: one["message"] for one in answer["reasons"]}
    assert CALLED in reasons["past-prescribing"] and "safety-not-reviewed" in reasons
    other = [[one[0], "icd10|Z00"] if one[1] == "icd10|J02" else one for one in EVENTS]
    infection, none = (
        next(one["probability"] for one in told["outputs"] if one["label"] == "amoxicillin")
        for told in (answer, ask(free, other))
    )
    assert infection > none


def test_what_is_prescribed_at_the_visit_is_not_seen(free):
    """Medicines of the present visit in the body move nothing; with nothing else, the case is refused."""
    plain, told = (
        [one["probability"] for one in ask(free, events)["outputs"]]
        for events in (EVENTS, [*EVENTS, [1000.4, "atc|B01AA03"], [1000.5, "atc|M01AH01"]])
    )
    assert plain == told
    with pytest.raises(Refusal) as error:
        ask(free, [[1000.4, "atc|B01AA03"]])
    assert error.value.code == "timeline-empty"


def test_the_rules_of_safety_stand_above_the_set(clinic, free):
    """Held in the same request: what is blocked or cannot be judged leaves the decision; without facts, all of it."""
    strict = asked(clinic, clinic.settings)
    wanted = ask(free, EVENTS)["decision"]["labels"]
    silent = ask(strict, EVENTS)
    assert silent["decision"] is None and silent["safety"]["withheld"] == wanted
    told = ask(strict, EVENTS, PATIENT)
    left = told["decision"]["labels"] if told["decision"] else []
    assert told["safety"]["status"] == "reviewed" and sorted(left + told["safety"]["withheld"]) == sorted(wanted)
    assert "past-prescribing" in {one["code"] for one in told["reasons"]}


def test_an_explanation_speaks_of_visits(clinic):
    """Which earlier events moved the likeliest medicine; what no audit passed is refused with a code."""
    model = clinic.model
    body = {"events": EVENTS, "prediction_time": 1000.5}
    record = model.load(json.dumps({"inputs": {"sex": "F", "history": body}}).encode(), media="application/json")
    target = target_of(model.spec.output, model.score(record[None]).logits[0])
    told = model.explainer.evidence("events", record, target)
    assert target.label in ATC and told.png.startswith(b"\x89PNG")
    assert {one["part"].rpartition(", ")[2] for one in told.items} == {"this visit", "1 visit before"}
    assert np.isclose(told.base + sum(one["weight"] for one in told.items), told.total, atol=1e-3)
    with pytest.raises(Usage) as error:
        model.check_explain("events")
    assert error.value.code == "explanation-not-offered"


def test_too_few_patients_behind_every_medicine(tmp_path):
    """Nine patients: no medicine is a label."""
    with pytest.raises(BadData) as error:
        train_package(made(tmp_path / "data", 9), tmp_path / "out", settings=Settings(home=tmp_path / "home"),
                      options=Options(audit="none"), progress=SILENT)  # fmt: skip
    assert error.value.code == "medicines-rare"


def test_unknown_codes_are_labels_of_their_own_and_no_rules_are_an_error(tmp_path):
    """A code that no table knows is told and kept; tables that cannot be read stop the run."""
    data, settings = made(tmp_path / "data", 60, yaml=YAML), Settings(home=tmp_path / "home")
    events = data / "events.csv"
    events.write_text(
        events.read_text().replace("atc|N02BE01", "rxnorm|99999999").replace("atc|B01AA03", "atc|V99ZZ99")
    )
    listing, told, codes = settle_medicines(list_data(data, settings), settings)
    assert told is not None
    assert {"rxnorm|99999999", "atc|V99ZZ99"} <= set(told.unknown) <= set(listing.labels) and not told.pairs
    assert codes["rxnorm|99999999"].code == "99999999"
    notes = " ".join(listing.source["warnings"])
    assert "in no table of safety" in notes and "No two of the medicines interact" in notes
    settings.home.mkdir(parents=True, exist_ok=True)
    (settings.home / "safety.yaml").write_text("starter: false\n")
    with pytest.raises(MedServeError) as error:
        settle_medicines(list_data(data, settings), settings)
    assert error.value.code == "safety-unavailable"
