"""From an architecture's name, as a package stores it, to a network with fresh weights.

    net = build_net(Named("residual", {"dial": "small"}), channels=1, size=28, outputs=1)
    features = net(x)                                          # nets.Features

An unknown name or parameter is an error that lists its neighbours; nothing is swallowed.
"""

import inspect
from typing import Any

from torch import nn

from medserve.errors import NotFound
from medserve.types import Named

GIVEN = ("channels", "size", "outputs")  # the caller's facts; the rest of a signature are the package's parameters


def build_net(architecture: Named, *, channels: int, size: int | tuple[int, ...], outputs: int) -> nn.Module:
    """Build a network of the catalog.

    Args:
        architecture: a name of `nets.MODELS` and its JSON parameters.
        channels: 1 grey, 3 colour.
        size: pixels a side, or (H, W) or (D, H, W) where they differ.
        outputs: columns of the logits (`OutputSpec.width`).

    Raises: NotFound: no such architecture, or it takes no such parameter.
    """
    import medserve.models.image  # noqa: F401  registers every family
    from medserve.models.nets import MODELS

    make = MODELS[architecture.name]
    known = [name for name in inspect.signature(make).parameters if name not in GIVEN]
    for name in architecture.params:
        if name not in known:
            raise NotFound(f"{architecture.name} parameter", name, known)
    facts: dict[str, Any] = {"channels": channels, "size": one_size(size), "outputs": outputs}
    return make(**facts, **architecture.params)


def one_size(size: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """28 for (28, 28): the short form where all sides are equal."""
    if isinstance(size, int):
        return size
    return int(size[0]) if len(set(size)) == 1 else tuple(int(side) for side in size)
