"""A treatment from the table to the answer: a trial whose truth is known, declared, learned, packed, asked."""

import csv
import json
import re

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from medserve.data.simulated import NAMES, simulate, write_trial
from medserve.errors import BadData, Usage
from medserve.models.signing import Trust
from medserve.progress import SILENT
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings

QUICK = Options(audit="quick", seed=3)


def case(x) -> bytes:
    return json.dumps({"inputs": dict(zip(NAMES, map(float, x), strict=True))}).encode()


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A randomised trial of 800, trained. Returns: settings, package folder, what training said."""
    folder = tmp_path_factory.mktemp("effect")
    settings = Settings(home=folder / "home")
    data = write_trial(simulate(800, seed=1, confounded=False), folder / "data")
    said = train_package(data, folder / "package", settings=settings, options=QUICK, progress=SILENT)
    return settings, folder / "package", said


@pytest.fixture(scope="module")
def model(learned) -> LoadedModel:
    settings, package, _ = learned
    return LoadedModel.open(package, Trust.load(settings))


def ask(model, x, explain=None):
    record = model.load(case(x), media="application/json")
    scores = model.score(record[None])
    answer = model.answer(scores, case=record)
    if explain:
        answer["explanation"] = model.explain(explain, record, scores)
    return answer


def test_the_question_is_implied_by_the_declaration(learned, model):
    """A package of question treatment, with the target trial on its card."""
    _, _, said = learned
    assert model.spec.question == "treatment" and model.spec.output.task == "effect"
    assert model.card["trial"]["time zero"] == "the moment of assignment"
    assert model.card["trial"]["adjusted for"] == list(NAMES)
    assert said["decision"]["learners"].keys() >= {"S-learner", "T-learner", "X-learner"}


def test_effects_and_intervals_hold_the_truth(model):
    """On fresh patients the estimated effect is near the true one, and its interval mostly holds it."""
    fresh = simulate(300, seed=91, confounded=False)
    answers = [ask(model, x)["effect"]["effects"][0] for x in fresh.x]
    told = np.array([one["effect"] for one in answers])
    low, high = np.array([one["interval"] for one in answers]).T
    assert np.sqrt(np.mean((told - fresh.effect) ** 2)) < 0.3
    assert np.mean((low <= fresh.effect) & (fresh.effect <= high)) > 0.85


def test_advice_has_three_answers_and_is_never_given_against_the_interval(model):
    """Recommend where the whole interval is benefit, recommend against where it is harm, else abstain with a code."""
    fresh = simulate(200, seed=92, confounded=False)
    seen = set()
    for x in fresh.x:
        answer = ask(model, x)
        low, high = answer["effect"]["effects"][0]["interval"]
        advice = answer["effect"]["advice"]
        seen.add(advice)
        if advice == "recommend":
            assert low > 0 and answer["decision"] == {"label": "treated", "advice": "recommend"}
        elif advice == "recommend-against":
            assert high < 0 and answer["decision"]["label"] == "control"
        else:
            assert answer["status"] == "abstained" and answer["decision"] is None and answer["reasons"]
    assert seen == {"recommend", "recommend-against", "abstain"}


def test_an_answer_says_for_whom_and_what_became_of_the_most_similar(model):
    """A rule of at most two conditions, groups of at least 10 of each arm, and the note that goes with it."""
    effect = ask(model, [0.9, 0.9, 0.5, 0.5, 0.5, 0.5])["effect"]
    assert effect["for_whom"]["rule"].count(" and ") <= 1 and effect["for_whom"]["arm"] in ("control", "treated")
    assert [one["arm"] for one in effect["alike"]] == ["control", "treated"]
    assert all(one["n"] >= 10 and one["interval"][0] <= one["outcome"] <= one["interval"][1] for one in effect["alike"])
    assert "not clinically validated" in effect["note"]
    assert sum(effect["overlap"]["propensity"].values()) == pytest.approx(1)


def test_what_would_change_the_advice_is_found(model):
    """For a patient who is recommended the treatment, a low x1 turns the advice; a noise column does not."""
    told = ask(model, [0.8, 0.5, 0.5, 0.5, 0.5, 0.5], explain="effect")["explanation"]
    by_input = {item["input"]: item for item in told["values"]}
    assert "unchanged" not in by_input["x1"]["part"] and by_input["x1"]["weight"] < 0
    assert "unchanged" in by_input["x6"]["part"]
    assert told["values"][0]["input"] == "x1" and "no promise" in told["note"]


def test_far_away_patients_and_missing_confounders_are_not_advised(model):
    """An input that every training patient had is missing: an abstention with its code."""
    body = json.dumps({"inputs": {name: 0.9 for name in NAMES[1:]}}).encode()
    record = model.load(body, media="application/json")
    answer = model.answer(model.score(record[None]), case=record)
    assert answer["effect"]["advice"] == "abstain"
    assert "input-required" in {reason["code"] for reason in answer["reasons"]}


def test_no_patient_travels_in_the_package(learned):
    """No cell of the table stands among the package's numbers, and no centre of a group is one patient."""
    _, package, _ = learned
    with open(package.parent / "data" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    cells = {row[c] for row in rows for c in ("x1", "outcome")}
    said = {token for p in package.rglob("*.json") for token in re.findall(r"-?\d+\.\d+", p.read_text())}
    assert not cells & said
    held = load_file(package / "weights.safetensors")
    x = np.array([[float(row[name]) for name in NAMES] for row in rows])
    z = (x - held["net.scale.mean"]) * held["net.scale.scale"]
    centres = held["net.centres"].reshape(-1, 2 * len(NAMES))[:, : len(NAMES)]
    assert np.linalg.norm(z[:, None] - centres[None], axis=2).min() > 1e-3


def test_a_null_trial_advises_nobody(tmp_path):
    """Arms dealt out anew: the model says that no benefit was found, and abstains for everybody."""
    settings = Settings(home=tmp_path / "home")
    data = write_trial(simulate(600, seed=4, confounded=False).shuffled(4), tmp_path / "data")
    train_package(data, tmp_path / "package", settings=settings, options=QUICK, progress=SILENT)
    model = LoadedModel.open(tmp_path / "package", Trust.load(settings))
    answers = [ask(model, x) for x in simulate(50, seed=9, confounded=False).x]
    assert sum(a["effect"]["advice"] != "abstain" for a in answers) <= 2
    told = json.loads((tmp_path / "package" / "evaluation" / "test.json").read_text())
    assert any(one["code"] in ("no-benefit-shown", "advice-no-gain") for one in told["claims"])


def declared(tmp_path, n=200, **changes):
    """A data set with one thing changed under `treatment` (or elsewhere, by `edit`)."""
    edit = changes.pop("edit", lambda said: None)
    folder = write_trial(simulate(n, seed=2, confounded=False), tmp_path / "data")
    said = yaml.safe_load((folder / "dataset.yaml").read_text())
    for key, value in changes.items():
        if value is None:
            said["treatment"].pop(key)
        else:
            said["treatment"][key] = value
    edit(said)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(said))
    return folder


def refused(folder, tmp_path, options=QUICK):
    with pytest.raises((BadData, Usage)) as error:
        train_package(
            folder, tmp_path / "out", settings=Settings(home=tmp_path / "h"), options=options, progress=SILENT
        )
    assert not (tmp_path / "out").exists()
    return error.value


@pytest.mark.parametrize("part", ["outcome", "time_zero", "eligibility", "adjust_for"])
def test_an_incomplete_trial_is_refused(part, tmp_path):
    """Every part of the target trial is asked for by name."""
    error = refused(declared(tmp_path, **{part: None}), tmp_path)
    assert error.code == "treatment-incomplete" and part in error.message


def test_bad_declarations_are_refused_with_their_code(tmp_path):
    """Post-treatment adjustment, units missing, twelve patients, a question that does not fit."""
    late = declared(tmp_path / "a", after=["x3"])
    assert refused(late, tmp_path / "a").code == "treatment-post"
    timed = declared(tmp_path / "b", measured={"x2": 24.0})
    assert refused(timed, tmp_path / "b").code == "treatment-post"
    bare = declared(tmp_path / "c", edit=lambda said: said["inputs"]["x1"].pop("unit"))
    assert refused(bare, tmp_path / "c").code == "treatment-unit"
    outcome = declared(tmp_path / "d", edit=lambda said: said["target"].pop("unit"))
    assert refused(outcome, tmp_path / "d").code == "treatment-unit"
    assert refused(declared(tmp_path / "e", n=12), tmp_path / "e").code == "treatment-few-patients"
    other = declared(tmp_path / "f")
    assert refused(other, tmp_path / "f", Options(question="diagnosis")).code == "question-other"
    plain = declared(tmp_path / "g", edit=lambda said: said.pop("treatment"))
    assert refused(plain, tmp_path / "g", Options(question="treatment")).code == "treatment-undeclared"


def with_columns(folder, **columns):
    with open(folder / "table.csv") as file:
        rows = list(csv.DictReader(file))
    for name, make in columns.items():
        for i, row in enumerate(rows):
            row[name] = make(i, row)
    with open(folder / "table.csv", "w", newline="") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(rows)
    return folder


def test_the_order_of_things_is_checked(tmp_path):
    """Treated after the outcome, treated long after time zero, measured after it: each by its own code."""
    folder = with_columns(declared(tmp_path / "a", started="began", outcome_at="known"),
                          began=lambda i, row: 5 if i == 7 else 0, known=lambda i, row: 3)  # fmt: skip
    assert refused(folder, tmp_path / "a").code == "treatment-after-outcome"
    folder = with_columns(declared(tmp_path / "b", started="began", time_zero="zero"),
                          began=lambda i, row: 30 if i == 7 else 0, zero=lambda i, row: 0)  # fmt: skip
    assert refused(folder, tmp_path / "b").code == "treatment-immortal-time"
    folder = with_columns(declared(tmp_path / "c", measured={"x1": "seen"}, time_zero="zero"),
                          seen=lambda i, row: "2024-05-02" if i == 7 else "2024-04-30",
                          zero=lambda i, row: "2024-05-01")  # fmt: skip
    assert refused(folder, tmp_path / "c").code == "treatment-post"


def test_a_treatment_by_rule_is_refused(tmp_path):
    """Whoever has x1 above one half is treated, and nobody else: nothing compares."""
    folder = with_columns(declared(tmp_path, n=400),
                          arm=lambda i, row: "treated" if float(row["x1"]) > 0.5 else "control")  # fmt: skip
    assert refused(folder, tmp_path).code == "treatment-no-overlap"
