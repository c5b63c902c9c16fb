"""Fitting what repeats the last visit: two shares, counted on the training part.

architecture, net, told = fit_repeat(Named("repeat-last", {...}), parts.train)
"""

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from medserve.models.nets import MODELS
from medserve.types import Named, Samples

CHUNK = 1024
LEAST, MOST = 0.1, 8.0  # of a logit: the decision at one half stays to repeat


def fit_repeat(architecture: Named, train: Samples) -> tuple[Named, nn.Module, dict[str, Any]]:
    """Returns: the architecture, the fitted module in eval mode, and {"learner", "stays", "begins", "seconds"}: how
    often a medicine of the last visit is prescribed again, and how often one that was not there is."""
    started = time.perf_counter()
    targets = np.asarray(train.targets)
    net: Any = MODELS[architecture.name](0, (), targets.shape[1], **architecture.params)
    kept, held, new, rest = 0.0, 0.0, 0.0, 0.0
    for at in range(0, len(train), CHUNK):
        rows = np.arange(at, min(at + CHUNK, len(train)))
        last = net.repeated(torch.from_numpy(train.take(rows)))[0].numpy() > 0
        known, given = np.isfinite(targets[rows]), targets[rows] == 1
        kept, held = kept + (last & given).sum(), held + (last & known).sum()
        new, rest = new + (~last & given).sum(), rest + (~last & known).sum()
    stays, begins = (kept + 1) / (held + 2), (new + 1) / (rest + 2)
    net.on.fill_(float(np.clip(np.log(stays / (1 - stays)), LEAST, MOST)))
    net.off.fill_(float(np.clip(np.log(begins / (1 - begins)), -MOST, -LEAST)))
    told = {"learner": architecture.name, "stays": round(float(stays), 4), "begins": round(float(begins), 6)}
    return architecture, net.eval().requires_grad_(False), told | {"seconds": round(time.perf_counter() - started, 3)}
