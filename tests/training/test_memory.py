"""Freed memory stays with the process while training, and only then."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
import numpy as np
from medserve.training.memory import kept_memory

def faults():
    # pages that the system had to give for one large array, once another of that size was used and freed
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(64 * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
with kept_memory():
    within = faults()
print(before, within, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no such setting")
def test_a_freed_array_is_used_again_within_the_context_only() -> None:
    """In a process of its own, whose heap nobody else has used."""
    told = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True).stdout
    before, within, after = (int(word) for word in told.split())
    assert within < 10
    assert min(before, after) > 30  # huge pages or small ones
