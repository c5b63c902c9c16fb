"""The same picture twice: exact repeats by digest, near repeats by hash or descriptor, confirmed on pixels.

code = perceptual_hash(thumb)        # 64 bits, kept with each Case
"""

import numpy as np

from medserve.types import Array

_SIDE = 64  # thumbnails are 64 x 64
_FREQUENCIES = 8


def _cosines(side: int, count: int) -> Array:
    """The first `count` rows of the type-II cosine transform: (count, side) float32."""
    angle = np.pi * (2 * np.arange(side) + 1) / (2 * side)
    return np.cos(np.arange(count)[:, None] * angle).astype(np.float32)


_BASIS = _cosines(_SIDE, _FREQUENCIES)


def perceptual_hash(thumb: Array) -> int:
    """A 64-bit hash that survives re-encoding, resizing and a change of brightness.

    Args:
        thumb: (64, 64) uint8 grey thumbnail.

    Returns: one bit for each of the 8 x 8 lowest cosine frequencies, set where the coefficient is above the median.
    Source: the "pHash" scheme of Zauner, Implementation and benchmarking of perceptual image hash functions (2010).
    """
    low = (_BASIS @ thumb.astype(np.float32) @ _BASIS.T).ravel()
    bits = low > np.partition(low, (31, 32))[31:33].mean()  # the median, ten times faster
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
