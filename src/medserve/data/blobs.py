"""Entries of any length on disk, read one by one, so that memory does not grow with them.

blobs = Blobs(folder / "values.blobs")   # or Blobs(): a file without a name, gone with the process
index = blobs.add({"age": 63.0})         # anything that MessagePack can write
blobs.get(index)                         # {"age": 63.0}
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from medserve.errors import Fault
from medserve.store.files import cannot_write

HELD = 2**20  # bytes that wait before they are written


class Blobs:
    """A file of MessagePack entries and an index of where each begins; the owner alone can read the file."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path("unnamed")
        self._starts = [0]
        self._waiting = bytearray()
        try:
            if path is None:
                self._fd, name = tempfile.mkstemp(prefix="medserve-")
                os.unlink(name)
            else:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, entry: Any) -> int:
        """Returns: the index of the new entry. Raises: Fault "disk-full"."""
        data = msgspec.msgpack.encode(entry)
        self._waiting += data
        self._starts.append(self._starts[-1] + len(data))
        if len(self._waiting) >= HELD:
            self._write()
        return len(self) - 1

    def _write(self) -> None:
        start = self._starts[-1] - len(self._waiting)
        done, data = 0, bytes(self._waiting)
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], start + done)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._waiting.clear()

    def get(self, index: int) -> Any:
        """Raises: Fault "blobs-truncated", "disk-full"."""
        if self._waiting:
            self._write()
        start, end = self._starts[index], self._starts[index + 1]
        data = os.pread(self._fd, end - start, start)
        if len(data) != end - start:
            raise Fault("blobs-truncated", f"{self.path.name} ends early.", hint="Run the same command again.")
        return msgspec.msgpack.decode(data)

    def each(self, indices: Sequence[int]) -> Iterator[Any]:
        for index in indices:
            yield self.get(int(index))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.close()
