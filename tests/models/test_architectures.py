"""Every image family keeps the contract of `nets.Features`; the article's network is exactly the article's."""

import subprocess
import sys

import pytest
import torch

from medserve.errors import NotFound, Usage
from medserve.models.build import build_net
from medserve.types import Named

FAMILIES = [
    (Named("article-cnn"), 3, 22),
    (Named("residual", {"dial": "tiny"}), 1, 20),
    (Named("densenet121"), 1, 32),
    (Named("resnet3d", {"depth": 10, "widen": 0.125}), 1, 12),
    (Named("frozen-features", {"backbone": "efficientnet-lite0"}), 1, 32),
    (Named("frozen-features", {"backbone": "densenet121"}), 3, 32),
]


def inputs(name: str, channels: int, size: int) -> torch.Tensor:
    sides = (size,) * (3 if name == "resnet3d" else 2)
    return torch.randn(2, channels, *sides, generator=torch.Generator().manual_seed(0))


def test_article_cnn_has_the_articles_parameters():
    """224x224x3 and one output: 88,699,969 parameters, counted without allocating them."""
    with torch.device("meta"):
        net = build_net(Named("article-cnn"), channels=3, size=224, outputs=1)
    assert sum(p.numel() for p in net.parameters()) == 88_699_969


def test_article_cnn_pools_after_relu_as_the_article_does():
    """ReLU after the pool gives the very same values as before it."""
    net = build_net(Named("article-cnn"), channels=1, size=22, outputs=1).eval()
    x = inputs("article-cnn", 1, 22)
    with torch.no_grad():
        expected = x
        for stage in net.stages:
            expected = torch.max_pool2d(torch.relu(stage[0](expected)), 2)
        expected = net.head(torch.relu(net.dense(expected.flatten(1))))
        assert torch.equal(net(x).logits, expected)


@pytest.mark.parametrize(("named", "channels", "size"), FAMILIES, ids=lambda v: getattr(v, "name", v))
def test_every_family_keeps_the_contract(named, channels, size):
    """Logits of the asked width, one embedding a picture, and logits = head(mean of maps) where there are maps."""
    net = build_net(named, channels=channels, size=size, outputs=3).eval()
    with torch.no_grad():
        out = net(inputs(named.name, channels, size))
    assert out.logits.shape == (2, 3) and out.embedding.shape[0] == 2 and torch.isfinite(out.embedding).all()
    assert out.embedding.ndim == 2
    assert (out.maps is None) == (named.name == "article-cnn")
    if out.maps is not None:
        assert torch.allclose(net.head(out.maps.flatten(2).mean(2)), out.logits, atol=1e-5)


@pytest.mark.parametrize(
    ("named", "size"),
    [
        (Named("article-cnn"), 21),
        (Named("article-cnn"), (32, 32, 32)),
        (Named("densenet121"), 28),
        (Named("resnet3d"), (28, 28)),
        (Named("frozen-features"), (64, 32)),
        (Named("residual"), (28, 28, 28)),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(named, size):
    """A size or kind that a family cannot take is a coded error before anything is built."""
    with pytest.raises(Usage) as error:
        build_net(named, channels=1, size=size, outputs=1)
    assert error.value.code == "architecture-shape" and error.value.hint


def test_unknown_names_list_their_neighbours():
    """A wrong architecture, parameter, depth or backbone says what there is."""
    with pytest.raises(NotFound, match="densenet121"):
        build_net(Named("densenet"), channels=1, size=32, outputs=1)
    with pytest.raises(NotFound, match="depth"):
        build_net(Named("resnet3d", {"dept": 10}), channels=1, size=28, outputs=1)
    with pytest.raises(NotFound, match="outputs") as error:
        build_net(Named("residual", {"outputs": 3}), channels=1, size=28, outputs=1)
    assert error.value.code == "unknown-residual-parameter"
    with pytest.raises(NotFound, match="18"):
        build_net(Named("resnet3d", {"depth": 50}), channels=1, size=28, outputs=1)
    with pytest.raises(NotFound, match="efficientnet-lite0"):
        build_net(Named("frozen-features", {"backbone": "efficientnet"}), channels=1, size=32, outputs=1)


def test_a_frozen_backbone_does_not_learn():
    """Training changes the head and nothing of the backbone, running statistics included."""
    torch.manual_seed(0)
    net = build_net(Named("frozen-features"), channels=1, size=32, outputs=1)
    net.loaded.fill_(1)
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    start = net.head.weight.detach().clone()
    net(inputs("frozen-features", 1, 32)).logits.square().sum().backward()
    optimizer.step()
    assert not torch.equal(start, net.head.weight)
    assert all(torch.equal(value, before[name]) for name, value in net.backbone.state_dict().items())


def test_random_features_are_not_trained_on():
    """Without pretrained weights a frozen network refuses to train, and says where to get them."""
    net = build_net(Named("frozen-features"), channels=1, size=32, outputs=1).train()
    with pytest.raises(Usage) as error:
        net(inputs("frozen-features", 1, 32))
    assert error.value.code == "weights-missing"


def test_importing_models_imports_no_torch():
    """The signature, the battery and the folder itself serve where torch is not installed."""
    code = (
        "import sys, medserve.models, medserve.models.spec, medserve.models.battery;"
        "sys.exit('torch' in sys.modules or 'monai' in sys.modules or 'sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
