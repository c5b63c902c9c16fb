"""The network as it is served: stored pixels in, everything an answer needs out, in one pass.

    served = ServedNet(net, mean=[0.57], std=[0.17], ood=distance)
    logits, distance, cam = served(torch.from_numpy(images))   # images: (B, C, H, W) uint8
    scores = served.scores(images)                             # types.Scores, in batches

Normalisation, the distance to the training data and the class activation maps stand inside the graph, so that no
caller can leave one out and every engine computes the same numbers.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from medserve.errors import BadPackage
from medserve.models.build import build_net
from medserve.models.nets import Features
from medserve.models.ood import Distance
from medserve.models.spec import ModelSpec
from medserve.types import Array, Scores


class ServedNet(nn.Module):
    """A network between its normalisation and its extra outputs.

    Args:
        net: returns `nets.Features`; where it gives maps, `net.head` is the linear layer behind their mean.
        mean, std: one a channel, in units of 1/255 steps of the stored picture scaled to [0, 1].
        ood: the fitted distance to the training data, or None.
    """

    def __init__(
        self, net: nn.Module, mean: Sequence[float], std: Sequence[float], ood: Distance | None = None
    ) -> None:
        super().__init__()
        self.net, self.ood = net, ood
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32))
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Args: image: (B, C, H, W) or (B, C, D, H, W), uint8; or records (B, F), float32, as they are.

        Returns: logits (B, K), distance (B,) or None, cam (B, K, *maps) or None.
        """
        unit = image.float() / 255 if image.dtype == torch.uint8 else image
        features = self.net(self.normalise(unit))
        distance = None if self.ood is None else self.ood(features.embedding, unit)
        return features.logits, distance, self.cam(features)

    def normalise(self, unit: Tensor) -> Tensor:
        """(B, C, ...) in [0, 1] -> what the network was trained on."""
        shape = (1, -1) + (1,) * (unit.ndim - 2)
        return (unit - self.mean.view(shape)) / self.std.view(shape)

    def cam(self, features: Features) -> Tensor | None:
        """Class activation maps: the head's weights applied to each place of the last maps instead of their mean.

        Returns: (B, K, h, w); the mean over places plus the head's bias is the logit. None without maps.
        Source: Zhou et al., "Learning deep features for discriminative localization", CVPR 2016.
        """
        if features.maps is None:
            return None
        head = self.net.head
        assert isinstance(head, nn.Linear), "a network that gives maps ends in a linear `head`"
        maps = features.maps
        flat = torch.matmul(head.weight, maps.flatten(2))  # (K, M) x (B, M, places)
        return flat.view(maps.shape[0], head.out_features, *maps.shape[2:])

    @torch.no_grad()
    def outputs(self, shape: Sequence[int]) -> tuple[str, ...]:
        """Names of the outputs that this network gives, in the graph's order. shape: (C, H, W) of one input."""
        dtype = torch.float32 if len(shape) == 1 else torch.uint8
        blank = torch.zeros((1, *shape), dtype=dtype, device=self.mean.device)
        names = ("logits", "distance", "cam")
        return tuple(name for name, value in zip(names, self(blank), strict=True) if value is not None)

    @torch.no_grad()
    def scores(self, images: Array, *, batch: int = 64) -> Scores:
        """Scores of images (N, C, H, W) uint8, a batch at a time, on the network's device."""
        parts: list[Scores] = []
        for start in range(0, len(images), batch):
            chunk = torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).to(self.mean.device)
            parts.append(Scores(*(None if value is None else value.cpu().numpy() for value in self(chunk))))  # type: ignore[arg-type]
        return Scores.concat(parts)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that `weights.safetensors` holds: weights, normalisation and the distance's statistics."""
        return {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}


def open_served(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> ServedNet:
    """The served network of a package again, from its signature and its tensors.

    Raises: BadPackage "package-weights": the tensors are not those of the architecture.
    """
    channels, *size = spec.shape
    net = build_net(spec.architecture, channels=channels, size=tuple(size), outputs=spec.output.width)
    ood = Distance.like(tensors, prefix="ood.")
    means = 1 if spec.is_record else channels
    served = ServedNet(net, [0.0] * means, [1.0] * means, ood)
    try:
        served.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        raise BadPackage(
            "package-weights",
            f"The weights do not fit the architecture {spec.architecture.name!r}.",
            hint="The package is damaged or of another version; train it again.",
        ) from error
    return served.eval()
