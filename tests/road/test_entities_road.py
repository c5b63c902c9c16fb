"""The road from tagged words to a package that marks the words of a text: the same road as for pictures."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_entities import write_conll, write_jsonl
from made_tables import Made

from medserve.cli import run as command
from medserve.errors import BadData, Refusal, Usage
from medserve.models.package import ALTERNATIVE, open_package
from medserve.models.signing import Trust
from medserve.road.evaluate import evaluate_package
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.settings import Settings
from medserve.training import tagging

NOTE = "  No fever.\n\nThe mother had colon cancer in spring, and hepatic surgery\tin winter 2001 ."
DECLARED = "name: notes\npublic: true\ntarget: {kind: tags}\n"
TABLE = """
name: notes
table: notes.jsonl
patient: person
inputs: {note: {kind: text}}
target: {kind: tags, column: spans}
"""


def train(folder: Path, yaml: str = "", **more: object) -> Made:
    if yaml:
        (folder / "data" / "dataset.yaml").write_text(yaml)
    settings = Settings(home=folder / "home")
    options = Options(**{"audit": "quick", "seed": 1, "leaks": "keep"} | more)  # type: ignore[arg-type]
    result = train_package(folder / "data", folder / "model", settings=settings, options=options)
    return Made(folder / "data", folder / "model", settings, result)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    folder, before = tmp_path_factory.mktemp("entities"), tagging.ITERATIONS
    tagging.ITERATIONS = 40
    write_conll(folder / "data", signs=True)
    try:
        return train(folder, DECLARED)
    finally:
        tagging.ITERATIONS = before


def test_the_road_gives_two_packages_that_mark(made):
    """The chain and the look-up of phrases, both opened and verified; a recipe of the default's name."""
    result = made.result
    assert result["recipe"] == "entities-crf" and result["parts"] == {"train": 120, "val": 40, "calibration": 40,
                                                                      "test": 40}  # fmt: skip
    assert result["metrics"]["entity_f1"]["value"] > 0.9 and result["test_openings"] == 1
    trust = Trust.load(made.settings)
    names = {open_package(f, trust).spec.architecture.name for f in (made.package, made.package / ALTERNATIVE)}
    assert names == {"tag-crf", "tag-lookup"} and "entity F1" in result["decision"]["metric"]


def test_an_answer_points_into_the_text_that_was_sent(made):
    """Every entity's text is what stands at its place, whatever spaces and lines surround it."""
    answer = made.model.predict(NOTE.encode())
    assert answer["status"] == "answered" and answer["outputs"] == [] and answer["decision"] is None
    found = [(e["label"], e["text"]) for e in answer["entities"]]
    assert ("Disease", "colon cancer") in found and "hepatic surgery" not in dict(found).values()
    for e in answer["entities"]:
        assert NOTE[e["start"] : e["end"]] == e["text"] and 0 < e["probability"] <= 1
    assert [r["code"] for r in answer["reasons"]] == ["not-calibrated"]
    again = made.model.predict(json.dumps({"inputs": {"text": NOTE}}).encode())
    assert again["entities"] == answer["entities"]
    assert made.model.predict(b"Nothing was found in the clinic.")["entities"] == []


def test_evaluating_again_gives_the_same_numbers(made):
    told = json.loads((made.package / "evaluation" / "test.json").read_text())
    again = evaluate_package(made.package, made.data, "test", settings=made.settings, draws=100)
    assert again["n"] == told["n"] and again["counts"] == told["counts"] and again["openings"] == 2
    for name, span in told["metrics"].items():
        assert again["metrics"][name]["value"] == pytest.approx(span["value"], abs=1e-9)
    assert again["baseline"]["metrics"]["entity_f1"] == pytest.approx(told["baseline"]["metrics"]["entity_f1"], abs=0.1)


def test_other_data_is_measured_under_the_model_names(made, tmp_path):
    """A table of spans from elsewhere, with one of the two names: the tags are translated; a new name is refused."""
    write_jsonl(tmp_path / "data" / "notes.jsonl", 20, seed=9)
    yaml = TABLE.replace("note: {kind: text}", "text: {kind: text, column: note}")
    (tmp_path / "data" / "dataset.yaml").write_text(yaml)
    found = evaluate_package(made.package, tmp_path / "data", "all", settings=made.settings, draws=50)
    assert found["n"] == 20 and found["counts"]["Sign"] == 0 and found["metrics"]["entity_recall"]["value"] > 0.9
    path = tmp_path / "data" / "notes.jsonl"
    path.write_text(path.read_text().replace('"Disease"', '"Tumour"'))
    with pytest.raises(BadData) as caught:
        evaluate_package(made.package, tmp_path / "data", "all", settings=made.settings)
    assert caught.value.code == "labels-differ"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("?!", "text-empty"),
        ("seen " * 400, "text-too-long"),
        ("Der Patient hatte keine Beschwerden und ist mit der Behandlung nicht zufrieden.", "text-language"),
        ('{"inputs": {"text": null}}', "case-empty"),
        ('{"inputs": {"note": "a"}}', "input-unknown"),
    ],
)
def test_what_cannot_be_marked_is_refused(made, body, code):
    with pytest.raises(Refusal) as caught:
        made.model.predict(body.encode())
    assert caught.value.code == code


def test_no_explanation_is_offered(made):
    """Which words spoke for one entity was never audited: asking is an error that says so."""
    with pytest.raises(Usage) as caught:
        made.model.predict(NOTE.encode(), explain="words")
    assert caught.value.code == "explanation-not-offered" and not made.model.offered


def test_the_report_shows_figures_and_public_texts(made):
    """F1 with its interval, both names, marked texts (the data set is public); no word of training in the package."""
    page = (made.package / "evaluation" / "report.html").read_text()
    told = json.loads((made.package / "evaluation" / "test.json").read_text())
    f1 = told["metrics"]["entity_f1"]
    assert all(f"{f1[key]:.3f}" in page for key in ("value", "low", "high"))
    assert re.search(r'<mark class="found">\w+ (cancer|carcinoma|dystrophy|anaemia)</mark>', page)
    assert "does not abstain" in page and ">Sign<" in page
    for path in made.package.rglob("*"):
        if path.is_file() and path.name != "report.html":
            assert b"carcinoma" not in path.read_bytes(), path.name


def test_the_command_line_marks_a_note(made, tmp_path, monkeypatch, capsys):
    """`predict --json` and for a person; `inspect` with its page; `models --for`."""
    monkeypatch.setenv("MEDSERVE_HOME", str(made.settings.home))
    note = tmp_path / "note.txt"
    note.write_text(NOTE)
    assert command(["predict", str(made.package), "--input", str(note), "--json"]) == 0
    assert "colon cancer" in [e["text"] for e in json.loads(capsys.readouterr().out)["entities"]]
    assert command(["predict", str(made.package), "--input", str(note)]) == 0
    assert "colon cancer" in capsys.readouterr().out
    assert command(["inspect", str(made.data), "--out", str(tmp_path / "page.html"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["task"] == "tags" and set(said["parts"]["train"]["classes"]) == {"Disease", "Sign"}
    assert command(["models", "--for", str(made.data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipes"][0]["name"] == "entities-crf"


def test_a_table_of_notes_is_split_by_patient(tmp_path, monkeypatch):
    """Spans from a table: no patient in two parts; texts that are not public are not shown."""
    monkeypatch.setattr(tagging, "ITERATIONS", 15)
    write_jsonl(tmp_path / "data" / "notes.jsonl", 120)
    made = train(tmp_path, TABLE, audit="none", keep="recipe")
    assert made.result["metrics"]["entity_f1"]["value"] > 0.8 and made.result["gallery"] is None
    told = json.loads((made.package / "evaluation" / "test.json").read_text())
    assert told["patients_declared"] and told["n_patients"] < told["n"]
    assert "<mark" not in (made.package / "evaluation" / "report.html").read_text()


def test_another_task_s_recipe_is_refused(tmp_path):
    write_conll(tmp_path / "data", train=8, other=4)
    with pytest.raises(Usage) as caught:
        train(tmp_path, recipe="text-cnn")
    assert caught.value.code == "recipe-task"


@pytest.mark.slow
def test_an_encoder_marks_words_with_weights_that_the_user_names(tmp_path):
    """A tiny encoder made on the spot, fine-tuned through LoRA, in the graph, the same figures again."""
    from made_entities import KINDS, NAMES
    from tiny_encoder import write_encoder

    rest = ["the", "patient", "mother", "clinic", "had", "in", "and", ".", "tissue", "surgery", "spring", "summer",
            "winter", *(str(d) for d in range(10)), *(f"##{d}" for d in range(10))]  # fmt: skip
    folder = write_encoder(tmp_path / "encoder", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *KINDS, *NAMES, *rest])
    write_conll(tmp_path / "data", train=100, other=40)
    made = train(tmp_path, recipe="entities-bert", weights=str(folder), epochs=30, audit="none", keep="recipe")
    assert made.result["metrics"]["entity_f1"]["value"] > 0.2  # no entity is found by chance
    model = made.model
    assert model.spec.architecture.name == "tag-encoder" and model.spec.inputs[0].shape == (40, 10)
    answer = model.predict(b"The mother had colon cancer in spring .")
    assert all(np.isfinite(e["probability"]) for e in answer["entities"])
    again = evaluate_package(made.package, made.data, "test", settings=made.settings, draws=50)
    assert again["metrics"]["entity_f1"]["value"] == pytest.approx(made.result["metrics"]["entity_f1"]["value"])
    with pytest.raises(Refusal) as caught:
        model.predict(b"colon cancer " * 30)
    assert caught.value.code == "text-too-long"
