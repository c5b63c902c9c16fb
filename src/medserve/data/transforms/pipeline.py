"""Named transforms in order, as a data set, a recipe and a package write them, made into one function.

named = [Named("to-grey"), Named("show", {"low": -160, "high": 240}), Named("resize", {"height": 224, "width": 224})]
pipeline = build(named)
tensor = pipeline(picture)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from medserve.catalog import Catalog
from medserve.data.transforms.normalise import Normalise
from medserve.data.transforms.steps import THUMB, Resize, Show, ToColour, ToGrey, _resample_if, thumbnail
from medserve.errors import Usage, neighbours
from medserve.types import Array, Named, Picture

HU_RANGE = (-1000.0, 1000.0)  # air to dense bone: the whole body, whichever window the operator left on


class Transform(Protocol):
    def __call__(self, picture: Picture) -> Picture: ...


TRANSFORMS: Catalog[Callable[..., Any]] = Catalog("transform")
for _name, _kind in (
    ("to-grey", ToGrey), ("to-colour", ToColour), ("show", Show), ("resize", Resize), ("normalise", Normalise),
):  # fmt: skip
    TRANSFORMS.register(_name)(_kind)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """named: as built, for the package. steps: what runs here. normalise: what runs inside the graph, if fitted."""

    named: tuple[Named, ...]
    steps: tuple[Transform, ...]
    normalise: Normalise | None = None

    def __call__(self, picture: Picture) -> Array:
        """Returns: (C, H, W), or (C, D, H, W) for a volume; uint8; C-contiguous. Equal input, equal bytes."""
        for step in self.steps:
            picture = step(picture)
        values = picture.values
        if values.dtype != np.uint8:
            raise Usage(
                "transform-levels", "The transforms end before grey levels are made.", hint="Add the step `show`."
            )
        return np.ascontiguousarray(values.transpose(2, 0, 1) if picture.colour else values[None])


def build(named: Sequence[Named]) -> Pipeline:
    """Raises: NotFound for an unknown name; Usage for unknown or impossible parameters, or a wrong order."""
    steps = [_make(entry) for entry in named]
    normalise = steps.pop() if steps and isinstance(steps[-1], Normalise) else None
    kinds = [type(step) for step in steps]
    if Normalise in kinds:
        raise Usage("transform-order", "normalise is the last transform: it runs inside the model's graph.")
    if Resize in kinds and (Show not in kinds or kinds.index(Show) > kinds.index(Resize)):
        raise Usage("transform-order", "resize works on grey levels: put `show` before it.")
    return Pipeline(tuple(named), tuple(steps), normalise)


def _make(entry: Named) -> Any:
    kind = TRANSFORMS[entry.name]
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in entry.params:
        if key not in known:
            raise Usage("transform-parameters", f"{entry.name} has no parameter {key!r} ({neighbours(key, known)}).")
    params = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.params.items()}
    try:
        return kind(**params)
    except TypeError as error:
        raise Usage("transform-parameters", f"{entry.name}: {error}.") from error


def default_transforms(*, shape: tuple[int, ...], colour: bool, unit: str | None) -> list[Named]:
    """What a recipe uses when nothing else is asked.

    Args:
        shape: (C, H, W) or (C, D, H, W), of the tensor wanted.
        colour: whether the model takes colour (C == 3).
        unit: "HU" shows a fixed range of Hounsfield units; None shows what each file says.
    """
    *depth, height, width = shape[1:]
    show = {"low": HU_RANGE[0], "high": HU_RANGE[1]} if unit == "HU" else {}
    size: dict[str, Any] = {"height": height, "width": width} | ({"depth": depth[0]} if depth else {})
    return [Named("to-colour" if colour else "to-grey"), Named("show", show), Named("resize", size)]


def prepare_one(picture: Picture, pipeline: Pipeline) -> tuple[Array, Array]:
    """`pipeline(picture)` and `thumbnail(picture)`, the second cheaply out of the first where that shows the same.

    Returns: tensor uint8 (C, H, W) or (C, D, H, W); thumbnail uint8 (64, 64).
    """
    tensor = pipeline(picture)
    resize = next((step for step in pipeline.steps if isinstance(step, Resize)), None)
    same = tensor.ndim == 3 and len(tensor) == 1 and (resize is None or resize.mode == "stretch")
    if same and min(tensor.shape[1:]) >= THUMB:
        return tensor, _resample_if(tensor[0])
    return tensor, thumbnail(picture)
