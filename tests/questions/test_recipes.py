"""Recipes and their ranking."""

import inspect
import subprocess
import sys

import pytest

from medserve.errors import NotFound, Usage
from medserve.questions.recipes import RECIPES, default_recipe, rank_recipes


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_is_complete(name):
    """Its architecture is in the catalog and takes its parameters, its figure has a source, its time grows with n."""
    import medserve.models.image
    import medserve.models.record.families  # noqa: F401  (both register their families)
    from medserve.models.nets import MODELS

    recipe = RECIPES[name]
    native = (32, 32, 32) if recipe.kind == "volume" else (64, 64)
    assert set(recipe.architecture.params) <= set(inspect.signature(MODELS[recipe.architecture.name]).parameters)
    assert recipe.expected and recipe.source
    assert 0 < recipe.minutes(1000, native, epochs=1) < recipe.minutes(4000, native, epochs=1)


def test_the_default_is_the_compact_network():
    """Images of any size and task start with it; volumes with the 3-D one."""
    for shape in ((28, 28), (512, 400)):
        for task in ("binary", "multiclass", "multilabel", "ordinal", "number"):
            assert default_recipe(task=task, n=500, shape=shape) == "residual"
    assert default_recipe(task="binary", n=500, shape=(28, 28, 28)) == "resnet3d"


def test_the_ranking_gives_reasons():
    """All recipes are listed; what does not suit stands last and says why; kinds that do not fit have no minutes."""
    ranked = rank_recipes(n=300, shape=(28, 28), task="multiclass")
    assert {row["name"] for row in ranked} == set(RECIPES)
    assert [row["suits"] for row in ranked] == sorted((row["suits"] for row in ranked), reverse=True)
    reasons = {row["name"]: row["reason"] for row in ranked}
    assert "2,000" in reasons["densenet121"] and "volumes" in reasons["resnet3d"] and "task" in reasons["article-cnn"]
    assert next(row for row in ranked if row["name"] == "resnet3d")["minutes"] is None


def test_shapes_by_hand():
    """Small pictures keep their size, larger ones are reduced to 224; the article takes its own shape always."""
    shape = RECIPES["residual"].input_shape
    assert (
        shape((28, 28)) == (1, 28, 28)
        and shape((100, 80), True) == (3, 100, 100)
        and shape((512, 400)) == (1, 224, 224)
    )
    assert RECIPES["article-cnn"].input_shape((64, 64)) == (3, 224, 224)
    assert RECIPES["resnet3d"].input_shape((200, 28, 28)) == (1, 64, 28, 28)
    with pytest.raises(Usage, match="resnet3d"):
        shape((28, 28, 28))


def test_epochs_follow_the_data():
    """About 50,000 images are seen: 13 epochs of 3,882; at least 3 (of a graph network 40), at most 60 epochs."""
    recipe = RECIPES["residual-small"]
    assert [recipe.epochs_for(n) for n in (3882, 10**6, 100)] == [13, 3, 60]
    assert recipe.plan(3882, seed=5, epochs=2) == {"epochs": 2, "seed": 5}
    assert [RECIPES["molecule-graph"].epochs_for(n) for n in (500, 3000, 10**5)] == [80, 40, 40]
    assert RECIPES["molecule-graph-ensemble"].epochs_for(3000) == 40


def test_an_unknown_recipe_lists_its_neighbours():
    with pytest.raises(NotFound, match="residual-small"):
        RECIPES["residual-smal"]


def test_recipes_need_no_training_framework():
    """`medserve models` answers without torch."""
    code = "import sys, medserve.questions.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(("n", "inputs", "wanted"), [
    (2_500, ("molecule", "protein"), "boosting"), (20_000, ("molecule", "protein"), "boosting"),
    (150_000, ("molecule", "protein"), "affinity"), (150_000, ("molecule",), "molecule-graph"),
])  # fmt: skip
def test_the_default_for_pairs_of_a_molecule_and_a_protein(n, inputs, wanted):
    """Trees are quicker and better on the 25,000 pairs of Davis (docs/affinity.md); from 100,000 a network reads both,
    and not one that was made for molecules alone."""
    assert default_recipe(task="number", n=n, shape=(len(inputs),), inputs=inputs) == wanted
