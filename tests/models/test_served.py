"""The served graph gives the same numbers as the trained network, in torch and as ONNX, alone or in a batch."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from medserve.errors import BadPackage, Fault
from medserve.models import export, ood
from medserve.models.build import build_net
from medserve.models.export import check_onnx, export_onnx
from medserve.models.served import ServedNet, open_served
from medserve.models.spec import InputSpec, ModelSpec, OutputSpec
from medserve.types import ArraySamples, Named

FAMILIES = [
    pytest.param(Named("article-cnn"), (3, 24, 22), 1, marks=pytest.mark.slow),
    pytest.param(Named("thumbnail-linear"), (1, 20, 20), 3, marks=pytest.mark.slow),
    pytest.param(Named("densenet121"), (1, 32, 32), 2, marks=pytest.mark.slow),
    pytest.param(Named("resnet3d", {"depth": 10, "widen": 0.125}), (1, 10, 12, 12), 2, marks=pytest.mark.slow),
    pytest.param(Named("frozen-features"), (3, 32, 32), 2, marks=pytest.mark.slow),
]
MEAN, STD = 0.45, 0.22


def build(named: Named, shape: tuple[int, ...], outputs: int, *, with_distance: bool = True) -> ServedNet:
    torch.manual_seed(0)
    channels = shape[0]
    net = build_net(named, channels=channels, size=shape[1:], outputs=outputs).eval()
    for module in net.modules():  # statistics of a trained network differ from a fresh one's
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    mean, std = [MEAN] * channels, [STD] * channels
    distance = None
    if with_distance:
        images = pictures(24, shape)
        distance = ood.fit(*ood.describe(net, ArraySamples(images, np.zeros(24)), mean, std))
    return ServedNet(net, mean, std, distance)


def pictures(n: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[ServedNet, Path]:
    """One small residual network and its graph."""
    served = build(Named("residual", {"dial": "tiny"}), (1, 20, 20), 1)
    path = tmp_path_factory.mktemp("exported") / "graph.onnx"
    assert export_onnx(served, (1, 20, 20), path, samples=pictures(2, (1, 20, 20))) == ("logits", "distance", "cam")
    return served, path


def test_the_default_networks_graph_equals_it(exported):
    """The residual network's graph gives torch's logits, distance and maps, for batches of 1 and 5."""
    same_numbers(*exported, (1, 20, 20))


@pytest.mark.parametrize(("named", "shape", "outputs"), FAMILIES)
def test_the_exported_graph_equals_the_network(tmp_path, named, shape, outputs):
    """Every other family exports to one file whose logits, distance and maps equal torch's."""
    measured = named.name != "frozen-features"  # random features are all alike: their distance amplifies rounding
    served = build(named, shape, outputs, with_distance=measured)
    path = tmp_path / "graph.onnx"
    names = export_onnx(served, shape, path)
    maps = named.name not in ("article-cnn", "thumbnail-linear")
    wanted = ["logits", *(["distance"] if measured else []), *(["cam"] if maps else [])]
    assert names == tuple(wanted)
    assert [p.name for p in tmp_path.iterdir()] == ["graph.onnx"]  # no external data beside it
    same_numbers(served, path, shape)


def same_numbers(served: ServedNet, path: Path, shape: tuple[int, ...]) -> None:
    images = pictures(5, shape, seed=9)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["image"] and session.get_inputs()[0].type == "tensor(uint8)"
    expected = served.scores(images)
    for batch in (images[:1], images):
        for output, value in zip(session.get_outputs(), session.run(None, {"image": batch}), strict=True):
            wanted = getattr(expected, output.name)[: len(batch)]
            assert value.dtype == np.float32
            np.testing.assert_allclose(value, wanted, atol=1e-3 * max(1, np.abs(wanted).max()))


def test_normalisation_stands_inside():
    """The served logits of stored bytes are the network's of (pixel / 255 - mean) / std."""
    served = build(Named("residual", {"dial": "tiny"}), (1, 20, 20), 1)
    images = pictures(3, (1, 20, 20))
    with torch.no_grad():
        x = (torch.from_numpy(images).float() / 255 - MEAN) / STD
        assert np.allclose(served.scores(images).logits, served.net(x).logits.numpy(), atol=1e-5)


def test_the_map_adds_up_to_the_logit():
    """The class activation map's mean plus the head's bias is the logit, for every output."""
    served = build(Named("residual", {"dial": "tiny"}), (1, 20, 20), 3)
    scores = served.scores(pictures(4, (1, 20, 20)))
    assert scores.cam.shape[:2] == (4, 3)
    np.testing.assert_allclose(
        scores.cam.mean((2, 3)) + served.net.head.bias.detach().numpy(), scores.logits, atol=1e-4
    )


def test_batches_do_not_change_an_answer():
    """A picture scores the same alone and among others."""
    served = build(Named("residual", {"dial": "tiny"}), (1, 20, 20), 1)
    images = pictures(7, (1, 20, 20))
    whole, apart = served.scores(images), served.scores(images, batch=2)
    np.testing.assert_allclose(whole.logits, apart.logits, atol=1e-5)
    np.testing.assert_allclose(whole.distance, apart.distance, rtol=1e-4)


def test_a_network_without_distance_has_no_such_output(tmp_path):
    """Too few training cases: the graph then has no `distance`, rather than a made-up one."""
    served = build(Named("thumbnail-linear"), (1, 20, 20), 1, with_distance=False)
    path = tmp_path / "g.onnx"
    assert export_onnx(served, (1, 20, 20), path) == ("logits",)
    assert served.scores(pictures(2, (1, 20, 20))).distance is None
    with torch.no_grad():
        served.net.head.bias += 0.01
    with pytest.raises(Fault) as error:  # a graph of other weights does not pass
        check_onnx(served, (1, 20, 20), path)
    assert error.value.code == "export-differs"


def test_a_failed_export_leaves_no_file(tmp_path, monkeypatch):
    """A graph that does not pass its check does not stay behind to be served."""
    served = build(Named("thumbnail-linear"), (1, 20, 20), 1, with_distance=False)
    path = tmp_path / "g.onnx"
    monkeypatch.setattr(export, "_write", lambda served, shape, path, names, samples: path.write_bytes(b"half a graph"))
    with pytest.raises(Fault) as error:
        export_onnx(served, (1, 20, 20), path)
    assert error.value.code == "export-failed" and not path.exists()


def test_the_file_names_no_machine(exported):
    """No path of the machine that trained stands in the graph: it travels to others."""
    text = exported[1].read_bytes()
    assert b"site-packages" not in text and b".py" not in text


def spec(named: Named, shape: tuple[int, ...]) -> ModelSpec:
    return ModelSpec(
        name="m",
        inputs=[InputSpec(shape=shape)],
        output=OutputSpec(task="binary", labels=["no", "yes"]),
        transforms=[],
        architecture=named,
    )


def test_a_package_opens_to_the_same_network():
    """Signature and tensors alone rebuild it: normalisation, weights and distance; other tensors are refused."""
    named, shape = Named("residual", {"dial": "tiny"}), (1, 20, 20)
    served = build(named, shape, 1)
    again = open_served(spec(named, shape), served.tensors())
    images = pictures(3, shape)
    for name in ("logits", "distance", "cam"):
        np.testing.assert_array_equal(getattr(again.scores(images), name), getattr(served.scores(images), name))
    with pytest.raises(BadPackage) as error:
        open_served(spec(Named("residual", {"dial": "small"}), shape), served.tensors())
    assert error.value.code == "package-weights"
