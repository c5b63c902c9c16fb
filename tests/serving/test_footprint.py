"""A process that answers for months keeps its size."""

import asyncio
import subprocess
import sys

import pytest

from medserve.serving import footprint

LEFT = """
import gc, sys
from medserve.serving.footprint import few_arenas, settle
few_arenas()
kept = [[i] for i in range(300_000)]      # a loaded service
gc.collect()
if sys.argv[1] == "settled":
    settle()
alive = 0
class Error:
    def __init__(self):
        global alive
        alive += 1
        self.me = self                    # as an exception and its frame
    def __del__(self):
        global alive
        alive -= 1
under_way, most = [], 0
for n in range(400_000):
    under_way.append(Error())             # lives long enough to grow old
    if len(under_way) > 650:
        under_way.clear()
    most = max(most, alive)
print(most)
"""


def left(how: str) -> int:
    """The most objects of failed requests that were in memory at once, of 400,000."""
    return int(subprocess.run([sys.executable, "-c", LEFT, how], capture_output=True, check=True, timeout=60).stdout)


def test_what_failed_requests_leave_in_cycles_is_found_soon_beside_a_large_heap() -> None:
    """Without it, the collector would wait for as many as a quarter of all objects of the service."""
    assert left("settled") < 13_000 < left("as it is")


def test_freed_pages_are_given_back_while_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, until the service ends."""
    given: list[int] = []
    monkeypatch.setattr(footprint, "give_back", lambda: given.append(1))

    async def some() -> None:
        task = asyncio.ensure_future(footprint.trimmed(0.001))
        while len(given) < 3:
            await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(asyncio.wait_for(some(), 10))
