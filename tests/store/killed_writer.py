"""A writer that is killed amid its work, and what it had said by then.

journal = one_life(lambda tell: live(settings, seed, tell), steps=5, delay_s=0.004)
"""

import json
import os
import signal
import time
from collections.abc import Callable


def say(tell: int, *words: object) -> None:
    os.write(tell, (json.dumps(words) + "\n").encode())


def one_life(live: Callable[[int], None], steps: int, delay_s: float) -> list[list]:
    """Fork, kill; returns the journal, without its first line ("open") and a last one that was not written whole.

    Args:
        live: the writer, which runs until it is killed; it is given the pipe that `say` writes to.
        steps: lines after the first that are waited for, and then `delay_s` more.
    """
    get, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(get)
            live(tell)
        finally:
            os._exit(3)
    os.close(tell)
    with os.fdopen(get) as journal:
        lines = [journal.readline() for _ in range(1 + steps)]  # "open" and the steps
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        lines += journal
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "the writer ended by itself"
    return [json.loads(line) for line in lines if line.endswith("\n")][1:]
