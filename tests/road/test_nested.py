"""Several recipes, one offered: the choice is made inside the training part, and all that was compared is shown."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_molecules import write_cohort

from medserve.errors import NotFound, Usage
from medserve.models.package import open_package
from medserve.models.signing import Trust
from medserve.progress import SILENT
from medserve.road.nested import averaged, rivals_of
from medserve.road.run import Options, check_options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings
from medserve.training import _forest


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chosen")
    settings, data = Settings(home=folder / "home"), write_cohort(folder / "data", 120)
    options = Options(choose="forest,linear,case-network", audit="none", epochs=2, folds=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_forest, "TREES", 30)
        patch.setattr(_forest, "FEWEST", 30)
        result = train_package(data, folder / "package", settings=settings, options=options, progress=SILENT)
    return settings, result


def test_the_least_loss_is_offered_and_all_are_shown(chosen):
    """Every rival and the mean of them, the best first, each with its paired distance from the best."""
    _, result = chosen
    verdict = result["decision"]
    rows = verdict["candidates"]
    assert {row["recipe"] for row in rows} == {"forest", "linear", "case-network", "average"}
    values = [row["loss"]["value"] for row in rows]
    assert values == sorted(values) and result["recipe"] == rows[0]["recipe"] and result["chosen"] == "recipe"
    assert rows[0]["difference"]["value"] == 0 and all(row["difference"]["value"] >= 0 for row in rows)
    assert verdict["on"] == "2-fold nested cross-validation of the training part"
    page = Path(result["report"]).read_text()
    assert "recipe compared" in page and all(row["recipe"] in page for row in rows)


def test_the_forest_stands_beside_on_the_test_part(chosen):
    """As the other candidate of the report, or beside it, unless it is the offered one."""
    settings, result = chosen
    package = open_package(Path(result["package"]), Trust.load(settings))
    test = json.loads((package.folder / "evaluation" / "test.json").read_text())
    shown = {
        package.spec.architecture.name,
        test["baseline"]["architecture"],
        *(r["architecture"] for r in test["beside"]),
    }
    assert "record-forest" in shown and "auroc" in test["baseline"]["difference"]


def test_an_average_answers_from_its_package(tmp_path):
    """The mean of a forest and a network, trained, exported, reopened: the same numbers as its members' mean."""
    import torch

    from medserve.models.served import open_served
    from medserve.questions.recipes import RECIPES, average_of

    data = write_cohort(tmp_path / "data", 120)
    settings = Settings(home=tmp_path / "home")
    RECIPES._items["mean-of-two"] = average_of("mean-of-two", [RECIPES["linear"], RECIPES["case-network"]])
    try:
        result = train_package(
            data, tmp_path / "package", settings=settings, progress=SILENT,
            options=Options(recipe="mean-of-two", audit="none", epochs=2, keep="recipe", max_train_s=1e9),
        )  # fmt: skip
    finally:
        del RECIPES._items["mean-of-two"]
    model = LoadedModel.open(Path(result["package"]), Trust.load(settings))
    case = model.load(b"O=[N+]([O-])Cc1ccncc1", "a.smi")
    served = open_served(
        model.spec, {k: torch.from_numpy(v) for k, v in model.package.tensors("weights.safetensors").items()}
    )
    with torch.no_grad():
        each = [m(torch.from_numpy(case[None])).logits.numpy() for m in served.net.members]
    assert len(each) == 2 and not np.allclose(each[0], each[1])
    assert np.allclose(model.score(case[None]).logits, np.mean(each, axis=0), atol=1e-4)


def test_what_cannot_be_compared_is_said(monkeypatch):
    """Unknown names, one name alone, a task without a loss, a recipe beside the list."""
    with pytest.raises(NotFound):
        rivals_of("forest,nothing", "binary")
    for asked, task, code in (("forest", "binary", "choose-too-few"), ("cheap", "survival", "choose-task"),
                              ("forest,glass-box", "multilabel", "choose-too-few")):  # fmt: skip
        with pytest.raises(Usage) as told:
            rivals_of(asked, task)
        assert told.value.code == code
    with pytest.raises(Usage) as told:
        check_options(Options(recipe="forest", choose="cheap"))
    assert told.value.code == "choose-or-recipe"
    assert [r.name for r in averaged(rivals_of("cheap", "binary"))] == ["forest", "boosting", "case-network"]
