"""How far a picture lies from the training data: a distance inside the graph, and its threshold.

embeddings, stats = describe(net, train, mean, std)        # or any (N, F) array
distance = fit(embeddings, stats, labels)                  # Distance, a small torch module of plain tensors
threshold = threshold_at(distances_on_calibration, false_alarm=0.02)
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from medserve.errors import BadData
from medserve.models.spec import OutOfDistribution
from medserve.types import Array, Samples

MIN_CASES = 20


def picture_statistics(unit: Tensor) -> Tensor:
    """Simple facts of a picture that a network trained to ignore them may have thrown away.

    Args: unit: (B, C, H, W) or (B, C, D, H, W) in [0, 1].
    Returns: (B, 6): mean, standard deviation, shares of black and white, and the mean step between neighbours along
        the last two axes.
    """
    flat = unit.flatten(1)
    mean = flat.mean(1)
    spread = (flat - mean[:, None]).square().mean(1).clamp_min(1e-12).sqrt()
    down = (unit[..., 1:, :] - unit[..., :-1, :]).abs().flatten(1).mean(1)
    across = (unit[..., :, 1:] - unit[..., :, :-1]).abs().flatten(1).mean(1)
    black = (flat <= 2 / 255).float().mean(1)
    white = (flat >= 253 / 255).float().mean(1)
    return torch.stack([mean, spread, black, white, down, across], 1)


class Distance(nn.Module):
    """Mahalanobis distance to the nearest class of the training data.

    centres: (K, R) whitened class means. scale, shift: (F,) bring each feature to unit spread. whiten: (F, R).
    """

    def __init__(self, shift: Tensor, scale: Tensor, whiten: Tensor, centres: Tensor) -> None:
        super().__init__()
        self.shift: Tensor
        self.scale: Tensor
        self.whiten: Tensor
        self.centres: Tensor
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.register_buffer("whiten", whiten)
        self.register_buffer("centres", centres)

    def forward(self, embedding: Tensor, unit: Tensor) -> Tensor:
        """Args: embedding (B, E) of the network; unit (B, C, ...) the picture in [0, 1]. Returns: (B,)."""
        return self.measure(torch.cat([embedding.float(), picture_statistics(unit)], 1))

    def measure(self, features: Tensor) -> Tensor:
        """Distance of features (B, F) = embedding and picture statistics side by side."""
        white = ((features - self.shift) * self.scale) @ self.whiten
        gaps = (white[:, None, :] - self.centres[None]).square().mean(2)
        return gaps.amin(1).clamp_min(0).sqrt()

    @classmethod
    def like(cls, tensors: Mapping[str, Tensor], *, prefix: str = "ood.") -> "Distance | None":
        """An empty distance of the shapes found under `prefix`, ready for `load_state_dict`; None without any."""
        names = ("shift", "scale", "whiten", "centres")
        if not all(prefix + name in tensors for name in names):
            return None
        return cls(*(torch.zeros_like(tensors[prefix + name]) for name in names))


@torch.no_grad()
def describe(
    net: nn.Module, samples: Samples, mean: Sequence[float], std: Sequence[float], *, batch: int = 256
) -> tuple[Array, Array]:
    """Embeddings (N, E) and picture statistics (N, 6) of all samples, without augmentation, on the net's device."""
    net.eval()
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    embeddings, statistics = [], []
    for start in range(0, len(samples), batch):
        images = torch.from_numpy(samples.take(np.arange(start, min(start + batch, len(samples))))).to(device)
        shape = (1, -1) + (1,) * (images.ndim - 2)
        centre, spread = (torch.tensor(list(v), dtype=torch.float32, device=device).view(shape) for v in (mean, std))
        unit = images.float() / 255
        embeddings.append(net((unit - centre) / spread).embedding.float().cpu().numpy())
        statistics.append(picture_statistics(unit).cpu().numpy())
    return np.concatenate(embeddings), np.concatenate(statistics)


def fit(embeddings: Array, statistics: Array, labels: Array | None = None) -> Distance:
    """Fit the distance on the TRAIN part.

    Args:
        embeddings: (N, E), the network's.
        statistics: (N, 6), `picture_statistics`.
        labels: (N,) int classes for class-conditional means, or None for one mean.

    Returns: the distance; its covariance is shrunk (Ledoit and Wolf, 2004), so that it stands even for N < F.
    Raises: BadData "too-few-for-distance".
    """
    from sklearn.covariance import LedoitWolf

    features = np.concatenate([embeddings, statistics], 1).astype(np.float64)
    if len(features) < MIN_CASES:
        raise BadData(
            "too-few-for-distance",
            f"{len(features)} training cases; the distance to the training data needs {MIN_CASES}.",
            hint="Add cases; without them the model cannot tell what is unlike its training data.",
        )
    shift, spread = features.mean(0), features.std(0)
    scale = 1 / np.maximum(spread, 1e-3 * max(float(np.median(spread)), 1e-6))
    z = (features - shift) * scale
    groups = [z] if labels is None else [z[labels == k] for k in np.unique(labels)]
    groups = [g for g in groups if len(g) >= 2]
    means = np.stack([g.mean(0) for g in groups])
    covariance = LedoitWolf(assume_centered=True).fit(np.concatenate([g - g.mean(0) for g in groups])).covariance_
    values, vectors = np.linalg.eigh(covariance)
    whiten = vectors / np.sqrt(np.maximum(values, 1e-6))
    tensors = (shift, scale, whiten, means @ whiten)
    return Distance(*(torch.from_numpy(np.ascontiguousarray(t, dtype=np.float32)) for t in tensors))


def threshold_at(distances: Array, *, false_alarm: float = 0.02) -> OutOfDistribution:
    """The distance above which a picture is refused.

    Args:
        distances: (n,) of the calibration part.
        false_alarm: share of pictures like the training data that may be refused.

    Returns: the k-th smallest distance with k = ceil((n + 1)(1 - false_alarm)), so that a new exchangeable picture is
        refused with probability <= false_alarm (Vovk et al., 2005); the largest seen where n is too small for that.
    """
    ordered = np.sort(np.asarray(distances, np.float64))
    n = len(ordered)
    k = min(n, int(np.ceil((n + 1) * (1 - false_alarm))))
    return OutOfDistribution(threshold=float(ordered[k - 1]), false_alarm=float(false_alarm), n=n)


def separation(inside: Array, outside: Array) -> dict[str, float]:
    """AUROC of telling `outside` from `inside` by distance, and the false-alarm rate at 95 % found (FPR95)."""
    inside, outside = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    order = np.sort(inside)
    auroc = (np.searchsorted(order, outside, "left") + np.searchsorted(order, outside, "right")) / (2 * len(order))
    cut = np.quantile(outside, 0.05, method="lower")
    return {"auroc": float(auroc.mean()), "fpr95": float((inside >= cut).mean())}
