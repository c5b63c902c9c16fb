"""The road from a table, times to an event, or histories, to a package that answers: the same road as for pictures."""

import json
import re
import shutil
from typing import Any

import numpy as np
import pytest
from made_tables import INPUTS, STAYS, SURVIVAL, TABLE, Made, histories, train, visits, write

from medserve.cli import run as command
from medserve.errors import BadData
from medserve.models.package import ALTERNATIVE, MODEL, WEIGHTS, open_package
from medserve.models.signing import Trust
from medserve.progress import SILENT
from medserve.road.collect import list_data
from medserve.road.evaluate import evaluate_package
from medserve.road.prepare import collect
from medserve.road.run import Options
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("table")
    write(folder / "data" / "visits.csv", visits())
    return train(folder, TABLE, Settings(home=folder / "home"), audit="quick")


@pytest.fixture
def call(table, monkeypatch, capsys):
    """One command line in the home of the table's package. Returns: the one JSON object."""
    monkeypatch.setenv("MEDSERVE_HOME", str(table.settings.home))

    def _call(*argv: object, status: int = 0) -> dict[str, Any]:
        assert command([*map(str, argv), "--json"]) == status
        return json.loads(capsys.readouterr().out)

    return _call


def test_the_road_gives_two_packages_that_answer(table):
    """Parts by patient, boosted trees and the linear model beside them, both opened, verified and asked."""
    result = table.result
    assert sum(result["parts"].values()) == 240 and result["chosen"] == "recipe" and result["test_openings"] == 1
    assert result["metrics"]["auroc"]["value"] > 0.7
    trust = Trust.load(table.settings)
    names = [open_package(f, trust).spec.architecture.name for f in (table.package, table.package / ALTERNATIVE)]
    assert names == ["record-trees", "record-linear"]
    case = json.dumps({"inputs": {"age": 72, "creatinine": 90, "lactate": 2.5, "ward": "icu"}}).encode()
    for folder in (table.package, table.package / ALTERNATIVE):
        answer = LoadedModel.open(folder, trust).predict(case)
        assert answer["outputs"][1]["label"] == "yes" and answer["outputs"][1]["probability"] > 0.5


@pytest.mark.slow
def test_two_homes_train_and_choose_the_same(tmp_path):
    """The home's key names the patients, and nothing else follows from it: the same folds, trees, scores, choice."""
    found = []
    for name in ("here", "there"):
        write(tmp_path / name / "data" / "visits.csv", visits())
        made = train(tmp_path / name, TABLE, Settings(home=tmp_path / name / "home"), keep=None)
        numbers = json.loads((made.package / "evaluation" / "test.json").read_text())
        told = {k: numbers[k] for k in ("metrics", "threshold_rules")} | {"decision": made.result["decision"]}
        digests = [(made.package / where / WEIGHTS).read_bytes() for where in ("", ALTERNATIVE)]
        found.append((digests, told, json.loads((made.package / "split.json").read_text())))
    (trees, told, split), (others, told_there, split_there) = found
    assert split != split_there, "the keys differ"
    assert trees == others and told == told_there


def test_evaluating_again_gives_the_same_numbers(table):
    """Served graph and stored fields reproduce the report on every part; each opening of the test part is counted."""
    told = json.loads((table.package / "evaluation" / "test.json").read_text())
    again = evaluate_package(table.package, table.data, "test", settings=table.settings)
    assert again["n"] == told["n"] == table.result["parts"]["test"] and again["openings"] >= 2
    for name in ("auroc", "accuracy", "log_loss"):
        assert again["metrics"][name]["value"] == pytest.approx(told["metrics"][name]["value"], abs=1e-6)
    val = evaluate_package(table.package, table.data, "val", settings=table.settings, draws=50)
    assert val["n"] == table.result["parts"]["val"] and val["openings"] is None


def test_data_without_an_input_of_the_model_is_refused(table, tmp_path):
    """Foreign data that lacks a column, or holds words in it: the input is named, with the next step."""
    data = write(tmp_path / "foreign" / "visits.csv", visits(60, seed=9)).parent
    for name, said in (("lactate", ""), ("age", "\n  age: {kind: category}")):
        (data / "dataset.yaml").write_text(re.sub(rf"\n  {name}: .*", said, TABLE))
        with pytest.raises(BadData) as caught:
            evaluate_package(table.package, data, "all", settings=table.settings)
        assert caught.value.code == "inputs-differ" and f"'{name}'" in caught.value.message and caught.value.hint
    (data / "dataset.yaml").write_text(TABLE)
    foreign = evaluate_package(table.package, data, "all", settings=table.settings, draws=50)
    assert foreign["n"] == 60 and foreign["data"]["seen_in_training"] == 0 and foreign["openings"] is None


def test_the_command_line_answers_and_explains(table, call, tmp_path):
    """`predict` and `explain` on a JSON file: an answer; a PNG and the weights, which add up to the logit."""
    case = tmp_path / "case.json"
    case.write_text(
        json.dumps({"age": 72, "creatinine": 90, "lactate": {"value": 2500, "unit": "umol/L"}, "ward": "icu"})
    )
    answer = call("predict", table.package, "--input", case, "--explain", "shapley")
    assert answer["outputs"][1]["probability"] > 0.5 and answer["explanation"]["method"] == "shapley"
    said = call("explain", table.package, "--input", case, "--out", tmp_path / "why.png")
    assert said["files"] == [str(tmp_path / "why.png"), str(tmp_path / "why.json")]
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    told = json.loads((tmp_path / "why.json").read_text())
    assert {i["input"] for i in told["values"]} == {"age", "creatinine", "lactate", "ward"}
    total = told["base"] + sum(i["weight"] for i in told["values"])
    assert total == pytest.approx(told["total"], abs=1e-6) and abs(told["gap"]) < 1e-3
    model = table.model
    logit = float(model.score(model.load(case.read_bytes())[None]).logits[0, 0])
    assert told["total"] == pytest.approx(logit, abs=1e-3)
    case.write_text('{"inputs": {"age": 80, "ward": "morgue"}}')
    assert call("predict", table.package, "--input", case, status=2)["error"]["code"] == "unknown-code"


def test_inspect_tells_of_each_input(table, call):
    """Kind, known and missing, extremes and words; the parts are those of training."""
    answer = call("inspect", table.data, "--seed", 1)
    rows = {row["name"]: row for row in answer["inputs"]}
    assert rows.keys() == {"age", "creatinine", "lactate", "ward"}
    assert rows["creatinine"]["missing"] == 48 and rows["creatinine"]["unit"] == "umol/L"
    assert 20 <= rows["age"]["low"] < rows["age"]["median"] < rows["age"]["high"] < 90
    assert rows["ward"]["most"] == {"icu": 80, "general": 80, "er": 80}
    assert answer["planned"] == table.result["parts"] and answer["patients"] == 120


def test_the_page_of_inspect_names_each_input(table, call, tmp_path):
    """A person who opens the page sees what the inputs are, not the counts of cases alone."""
    call("inspect", table.data, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert [name for name in ("age", "creatinine", "lactate", "ward") if f">{name}<" not in page] == []


def test_the_report_holds_the_numbers_of_the_record(table):
    """The page: AUROC with its interval, each danger, the audit, the inputs; no patient in any file of the package."""
    page = re.sub(r"data:[^\"')]+", "", (table.package / "evaluation" / "report.html").read_text())
    told = json.loads((table.package / "evaluation" / "test.json").read_text())
    auroc = told["metrics"]["auroc"]
    assert all(f"{auroc[key]:.3f}" in page for key in ("value", "low", "high"))
    names = [check["name"] for check in told["shortcuts"]]
    assert len(names) == 3 and all(name in page for name in names)
    assert [m["name"] for m in told["audit"]] == ["shapley"] and "shapley" in page
    for path in table.package.rglob("*"):
        if path.suffix in (".json", ".html"):
            assert "patient-00" not in path.read_text(), path.name


def test_what_is_missing_is_never_filled_in(table, tmp_path):
    """NaN in the record of a case: in the service, and on the shelf that training and evaluation read."""
    record = table.model.load(b'{"age": 63, "creatinine": null}')
    assert record.shape == (4,) and record[0] == 63 and np.isnan(record[1:]).all()
    listing = list_data(table.data, table.settings)
    parts = collect(listing, tmp_path / "work", table.settings, Options(seed=1), SILENT).parts
    records = np.concatenate([part.take(np.arange(len(part))) for part in parts])
    assert np.isnan(records).sum(axis=0).tolist() == [0, 48, 0, 0] and np.isfinite(records[:, 0]).all()


def test_copies_in_two_parts_leave_the_training_side(table, tmp_path):
    """Long rows that are the same, under other patients in an official test part: out of training, and counted."""
    random = np.random.default_rng(6)
    rows = [r | {f"x{i}": round(random.normal(), 4) for i in range(6)} for r in visits(200, seed=6)]
    for n, row in enumerate(rows):
        row["part"] = "test" if n >= 150 else "val" if n >= 126 else "calibration" if n >= 100 else "train"
    copies = [r | {"person": f"again-{n}", "part": "test"} for n, r in enumerate(rows[:7])]
    write(tmp_path / "data" / "visits.csv", [*rows, *copies])
    more = "".join(f"\n  x{i}: {{kind: number}}" for i in range(6))
    (tmp_path / "data" / "dataset.yaml").write_text(TABLE.replace(INPUTS, INPUTS + more) + "split: part\n")
    listing = list_data(tmp_path / "data", table.settings)
    dropped = collect(listing, tmp_path / "drop", table.settings, Options(), SILENT)
    assert dropped.removed.as_dict()["removed"] == {"train": 7} and dropped.parts.sizes["train"] == 93
    assert dropped.parts.sizes["test"] == 57 and len(dropped.removed.involved) == 7
    assert not {c.pixels for c in dropped.parts.train.cases} & {c.pixels for c in dropped.parts.test.cases}
    with pytest.raises(BadData) as caught:
        collect(listing, tmp_path / "refuse", table.settings, Options(leaks="refuse"), SILENT)
    assert caught.value.code == "leak-found"


def test_training_twice_gives_the_same_model(table, tmp_path):
    """The same data, seed and version: signature and weights are the same bytes, of both candidates."""
    shutil.copytree(table.data, tmp_path / "data")
    again = train(tmp_path, TABLE, table.settings)
    one, two = table.package, again.package
    assert (one / WEIGHTS).read_bytes() == (two / WEIGHTS).read_bytes()
    assert (one / ALTERNATIVE / WEIGHTS).read_bytes() == (two / ALTERNATIVE / WEIGHTS).read_bytes()
    first, second = (json.loads((p / MODEL).read_text()) | {"explanations": []} for p in (one, two))
    assert first == second
    assert again.result["metrics"] == table.result["metrics"]


def test_times_to_an_event_walk_the_same_road(tmp_path):
    """Survival: risks by horizons that rise, a curve that falls, a c-index better than a coin, the same again; what
    raised the hazard; the dangers of the data looked for."""
    write(tmp_path / "data" / "visits.csv", visits(300))
    made = train(tmp_path, SURVIVAL, Settings(home=tmp_path / "home"), audit="quick")
    assert made.result["metrics"]["c_index"]["value"] > 0.6
    ill, well = (made.model.predict(json.dumps({"age": a, "lactate": v, "ward": "er", "creatinine": 90}).encode())
                 for a, v in ((72, 2.4), (38, 1.2)))  # fmt: skip
    for answer in (ill, well):
        risks = [o["probability"] for o in answer["outputs"]]
        assert risks == sorted(risks) and all(0 <= r <= 1 for r in risks) and answer["prediction_set"] is None
        free = [point[1] for point in answer["curve"]]
        assert free == sorted(free, reverse=True) and free[0] <= 1
    assert all(i["probability"] > w["probability"] for i, w in zip(ill["outputs"], well["outputs"], strict=True))
    body = json.dumps({"age": 72, "lactate": 2.4, "ward": "er", "creatinine": 90}).encode()
    told = made.model.predict(body, "shapley")["explanation"]
    hazard = float(made.model.score(made.model.load(body)[None]).logits[0, 0])
    assert told["label"] == "died" and {i["input"] for i in told["values"][:2]} == {"age", "lactate"}
    assert told["base"] + sum(i["weight"] for i in told["values"]) == pytest.approx(hazard, abs=1e-3)
    assert all(i["weight"] > 0 for i in told["values"][:2])
    checks = json.loads((made.package / "evaluation" / "test.json").read_text())["shortcuts"]
    assert [c["level"] for c in checks] == ["green"] * 3
    again = evaluate_package(made.package, made.data, "test", settings=made.settings, draws=50)
    assert again["metrics"]["c_index"]["value"] == pytest.approx(made.result["metrics"]["c_index"]["value"], abs=1e-6)


def test_what_happens_after_the_prediction_time_changes_nothing(tmp_path):
    """Two data sets that differ after 24 h only are one to the model: the same cases in the same parts, the same
    figures, no channel of the drug that came too late; a body that holds the future is answered as without it."""
    settings = Settings(home=tmp_path / "home")
    for name in ("plain", "planted"):
        stays, events = histories(planted=name == "planted")
        write(tmp_path / name / "data" / "events.csv", events)
        write(tmp_path / name / "data" / "stays.csv", stays)
    (tmp_path / "plain" / "data" / "dataset.yaml").write_text(STAYS)
    made = train(tmp_path / "planted", STAYS, settings)
    assert made.result["metrics"]["auroc"]["value"] > 0.8
    fields = json.loads((made.package / "model.json").read_text())["transforms"]
    assert "HR" in json.dumps(fields) and "morphine" not in json.dumps(fields)
    digest = open_package(made.package, Trust.load(settings)).lineage["data"]["digest"]
    same = evaluate_package(made.package, tmp_path / "plain" / "data", "test", settings=settings, draws=50)
    assert same["n"] == made.result["parts"]["test"] and same["data"]["digest"] == digest
    assert same["metrics"]["log_loss"]["value"] == pytest.approx(made.result["metrics"]["log_loss"]["value"], abs=1e-6)
    past = [[e["hours"], "HR", e["x"], "/min"] for e in events if e["person"] == "p000" and e["item"] == "HR"][:4]
    future = [*past, [24.01, "HR", 20, "/min"], [30, "morphine", 10, "mg"]]
    bodies = [json.dumps({"stay": {"events": e, "prediction_time": 24}}).encode() for e in (past, future)]
    before, after = (made.model.load(body) for body in bodies)
    assert np.array_equal(before, after, equal_nan=True) and np.isfinite(before).any()
    assert len({json.dumps(made.model.predict(body)["outputs"]) for body in bodies}) == 1


def test_the_gallery_of_private_records_stays_at_home(table):
    """The report names the place and shows no case; the pictures of the evidence lie there, for their owner alone."""
    folder = table.settings.home / table.result["gallery"].removeprefix("MEDSERVE_HOME/")
    files = list(folder.glob("*.png"))
    assert files and {f.stat().st_mode & 0o777 for f in files} == {0o600}
    page = (table.package / "evaluation" / "report.html").read_text()
    assert table.result["gallery"] in page and "data:image/png" not in page


def test_the_report_shows_a_glass_box_beside_the_trees(table):
    """An additive model with the paired difference of its AUROC, its curves, and what counts in the model offered; the
    other candidate is called by a name that says what it is."""
    told = json.loads((table.package / "evaluation" / "test.json").read_text())
    (row,) = told["beside"]
    assert row["called"].startswith("glass box") and row["metric"] == "auroc"
    assert row["this"]["value"] == pytest.approx(told["metrics"]["auroc"]["value"], abs=1e-9)
    assert row["difference"]["value"] == pytest.approx(row["this"]["value"] - row["other"]["value"], abs=1e-9)
    assert row["difference"]["low"] <= row["difference"]["value"] <= row["difference"]["high"]
    assert {c["name"] for c in told["glass_box"]["curves"]} >= {"age (a)", "lactate (mmol/L)"}
    assert told["baseline"]["other"] == "linear model (one weight a column)"
    alternative = json.loads((table.package / ALTERNATIVE / "evaluation" / "test.json").read_text())
    assert alternative["baseline"]["other"] == "boosting" and "beside" not in alternative
    page = (table.package / "evaluation" / "report.html").read_text()
    for said in ("Glass box beside the model", "Curves of the additive model", "Mean size of the Shapley value",
                 "glass box (explainable boosting machine)", "linear model (one weight a column)"):  # fmt: skip
        assert said in page, said
