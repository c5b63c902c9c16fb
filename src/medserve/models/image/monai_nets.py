"""DenseNet-121 and the 3-D ResNet, from MONAI, with the maps that an explanation needs.

    net = MODELS["densenet121"](channels=1, size=224, outputs=14)
    net = MODELS["resnet3d"](channels=1, size=28, outputs=11, depth=10)

MONAI's own classifiers end in a number; here the same layers end in `Features`: last maps, global average pool, one
linear `head`. `net.backbone` is what pretrained weights are loaded into (`models.weights`).

Source: Huang et al., "Densely connected convolutional networks", arXiv 1608.06993; Hara et al., "Can spatiotemporal
3D CNNs retrace the history of 2D CNNs and ImageNet?", arXiv 1711.09577; MONAI 1.6 (Apache-2.0).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medserve.errors import NotFound, Usage
from medserve.models.nets import MODELS, Features

SMALL_VOLUME = 48  # voxels a side up to which the 3-D stem is 3x3x3 and unpooled
DEPTHS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
LITE0_STAGES = (  # EfficientNet-B0's stages without squeeze and excitation
    "r1_k3_s11_e1_i32_o16",
    "r2_k3_s22_e6_i16_o24",
    "r2_k5_s22_e6_i24_o40",
    "r3_k3_s22_e6_i40_o80",
    "r3_k5_s11_e6_i80_o112",
    "r4_k5_s22_e6_i112_o192",
    "r1_k3_s11_e6_i192_o320",
)


class Backbone(nn.Module):
    """Convolutional layers in stages; `forward` gives the last maps and the pooled statistics of every stage.

    maps: channels of the last maps. `rename` brings a public checkpoint's tensor names to this module's own.
    """

    maps: int

    def stages(self, x: Tensor) -> list[Tensor]:
        """The maps after every stage, the last ones last."""
        raise AssertionError("each backbone has its own stages")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outs = self.stages(x)
        return outs[-1], torch.cat([_pool(stage) for stage in outs[:-1]] or [_pool(outs[-1])], 1)

    @staticmethod
    def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)


def _pool(maps: Tensor) -> Tensor:
    """Mean and standard deviation over the places: (B, M, ...) -> (B, 2M)."""
    flat = maps.flatten(2)
    return torch.cat([flat.mean(2), flat.var(2, correction=0).add(1e-6).sqrt()], 1)


class DenseNet121(Backbone):
    """Stages: after each dense block."""

    maps = 1024

    def __init__(self, channels: int) -> None:
        from monai.networks.nets import DenseNet121 as Monai

        super().__init__()
        self.features = Monai(spatial_dims=2, in_channels=channels, out_channels=1).features

    def stages(self, x: Tensor) -> list[Tensor]:
        outs: list[Tensor] = []
        for name, layer in self.features.named_children():
            x = layer(x)
            if re.fullmatch(r"transition\d", name):
                outs.append(x)
        return [*outs, torch.relu(x)]

    @staticmethod
    def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's and TorchXRayVision's `denselayerN.norm1` is MONAI's `denselayerN.layers.norm1`; files of
        before 2018 write `norm.1`."""
        out: dict[str, Tensor] = {}
        for name, value in tensors.items():
            name = re.sub(r"(denselayer\d+)\.(norm|conv|relu)\.?(\d)", r"\1.layers.\2\3", name)
            out[name] = value
        return out


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0: MONAI's inverted residual blocks without squeeze and excitation, with ReLU6.

    Padding is TensorFlow's "same", which depends on the side of the input.
    Source: Tan and Le, arXiv 1905.11946; the Lite variant: TensorFlow's tpu/models/official/efficientnet/lite.
    """

    maps = 1280

    def __init__(self, channels: int, side: int) -> None:
        from monai.networks.nets import EfficientNet

        super().__init__()
        net = EfficientNet(
            list(LITE0_STAGES), spatial_dims=2, in_channels=channels, num_classes=1, image_size=side, dropout_rate=0.0
        )
        self.stem = nn.Sequential(net._conv_stem_padding, net._conv_stem, net._bn0, nn.ReLU6())
        self.blocks = net._blocks
        for block in self.blocks.modules():
            if hasattr(block, "_swish"):
                block._swish = nn.ReLU6()
        self.top = nn.Sequential(net._conv_head, net._bn1, nn.ReLU6())

    def stages(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        outs: list[Tensor] = []
        for stack in self.blocks:
            x = stack(x)
            outs.append(x)
        return [*outs, self.top(x)]

    @staticmethod
    def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`_blocks.5.x` of the public checkpoint is block 5 of its stage here: `blocks.2.5.x`... counted through."""
        stage_of: list[int] = []
        for stage, text in enumerate(LITE0_STAGES):
            stage_of += [stage] * int(text[1])
        out: dict[str, Tensor] = {}
        for name, value in tensors.items():
            if found := re.fullmatch(r"_blocks\.(\d+)\.(.+)", name):
                block = int(found[1])
                stage_name = str(stage_of[block]) if block < len(stage_of) else "none"
                name = f"blocks.{stage_name}.{block}.{found[2]}"
            for old, new in (
                ("_conv_stem.", "stem.1."),
                ("_bn0.", "stem.2."),
                ("_conv_head.", "top.0."),
                ("_bn1.", "top.1."),
            ):
                if name.startswith(old):
                    name = new + name[len(old) :]
            out[name] = value
        return out


class ResNet3d(Backbone):
    """Stages: MONAI's four residual layers."""

    def __init__(self, channels: int, depth: int, widen: float, side: int) -> None:
        from monai.networks.nets import ResNet

        super().__init__()
        small = side <= SMALL_VOLUME
        net = ResNet(
            "basic",
            list(DEPTHS[depth]),
            [64, 128, 256, 512],
            spatial_dims=3,
            n_input_channels=channels,
            conv1_t_size=3 if small else 7,
            conv1_t_stride=2,
            no_max_pool=small,
            widen_factor=widen,
            feed_forward=False,
            bias_downsample=False,
        )
        self.stem = nn.Sequential(net.conv1, net.bn1, nn.ReLU(), *([] if small else [net.maxpool]))
        self.layers = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])
        self.maps = int(512 * widen)

    def stages(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        outs: list[Tensor] = []
        for layer in self.layers:
            x = layer(x)
            outs.append(x)
        return outs


class Classifier(nn.Module):
    """A backbone, global average pool, dropout and one linear `head`."""

    def __init__(self, backbone: Backbone, outputs: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.maps, outputs)

    def forward(self, x: Tensor) -> Features:
        maps, embedding = self.backbone(x)
        return Features(self.head(self.dropout(maps.flatten(2).mean(2))), embedding.detach(), maps)


@MODELS.register("densenet121")
def densenet121(channels: int, size: int | tuple[int, ...], outputs: int, *, dropout: float = 0.0) -> nn.Module:
    """Build DenseNet-121 (6.95 M parameters). Raises: Usage "architecture-shape": not an image of 32 pixels or more."""
    image_sides(size, 32, "densenet121")
    return Classifier(DenseNet121(channels), outputs, dropout)


@MODELS.register("resnet3d")
def resnet3d(
    channels: int,
    size: int | tuple[int, ...],
    outputs: int,
    *,
    depth: int = 18,
    widen: float = 1.0,
    dropout: float = 0.0,
) -> nn.Module:
    """Build a 3-D ResNet for volumes.

    Args:
        depth: 10, 18 or 34 layers (14, 33 or 63 M parameters at widen 1).
        widen: multiplies the channels; 0.25 is laptop-sized.

    Raises: NotFound: no such depth. Usage "architecture-shape": an image, which this family does not take.
    """
    if depth not in DEPTHS:
        raise NotFound("resnet3d depth", str(depth), map(str, DEPTHS))
    sides = (size,) * 3 if isinstance(size, int) else tuple(size)
    if len(sides) != 3 or min(sides) < 9:
        raise Usage(
            "architecture-shape",
            f"resnet3d takes volumes of at least 9 voxels a side; this is {'x'.join(map(str, sides))}.",
            hint="Use --recipe residual for images.",
        )
    return Classifier(ResNet3d(channels, depth, widen, max(sides)), outputs, dropout)


def image_sides(size: int | tuple[int, ...], smallest: int, name: str) -> tuple[int, int]:
    """(H, W). Raises: Usage "architecture-shape"."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < smallest:
        raise Usage(
            "architecture-shape",
            f"{name} takes images of at least {smallest} pixels a side; this is {'x'.join(map(str, sides))}.",
            hint="Use --recipe residual for small images, resnet3d for volumes.",
        )
    return sides[0], sides[1]
