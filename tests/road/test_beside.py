"""Models shown beside the candidates: boosting under every network, a glass box for tables, curves without patients."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medserve.data.fields import Records
from medserve.data.fields.molecule import Molecule
from medserve.data.fields.number import Number
from medserve.data.fields.timeline import Channel, Timeline
from medserve.models.nets import MODELS
from medserve.models.record import additive, linear  # noqa: F401
from medserve.models.record.additive import Term
from medserve.questions.recipes import RECIPES
from medserve.road.beside import glass_box, wanted

AGE = Records((Number("age"),))
STAY = Records((Number("age"), Timeline("stay", window_h=24, bins=4, channels=(Channel("hr", "HR"),))))


def asked(one, two, fields=AGE, task="binary", count=100, audit="quick"):
    def built(name):
        spec = SimpleNamespace(transforms=fields.named(), output=SimpleNamespace(task=task))
        return SimpleNamespace(candidate=SimpleNamespace(architecture=SimpleNamespace(name=name)), spec=spec)

    prepared = SimpleNamespace(parts=SimpleNamespace(train=range(count)))
    return wanted(built(one), built(two), prepared, audit)


DEEP = [name for name, r in RECIPES.items() if r.kind == "record" and r.architecture.name == "case-net"]


@pytest.mark.parametrize("name", DEEP)
def test_boosting_stands_beside_every_network_of_records(name):
    """As the other candidate, or fitted in addition where the recipe's own baseline is something else."""
    recipe = RECIPES[name]
    other = recipe.baseline
    for offered, compared in (("case-net", other), (other, "case-net")):
        assert other == "record-trees" or "record-trees" in asked(offered, compared, STAY)


def test_a_glass_box_for_tables_alone():
    """Numbers and categories, a binary answer or a number, few enough cases, an audit; and never twice."""
    assert asked("record-trees", "record-linear") == ["record-additive"]
    assert asked("case-net", "record-linear") == ["record-trees", "record-additive"]
    assert asked("record-additive", "record-linear") == []
    assert asked("record-trees", "record-linear", STAY) == []
    assert asked("record-trees", "record-linear", task="survival") == []
    assert asked("record-trees", "record-linear", count=20_001) == []
    assert asked("record-trees", "record-linear", audit="none") == []
    assert asked("case-net", "phrase-lookup", STAY, task="tags") == []


def test_a_random_forest_for_molecules():
    """Whatever else is tried on molecules, a forest of the same columns stands beside it."""
    drug = Records((Molecule("smiles"),))
    assert asked("record-trees", "record-linear", drug) == ["record-forest"]
    assert asked("case-net", "record-linear", drug) == ["record-trees", "record-forest"]
    assert asked("record-forest", "record-trees", drug) == []
    assert asked("record-trees", "record-linear", drug, task="survival") == []


def test_a_curve_holds_no_value_of_a_patient():
    """Points are quantiles with at least ten cases between them, rounded; scores are the table's at that point."""
    blocks = [{"name": "age", "kind": "number", "start": 0, "shape": [1], "facts": {}}]
    net = MODELS["record-additive"](1, (), 1, blocks=blocks, terms=1, cuts=1)
    net.fill([Term((0,), (np.array([50.0]),), np.array([[0.5], [-1.0], [2.0]]))], np.zeros(1))
    values = np.random.default_rng(0).normal(50, 10, (100, 1)).astype(np.float32)
    (curve,) = glass_box(net, values)["curves"]
    assert 2 <= len(curve["points"]) <= 10 and curve["missing"] == 0.5
    assert curve["scores"] == [2.0 if p >= 50 else -1.0 for p in curve["points"]]
    assert not set(curve["points"]) & {float(v) for v in values[:, 0]}
    assert min(curve["points"]) > values.min() and max(curve["points"]) < values.max()
    assert glass_box(net, values[:15])["curves"][0]["points"] == []


def test_weights_of_a_linear_model():
    blocks = [{"name": n, "kind": "number", "start": i, "shape": [1], "facts": {}} for i, n in enumerate("ab")]
    net = MODELS["record-linear"](2, (), 1, blocks=blocks)
    net.head.weight.data[0, :2] = torch.tensor([0.5, -2.0])
    assert glass_box(net, np.zeros((30, 2), np.float32)) == {"effects": [["b", -2.0], ["a", 0.5]]}
