"""The network of the founding article, unchanged: three convolutions and one very wide dense layer.

    net = MODELS["article-cnn"](channels=3, size=224, outputs=1)
    sum(p.numel() for p in net.parameters())                   # 88_699_969

Conv 32, 64, 128 (3x3, no padding, as Keras has it), each with ReLU and 2x2 max-pool; Dense 1024 with ReLU; one output
whose sigmoid is the probability. Kept as the didactic baseline: 99.9 % of its weights stand in one layer behind a
flattened map, so that it has no class activation map and learns position by heart. By hand at 224: the sides go 222,
111, 109, 54, 52, 26, so the dense layer holds 26 * 26 * 128 * 1024 + 1024 = 88,605,696 of them.
"""

import torch
from torch import Tensor, nn

from medserve.errors import Usage
from medserve.models.nets import MODELS, Features

WIDTHS = (32, 64, 128)
DENSE = 1024
COARSE = 4  # pixels averaged before the summary: one pass over maps of 668,000 values instead of five
SMALLEST = 22  # pixels a side: below it nothing is left after the third pool


class ArticleCNN(nn.Module):
    """The embedding is the spatial mean and deviation after each pool, of means of 4x4 pixels; there are no maps."""

    def __init__(self, channels: int, outputs: int, sides: tuple[int, int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        width = channels
        for wider in WIDTHS:
            # ReLU after the pool: the same values as before it (both only keep the order), on a quarter of the pixels
            self.stages.append(nn.Sequential(nn.Conv2d(width, wider, 3), nn.MaxPool2d(2), nn.ReLU()))
            width = wider
            sides = ((sides[0] - 2) // 2, (sides[1] - 2) // 2)
        self.dense = nn.Linear(width * sides[0] * sides[1], DENSE)
        self.head = nn.Linear(DENSE, outputs)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):  # Keras' start: Glorot uniform, zero bias
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Features:
        summary: list[Tensor] = []
        if self.training:
            x = x.contiguous(memory_format=torch.channels_last)  # the same numbers, learnt faster on CPU and GPU
        for stage in self.stages:
            x = stage(x)
            if not self.training:  # the embedding serves no loss
                coarse = nn.functional.avg_pool2d(x, min(COARSE, *x.shape[2:]))
                summary += [coarse.mean((2, 3)), coarse.var((2, 3), correction=0).add(1e-6).sqrt()]
        flat = x.flatten(1)
        if (
            self.training and flat.dtype == torch.bfloat16
        ):  # 88 million weights: converting them costs more than it saves
            with torch.autocast(x.device.type, enabled=False):
                hidden = torch.relu(self.dense(flat.float()))
        else:
            hidden = torch.relu(self.dense(flat))
        embedding = hidden.detach() if self.training else torch.cat(summary, 1)
        return Features(self.head(hidden), embedding, None)


@MODELS.register("article-cnn")
def article_cnn(channels: int, size: int | tuple[int, ...], outputs: int) -> nn.Module:
    """Build it. The article's own input is 224x224x3; other sizes change the dense layer alone.

    Raises: Usage "architecture-shape": a volume, or an image under 22 pixels a side.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < SMALLEST:
        raise Usage(
            "architecture-shape",
            f"article-cnn takes images of at least {SMALLEST} pixels a side; this is {'x'.join(map(str, sides))}.",
            hint="Use --recipe residual for small images, resnet3d for volumes.",
        )
    return ArticleCNN(channels, outputs, (sides[0], sides[1]))
