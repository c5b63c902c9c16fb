"""A second look: no answer changes that rounding within the margins could have changed, and few are looked at twice."""

import hashlib

import msgspec
import numpy as np
import pytest
from graphs import SIDE, conv_graph, conv_package, conv_spec, films

from medserve.models.package import open_package
from medserve.models.signing import Trust
from medserve.models.spec import Calibration, Conformal, OperatingPoint, OutOfDistribution
from medserve.runtime import tuner
from medserve.runtime.engine import Choice, Engine, versions
from medserve.runtime.gate import Gate, flips
from medserve.runtime.loading import Loader
from medserve.runtime.model import LoadedModel
from medserve.runtime.quantise import Quantiser
from medserve.runtime.second import SecondLook, looks, margins_of, near_a_limit
from medserve.runtime.tuned import Row, Verdict, find_verdict, processor, write_verdict
from medserve.runtime.tuner import Evidence, tune
from medserve.types import ArraySamples, Scores

N = 4000
LABELS = {"binary": ["no", "yes"], "multiclass": ["a", "b", "c"], "multilabel": ["a", "b", "c"]}


def spec_of(task: str):
    labels = LABELS[task]
    conformal = Conformal(alpha=0.1, n=200, quantile=0.6, by_label={labels[0]: 0.45})
    points = {"binary": [("yes", 0.3)], "multiclass": [], "multilabel": [("b", 0.8)]}[task]
    return msgspec.structs.replace(
        conv_spec(),
        output=msgspec.structs.replace(conv_spec().output, task=task, labels=labels, codes={}),
        calibration=Calibration(method="temperature", temperature=1.7, n=200, conformal=conformal),
        operating_points=[OperatingPoint(label=label, threshold=at, rule="youden") for label, at in points],
        ood=OutOfDistribution(threshold=0.5, false_alarm=0.01, n=200),
    )


@pytest.mark.parametrize("task", LABELS)
def test_what_is_not_near_a_limit_keeps_its_answer_wherever_rounding_moves_it(task):
    """Whatever the direction, up to the margins themselves; and near ones are a small part of all."""
    rng, spec = np.random.default_rng(3), spec_of(task)
    width, margins = spec.output.width, {"logits": 0.05, "distance": 0.01}
    rounded = Scores(rng.normal(size=(N, width)) * 3, rng.uniform(0, 0.7, N))
    near = near_a_limit(spec, rounded, margins)
    assert 0.02 < near.mean() < 0.25
    flipped = np.zeros(N, bool)
    for turn in range(6):
        signs = rng.choice([-1.0, 1.0], (N, width)) if turn < 4 else np.full((N, width), 1.0 if turn == 4 else -1.0)
        sides = rng.choice([-1.0, 1.0], N)
        exact = Scores(rounded.logits + margins["logits"] * signs, rounded.distance + margins["distance"] * sides)
        flipped |= flips(spec, exact, rounded)
    assert flipped.any() and not (flipped & ~near).any()


def test_tasks_without_limits_of_their_own_have_no_second_look():
    assert all(looks(spec_of(task)) for task in LABELS)
    number = msgspec.structs.replace(conv_spec().output, task="number", labels=["age"], codes={})
    assert not looks(msgspec.structs.replace(conv_spec(), output=number))


def test_margins_hold_for_all_but_a_few_of_the_cases():
    """One of 100 that moved a hundred times as far widens nothing."""
    exact = Scores(np.zeros((100, 2), np.float32), np.zeros(100, np.float32))
    moved = np.linspace(0, 1, 100).astype(np.float32)
    moved[99] = 100
    found = margins_of(Scores(np.stack([moved, -moved / 2], axis=1), moved / 10), exact)
    assert found == pytest.approx({"logits": 0.95, "distance": 0.095}, abs=0.01)
    assert margins_of(Scores(exact.logits), Scores(exact.logits)) == {"logits": 0.0}


@pytest.fixture(scope="module")
def quantiser() -> Quantiser:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    return Quantiser(conv_graph(), films(80))


def engines(quantiser: Quantiser) -> tuple[Engine, Engine]:
    shape = {"shape": (1, SIDE, SIDE), "width": 1, "threads": 1}
    choice = Choice("openvino", "int8", second=True)
    return Engine(conv_graph(), **shape), Engine(
        conv_graph(), **shape, choice=choice, quantised=quantiser.of("openvino")
    )


def test_a_case_on_the_edge_has_the_reference_s_own_scores_and_the_others_the_engine_s(quantiser):
    reference, engine = engines(quantiser)
    images = films(60, seed=5)
    exact, rounded = reference.score(images, cam=True), engine.score(images, cam=True)
    middle = float(np.median(rounded.logits))
    spec = conv_spec()
    spread = {"logits": abs(middle) + 0.3 * float(rounded.logits.std()), "distance": 0.0}
    near = near_a_limit(spec, rounded, spread)
    assert 0 < near.sum() < 60
    engine.second = SecondLook(spec, spread, reference)
    found = engine.score(images, cam=True)
    np.testing.assert_allclose(found.logits[near], exact.logits[near], atol=1e-5)
    np.testing.assert_allclose(found.cam[near], exact.cam[near], atol=1e-4)
    np.testing.assert_array_equal(found.logits[~near], rounded.logits[~near])
    assert (engine.second.seen, engine.second.again) == (60, int(near.sum()))


def test_the_tuner_says_of_how_many_cases_it_looked_twice(tmp_path, settings, quantiser, monkeypatch):
    """In every row of that choice, whatever its batch, and none for the others."""
    monkeypatch.setattr(tuner, "BLOCK_S", 0.01)
    package = open_package(conv_package(tmp_path / "package", settings), Trust.load(settings))
    images = films(200, seed=6)
    evidence = Evidence(ArraySamples(images, np.arange(200) % 2), name="made")
    twice = Choice("openvino", "int8", second=True)
    found = tune(package, threads=1, evidence=evidence, tried=[twice], rounds=1, quantiser=quantiser)
    rows = [row for row in found.rows if row.choice.second]
    assert len(rows) > 1 and len({row.again for row in rows}) == 1 and 0 < rows[0].again < 1
    assert {row.again for row in found.rows if not row.choice.second} == {0.0}


def test_a_model_is_served_with_the_margins_of_its_verdict(tmp_path, settings, quantiser):
    """Without them, or with them for a choice that has no second look, the verdict is damaged."""
    package = open_package(conv_package(tmp_path / "package", settings), Trust.load(settings))
    chosen, data = Choice("openvino", "int8", second=True), quantiser.of("openvino")
    verdict = Verdict(
        "medserve-tuned/1", package.digest, processor(), 2, versions(), chosen,
        {"logits": 1.0, "distance": 1.0, "cam": 1.0}, [Row(chosen, gate=Gate(True, 200, [], {}))],
        hashlib.sha256(data).hexdigest(), margins={"logits": 1e6, "distance": 0.0},
    )  # fmt: skip
    write_verdict(tmp_path / "tuned", verdict, data)
    given = {"threads": 2, "tuned": tmp_path / "tuned", "warn": pytest.fail}
    images = films(8, seed=4)  # a margin so wide that every case is looked at again
    loader = Loader(lambda: Trust.load(settings), **given)
    for model in (LoadedModel.open(package.folder, Trust.load(settings), **given),
                  loader.load(loader.verify(package.folder))):  # fmt: skip
        assert model.engine.choice == chosen
        np.testing.assert_array_equal(model.score(images).logits, model.reference.score(images).logits)
    said: list[str] = []
    for margins, choice in (({}, chosen), ({"logits": 0.1}, Choice("openvino", "int8"))):
        verdict.margins, verdict.chosen = margins, choice
        write_verdict(tmp_path / "tuned", verdict, data)
        assert find_verdict(tmp_path / "tuned", package.digest, threads=2, warn=said.append) is None
    assert [line[:21] for line in said] == ["warning tuned-damaged"] * 2
