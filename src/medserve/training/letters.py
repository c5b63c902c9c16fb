"""Counting which letter comes after which: the simple model beside a network that writes molecules.

    architecture, net, history = fit_ngram(Named("letters-ngram", {"blocks": [...]}), train, val)

Source: Witten and Bell, IEEE Trans Inf Theory 37:1085 (1991): the share of a letter after a context is mixed with its
share after a shorter one, the more so the more different letters the context was followed by.
"""

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from medserve.models.nets import MODELS
from medserve.models.record import families  # noqa: F401
from medserve.types import Array, Named, Samples

CHUNK = 1024


def fit_ngram(architecture: Named, train: Samples, val: Samples) -> tuple[Named, nn.Module, dict[str, Any]]:
    """Returns: the architecture, the fitted module in eval mode, and {"learner", "val_log_likelihood", "seconds"}."""
    started = time.perf_counter()
    net: Any = MODELS[architecture.name](0, (), 1, **architecture.params)
    v, back = net.vocabulary, net.order - 1
    counts = [np.zeros((v**k, v)) for k in range(back + 1)]
    for at in range(0, len(train), CHUNK):
        records = torch.from_numpy(train.take(np.arange(at, min(at + CHUNK, len(train)))))
        ids, count = net.letters(records)
        inside = torch.arange(ids.shape[1] + 1).unsqueeze(0) <= count.unsqueeze(1)
        row = net.contexts(ids)[inside].numpy()
        wanted = torch.nn.functional.pad(ids, (0, 1))[inside].numpy()
        for k, table in enumerate(counts):
            np.add.at(table, (row % v**k, wanted), 1)
    shares = np.full((1, v), 1 / v)
    for k, table in enumerate(counts):
        shorter = shares[np.arange(v**k) % max(1, v ** (k - 1))] if k else shares
        kinds, total = (table > 0).sum(1, keepdims=True), table.sum(1, keepdims=True)
        kinds = np.maximum(kinds, 1)
        shares = (table + kinds * shorter) / (total + kinds)
    net.log.copy_(torch.from_numpy(np.log(shares)))
    net = net.eval().requires_grad_(False)
    told = {"learner": architecture.name, "val_log_likelihood": round(float(np.mean(_scores(net, val))), 6)}
    return architecture, net, told | {"seconds": round(time.perf_counter() - started, 3)}


def _scores(net: nn.Module, part: Samples) -> Array:
    rows = range(0, len(part), CHUNK)
    found = [net(torch.from_numpy(part.take(np.arange(a, min(a + CHUNK, len(part)))))).logits.numpy() for a in rows]
    return np.concatenate(found)
