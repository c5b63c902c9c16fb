"""Graphs in eight bits: near the reference, really reduced, with a distance that still says something."""

import hashlib
import sys

import numpy as np
import pytest
from graphs import conv_graph, conv_package, films, forest_graph, record_graph
from tiny_package import SIDE

from medserve.models.package import open_package
from medserve.models.signing import Trust
from medserve.runtime.engine import DEFAULT, Choice, Engine, Unfit, versions
from medserve.runtime.gate import Gate
from medserve.runtime.model import LoadedModel
from medserve.runtime.quantise import Quantiser
from medserve.runtime.tuned import Row, Verdict, find_verdict, processor, read_quantised, verdict_path, write_verdict

pytest.importorskip("openvino")
pytest.importorskip("nncf")
ENGINES = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def quantiser() -> Quantiser:
    return Quantiser(conv_graph(), films(80))


def opened(quantiser: Quantiser, engine: str, streams: int = 1) -> Engine:
    return Engine(conv_graph(), shape=(1, SIDE, SIDE), width=1, threads=2, choice=Choice(engine, "int8", streams),
                  quantised=quantiser.of(engine))  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_eight_bits_are_near_and_really_reduced(quantiser, engine):
    """On pictures that gave no range: within a quarter of the spread, never exact, the same answer twice."""
    images = films(60, seed=5)
    wanted = Engine(conv_graph(), shape=(1, SIDE, SIDE), width=1, threads=1).score(images)
    given = opened(quantiser, engine, 2).score(images)
    gap = np.abs(given.logits - wanted.logits).max()
    assert 1e-4 < gap < 0.25 * wanted.logits.std()
    np.testing.assert_array_equal(given.logits, opened(quantiser, engine).score(images).logits)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_distance_stays_in_full_precision(quantiser, engine):
    """It takes a small difference of pixels a thousand times: one step of eight bits there would move it by 4."""
    images = films(60, seed=5)
    wanted = Engine(conv_graph(), shape=(1, SIDE, SIDE), width=1, threads=1).score(images)
    assert np.abs(opened(quantiser, engine).score(images).distance - wanted.distance).max() < 0.5


def test_a_graph_of_matrices_is_scaled_pass_by_pass():
    """ONNX Runtime, without ranges of activations: three weights of a record."""
    records = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    data = Quantiser(record_graph(), records).of("onnxruntime")
    choice = Choice("onnxruntime", "int8")
    given = Engine(record_graph(), shape=(3,), width=1, threads=1, choice=choice, quantised=data).score(records).logits
    wanted = Engine(record_graph(), shape=(3,), width=1, threads=1).score(records).logits
    assert 0 < np.abs(given - wanted).max() < 0.2


def test_what_cannot_be_quantised_says_why(monkeypatch):
    """A forest has nothing to quantise; without cases there is no range; a missing library is named with the extra."""
    records = np.zeros((3, 3), np.float32)
    for graph, inputs, engine, code in (
        (forest_graph(), records, "onnxruntime", "int8-nothing"),
        (conv_graph(), films(0), "openvino", "int8-no-data"),
        (b"no graph", films(3), "onnxruntime", "int8-failed"),
    ):
        with pytest.raises(Unfit) as caught:
            Quantiser(graph, inputs).of(engine)
        assert caught.value.code == code
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(Unfit, match="nncf is not installed") as caught:
        Quantiser(conv_graph(), films(3)).of("openvino")
    assert caught.value.code == "engine-missing" and "medserve[int8]" in caught.value.hint
    with pytest.raises(Unfit) as caught:
        Engine(conv_graph(), shape=(1, SIDE, SIDE), width=1, choice=Choice("openvino", "int8"))
    assert caught.value.code == "int8-no-data"


def _tuned(tmp_path, settings, quantiser, engine: str):
    """A package and a verdict for int8 that passed its gate, as the tuner leaves them."""
    package = open_package(conv_package(tmp_path / "package", settings), Trust.load(settings))
    chosen, data = Choice(engine, "int8"), quantiser.of(engine)
    verdict = Verdict(
        "medserve-tuned/1", package.digest, processor(), 2, versions(), chosen,
        {"logits": 1.0, "distance": 1.0, "cam": 1.0}, [Row(chosen, gate=Gate(True, 200, [], {}))],
        hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    write_verdict(tmp_path / "tuned", verdict, data)
    return package, verdict, verdict_path(tmp_path / "tuned", package.digest, 2).with_suffix(".int8")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_runs_on_the_quantised_graph_of_the_cache(tmp_path, settings, quantiser, engine):
    """It answers with it and explains with the reference; the file is its owner's alone and not in the package."""
    package, verdict, path = _tuned(tmp_path, settings, quantiser, engine)
    model = LoadedModel.open(
        package.folder, Trust.load(settings), threads=2, tuned=tmp_path / "tuned", warn=pytest.fail
    )
    assert model.engine.choice == verdict.chosen and model.reference.choice == DEFAULT
    images = films(8, seed=4)
    np.testing.assert_array_equal(model.score(images).logits, opened(quantiser, engine).score(images).logits)
    assert path.stat().st_mode & 0o777 == 0o600 and not list(package.folder.rglob("*.int8"))


@pytest.mark.parametrize(
    "change",
    [
        lambda path, other: path.unlink(),
        lambda path, other: path.write_bytes(b""),
        lambda path, other: path.write_bytes(path.read_bytes()[:-1]),
        lambda path, other: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path, other: path.write_bytes(other),
        lambda path, other: path.write_bytes(b"\x80\x04" + bytes(2**25)),
    ],
    ids=["gone", "empty", "cut", "longer", "swapped", "huge"],
)
def test_a_damaged_or_swapped_quantised_graph_is_not_run(tmp_path, settings, quantiser, change):
    """Full precision answers instead, and one coded warning says so."""
    package, verdict, path = _tuned(tmp_path, settings, quantiser, "openvino")
    change(path, quantiser.of("onnxruntime"))
    said: list[str] = []
    model = LoadedModel.open(
        package.folder, Trust.load(settings), threads=2, tuned=tmp_path / "tuned", warn=said.append
    )
    assert (
        model.engine.choice == DEFAULT and len(said) == 1 and said[0].startswith("warning tuned-graph: OpenVINO int8")
    )


def test_a_verdict_and_its_quantised_graph_belong_together(tmp_path, settings, quantiser):
    """int8 without a hash is damaged, so is a hash without int8; the next verdict takes an old graph away."""
    package, verdict, path = _tuned(tmp_path, settings, quantiser, "openvino")
    assert read_quantised(tmp_path / "tuned", verdict, 5000) == quantiser.of("openvino")
    good, verdict.quantised, said = verdict.quantised, "", []
    write_verdict(tmp_path / "tuned", verdict)
    assert not path.exists()
    assert find_verdict(tmp_path / "tuned", package.digest, threads=2, warn=said.append) is None
    verdict.quantised, verdict.chosen = good, Choice("openvino", "fp32")
    write_verdict(tmp_path / "tuned", verdict, b"x")
    assert find_verdict(tmp_path / "tuned", package.digest, threads=2, warn=said.append) is None
    assert [line[:21] for line in said] == ["warning tuned-damaged"] * 2
