"""The first moments of a job's process: it ends with its parent, yields to the service, and becomes the command line.

python -m medserve.jobs.child PARENT train DATA --out=...
"""

import ctypes
import os
import resource
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # prctl(2), Linux


def die_with(parent: int) -> None:
    """The parent's end is this process's too; where that can be said (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # gone before it could be said
        sys.exit(1)


def main() -> None:
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    die_with(parent)
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execv(sys.executable, [sys.executable, "-m", "medserve.cli", *argv])


if __name__ == "__main__":
    main()
