"""The folder of a run beside its package: one process at a time, and only of the same data and options.

with alone(work):
    fresh = claim(work, data, options)         # what another run left is removed
    same_data(work, cohort.digest)             # checkpoints of other data too
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import medserve
from medserve.errors import BadData, MedServeError, Usage
from medserve.road.run import Options
from medserve.store.files import cannot_write, write_bytes


def naming(data: Path, error: MedServeError) -> MedServeError:
    """The same error of a data set, with the data set's name in front where it does not say it."""
    if not isinstance(error, BadData) or data.stem in error.message:
        return error
    return BadData(error.code, f"{data.name}: {error.message}", hint=error.hint)


@contextlib.contextmanager
def alone(work: Path) -> Iterator[None]:
    """Hold the folder of a run; the system lets it go when the process ends, however it ends.

    Raises: Usage "run-in-progress": another process trains in it now. Fault "file-unwritable".
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        handle = os.open(work, os.O_RDONLY)
    except OSError as error:
        raise cannot_write(work, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Usage(
                "run-in-progress", f"Another process trains in {work}.", hint="Wait for it, or choose another --out."
            ) from error
        yield
    finally:
        os.close(handle)


def same_data(work: Path, digest: str) -> None:
    """Checkpoints of a data set that has changed since are removed: the run starts over."""
    mark = work / "data.txt"
    if mark.is_file() and mark.read_text() != digest:
        for left in [work / "recipe", *work.glob("fold-*")]:
            shutil.rmtree(left, ignore_errors=True)
    write_bytes(mark, digest.encode())


def claim(work: Path, data: Path, options: Options) -> bool:
    """Make the folder of this run; what another data set or other options left there is removed.

    Returns: whether it is new. Raises: Fault "disk-full", "file-unwritable".
    """
    run = {"data": str(data.absolute()), "version": medserve.__version__, **asdict(options)}
    asked = json.dumps(run, sort_keys=True)
    mark = work / "run.json"
    if mark.is_file() and mark.read_text() == asked:
        return False
    for left in work.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
    write_bytes(mark, asked.encode())
    return True
