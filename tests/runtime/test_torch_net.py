"""PyTorch beside the graph: the same numbers, no surprise at the start of a service, a GPU only where one is."""

import subprocess
import sys

import numpy as np
import pytest
from graphs import conv_package
from tiny_package import write_package

from medserve.models.package import open_package
from medserve.models.signing import Trust
from medserve.runtime.engine import Choice, Engine, Unfit, versions
from medserve.runtime.engines import torch_net
from medserve.runtime.gate import Gate
from medserve.runtime.model import LoadedModel
from medserve.runtime.tuned import Row, Verdict, processor, write_verdict
from medserve.runtime.tuner import choices, tune


def test_what_is_tried_is_the_product_of_streams_and_what_the_machine_has():
    """Streams of one to every thread; a GPU's engines only where it is seen, TensorRT only where it is shipped."""
    apart = [c for c in choices(12) if not c.shared]
    assert {c.streams for c in apart} == {1, 2, 4, 8, 12} and len(apart) == len(set(apart)) == 5 * 6
    plain = choices(12)
    assert {(c.engine, c.streams) for c in plain if c.shared} == {("onnxruntime", 12)}
    assert {c.engine for c in plain} == {"onnxruntime", "openvino"}
    assert {c.engine for c in choices(2, compare=True)} - {c.engine for c in plain} == {"torch", "inductor"}
    seen = choices(
        2, gpu=True, providers=["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert {(c.engine, c.precision) for c in seen if c not in choices(2)} == {
        ("torch-cuda", "fp32"), ("torch-cuda", "bf16"), ("onnxruntime-cuda", "fp32"),
        ("onnxruntime-tensorrt", "fp32"), ("onnxruntime-tensorrt", "bf16"),
    }  # fmt: skip
    assert choices(1)[0].streams == 1 and {c.streams for c in choices(1) if not c.shared} == {1}


def test_sizes_that_a_gpu_captures_are_powers_of_two():
    """One capture serves every smaller batch down to the next."""
    assert [torch_net.bucket(n) for n in (1, 2, 3, 4, 5, 33, 64)] == [1, 2, 4, 4, 8, 64, 64]


def test_without_a_driver_torch_is_not_even_imported(monkeypatch):
    """Looking for a GPU costs nothing where there is none."""
    monkeypatch.setattr(torch_net, "DRIVER", "/nowhere")
    monkeypatch.setattr(torch_net, "_import", lambda: 1 / 0)
    assert torch_net.gpu_here() is False


def test_engines_of_a_gpu_say_what_is_missing(tmp_path, settings):
    """No GPU, no provider: a coded reason, so that the tuner lists a row and goes on."""
    package = open_package(write_package(tmp_path / "package", settings), Trust.load(settings))
    graph = package.path("graph.onnx").read_bytes()
    for choice in (Choice("torch-cuda", "bf16"), Choice("onnxruntime-cuda"), Choice("onnxruntime-tensorrt", "bf16")):
        with pytest.raises(Unfit) as caught:
            Engine(graph, shape=package.spec.shape, width=1, choice=choice, package=package)
        assert caught.value.code == "engine-missing"


def test_eager_torch_gives_the_numbers_of_the_graph(run):
    """Logits, distance and maps of the self-check of a trained network, and the tuner's row says so."""
    package = open_package(run.package, Trust.load(run.settings))
    found = tune(package, threads=1, tried=[Choice("torch"), Choice("torch", "bf16")], rounds=1)
    row = next(row for row in found.rows if row.choice.engine == "torch" and row.choice.precision == "fp32")
    assert row.code == "" and set(row.gap) >= {"logits", "distance"} and max(row.gap.values()) < 1e-3
    assert {row.code for row in found.rows if row.choice.precision == "bf16"} == {"engine-precision"}


def test_a_package_without_a_network_is_no_matter_for_torch(tmp_path, settings):
    """Its graph was not exported from one of ours."""
    package = open_package(conv_package(tmp_path / "package", settings), Trust.load(settings))
    with pytest.raises(Unfit) as caught:
        Engine(b"", shape=package.spec.shape, width=1, choice=Choice("torch"), package=package)
    assert caught.value.code == "engine-graph"


def test_the_compiled_one_is_measured_and_never_served(run, tmp_path, monkeypatch):
    """The tuner keeps it out; a verdict that names it is damaged. Without a compiler it is a row with a reason."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    package = open_package(run.package, Trust.load(run.settings))
    found = tune(package, threads=1, tried=[Choice("inductor")], rounds=1)
    assert [row.code for row in found.rows if row.choice.engine == "inductor"] == ["engine-missing"]
    chosen, said = Choice("inductor"), []
    verdict = Verdict("medserve-tuned/1", package.digest, processor(), 1, versions(), chosen, {},
                      [Row(chosen, gate=Gate(True, 200, [], {}))])  # fmt: skip
    write_verdict(tmp_path, verdict)
    LoadedModel.open(run.package, Trust.load(run.settings), threads=1, tuned=tmp_path, warn=said.append)
    assert said and said[0].startswith("warning tuned-damaged")


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # by torch, of itself
@pytest.mark.slow
def test_the_compiled_one_gives_the_numbers_of_the_graph(run):
    """It takes a minute, and is kept out with its own code."""
    package = open_package(run.package, Trust.load(run.settings))
    found = tune(package, threads=1, tried=[Choice("inductor")], rounds=1)
    rows = [row for row in found.rows if row.choice.engine == "inductor"]
    if rows[0].code == "engine-missing":
        pytest.skip(rows[0].reason)
    assert {row.code for row in rows} == {"compared-only"} and all(row.images_per_s > 0 for row in rows)
    assert np.max(list(rows[0].gap.values())) < 1e-3


def test_a_service_starts_without_torch():
    """Nothing of it is imported by the engines that serve."""
    code = (
        "import sys\nfrom medserve.runtime import engine, tuner, model\nimport medserve.runtime.engines.torch_net\n"
        "assert not {'torch', 'nncf', 'openvino'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
