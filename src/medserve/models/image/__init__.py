"""Image networks, one family a file; importing this folder registers them all in `MODELS`."""

from medserve.models.image import article, frozen, linear, monai_nets, residual

__all__ = ["article", "frozen", "linear", "monai_nets", "residual"]
