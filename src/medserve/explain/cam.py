"""Class activation maps: which coarse region raised the logit.

    scores = model.score(images, cam=True)
    heat   = cam(scores.cam, columns, (H, W))

The map is an output of the exported graph, computed in the same pass as the score: the last convolutional maps,
weighted by the linear head. Its grid is coarse (7x7 on a 28x28 picture), so it names a region and not a spot.
Source: Zhou et al., Learning deep features for discriminative localization, CVPR 2016.
"""

from collections.abc import Sequence

import numpy as np

from medserve.errors import Usage
from medserve.explain.maps import resize
from medserve.types import Array


def cam(maps: Array | None, columns: Array, shape: Sequence[int]) -> Array:
    """Bring the graph's maps to the size of the picture.

    Args:
        maps: (B, K, h, w) or (B, K, d, h, w), `Scores.cam`.
        columns: (B,) the logit to explain in each row.
        shape: spatial shape of the picture, (H, W) or (D, H, W).

    Returns: (B, H, W) or (B, D, H, W) float32; positive values raise the logit.
    Raises: Usage "explanation-unavailable": the architecture has no maps.
    """
    if maps is None:
        raise Usage(
            "explanation-unavailable",
            "This architecture has no class activation maps.",
            hint="Ask for 'occlusion': it works with every model.",
        )
    rows = np.arange(len(maps))
    return resize(np.asarray(maps)[rows, np.asarray(columns)], shape)
