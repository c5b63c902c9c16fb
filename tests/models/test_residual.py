"""The residual family."""

import pytest
import torch

from medserve.errors import NotFound, Usage
from medserve.models.image.residual import DIALS, residual


@pytest.mark.parametrize("dial", sorted(DIALS))
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 48)])
def test_the_map_is_the_logit(dial, shape):
    """logits == head(mean(maps)): what makes a class activation map exact. Same answer twice."""
    net = residual(shape[0], shape[1:], 2, dial=dial).eval()
    x = torch.randn(3, *shape)
    out = net(x)
    assert torch.allclose(out.logits, net.head(out.maps.mean((2, 3))), atol=1e-5)
    assert torch.equal(out.logits, net(x).logits) and out.logits.shape == (3, 2)
    assert out.embedding.shape == (3, 2 * sum(DIALS[dial][0]))


@pytest.mark.parametrize("side, maps", [(28, 7), (40, 10), (41, 6), (64, 8), (128, 8), (224, 7)])
def test_larger_pictures_pass_more_strides(side, maps):
    """The last maps stay between 6 and 10 a side, so that cost and heat map do not depend on the picture's size."""
    assert residual(1, side, 1, dial="tiny").eval()(torch.zeros(1, 1, side, side)).maps.shape[2:] == (maps, maps)


def test_the_default_is_compact():
    """About 0.70 million weights, as the measured recipe has; the embedding knows noise from flat grey."""
    net = residual(1, 28, 1)
    assert 0.68e6 < sum(p.numel() for p in net.parameters()) < 0.72e6
    noise, flat = net.eval()(torch.stack([torch.randn(1, 28, 28), torch.zeros(1, 28, 28)])).embedding
    assert (noise - flat).norm() > 1


def test_what_it_does_not_take_is_said():
    """An unknown dial lists the known ones; a volume names the recipe to use."""
    with pytest.raises(NotFound, match="small"):
        residual(1, 28, 1, dial="smal")
    with pytest.raises(Usage, match="resnet3d"):
        residual(1, (8, 9, 10), 1)
