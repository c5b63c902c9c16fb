"""Every engine gives the numbers of the reference, or says clearly why it cannot run the graph."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from graphs import conv_graph, films, forest_graph, record_graph
from tiny_package import SIDE, graph, logit

from medserve.errors import BadPackage, Fault
from medserve.runtime.engine import Choice, Engine, Unfit, default_batch, versions

pytest.importorskip("openvino")
EXACT = [
    Choice("onnxruntime", "fp32", 2),
    Choice("openvino"),
    Choice("openvino", "fp32", 2),
    Choice("openvino", batch=7),
]


def opened(data: bytes, choice: Choice, shape=(1, SIDE, SIDE)) -> Engine:
    try:
        return Engine(data, shape=shape, width=1, threads=2, choice=choice)
    except Unfit as error:
        if error.code == "engine-precision":
            pytest.skip(error.message)
        raise


@pytest.mark.parametrize("choice", EXACT, ids=lambda c: f"{c}-{c.streams}x{c.batch}")
@pytest.mark.parametrize("data", [graph(), conv_graph()], ids=["by-hand", "conv"])
def test_full_precision_is_the_reference_whatever_the_engine(data, choice):
    """Logits, distance and class activation maps of 150 pictures, in passes of any length."""
    images = films(150)
    wanted = opened(data, Choice()).score(images, cam=True)
    given = opened(data, choice).score(images, cam=True)
    for name in ("logits", "distance", "cam"):
        one, other = getattr(given, name), getattr(wanted, name)
        np.testing.assert_allclose(one, other, atol=1e-4 * max(1.0, np.abs(other).max()))
    assert opened(data, choice).score(images[:1]).cam is None


def test_reduced_precision_is_near_and_is_really_reduced():
    """bfloat16 keeps 8 bits of the mantissa: nearer than 3 % of the spread, and not exact."""
    images = films(60)
    wanted = opened(conv_graph(), Choice()).score(images).logits
    given = opened(conv_graph(), Choice("openvino", "bf16")).score(images).logits
    gap = np.abs(given - wanted).max()
    assert 1e-4 < gap < 0.03 * wanted.std() + 0.03 * np.abs(wanted).max()


def test_the_distance_is_computed_in_full_precision_whatever_the_engine():
    """In bfloat16 it would be noise: a mean is rounded to 1/256, and what it differs by is taken 1000 times. Only the
    activations that enter it are rounded; the pixels are not."""
    images = films(60)
    wanted = opened(conv_graph(), Choice()).score(images)
    for streams in (1, 2):
        given = opened(conv_graph(), Choice("openvino", "bf16", streams, 8)).score(images, cam=True)
        np.testing.assert_allclose(given.distance, wanted.distance, atol=0.05, rtol=1e-4)
        assert given.cam is not None


@pytest.mark.parametrize("choice", [Choice(), Choice("openvino")], ids=str)
def test_a_record_keeps_its_name_when_idle_steps_are_folded_away(choice):
    """2 * 1 + 1 * 2 + 0.5 * 3 = 5.5."""
    given = opened(record_graph(), choice, (3,)).score(np.array([[2, 1, 0.5], [0, 0, 0]], np.float32))
    np.testing.assert_allclose(given.logits[:, 0], [5.5, 0.0], atol=1e-6)


def test_a_graph_that_an_engine_cannot_run_is_named_with_its_operator():
    """ONNX Runtime knows the operators of ai.onnx.ml; OpenVINO does not and says which."""
    assert opened(forest_graph(), Choice(), (3,)).score(np.ones((2, 3), np.float32)).logits.tolist() == [[2.0], [2.0]]
    with pytest.raises(Unfit, match="no operator ai.onnx.ml.TreeEnsembleRegressor") as caught:
        opened(forest_graph(), Choice("openvino"), (3,))
    assert caught.value.code == "engine-graph"
    with pytest.raises(Unfit, match="Unable to read"):
        opened(b"\x08\x0a", Choice("openvino"))


def test_precisions_and_shapes_that_do_not_fit_are_refused():
    """Before anything is scored."""
    with pytest.raises(Unfit) as caught:
        Engine(graph(), shape=(1, SIDE, SIDE), width=1, choice=Choice("onnxruntime", "bf16"))
    assert caught.value.code == "engine-precision"
    with pytest.raises(BadPackage, match="uint8"):
        opened(record_graph(), Choice("openvino"))
    with pytest.raises(Fault):
        opened(graph(), Choice("openvino")).score(np.zeros((1, 1, 5, 5), np.uint8))


@pytest.mark.parametrize("streams", [1, 2])
def test_threads_that_score_at_once_get_their_own_results(streams):
    """More callers than streams: each waits its turn, and nobody reads another's output."""
    engine = opened(graph(), Choice("openvino", streams=streams))
    images = films(64)

    def one(at: int) -> bool:
        return bool(abs(engine.score(images[at : at + 1]).logits[0, 0] - logit(images[at : at + 1])[0]) < 1e-4)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, list(range(64)) * 8))


def test_the_size_of_one_pass():
    """64 small pictures, 5 of 224x224; fewer where the graph is large."""
    assert default_batch((1, 28, 28)) == 64 and default_batch((3, 224, 224)) == 5 and default_batch((30,)) == 64
    assert default_batch((30,), 2**26) == 8


def test_nothing_is_reported_to_the_maker_of_an_engine():
    """OpenVINO's telemetry is never imported, and torch neither."""
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from medserve.runtime.engine import Choice, Engine\n"
        "from medserve.runtime.engines.openvino import OpenVino\n"
        f"OpenVino({record_graph()!r}, 1, 1, 'fp32')\n"
        "loaded = [m for m in sys.modules if m.startswith('openvino_telemetry') and sys.modules[m]]\n"
        "assert not loaded, loaded\n"
        "assert not {'torch', 'sklearn', 'matplotlib', 'onnx'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {"onnxruntime", "openvino"} <= set(versions())
