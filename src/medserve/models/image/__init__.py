"""Image networks, one family a file; importing this folder registers them all in `MODELS`."""

from medserve.models.image import residual

__all__ = ["residual"]
