"""The audit: gates by the table, a model whose outcome is known, and figures that are kept."""

import numpy as np
import pytest
import torch
from matched import MATCHED, OUTPUT, SIDE, Matched

from medserve.errors import Usage
from medserve.explain import trials
from medserve.explain.audit import agreement, audit, f1, judge, l1, ranked
from medserve.explain.explainers import EXPLAINERS
from medserve.explain.faithful import curves, edges
from medserve.explain.gradients import NetModel, completeness, integrated_gradients
from medserve.explain.planted import planted
from medserve.explain.randomise import randomised
from medserve.models.served import ServedNet
from medserve.models.spec import Method, OutputSpec
from medserve.settings import Settings
from medserve.types import Scores

SHORT = trials.Trial("quick", train=160, epochs=2, seeds=(0,), point=60, limit_s=120)


@pytest.fixture(scope="session")
def audited(served, tmp_path_factory):
    """One quick audit of the matched filter, and where its figures were kept."""
    home = Settings(home=tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "QUICK", SHORT)
        methods = audit(
            served,
            planted(80, side=SIDE, seed=9).samples,
            output=OUTPUT,
            architecture=MATCHED,
            settings=home,
            quick=True,
        )
    return {m.name: m for m in methods}, methods, home


def test_occlusion_passes_on_a_model_that_looks_at_the_lesion(audited):
    """The matched filter finds the lesion, and so do its maps: pointing bound >= .60, and occlusion is primary."""
    by_name, methods, _ = audited
    occlusion = by_name["occlusion"]
    assert methods[0].name == "occlusion" and occlusion.role == "primary"
    assert occlusion.figures["L1"]["n"] == 60 and occlusion.figures["L1"]["low"] >= 0.60
    assert occlusion.figures["R1"]["level"] == occlusion.figures["F1"]["level"] == "PASS"
    assert by_name["integrated-gradients"].figures["A1"]["value"] < 0.05
    assert sum(m.role == "primary" for m in methods) == 1


def test_a_quick_audit_never_says_pass(audited):
    """Quick figures say quick, and the verdict is CAUTION at best."""
    _, methods, _ = audited
    assert {m.figures["mode"] for m in methods} == {"quick"}
    assert "PASS" not in {m.verdict for m in methods}


def test_figures_are_kept_by_architecture(audited, served, monkeypatch):
    """The second question trains nothing; another architecture is measured anew."""
    _, _, home = audited
    monkeypatch.setattr(trials, "QUICK", SHORT)
    monkeypatch.setattr(trials, "train", lambda *a, **k: pytest.fail("trained again"))
    kept = trials.pointing(served, MATCHED, shape=(1, SIDE, SIDE), settings=home, quick=True)
    assert kept["methods"]["occlusion"]["n"] == 60
    with pytest.raises(pytest.fail.Exception):
        trials.pointing(served, MATCHED, shape=(1, 32, 32), settings=home, quick=True)


def test_a_damaged_record_is_measured_again(served, settings, monkeypatch):
    """Half a file in the cache is no figure and no crash."""
    monkeypatch.setattr(trials, "QUICK", SHORT)
    place = trials._place(served, MATCHED, (1, SIDE, SIDE), "quick", settings, "x")
    place.write_bytes(b'{"methods": ')
    result = trials.remembered(
        served, MATCHED, shape=(1, SIDE, SIDE), trial=SHORT, settings=settings, what="x", measure=lambda: {"new": 1}
    )
    assert result == {"new": 1} and place.read_bytes() == b'{"new":1}'


def test_a_network_too_slow_for_the_trial_is_said_so(served, settings, monkeypatch):
    """Nothing is trained beyond the limit: L1 is not measured, the reason names the minutes, nothing is kept."""
    monkeypatch.setattr(trials, "QUICK", trials.Trial("quick", 10**7, 50, (0,), 60, 1.0))
    monkeypatch.setattr(trials, "planted", lambda n, **k: planted(16, **k))
    kept = trials.pointing(served, MATCHED, shape=(1, SIDE, SIDE), settings=settings, quick=True)
    assert "minutes" in kept["skipped"] and l1("cam", kept)["level"] == "not measured"
    assert not list(settings.folder("cache/planted").iterdir())
    assert "volumes" in trials.pointing(served, MATCHED, shape=(1, 8, 28, 28), settings=settings)["skipped"]


def test_random_weights_change_the_maps_and_not_the_model(served):
    """A randomised copy has other weights and other maps; the model itself keeps its own."""
    before = {name: value.clone() for name, value in served.state_dict().items()}
    images = planted(6, side=SIDE, seed=2).images
    twin = randomised(served, images, seed=1)
    assert not torch.equal(twin.net.filter.weight, served.net.filter.weight)
    assert all(torch.equal(before[name], value) for name, value in served.state_dict().items())
    last = randomised(served, images, depth=0.3, seed=1)
    assert torch.equal(last.net.filter.weight, served.net.filter.weight)
    assert not torch.equal(last.net.head.weight, served.net.head.weight)
    assert torch.equal(randomised(served, images, seed=1).net.head.weight, twin.net.head.weight)


class CentreModel:
    """p rises with the mean of the middle alone; edges elsewhere mean nothing."""

    def score(self, images, *, cam=False):
        return Scores(((images[:, :, 10:18, 10:18].reshape(len(images), -1).mean(1) - 100) / 10)[:, None].astype("f4"))


def test_faithfulness_rewards_the_right_place():
    """The true map scores above the edge detector, which scores above its own reverse; a random map scores about 0."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (12, 1, 28, 28)).astype(np.uint8)
    images[:, :, 10:18, 10:18] = 150
    columns, truth = np.zeros(12, int), np.zeros((12, 28, 28))
    truth[:, 10:18, 10:18] = 1
    score = {
        name: curves(CentreModel(), images, columns, maps, OUTPUT).mean()
        for name, maps in {
            "truth": truth,
            "edges": edges(images),
            "reverse": -truth,
            "random": rng.random(truth.shape),
        }.items()
    }
    assert score["truth"] > score["edges"] and score["truth"] > 0.5
    assert abs(score["random"]) < 0.15 and score["reverse"] < -0.3


def test_faithfulness_of_other_tasks():
    """Several classes use the softmax; a number its share of the way: the true map comes close to its maximum, 1."""
    images = np.full((2, 1, 28, 28), 40, np.uint8)
    images[:, :, 12:16, 12:16] = 200

    class Many:
        def score(self, batch, *, cam=False):
            z = batch[:, 0, 12:16, 12:16].mean((1, 2)) / 10
            return Scores(np.stack([z, 20 - z], axis=1).astype("f4"))

    heat = np.zeros((2, 28, 28))
    heat[:, 12:16, 12:16] = 1
    for output in (OutputSpec(task="multiclass", labels=["a", "b"]), OutputSpec(task="number", labels=["age"])):
        value = curves(Many(), images, np.array([0, 0]), heat, output)
        assert (value > 0.85).all() and (value <= 1).all()


def test_shares_of_integrated_gradients_add_up(served):
    """Completeness on a network with smooth units: the error is below 5 %, and the peak is at the lesion."""
    made = planted(8, side=SIDE, seed=4)
    model, zero = NetModel(served), np.zeros(8, int)
    assert np.median(completeness(model, made.images, zero)) < 0.05
    assert integrated_gradients(model, made.images, zero).shape == (8, SIDE, SIDE)
    with pytest.raises(Usage, match="torch"):
        EXPLAINERS["integrated-gradients"].explain(CentreModel(), made.images, zero)


def test_cam_of_a_served_network_is_the_graphs_own(served):
    """The catalog's cam equals the network's extra output."""
    images = planted(3, side=SIDE, seed=6).images
    heat = EXPLAINERS["cam"].explain(NetModel(served), images, np.zeros(3, int))
    assert np.allclose(heat, served.scores(images).cam[:, 0], atol=1e-6)


def test_frozen_parts_are_inherited(served):
    """A trial of pretrained features keeps the model's frozen weights; what learns starts afresh."""
    other = Matched(1, 1)
    with torch.no_grad():
        other.filter.weight.zero_()
        other.head.weight.fill_(-7.0)
    trials._inherit(other, served.net)
    assert torch.equal(other.filter.weight, served.net.filter.weight) and other.head.weight.item() == -7.0


def levels_of(**levels: str) -> dict[str, dict[str, str]]:
    return {
        name: {"level": level}
        for name, level in ({"R1": "PASS", "L1": "PASS", "F1": "PASS", "S1": "PASS"} | levels).items()
    }


@pytest.mark.parametrize(
    ("levels", "verdict", "role"),
    [
        ({}, "PASS", "primary"),
        ({"R1": "CAUTION"}, "CAUTION", "secondary"),
        ({"F1": "CAUTION"}, "CAUTION", "secondary"),
        ({"L1": "FAIL"}, "CAUTION", "coarse region only"),
        ({"L1": "CAUTION"}, "CAUTION", "coarse region only"),
        ({"L1": "not measured"}, "CAUTION", "coarse region only"),
        ({"R1": "CAUTION", "L1": "CAUTION"}, "FAIL", "not offered"),
        ({"R1": "CAUTION", "F1": "CAUTION"}, "FAIL", "not offered"),
        ({"S1": "CAUTION"}, "CAUTION", "primary"),
        ({"R1": "FAIL"}, "FAIL", "not offered"),
        ({"F1": "FAIL"}, "FAIL", "not offered"),
        ({"S1": "FAIL"}, "FAIL", "not offered"),
        ({"A1": "FAIL"}, "FAIL", "not offered"),
    ],
)
def test_roles_follow_the_table(levels, verdict, role):
    """Every combination of gates has one verdict and one role."""
    assert judge(levels_of(**levels)) == (verdict, role)
    if verdict != "FAIL":
        assert judge(levels_of(**levels), quick=True) == ("CAUTION", role)


def test_one_primary_and_it_can_be_served():
    """Of two methods that qualify, the one a service can run is primary, whatever the other's pointing."""

    def method(name: str, low: float) -> Method:
        return Method(name=name, verdict="PASS", role="primary", figures={"L1": {"low": low}})

    found = ranked([method("integrated-gradients", 0.9), method("occlusion", 0.7)])
    assert [(m.name, m.role) for m in found] == [("occlusion", "primary"), ("integrated-gradients", "secondary")]


def test_gates_at_their_numbers():
    """L1: the lower bound decides, and chance. F1: a gain of .05, significant. Spearman by hand."""
    base = {"auroc": [0.9, 0.9], "side": 28}
    figure = {"n": 180, "hits": 130, "chance": 0.03}
    assert l1("cam", base | {"methods": {"cam": figure | {"value": 0.7, "low": 0.62}}})["level"] == "PASS"
    assert l1("cam", base | {"methods": {"cam": figure | {"value": 0.66, "low": 0.58}}})["level"] == "CAUTION"
    assert l1("cam", base | {"methods": {"cam": figure | {"value": 0.39, "low": 0.30}}})["level"] == "FAIL"
    assert (
        l1("cam", base | {"methods": {"cam": figure | {"value": 0.7, "low": 0.62, "chance": 0.08}}})["level"]
        == "CAUTION"
    )
    unlearnt = base | {"auroc": [0.9, 0.6], "methods": {"cam": figure | {"value": 1.0, "low": 0.98}}}
    assert l1("cam", unlearnt)["level"] == "not measured"
    gain = np.random.default_rng(0).normal(0, 0.02, 40)
    assert f1(0.5 + 0.10 + gain, np.full(40, 0.5))["level"] == "PASS"
    assert f1(0.5 + 0.03 + gain, np.full(40, 0.5))["level"] == "CAUTION"
    assert f1(0.5 - 0.03 + gain, np.full(40, 0.5))["level"] == "FAIL"
    assert agreement(np.array([[1.0, 2, 3, 4]]), np.array([[1.0, 3, 2, 4]])) == pytest.approx(0.8)
    assert agreement(np.array([[1.0, 2, 3]]), np.zeros((1, 3))) == 0


def test_a_model_on_other_weights_is_served_alike():
    """A network without maps offers no cam."""
    net = ServedNet(Matched(1, 1), [0.4], [0.2])
    assert "cam" in trials.available(net, (1, SIDE, SIDE))
    net.net.forward = lambda x: Matched.forward(net.net, x)._replace(maps=None)  # type: ignore[method-assign]
    assert "cam" not in trials.available(net, (1, SIDE, SIDE))
