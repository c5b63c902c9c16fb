"""How far a picture lies from the training data: a distance inside the graph, and its threshold.

    distance = fit(*describe(net, parts.train, mean, std), parts.train.targets)    # a small module of plain tensors
    served   = ServedNet(net, mean, std, distance)
    limit    = threshold_at(served.scores(calibration).distance, false_alarm=0.02)

The features are the network's embedding (pooled statistics of every stage), simple facts of the picture, and a coarse
grid of it with brightness and contrast taken out. Each sees what the others miss: the embedding sees texture and
content, the facts see exposure and blank pictures, the grid sees layout (a picture on its side keeps its texture). The
distance is Mahalanobis' to the nearest class mean, with one shrunk covariance.

Source: Lee et al., "A simple unified framework for detecting out-of-distribution samples", arXiv 1807.03888;
Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medserve.errors import BadData
from medserve.models.spec import OutOfDistribution
from medserve.types import Array, Samples

MIN_CASES = 20
MIN_BEHIND = 10  # cases behind every centre that a package carries
GRID = 8  # at most this many cells a side
NAMES = ("shift", "scale", "whiten", "centres")


def picture_features(unit: Tensor) -> Tensor:
    """Facts of a picture that a network trained to ignore them may have thrown away.

    Args: unit: (B, C, H, W) or (B, C, D, H, W) in [0, 1]. Records (B, F) have none: the embedding says it all.
    Returns: (B, 2C + 4 + cells): mean and standard deviation of each channel; shares of black and white; the mean
        step between neighbours along each of the last two axes; then a grid of at most 8 cells a side of the
        channels' mean, each picture's own brightness and contrast removed.
    """
    if unit.ndim == 2:
        return unit[:, :0]
    channels = unit.flatten(2)
    mean = channels.mean(2)
    spread = (channels - mean[:, :, None]).square().mean(2).add(1e-12).sqrt()
    flat = unit.flatten(1)
    black = (flat < 2.5 / 255).float().mean(1)
    white = (flat > 252.5 / 255).float().mean(1)
    down = (unit[..., 1:, :] - unit[..., :-1, :]).abs().flatten(1).mean(1)
    across = (unit[..., :, 1:] - unit[..., :, :-1]).abs().flatten(1).mean(1)
    return torch.cat([mean, spread, torch.stack([black, white, down, across], 1), _grid(unit)], 1)


def _grid(unit: Tensor) -> Tensor:
    grey = unit.mean(1, keepdim=True)
    cell = [math.ceil(side / GRID) for side in grey.shape[2:]]
    cells = (F.avg_pool2d(grey, cell) if len(cell) == 2 else F.avg_pool3d(grey, cell)).flatten(1)
    centred = cells - cells.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True).add(1e-12).sqrt() + 0.02)  # a blank picture stays blank


class Distance(nn.Module):
    """Mahalanobis distance to the nearest class of the training data, per feature (near 1 for a training picture).

    shift, scale: (F,) bring each feature to unit spread. whiten: (F, F). centres: (K, F) whitened class means.
    No patient is in here: means of at least 10 cases each, and one covariance of the whole training part.
    """

    def __init__(self, shift: Tensor, scale: Tensor, whiten: Tensor, centres: Tensor) -> None:
        super().__init__()
        self.shift: Tensor
        self.scale: Tensor
        self.whiten: Tensor
        self.centres: Tensor
        for name, value in zip(NAMES, (shift, scale, whiten, centres), strict=True):
            self.register_buffer(name, value)

    def forward(self, embedding: Tensor, unit: Tensor) -> Tensor:
        """Args: embedding (B, E) of the network; unit (B, C, ...) the picture in [0, 1]. Returns: (B,)."""
        return self.measure(torch.cat([embedding.float(), picture_features(unit)], 1))

    def measure(self, features: Tensor) -> Tensor:
        """Distance of features (B, F), the embedding and the picture's own side by side; NaN counts as the mean.

        Returns: (B,).
        """
        z = torch.where(torch.isnan(features), 0.0, (features - self.shift) * self.scale)
        white = z @ self.whiten
        gaps = (white[:, None, :] - self.centres[None]).square().mean(2)
        return gaps.amin(1).sqrt()

    @classmethod
    def like(cls, tensors: Mapping[str, Tensor], *, prefix: str = "ood.") -> "Distance | None":
        """An empty distance of the shapes found under `prefix`, ready for `load_state_dict`; None without any."""
        if not all(prefix + name in tensors for name in NAMES):
            return None
        return cls(*(torch.zeros_like(tensors[prefix + name]) for name in NAMES))


@torch.no_grad()
def describe(
    net: nn.Module, samples: Samples, mean: Sequence[float], std: Sequence[float], *, batch: int = 256
) -> tuple[Array, Array]:
    """Embeddings (N, E) and picture features (N, P), float32, of all samples, without augmentation.

    The network works on its own device and is left in the mode it was in.
    """
    was = net.training
    device = next((p.device for p in net.parameters()), torch.device("cpu"))  # trees have buffers only
    net.eval()
    embeddings: list[Array] = []
    pictures: list[Array] = []
    for start in range(0, len(samples), batch):
        taken = samples.take(np.arange(start, min(start + batch, len(samples))))
        unit = torch.from_numpy(np.ascontiguousarray(taken)).to(device).float()
        unit = unit / 255 if taken.dtype == np.uint8 else unit
        shape = (1, -1) + (1,) * (unit.ndim - 2)
        x = (unit - unit.new_tensor(list(mean)).view(shape)) / unit.new_tensor(list(std)).view(shape)
        embeddings.append(net(x).embedding.float().cpu().numpy())
        pictures.append(picture_features(unit).cpu().numpy())
    net.train(was)
    return np.concatenate(embeddings), np.concatenate(pictures)


def fit(embeddings: Array, pictures: Array, labels: Array | None = None) -> Distance:
    """Fit on the TRAIN part.

    Args:
        embeddings, pictures: (N, E) and (N, P), as `describe` gives them; NaN where an input was missing.
        labels: (N,) classes, for a mean of each class (binary, multiclass, ordinal); classes of fewer than 10 cases
            share one. None for one mean.

    Raises: BadData "too-few-for-distance": fewer than 20 cases.
    """
    from sklearn.covariance import LedoitWolf

    x = np.concatenate([embeddings, pictures], 1).astype(np.float64)
    if len(x) < MIN_CASES:
        raise BadData(
            "too-few-for-distance",
            f"{len(x)} training cases; the distance to the training data needs {MIN_CASES}.",
            hint="Add cases; without them the model cannot tell what is unlike its training data.",
        )
    known = np.isfinite(x)
    behind = np.maximum(known.sum(0), 1)
    shift = np.where(known, x, 0).sum(0) / behind
    spread = np.sqrt((np.where(known, x - shift, 0) ** 2).sum(0) / behind)
    scale = 1 / np.maximum(spread, 1e-2 * max(float(np.median(spread)), 1e-6))  # a constant feature stays bounded
    z = np.where(known, (x - shift) * scale, 0)
    groups = [z] if labels is None else [z[labels == k] for k in np.unique(labels)]
    rare = [group for group in groups if len(group) < MIN_BEHIND]
    groups = [group for group in groups if len(group) >= MIN_BEHIND]
    if sum(len(group) for group in rare) >= MIN_BEHIND or not groups:
        groups.append(np.concatenate(rare))
    means = np.stack([group.mean(0) for group in groups])
    centred = np.concatenate([group - group.mean(0) for group in groups])
    values, vectors = np.linalg.eigh(LedoitWolf(assume_centered=True).fit(centred).covariance_)
    whiten = vectors / np.sqrt(np.maximum(values, 1e-6))
    tensors = (shift, scale, whiten, means @ whiten)
    return Distance(*(torch.from_numpy(np.ascontiguousarray(t, dtype=np.float32)) for t in tensors))


def threshold_at(measured: Array, *, false_alarm: float = 0.02) -> OutOfDistribution:
    """The distance above which a picture is refused.

    Args:
        measured: (n,) distances of the calibration part.
        false_alarm: share of pictures like the training data that may be refused.

    Returns: the k-th smallest distance with k = ceil((n + 1)(1 - false_alarm)), so that a new exchangeable picture is
        refused with probability <= false_alarm. Where n is too small for that (k > n), the largest seen, and
        `false_alarm` then says what n can promise: 1 / (n + 1).
    Raises: BadData "too-few-for-distance": no case at all.
    Source: Vovk et al., "Algorithmic learning in a random world", 2005 (split conformal quantile).
    """
    ordered = np.sort(np.asarray(measured, np.float64))
    n = len(ordered)
    if n == 0:
        raise BadData("too-few-for-distance", "No calibration case to set the distance's threshold on.")
    k = math.ceil((n + 1) * (1 - false_alarm))
    if k > n:
        k, false_alarm = n, 1 / (n + 1)
    return OutOfDistribution(threshold=float(ordered[k - 1]), false_alarm=float(false_alarm), n=n)


def separation(inside: Array, outside: Array) -> dict[str, float]:
    """How well a distance tells `outside` from `inside`.

    Returns: auroc; fpr95, the share of `inside` refused at the distance that finds 95 % of `outside`.
    """
    low, high = np.sort(np.asarray(inside, np.float64)), np.asarray(outside, np.float64)
    rank = (np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")) / (2 * len(low))
    cut = np.quantile(high, 0.05, method="lower")
    return {"auroc": float(rank.mean()), "fpr95": float((low >= cut).mean())}
