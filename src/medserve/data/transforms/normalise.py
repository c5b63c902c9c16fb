"""Mean and spread of the training images, for the first operation inside the exported graph.

    normalise = Normalise.fit(parts.train)
    normalise.named()            # {"name": "normalise", "params": {"mean": [0.57], "std": [0.17]}}

Fitted on the training part and nothing else: any other part is a type error. Exact: counts of the 256 levels are added
up batch by batch, so neither the batch size nor the machine changes a digit.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medserve.errors import BadData, Usage
from medserve.types import Array, Named

if TYPE_CHECKING:
    from medserve.data.split import TrainPart

_SMALLEST_STD = 1 / 255


@dataclass(frozen=True, slots=True)
class Normalise:
    """Per channel, for images in [0, 1]: (image - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        numbers = np.array([*self.mean, *self.std], dtype=float)
        if len(self.mean) != len(self.std) or not self.mean or not np.isfinite(numbers).all() or min(self.std) <= 0:
            raise Usage("transform-parameters", "normalise: as many means as positive standard deviations, all finite.")

    @classmethod
    def fit(cls, train: "TrainPart", *, batch: int = 64) -> "Normalise":
        """
        Args:
            train: the training part; (B, C, ...) uint8 batches are taken from it in order.

        Raises: BadData `no-training-cases`.
        """
        if len(train) == 0:
            raise BadData("no-training-cases", "The training part is empty: nothing to fit on.")
        counts: Array | None = None
        for start in range(0, len(train), batch):
            images = train.take(np.arange(start, min(start + batch, len(train))))
            assert images.dtype == np.uint8
            found = np.stack([np.bincount(images[:, c].ravel(), minlength=256) for c in range(images.shape[1])])
            counts = found if counts is None else counts + found
        assert counts is not None
        levels = np.arange(256) / 255
        share = counts / counts.sum(axis=1, keepdims=True)
        mean = share @ levels
        std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
        return cls(tuple(mean.tolist()), tuple(np.maximum(std, _SMALLEST_STD).tolist()))

    def named(self) -> Named:
        return Named("normalise", {"mean": list(self.mean), "std": list(self.std)})
