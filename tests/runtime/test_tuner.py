"""The tuner measures, judges and writes down; a model follows what stands there, and nothing else that lies there."""

import hashlib
import json
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from graphs import conv_package, films
from tiny_package import png, write_package

from medserve.errors import BadPackage
from medserve.models.package import open_package
from medserve.models.signing import Trust
from medserve.runtime import tuner
from medserve.runtime.engine import DEFAULT, Choice, Engine, Unfit, versions
from medserve.runtime.gate import Gate
from medserve.runtime.model import LoadedModel
from medserve.runtime.quantise import Quantiser
from medserve.runtime.tuned import Row, Verdict, cores, find_verdict, processor, verdict_path, write_verdict
from medserve.runtime.tuner import FAR, Evidence, choices, choose, front, tune
from medserve.types import ArraySamples, Scores

pytest.importorskip("openvino")
BF16 = Choice("openvino", "bf16")
OPENVINO = Choice("openvino", "fp32")


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    """Measurements of a few milliseconds."""
    monkeypatch.setattr(tuner, "BLOCK_S", 0.02)
    monkeypatch.setattr(tuner, "LONE_S", 0.01)


@pytest.fixture
def package(tmp_path, settings):
    return open_package(conv_package(tmp_path / "package", settings), Trust.load(settings))


@pytest.fixture
def evidence(package) -> Evidence:
    """200 cases whose truth is what the model says, but for every fifth; none stands on the threshold itself."""
    images = films(300)
    engine = Engine((package.folder / "graph.onnx").read_bytes(), shape=(1, 28, 28), width=1, threads=1)
    logits = engine.score(images).logits[:, 0]
    clear = np.flatnonzero(np.abs(logits) > 0.05)[:200]
    said = (logits[clear] > 0).astype(np.int64)
    truth = np.where(np.arange(len(clear)) % 5 == 0, 1 - said, said)
    return Evidence(ArraySamples(images[clear], truth), name="made")


class Planted(Engine):
    """The reference under another name: `off` is added to batches of `least` and more, `wait_s` to each pass."""

    off, least, wait_s = 0.0, 5, 0.0

    def score(self, images, *, cam=False):
        time.sleep(self.wait_s)
        scores = super().score(images, cam=cam)
        noise = np.random.default_rng(len(images)).normal(size=scores.logits.shape).astype(np.float32)
        return Scores(scores.logits + self.off * noise * (len(images) >= self.least), scores.distance, scores.cam)


def planted(off: float):
    """An opener of a slow reference and a fast engine of reduced precision that is `off`."""

    def opener(graph, *, shape, width, threads, choice, quantised=b""):
        assert (choice.precision == "int8") == bool(quantised)
        engine = Planted(graph, shape=shape, width=width, threads=threads)
        engine.choice = choice
        engine.off, engine.wait_s = (0.0, 0.03) if choice.precision == "fp32" else (off, 0.0)
        return engine

    return opener


def verdict_of(package, chosen: Choice = OPENVINO, **changes) -> Verdict:
    values = {
        "format": "medserve-tuned/1", "digest": package.digest, "processor": processor(), "cores": 2,
        "versions": versions(), "chosen": chosen, "tolerance": {"logits": 0.0},
        "rows": [Row(chosen, 10.0, 1.0, {"logits": 0.0}, Gate(True, 200, [], {}))],
    }  # fmt: skip
    return Verdict(**(values | changes))


def test_a_fast_engine_that_changes_answers_is_not_chosen_and_its_honest_twin_is(package, evidence):
    """Both are faster than everything else; only what they answer differs."""
    tried = [OPENVINO, BF16]
    bad = tune(package, threads=1, evidence=evidence, tried=tried, rounds=1, opener=planted(0.3))
    rows = [row for row in bad.rows if row.choice.precision == "bf16"]
    assert all(row.code and row.gate and "gate-flips" in row.gate.codes for row in rows)
    assert bad.chosen.precision == "fp32" and max(r.images_per_s for r in rows) > 2 * max(
        r.images_per_s for r in bad.rows if r not in rows
    )
    good = tune(package, threads=1, evidence=evidence, tried=tried, rounds=1, opener=planted(1e-5))
    assert (good.chosen.engine, good.chosen.precision) == ("openvino", "bf16") and good.cases == 200


class Made:
    """Stands in for the quantisers."""

    def of(self, engine: str) -> bytes:
        if engine == "openvino":
            raise Unfit("int8-failed", "made for this test")
        return b"eight bits"


def test_int8_is_judged_like_the_rest_and_its_graph_is_bound_to_the_verdict(package, evidence):
    """Off, it is kept out by the gate; honest and fastest, it is chosen with its sha256; what fails is a row."""
    tried = [Choice("openvino", "int8"), Choice("onnxruntime", "int8")]
    more = {"threads": 1, "evidence": evidence, "tried": tried, "rounds": 1, "quantiser": Made()}
    bad = tune(package, opener=planted(0.3), **more)
    assert {r.code for r in bad.rows if r.choice.precision == "int8"} == {"int8-failed", "gate-auroc"}
    assert bad.chosen.precision == "fp32" and bad.quantised == ""
    good = tune(package, opener=planted(1e-5), **more)
    assert (good.chosen.engine, good.chosen.precision) == ("onnxruntime", "int8")
    assert good.quantised == hashlib.sha256(b"eight bits").hexdigest()


def test_without_cases_only_full_precision_can_win(package):
    """However fast the other one is; and the verdict says so."""
    found = tune(package, threads=1, tried=[BF16], rounds=1, opener=planted(0.0))
    assert found.chosen.precision == "fp32" and "only fp32" in found.note and found.cases == 0
    assert {row.code for row in found.rows if row.choice.precision == "bf16"} == {"gate-no-data"}


def test_too_few_cases_are_said_with_a_code(package, evidence):
    """99 of them."""
    few = Evidence(ArraySamples(evidence.samples.images[:99], evidence.samples.targets[:99]))
    found = tune(package, threads=1, evidence=few, tried=[OPENVINO, BF16], rounds=1, opener=planted(0.0))
    assert {row.code for row in found.rows if row.choice.precision == "bf16"} == {"gate-few-cases"}
    assert {row.code for row in found.rows if row.choice.precision == "fp32"} == {""}


def test_real_engines_are_measured_on_everything(package, evidence):
    """Every choice that runs here has its speed, its wait and its distance from the self-check."""
    pytest.importorskip("nncf")
    quantiser = Quantiser((package.folder / "graph.onnx").read_bytes(), films(60, seed=8))
    found = tune(package, threads=2, evidence=evidence, quantiser=quantiser, rounds=1)
    assert {(r.choice.engine, r.choice.precision, r.choice.streams) for r in found.rows} == {
        (c.engine, c.precision, c.streams) for c in choices(2)
    }
    for row in found.rows:
        if row.code != "engine-precision":
            assert row.images_per_s > 0 and row.lone_ms > 0 and set(row.gap) == {"logits", "distance", "cam"}
            assert row.gap["logits"] < FAR[row.choice.precision]
    assert found.chosen in [row.choice for row in found.rows if not row.code]
    assert set(found.tolerance) == {"logits", "distance", "cam"}


def test_an_engine_that_fails_is_a_row_and_the_reference_must_not(package):
    """What cannot be opened is listed with its code; a reference that is off ends the tuning."""
    found = tune(package, threads=1, tried=[Choice("onnxruntime", "bf16")], rounds=1)
    assert [(r.code, r.images_per_s) for r in found.rows][:1] == [("engine-precision", None)]

    def off(graph, *, shape, width, threads, choice):
        engine = Planted(graph, shape=shape, width=width, threads=threads)
        engine.off, engine.least = 5.0, 1
        return engine

    with pytest.raises(BadPackage, match="logits differs"):
        tune(package, threads=1, tried=[], rounds=1, opener=off)


def test_the_fastest_wins_and_among_equals_the_shorter_wait():
    """Within 3 % speed is equal; what is kept out never wins."""

    def row(batch, speed, wait, code=""):
        return Row(Choice(batch=batch), speed, wait, code=code)

    assert choose([row(1, 100, 1), row(2, 150, 9)]).batch == 2
    assert choose([row(1, 147, 1), row(2, 150, 9)]).batch == 1
    assert choose([row(1, 100, 1), row(2, 500, 1, "gate-flips")]).batch == 1
    edge = front([row(1, 100, 5), row(2, 90, 6), row(3, 50, 1), row(4, 999, 1, "selfcheck")])
    assert [r.choice.batch for r in edge] == [3, 1]


def test_a_verdict_is_read_back_as_it_was_written(tmp_path, package):
    """By digest, processor and number of cores; private to its owner."""
    verdict = verdict_of(package)
    path = write_verdict(tmp_path / "tuned", verdict)
    assert path == verdict_path(tmp_path / "tuned", package.digest, 2) and path.stat().st_mode & 0o777 == 0o600
    assert find_verdict(tmp_path / "tuned", package.digest, threads=2, warn=pytest.fail) == verdict
    assert find_verdict(tmp_path / "tuned", package.digest, threads=3, warn=pytest.fail) is None
    assert find_verdict(tmp_path / "nowhere", package.digest, warn=pytest.fail) is None


def _changed(**changes):
    return lambda v: json.dumps(json.loads(msgspec.json.encode(v)) | changes).encode()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda v: b"", "tuned-damaged"),
        (lambda v: msgspec.json.encode(v)[:-9], "tuned-damaged"),
        (lambda v: b"\xff\xfe" + bytes(200), "tuned-damaged"),
        (lambda v: b"[" * 100_000, "tuned-damaged"),
        (lambda v: msgspec.json.encode(v) + b" " * 2**21, "tuned-damaged"),
        (_changed(run="import os"), "tuned-damaged"),
        (_changed(tolerance={"logits": 99.0}), "tuned-damaged"),
        (_changed(chosen={"engine": "/tmp/evil.so"}), "tuned-damaged"),
        (_changed(chosen={"engine": "openvino", "streams": 1000}), "tuned-damaged"),
        (_changed(chosen={"engine": "openvino", "precision": "bf16"}), "tuned-damaged"),  # no row passed the gate
        (_changed(digest="sha256:" + "0" * 64), "tuned-foreign"),
        (_changed(processor="another"), "tuned-foreign"),
        (_changed(cores=64), "tuned-foreign"),
        (_changed(versions={"openvino": "2019.1"}), "tuned-stale"),
    ],
)
def test_a_file_that_does_not_hold_here_is_ignored_with_a_code(tmp_path, settings, package, change, code):
    """And the service runs on the reference."""
    tuned = tmp_path / "tuned"
    path = write_verdict(tuned, verdict_of(package))
    path.write_bytes(change(verdict_of(package)))
    said: list[str] = []
    model = LoadedModel.open(package.folder, Trust.load(settings), threads=2, tuned=tuned, warn=said.append)
    assert model.engine.choice == DEFAULT and len(said) == 1 and said[0].startswith(f"warning {code}: ")


def test_a_model_follows_the_verdict_and_explains_with_the_reference(tmp_path, settings, package, evidence):
    """bf16 that passed the gate answers within what was measured; the evidence is drawn in full precision."""
    found = tune(package, threads=1, evidence=evidence, tried=[BF16], rounds=1)
    row = next(row for row in found.rows if row.choice.precision == "bf16")
    if row.code:
        pytest.skip(row.reason)
    found.chosen, found.tolerance = row.choice, {name: 2 * share for name, share in row.gap.items()}
    write_verdict(tmp_path / "tuned", found)
    trust, said = Trust.load(settings), []
    plain = LoadedModel.open(package.folder, trust, threads=1)
    model = LoadedModel.open(package.folder, trust, threads=1, tuned=tmp_path / "tuned", warn=said.append)
    assert model.engine.choice == row.choice and model.reference.choice == DEFAULT and said == []
    film = png(films(1, seed=3)[0, 0])
    one, other = plain.predict(film, "cam"), model.predict(film, "cam")
    for a, b in zip(one["outputs"], other["outputs"], strict=True):
        assert a["probability"] == pytest.approx(b["probability"], abs=0.02) and a["label"] == b["label"]
    assert one["explanation"] == other["explanation"] and one["outputs"] != other["outputs"]


def test_an_engine_that_leaves_its_own_measurement_is_not_followed(tmp_path, settings, package):
    """The verdict allows 0, so bf16's rounding (above 0.001 here) is too much: coded warning, the reference runs."""
    write_verdict(tmp_path / "tuned", verdict_of(package, BF16))
    said: list[str] = []
    model = LoadedModel.open(
        package.folder, Trust.load(settings), threads=2, tuned=tmp_path / "tuned", warn=said.append
    )
    assert model.engine.choice == DEFAULT
    assert said[0].startswith(("warning tuned-selfcheck: OpenVINO bf16", "warning engine-precision: OpenVINO bf16"))


def test_full_precision_of_another_engine_replaces_the_reference(tmp_path, settings):
    """One engine in memory, the same answers."""
    package = open_package(write_package(tmp_path / "package", settings), Trust.load(settings))
    write_verdict(tmp_path / "tuned", verdict_of(package, Choice("openvino", "fp32", 2, 8)))
    model = LoadedModel.open(
        package.folder, Trust.load(settings), threads=2, tuned=tmp_path / "tuned", warn=pytest.fail
    )
    assert model.engine is model.reference and model.engine.max_batch == 8
    plain = LoadedModel.open(package.folder, Trust.load(settings), threads=2)
    images = films(40)
    np.testing.assert_allclose(model.score(images).logits, plain.score(images).logits, atol=1e-4)


def test_the_number_of_cores_is_that_of_the_machine_unless_told():
    """The file's name holds it."""
    assert verdict_path(Path(), "sha256:ab").name.endswith(f"-{cores()}.json")
