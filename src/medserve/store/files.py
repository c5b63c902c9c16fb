"""Files that are whole or absent: written beside their name, flushed, then renamed.

write_bytes(folder / "model.json", data)
with new_folder(out) as work: ...        # `out` appears only when the block ends without an error
"""

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from medserve.errors import Fault, Usage


def sync_folder(folder: Path) -> None:
    """What was named in it stays named after a loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Raises: Fault "disk-full" or "file-unwritable", naming the file; nothing half-written stays."""
    handle, name = -1, ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
        sync_folder(path.parent)
    except OSError as error:
        if name:
            with contextlib.suppress(OSError):
                os.unlink(name)
        raise cannot_write(path, error) from error


def write_once(path: Path, data: bytes) -> None:
    """A secret of its owner alone (0600), whole or absent; what stands there already stays, also when two
    processes start at once.

    Raises: Fault "disk-full" or "file-unwritable".
    """
    if path.exists():
        return
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process made it first; its content is the one
            os.link(work, path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        work.unlink(missing_ok=True)


def append_line(path: Path, line: bytes) -> None:
    """Add one line, flushed to disk; a last line that a crash cut off is ended first.

    Raises: OSError.
    """
    with open(path, "a+b") as file:
        end = file.seek(0, os.SEEK_END)
        torn = b""
        if end:
            file.seek(end - 1)
            torn = b"" if file.read(1) == b"\n" else b"\n"
        file.write(torn + line + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that appears at `out` complete or not at all.

    Raises: Usage "out-exists": `out` is there already and is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Usage("out-exists", f"{out} already exists and is not empty.", hint="Choose another --out, or remove it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        yield work
        work.chmod(0o755)
        if out.exists():
            out.rmdir()
        os.replace(work, out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def cannot_write(path: Path, error: OSError) -> Fault:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Fault(
            "disk-full", f"No space left to write {path}.", hint="Free some space and run the same command again."
        )
    return Fault("file-unwritable", f"Cannot write {path}: {error.strerror}.", hint="Choose a folder you may write to.")
