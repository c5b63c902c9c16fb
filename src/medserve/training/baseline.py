"""The simple model that every run is compared with: a linear model on thumbnails.

    architecture, net = fit_baseline(parts.train, parts.val, output, seed=7, mean=mean, std=std)

Logistic regression for classes (one a label, or one a level, where labels or levels are many), ridge for numbers; the
strength of the penalty is chosen on the validation part. Where a network does not beat it, it is what is offered.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from medserve.errors import BadData
from medserve.models.heads import Head
from medserve.models.image.linear import SIDE, ThumbnailLinear, thumbnail_linear
from medserve.models.spec import OutputSpec
from medserve.training.loop import predict_logits
from medserve.training.sampling import class_weights, read_ahead
from medserve.types import Array, Named, Samples

STRENGTHS = (3e-4, 3e-3, 3e-2, 3e-1)  # scikit-learn's C; ridge uses 1 / C
MOST = 20_000  # cases that the fit holds in memory: thumbnails of 16 x 16 take 20 MB
ROUNDS = 300  # iterations of the solver


def fit_baseline(
    train: Samples,
    val: Samples,
    output: OutputSpec,
    seed: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    side: int = SIDE,
) -> tuple[Named, nn.Module]:
    """Fit one linear model a strength, keep the one with the lowest class-balanced validation loss.

    Args:
        output: what the logits mean; number uses its `mean` and `sd`.
        seed: picks the cases where the training part holds more than 20,000.
        mean, std: the normalisation that will stand in the graph before the network, per channel.

    Returns: the catalog entry and the fitted module, in eval mode.
    Raises: BadData "part-empty", "one-class-only".
    """
    if len(train) == 0 or len(val) == 0:
        raise BadData("part-empty", "The baseline needs training and validation cases.", hint="Give more data.")
    channels, *sides = train.take(np.arange(1)).shape[1:]
    params = {"side": side} | ({"axes": 3} if len(sides) == 3 else {})
    net = thumbnail_linear(channels, tuple(sides), output.width, **params)
    assert isinstance(net, ThumbnailLinear)
    rows = np.arange(len(train))
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST])
    features, targets = _thumbnails(net, train, rows, mean, std), np.asarray(train.targets)[rows]
    if output.task in ("binary", "multiclass", "ordinal") and len(np.unique(targets)) < 2:
        raise BadData(
            "one-class-only", "The training part holds cases of one class only.", hint="Add cases of the others."
        )
    centre, spread = features.mean(0), features.std(0) + 1e-3
    features = (features - centre) / spread
    known = np.asarray(val.targets)
    weight = torch.from_numpy(class_weights(known, output.task))
    best, kept = np.inf, None
    for strength in STRENGTHS:
        matrix, bias = _fit(features, targets, output, strength)
        _write(net, matrix / spread, bias - (matrix / spread) @ centre)
        logits = torch.from_numpy(predict_logits(net, val, mean, std))
        loss = float(Head(output).loss(logits, torch.as_tensor(known), weight=weight))
        if kept is None or loss < best:
            best, kept = loss, {name: value.clone() for name, value in net.state_dict().items()}
    assert kept is not None
    net.load_state_dict(kept)
    return Named("thumbnail-linear", params), net.eval()


def _thumbnails(
    net: ThumbnailLinear, samples: Samples, rows: Array, mean: Sequence[float], std: Sequence[float]
) -> Array:
    """(N, features) float64 of `rows`, a batch at a time."""
    found = []
    with torch.inference_mode():
        for _, images in read_ahead(samples, rows, 256):
            x = torch.from_numpy(images).float() / 255
            shape = (1, -1, *(1 for _ in range(x.ndim - 2)))
            x = (x - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)
            found.append(net.thumbnail(x).flatten(1).numpy())
    return np.concatenate(found).astype(np.float64)


def _fit(x: Array, targets: Array, output: OutputSpec, strength: float) -> tuple[Array, Array]:
    """Returns: (width, features) and (width,)."""
    if output.task == "number":
        return _ridge(x, output.standard(targets), strength)
    if output.task == "multiclass":
        return _multinomial(x, targets, output.width, strength)
    if output.task == "binary":
        columns = targets[:, None].astype(float)
    elif output.task == "ordinal":
        columns = (targets[:, None] > np.arange(output.width)).astype(float)
    else:
        columns = targets
    balanced = output.task != "multilabel"
    each = [_logistic(x, columns[:, k], strength, balanced) for k in range(output.width)]
    return np.stack([w for w, _ in each]), np.array([b for _, b in each])


def _logistic(x: Array, y: Array, strength: float, balanced: bool) -> tuple[Array, float]:
    """One question; cases whose answer is unknown (NaN) are left out, one-sided answers give their smoothed odds."""
    from sklearn.linear_model import LogisticRegression

    known = np.isfinite(y)
    x, y = x[known], y[known].astype(int)
    if len(np.unique(y)) < 2:
        return np.zeros(x.shape[1]), float(np.log((y.sum() + 1) / ((1 - y).sum() + 1)))
    model = LogisticRegression(C=strength, class_weight="balanced" if balanced else None, max_iter=ROUNDS)
    _quietly(lambda: model.fit(x, y))
    return model.coef_[0], float(model.intercept_[0])


def _multinomial(x: Array, y: Array, width: int, strength: float) -> tuple[Array, Array]:
    """Softmax regression; a class that the training part lacks keeps a very low score."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=ROUNDS)
    _quietly(lambda: model.fit(x, y))
    matrix, bias = np.zeros((width, x.shape[1])), np.full(width, -20.0)
    if len(model.classes_) == 2:  # scikit-learn gives one row for two classes; a softmax wants it shared
        rows, offsets = np.concatenate([-model.coef_, model.coef_]) / 2, np.array([-1, 1]) * model.intercept_[0] / 2
    else:
        rows, offsets = model.coef_, model.intercept_
    matrix[model.classes_], bias[model.classes_] = rows, offsets
    return matrix, bias


def _ridge(x: Array, y: Array, strength: float) -> tuple[Array, Array]:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / strength).fit(x, y)
    return model.coef_[None], np.array([float(model.intercept_)])


def _quietly(fit: Callable[[], object]) -> None:
    """A solver stopped by its number of rounds is still a baseline; validation judges it."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit()


def _write(net: ThumbnailLinear, matrix: Array, bias: Array) -> None:
    with torch.no_grad():
        net.head.weight.copy_(torch.from_numpy(matrix))
        net.head.bias.copy_(torch.from_numpy(bias))
