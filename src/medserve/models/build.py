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
        size: (H, W) of an image or (D, H, W) of a volume; one number means equal sides of the family's own kind.
        outputs: columns of the logits (`OutputSpec.width`).

    Raises: NotFound: no such architecture, or it takes no such parameter.
    """
    import medserve.models.image
    import medserve.models.record.families  # noqa: F401  (both register their families)
    from medserve.models.nets import MODELS

    make = MODELS[architecture.name]
    known = [name for name in inspect.signature(make).parameters if name not in GIVEN]
    for name in architecture.params:
        if name not in known:
            raise NotFound(f"{architecture.name} parameter", name, known)
    facts: dict[str, Any] = {"channels": channels, "size": size, "outputs": outputs}
    return make(**facts, **architecture.params)
