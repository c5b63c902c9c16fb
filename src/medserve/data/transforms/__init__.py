"""Transforms: a picture in physical units in, the uint8 tensor that a model takes out. Training and serving share them.

    named = default_transforms(shape=(1, 224, 224), colour=False, unit="HU")
    pipeline = build(named)                # refuses unknown names and parameters
    tensor = pipeline(picture)             # (1, 224, 224) uint8, the same bytes every time
    tensor, thumb = prepare_one(picture, pipeline)

Each transform is a small frozen object with a name and JSON parameters, so a package is read back without running
anybody's code. `normalise` is fitted on the training part and runs inside the exported graph; here it is only
carried along.
"""

from medserve.data.transforms.normalise import Normalise
from medserve.data.transforms.pipeline import TRANSFORMS, Pipeline, Transform, build, default_transforms, prepare_one
from medserve.data.transforms.steps import Resize, Show, ToColour, ToGrey, thumbnail

__all__ = [
    "TRANSFORMS",
    "Normalise",
    "Pipeline",
    "Resize",
    "Show",
    "ToColour",
    "ToGrey",
    "Transform",
    "build",
    "default_transforms",
    "prepare_one",
    "thumbnail",
]
