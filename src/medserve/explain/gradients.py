"""Integrated gradients: the logit's rise from a blurred picture to the picture itself, shared out to its pixels.

    model = NetModel(served)                                   # torch, so offline only
    heat  = integrated_gradients(model, images, columns)       # (B, H, W)
    error = completeness(model, images, columns)               # (B,) how well the shares add up

The shares must add up to the rise (completeness); the error of that sum is part of the audit.
Source: Sundararajan et al., Axiomatic attribution for deep networks, ICML 2017; computed by Captum.
"""

from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from medserve.errors import Usage
from medserve.explain.maps import blur, blurred
from medserve.explain.occlusion import SMOOTH
from medserve.models.served import ServedNet
from medserve.types import Array, Scores

STEPS = 32
AT_ONCE = 256  # interpolated pictures in memory at once


@dataclass(frozen=True, slots=True)
class NetModel:
    """A torch network as the methods want to see it."""

    net: ServedNet

    def score(self, images: Array, *, cam: bool = False) -> Scores:
        return self.net.scores(images, batch=128)


def integrated_gradients(model: object, images: Array, columns: Array) -> Array:
    """The map of each picture against a blurred copy of itself.

    Args:
        model: a `NetModel`.
        images: (B, C, H, W) or (B, C, D, H, W) uint8.
        columns: (B,) the logit to explain in each row.

    Returns: (B, H, W) or (B, D, H, W) float32, in logits a pixel, slightly smoothed.
    Raises: Usage "explanation-unavailable": the model is not a torch network.
    """
    shares, _ = _shares(model, images, columns)
    return blur(shares, SMOOTH * min(images.shape[-2:]), axes=images.ndim - 2)


def completeness(model: object, images: Array, columns: Array) -> Array:
    """Relative error of the sum of the shares.

    Returns: (B,) |sum of the shares - rise| / |rise|, 0 when exact.
    """
    shares, rise = _shares(model, images, columns)
    total = shares.reshape(len(shares), -1).sum(axis=1)
    return np.abs(total - rise) / np.maximum(np.abs(rise), 1e-6)


def _shares(model: object, images: Array, columns: Array) -> tuple[Array, Array]:
    """Returns: unsmoothed maps (B, *S) and the rise of each logit (B,)."""
    if not isinstance(model, NetModel):
        raise Usage(
            "explanation-unavailable",
            "Integrated gradients need the torch network.",
            hint="Run `medserve explain` where torch is installed, or ask for 'occlusion'.",
        )
    net = model.net

    def logits(unit: Tensor) -> Tensor:
        return net.net(net.normalise(unit)).logits

    device = net.mean.device
    maps, rises = [], []
    method = IntegratedGradients(logits)
    for image, column in zip(images, columns, strict=True):
        x = torch.from_numpy(np.ascontiguousarray(image[None])).to(device).float() / 255
        start = torch.from_numpy(blurred(image[None])).to(device).float() / 255
        shares = method.attribute(
            x.requires_grad_(), start, target=int(column), n_steps=STEPS, internal_batch_size=AT_ONCE
        )
        with torch.no_grad():
            rises.append(float((logits(x) - logits(start))[0, int(column)]))
        maps.append(shares[0].sum(0).detach().cpu().numpy().astype(np.float32))
    return np.stack(maps), np.array(rises)
