"""Files of objects: under a random name, whole or absent, on disk before anyone is told.

    files = ObjectFiles(settings.folder("objects"))
    new = files.incoming(f"{id}.{version}")
    new.write(data)
    new.publish()        # under its name, flushed to disk
    ...                  # the row that makes it visible is committed here
    new.settle()         # or new.discard()

Until `settle` a second name stands in `incoming/`, and the writer holds a lock on the file. After a crash `leftovers`
therefore looks at the few files in `incoming/` alone: no lock means that its writer is dead.
"""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from medserve.errors import Usage
from medserve.store.files import cannot_write


class Arriving(Protocol):
    """An object on its way in: gathered, given its name, then visible by its row (`settle`) or gone (`discard`)."""

    def write(self, data: bytes) -> None: ...
    def publish(self) -> None: ...
    def settle(self) -> None: ...
    def discard(self) -> None: ...


class Opened(Protocol):
    """An encrypted object; size: its bytes."""

    size: int

    def read(self, count: int) -> bytes: ...
    def close(self) -> None: ...


class Dead(Protocol):
    """What a writer that died left; `sweep` keeps it where a row names it."""

    name: str

    def sweep(self, *, visible: bool) -> None: ...


class Objects(Protocol):
    """Where encrypted objects lie: files (`ObjectFiles`), or a bucket (`bucket.BucketObjects`)."""

    def incoming(self, name: str) -> Arriving: ...
    def open(self, name: str) -> Opened:
        """Raises: FileNotFoundError."""
        ...

    def remove(self, name: str) -> None: ...
    def leftovers(self) -> Iterator[Dead]: ...


class Incoming:
    """One file being written; made by `ObjectFiles.incoming`."""

    def __init__(self, work: Path, final: Path, handle: int) -> None:
        self.work, self.final, self._handle = work, final, handle
        self._published = False

    def write(self, data: bytes) -> None:
        """Raises: Fault "disk-full", "file-unwritable"."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._handle, view) :]
        except OSError as error:
            raise cannot_write(self.final, error) from error

    def publish(self) -> None:
        """Give the whole file its name and see it to disk.

        Raises: Fault "disk-full", "file-unwritable"; Usage "object-conflict".
        """
        try:
            os.fsync(self._handle)
            _flush(self.work.parent)
            if not self.final.parent.exists():
                self.final.parent.mkdir(mode=0o700, exist_ok=True)
                _flush(self.final.parent.parent)
            os.link(self.work, self.final)
            self._published = True
            _flush(self.final.parent)
        except FileExistsError:
            raise conflict() from None
        except OSError as error:
            raise cannot_write(self.final, error) from error

    def settle(self) -> None:
        """The file is visible now; let its second name go."""
        self._close()

    def discard(self) -> None:
        """Leave nothing of it."""
        if self._published:
            self.final.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._handle >= 0:
            with contextlib.suppress(OSError):  # a name that stays is swept at the next start
                self.work.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = -1


class ObjectFiles:
    """The folder of encrypted objects."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._incoming = folder, folder / "incoming"
        self._incoming.mkdir(mode=0o700, exist_ok=True)

    def path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def incoming(self, name: str) -> Incoming:
        """Raises: Fault "disk-full", "file-unwritable"."""
        while True:
            work = self._incoming / f"{name}.{secrets.token_hex(4)}"
            try:
                handle = os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except OSError as error:
                raise cannot_write(work, error) from error
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:
                return Incoming(work, self.path(name), handle)
            os.close(handle)  # another process swept it in the moment before it was locked

    def open(self, name: str) -> "OpenFile":
        """Raises: FileNotFoundError."""
        return OpenFile(self.path(name))

    def remove(self, name: str) -> None:
        """Raises: Fault "file-unwritable". A file that is gone already is no error."""
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.path(name), error) from error

    def leftovers(self) -> Iterator["Leftover"]:
        """Files of writers that died; each stays locked while the caller decides about it."""
        for work in sorted(self._incoming.iterdir()):
            try:
                handle = os.open(work, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno in (errno.EAGAIN, errno.EACCES):
                        continue  # its writer lives
                    raise
                yield Leftover(work, self.path(work.name.rsplit(".", 1)[0]), os.fstat(handle).st_ino)
            finally:
                os.close(handle)


class OpenFile:
    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, count: int) -> bytes:
        return self._file.read(count) or b""

    def close(self) -> None:
        self._file.close()


class Leftover:
    """What a dead writer left in `incoming/`."""

    def __init__(self, work: Path, final: Path, inode: int) -> None:
        self.work, self.final, self._inode, self.name = work, final, inode, final.name

    def sweep(self, *, visible: bool) -> None:
        """visible: a row names the file, so it was written whole and stays."""
        with contextlib.suppress(FileNotFoundError):
            if not visible and self.final.stat().st_ino == self._inode:
                self.final.unlink()
        self.work.unlink(missing_ok=True)


def conflict() -> Usage:
    return Usage("object-conflict", "Another writer has just made this version of the object.", hint="Send it again.")


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
