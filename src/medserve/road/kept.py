"""The folder beside a result in which long work keeps its parts: one process at a time, and only of the same plan.

kept = Kept(out.with_name(out.name + ".screen"), plan, code="screen", word="screen")
kept.folder                           # parts are written here as they are done
kept.close()                          # a later run with the same plan goes on; the system lets go of it too
kept.remove()                         # when the results stand where they belong
"""

import fcntl
import os
import shutil
from pathlib import Path

from medserve.errors import Usage
from medserve.store.files import cannot_write, write_bytes


class Kept:
    """
    Args:
        plan: all that moves a number, as bytes. code: before the codes of the errors. word: what the work is called.

    Raises: Usage "CODE-running", "CODE-other"; Fault "disk-full", "file-unwritable".
    """

    def __init__(self, folder: Path, plan: bytes, *, code: str, word: str) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(folder / "lock", "wb")  # noqa: SIM115 held until `close`
        except OSError as error:
            raise cannot_write(folder, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise Usage(f"{code}-running", f"Another process is at {folder}.", hint="Wait for it, or end it.") from None
        begun = folder / "plan.json"
        if begun.exists() and begun.read_bytes() != plan and not self._bare():
            self._lock.close()
            raise Usage(
                f"{code}-other", f"{folder} holds another {word} that was not finished.",
                hint="Go on with the command that began it, name another --out, or delete that folder.",
            )  # fmt: skip
        write_bytes(begun, plan)

    def close(self) -> None:
        """Nothing is left where no part was kept: a command that was mended may begin there."""
        if self._bare():
            self.remove()
        self._lock.close()

    def _bare(self) -> bool:
        return self.folder.is_dir() and {one.name for one in self.folder.iterdir()} <= {"lock", "plan.json"}

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def processes() -> int:
    """Cores that this process may use: so many workers, where nothing else is asked for."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
