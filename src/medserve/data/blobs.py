"""Parsed values of record cases on disk: of any length, read one by one, so that memory does not grow with them.

with Blobs(folder / "values", write=True) as blobs:
    blobs.add(values)                    # in the order of the cases
blobs.get(7)                             # {"age": 63.0, "sex": "F"}
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from medserve.errors import Fault
from medserve.store.files import cannot_write


class Blobs:
    """A file of MessagePack maps and an index of where each begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = [0]
        try:
            self._file = open(path, "wb+", opener=lambda p, flags: os.open(p, flags, 0o600))  # noqa: SIM115
        except OSError as error:
            raise cannot_write(path, error) from error

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, values: Mapping[str, Any]) -> int:
        """Returns: the index of the new entry. Raises: Fault "disk-full"."""
        data = msgspec.msgpack.encode(values)
        try:
            self._file.seek(self._starts[-1])
            self._file.write(data)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._starts.append(self._starts[-1] + len(data))
        return len(self) - 1

    def get(self, index: int) -> dict[str, Any]:
        start, end = self._starts[index], self._starts[index + 1]
        self._file.flush()
        data = os.pread(self._file.fileno(), end - start, start)
        if len(data) != end - start:
            raise Fault("blobs-truncated", f"{self.path.name} ends early.", hint="Run the same command again.")
        found: dict[str, Any] = msgspec.msgpack.decode(data)
        return found

    def each(self, indices: Sequence[int]) -> Iterator[dict[str, Any]]:
        for index in indices:
            yield self.get(int(index))

    def close(self) -> None:
        self._file.close()
