"""Freed memory stays with the process while training, and only then."""

import platform
import resource

import numpy as np
import pytest

from medserve.training.memory import kept_memory

BYTES = 64 * 2**20


def _faults() -> int:
    """Pages that the system had to give for one large array, once another of that size was used and freed."""
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(BYTES, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no such setting")
def test_a_freed_array_is_used_again_within_the_context_only() -> None:
    with kept_memory():
        within = _faults()
    after = _faults()
    assert within < 10
    assert after > 30  # huge pages or small ones
