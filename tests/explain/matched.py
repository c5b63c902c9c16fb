"""A network that needs no training: a matched filter for the planted lesion, so that audits have a known outcome."""

import numpy as np
import torch
from torch import Tensor, nn

from medserve.models.nets import Features
from medserve.models.spec import OutputSpec
from medserve.types import Named

SIDE = 28
OUTPUT = OutputSpec(task="binary", labels=["without", "with"])
MATCHED = Named("test-matched")


class Matched(nn.Module):
    """One frozen 7x7 centre-minus-surround filter, a high power (nearly the maximum), the mean, and a linear head."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(channels, 1, 7, padding=3).requires_grad_(False)
        self.head = nn.Linear(1, outputs)
        y, x = np.mgrid[-3:4, -3:4]
        r2 = y**2 + x**2
        kernel = np.exp(-r2 / 2 / 1.0**2)
        kernel -= kernel.mean()
        with torch.no_grad():
            self.filter.weight.copy_(
                torch.tensor(kernel / (kernel**2).sum(), dtype=torch.float32).expand(1, channels, 7, 7)
            )
            self.filter.bias.fill_(0.0)
            self.head.weight.fill_(1.0)
            self.head.bias.fill_(-0.9)

    def forward(self, x: Tensor) -> Features:
        maps = torch.relu(self.filter(x)) ** 6
        pooled = maps.mean((2, 3))
        return Features(self.head(pooled), pooled.detach(), maps)
