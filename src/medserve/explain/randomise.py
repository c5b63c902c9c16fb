"""The same network with random weights: a map that does not notice explains the picture and not the model.

    blank = randomised(served, images, depth=1.0, seed=0)

Layers are drawn anew from the output backwards (a cascade); normalisation statistics are taken again from the pictures,
so that signals keep their size and the network stays alive.
Source: Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018.
"""

import copy
import math

import numpy as np
import torch
from torch import nn

from medserve.models.served import ServedNet
from medserve.types import Array


def randomised(served: ServedNet, images: Array, *, depth: float = 1.0, seed: int = 0) -> ServedNet:
    """Args: images: (B, C, H, W) uint8, for the normalisation statistics. depth: share of the layers, from the last.

    Returns: a copy; `served` is untouched.
    """
    twin = copy.deepcopy(served)
    layers = [m for m in twin.net.modules() if callable(getattr(m, "reset_parameters", None))]
    again = layers[len(layers) - max(1, math.ceil(depth * len(layers))) :]
    norms = [m for m in again if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for layer in again:
            layer.reset_parameters()  # type: ignore[operator]
        for norm in norms:
            norm.momentum = None  # a plain average over what follows
            norm.train()
        twin.net(twin.normalise(torch.from_numpy(np.ascontiguousarray(images)).to(twin.mean.device).float() / 255))
    return twin.eval()
