"""The road from a folder of files to a package that answers, on generated phantoms."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medserve.data.forms import list_items
from medserve.errors import BadData, BadPackage, Usage
from medserve.models.package import ALTERNATIVE, open_package
from medserve.models.signing import Signer, Trust
from medserve.progress import SILENT
from medserve.road.evaluate import evaluate_package
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel


def test_the_result_says_what_was_made(run):
    """What `train --json` prints: package, model, parts, what was chosen and on what evidence."""
    result = run.result
    assert result["package"] == str(run.package) and result["recipe"] == "residual-quick" and result["seed"] == 1
    assert set(result["parts"]) == {"train", "val", "calibration", "test"} and min(result["parts"].values()) > 0
    assert result["chosen"] == "recipe" and result["decision"]["asked"]
    assert result["decision"]["difference"].keys() == {"value", "low", "high"}
    assert result["test_openings"] == 1 and 0 <= result["metrics"]["auroc"]["low"] <= 1
    json.dumps(result, allow_nan=False)


def test_both_candidates_are_whole_packages(run):
    """The one that is not offered is kept whole: it opens, verifies and answers."""
    trust = Trust.load(run.settings)
    offered, other = open_package(run.package, trust), open_package(run.package / ALTERNATIVE, trust)
    assert offered.spec.architecture.name == "residual" and other.spec.architecture.name == "thumbnail-linear"
    assert offered.spec.name == other.spec.name == "phantom-chest" and offered.digest != other.digest
    assert offered.lineage["data"]["digest"] == other.lineage["data"]["digest"]
    picture = next(run.data.glob("images/*.dcm")).read_bytes()
    for folder in (run.package, run.package / ALTERNATIVE):
        answer = LoadedModel.open(folder, trust).predict(picture)
        assert sum(o["probability"] for o in answer["outputs"]) == pytest.approx(1)


def test_no_patient_travels_in_a_package(run):
    """No file of the package names a case, a patient or a file of the data set."""
    names = {path.stem for path in run.data.glob("images/*.dcm")}
    patients = {line.split(",")[1] for line in (run.data / "labels.csv").read_text().splitlines()[1:]}
    for path in run.package.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".html"):
            text = path.read_text()
            assert not [name for name in names | patients if name in text], path.name


def test_evaluating_the_test_part_again_gives_the_same_numbers(run):
    """Served graph, stored transforms and recognised cases reproduce the report; the opening is counted."""
    told = json.loads((run.package / "evaluation" / "test.json").read_text())
    again = evaluate_package(run.package, run.data, "test", settings=run.settings)
    assert again["n"] == told["n"] == run.result["parts"]["test"]
    for name in ("auroc", "accuracy", "log_loss"):
        assert again["metrics"][name]["value"] == pytest.approx(told["metrics"][name]["value"], abs=1e-6)
    assert again["openings"] >= 2


def test_every_part_is_recognised_and_foreign_data_is_not(run, tmp_path):
    """`--part train` finds the training cases; data from elsewhere has no such part, only `all`."""
    sizes = {part: evaluate_package(run.package, run.data, part, settings=run.settings, draws=50)["n"]
             for part in ("train", "val", "calibration")}  # fmt: skip
    assert sizes == {part: run.result["parts"][part] for part in sizes}
    from medserve.data.phantoms import make_phantoms

    foreign = make_phantoms(tmp_path / "foreign", 40, size=32, seed=99)
    with pytest.raises(BadData) as caught:
        evaluate_package(run.package, foreign, "test", settings=run.settings)
    assert caught.value.code == "foreign-data" and "all" in caught.value.hint
    result = evaluate_package(run.package, foreign, "all", settings=run.settings, draws=50)
    assert result["n"] == 40 and result["data"]["seen_in_training"] == 0


def test_training_pictures_under_other_names_are_recognised(run, tmp_path):
    """A folder that somebody renamed is no foreign data: what was trained on is counted by its pixels."""
    moved = shutil.copytree(run.data, tmp_path / "moved")
    table = moved / "labels.csv"
    lines = table.read_text().splitlines()
    for number, line in enumerate(lines[1:], 1):
        path, _, rest = line.partition(",")
        new = Path(path).with_name(f"x{number}{Path(path).suffix}")
        (moved / path).rename(moved / new)
        lines[number] = f"{new},{rest}"
    table.write_text("\n".join(lines) + "\n")
    result = evaluate_package(run.package, moved, "all", settings=run.settings, draws=50)
    assert result["data"]["seen_in_training"] == run.result["parts"]["train"]


def test_the_record_of_an_evaluation_is_signed_and_stands_outside_the_package(run):
    """A later evaluation leaves the package as it was signed."""
    result = evaluate_package(run.package, run.data, "val", settings=run.settings, draws=50)
    record = Path(result["record"])
    assert run.package not in record.parents
    signer = Signer.load(run.settings)
    Trust.load(run.settings).verify(record.read_bytes(), record.with_name(record.name + ".sig").read_bytes(),
                                    signer.public, what=record)  # fmt: skip
    assert open_package(run.package, Trust.load(run.settings)).digest == run.result["model"]["digest"]


def test_labels_of_another_set_are_refused(run, tmp_path):
    """Data with classes that the model does not know is refused by name."""
    from medserve.data.phantoms import make_phantoms

    other = make_phantoms(tmp_path / "other", 20, size=32, seed=5)
    yaml = other / "dataset.yaml"
    table = other / "labels.csv"
    labels = list_items(other).labels
    table.write_text(table.read_text().replace(labels[1], "fracture"))
    yaml.write_text(yaml.read_text().replace(labels[1], "fracture"))
    with pytest.raises(BadData) as caught:
        evaluate_package(run.package, other, "all", settings=run.settings)
    assert caught.value.code == "labels-differ" and "fracture" in caught.value.message


def test_an_existing_folder_is_not_overwritten(run):
    """Nothing is lost: a package is never written over."""
    with pytest.raises(Usage) as caught:
        train_package(run.data, run.package, settings=run.settings, options=Options())
    assert caught.value.code == "out-exists"


def test_a_changed_byte_stops_every_verb(run, tmp_path):
    """One changed byte in the graph: no evaluation, no prediction."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run.package, copy)
    data = bytearray((copy / "graph.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "graph.onnx").write_bytes(data)
    with pytest.raises(BadPackage) as caught:
        evaluate_package(copy, run.data, "val", settings=run.settings)
    assert caught.value.code == "package-altered" and "graph.onnx" in caught.value.message


def test_the_graph_and_the_weights_are_the_same_model(run):
    """Torch on weights.safetensors and the engine on graph.onnx give the same scores."""
    from safetensors.torch import load_file

    from medserve.models.served import open_served

    model = LoadedModel.open(run.package, Trust.load(run.settings))
    served = open_served(model.spec, load_file(model.package.path("weights.safetensors")))
    images = np.random.default_rng(0).integers(0, 256, (5, *model.spec.inputs[0].shape)).astype(np.uint8)
    ours, theirs = served.scores(images), model.score(images, cam=True)
    for name in ("logits", "distance", "cam"):
        assert np.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-3, rtol=1e-3), name


def test_any_look_at_the_sealed_part_is_counted(run):
    """`--part all` on the training data opens the test part too; another part does not."""
    first = evaluate_package(run.package, run.data, "test", settings=run.settings, draws=50)["openings"]
    assert evaluate_package(run.package, run.data, "val", settings=run.settings, draws=50)["openings"] is None
    assert evaluate_package(run.package, run.data, "all", settings=run.settings, draws=50)["openings"] == first + 1


def test_two_runs_do_not_share_a_folder(run, tmp_path):
    """The same command given twice at once: the second is told so, and the first one's files stay."""
    import fcntl
    import os

    work = tmp_path / ".model.training"
    work.mkdir()
    (work / "images.shelf").write_bytes(b"of the first run")
    handle = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(Usage) as caught:
            train_package(run.data, tmp_path / "model", settings=run.settings, options=Options())
    finally:
        os.close(handle)
    assert caught.value.code == "run-in-progress"
    assert (work / "images.shelf").read_bytes() == b"of the first run"


@pytest.mark.parametrize(("recipe", "code"), [("frozen-features", "weights-missing"), ("article-cnn", "recipe-task")])
def test_a_recipe_that_cannot_answer_is_refused_before_the_files_are_read(run, tmp_path, recipe, code):
    """Not after an hour: the task is not the recipe's, or its weights are not named."""
    data = np.random.default_rng(0).integers(0, 255, (30, 16, 16), np.uint8)
    np.savez(tmp_path / "three.npz", train_images=data, train_labels=np.arange(30)[:, None] % 3)
    with pytest.raises(Usage) as caught:
        train_package(tmp_path / "three.npz", tmp_path / "model", settings=run.settings, options=Options(recipe=recipe))
    assert caught.value.code == code and not (tmp_path / "model").exists()


def test_cases_that_the_service_refuses_are_not_in_its_figures(run, tmp_path):
    """Another modality, another unit or a blank picture is counted as refused, never scored."""
    from dataclasses import replace

    from medserve.data.split import PartView
    from medserve.road.collect import list_data, read_data
    from medserve.road.finish import in_scope

    spec = LoadedModel.open(run.package, Trust.load(run.settings)).spec
    listing = list_data(run.data, run.settings)
    cohort = read_data(listing, spec.transforms, spec.inputs[0].shape, tmp_path, SILENT)
    some = list(cohort.cases[:4])
    some[1], some[2] = replace(some[1], modality="US"), replace(some[2], blank=True)
    view, refused = in_scope(spec, PartView("test", replace(cohort, cases=tuple(some)), np.arange(4)))
    assert view.rows.tolist() == [0, 3] and refused == {"wrong-modality": 1, "image-blank": 1}
    spec.inputs[0].unit = "HU"
    with pytest.raises(BadData) as caught:
        in_scope(spec, view)
    assert caught.value.code == "nothing-in-scope" and "wrong-unit" in caught.value.message
