"""Members of a folder or of a zip archive, streamed line by line with a cap on every line.

    with Source(path) as source:
        for row in source.lines("PERSON.csv"): ...

Nothing is unpacked to disk and no member is held whole, so the size an archive claims does not matter.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO

from medserve.errors import BadData

MAX_MEMBERS = 2_000_000
MAX_LINE = 2**20  # characters


class Source:
    """names: of the members, "/" between folders; hidden ones and those of macOS are left out."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        if self.path.is_dir():
            names = [p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()]
        else:
            try:
                self._zip = zipfile.ZipFile(self.path)
            except FileNotFoundError as error:
                raise BadData("file-missing", f"{self.path.name}: there is no such file or folder.") from error
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                raise BadData("archive-unreadable", f"{self.path.name} is neither a folder nor a zip.") from error
            names = [i.filename for i in self._zip.infolist() if not i.is_dir()]
        if len(names) > MAX_MEMBERS:
            raise BadData("archive-too-large", f"{self.path.name}: more than {MAX_MEMBERS} files.")
        self.names = sorted(n for n in names if not any(p.startswith((".", "__MACOSX")) for p in n.split("/")))

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._zip is not None:
            self._zip.close()

    def open(self, name: str) -> IO[bytes]:
        """Raises: BadData "file-unreadable"."""
        try:
            return self._zip.open(name) if self._zip is not None else (self.path / name).open("rb")
        except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, KeyError) as error:
            raise BadData(
                "file-unreadable", f"{self.path.name}: {name} cannot be opened.", hint="Is the archive encrypted?"
            ) from error

    def read(self, name: str, most: int) -> bytes | None:
        """The whole of a small member; None: it holds more than `most` bytes.

        Raises: BadData "file-unreadable"."""
        with self.open(name) as file:
            try:
                data = file.read(most + 1)
            except BROKEN as error:
                raise _broken(self.path, name) from error
        return None if len(data) > most else data

    def lines(self, name: str) -> Iterator[str]:
        """Lines of text with their ends; one longer than `MAX_LINE` comes in pieces.

        Raises: BadData "file-unreadable"."""
        with io.TextIOWrapper(self.open(name), "utf-8-sig", errors="replace", newline="") as text:
            try:
                yield from iter(partial(text.readline, MAX_LINE), "")
            except BROKEN as error:
                raise _broken(self.path, name) from error


BROKEN = (OSError, EOFError, zlib.error, zipfile.BadZipFile)


def _broken(path: Path, name: str) -> BadData:
    return BadData("file-unreadable", f"{path.name}: {name} is damaged.", hint="Copy the archive again.")
