"""Keeping the memory of a training step for the next one.

    with kept_memory():
        ...                          # every step asks for the tensors of the step before, and gets them at once

The C library gives every large block back to the system as soon as it is free, and the next step pays for each of its
pages anew: half the time of a network of large tensors. Within the context freed blocks stay with the process.
"""

import contextlib
import ctypes
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's parameters, malloc.h
_TRIM_DEFAULT, _MMAP_DEFAULT = 128 * 1024, 65536


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Only where the C library is glibc; elsewhere nothing changes."""
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):
        yield
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_MMAP_MAX, _MMAP_DEFAULT)
        mallopt(_TRIM_THRESHOLD, _TRIM_DEFAULT)
        trim(0)
