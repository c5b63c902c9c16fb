"""MedMNIST-style `.npz`: arrays `train_images`, `train_labels`, `val_...`, `test_...` (or `images`, `labels`).

    with NpzFile(path) as arrays:
        arrays["train_images"].shape                     # from the header; no array is loaded
        for index, image in arrays.rows("train_images", [0, 5, 9]): ...

An `.npz` is a zip of `.npy` files. It is opened as hostile: members that inflate out of all proportion, that are
larger than they declare, or that hold pickled objects are refused from their headers, before any value is read.
Rows are streamed in one pass, one row in memory at a time.
Source: NumPy Enhancement Proposal 1 (the .npy format); MedMNIST v2, Scientific Data 10:41 (2023).
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from medserve.errors import BadData
from medserve.types import Array

MAX_MEMBERS = 256
MAX_RATIO = 200  # real images reach 30; zeros deflate 1000-fold
BOMB_BYTES = 64 * 2**20  # what a member may inflate to whatever its ratio
MAX_TOTAL_BYTES = 2**40
MAX_LABEL_BYTES = 2**30
MAX_ROW_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Header:
    """One array as its .npy header declares it; `offset` bytes of header come first."""

    member: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


class NpzFile:
    """Headers of all arrays, checked; rows on demand.

    Raises: BadData "npz-broken" not a zip of arrays; "npz-bomb" a member inflates out of proportion; "npz-pickle" a
        member holds Python objects.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
            raise self._bad(
                "npz-broken", "is not a readable .npz archive", "Write it again with numpy.savez."
            ) from error
        try:
            self._headers = self._read_headers()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> "NpzFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._zip.close()

    def __getitem__(self, name: str) -> Header:
        return self._headers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._headers

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def rows(self, name: str, wanted: Sequence[int]) -> Iterator[tuple[int, Array]]:
        """Rows of one array by rising index, in one pass.

        Raises: BadData "npz-broken": the member ends early or its checksum is wrong.
        """
        header = self._headers[name]
        if header.fortran and len(header.shape) > 1:
            raise self._bad(
                "npz-layout",
                f"stores {name} in column order, which cannot be read row by row",
                "Save it again: numpy.savez(path, **{name: numpy.ascontiguousarray(array)}).",
            )
        if header.row_bytes > MAX_ROW_BYTES:
            raise self._bad("npz-bomb", f"declares single images of {header.row_bytes} bytes in {name}", "")
        at = 0
        with self._open(header.member) as file:
            self._skip(file, header.offset, name)
            for index in wanted:
                assert index >= at, "rows are read by rising index"
                self._skip(file, (index - at) * header.row_bytes, name)
                data = self._exactly(file, header.row_bytes, name)
                at = index + 1
                yield index, np.frombuffer(data, header.dtype).reshape(header.shape[1:])

    def small(self, name: str) -> Array:
        """A whole array of labels."""
        header = self._headers[name]
        size = int(np.prod(header.shape, dtype=np.int64)) * header.dtype.itemsize
        if size > MAX_LABEL_BYTES:
            raise self._bad(
                "npz-bomb", f"declares {size} bytes of {name}", "Labels are one number, or a few, per image."
            )
        with self._open(header.member) as file:
            self._skip(file, header.offset, name)
            data = self._exactly(file, size, name)
        return np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")

    def _read_headers(self) -> dict[str, Header]:
        members = self._zip.infolist()
        if not members:
            raise self._bad("npz-broken", "holds no array", "")
        total = sum(m.file_size for m in members)
        if len(members) > MAX_MEMBERS or total > MAX_TOTAL_BYTES:
            raise self._bad("npz-bomb", f"declares {len(members)} arrays of {total} bytes in all", "")
        if sum(m.compress_size for m in members) > self.path.stat().st_size:
            raise self._bad("npz-bomb", "declares more compressed bytes than it holds", "")
        return dict(self._read_header(m) for m in members)

    def _read_header(self, member: zipfile.ZipInfo) -> tuple[str, Header]:
        times = member.file_size // max(member.compress_size, 1)
        if member.file_size > BOMB_BYTES and times > MAX_RATIO:
            raise self._bad(
                "npz-bomb",
                f"inflates {member.filename} {times}-fold, to {member.file_size} bytes",
                "Save the arrays without compression (numpy.savez) if they are meant to be so.",
            )
        pickled = self._bad(
            "npz-pickle",
            f"holds Python objects in {member.filename}; they are never opened, because opening them runs code",
            "Save plain arrays of numbers or text.",
        )
        with self._open(member.filename) as file:
            head = file.read(8)
            if head[:1] == b"\x80":
                raise pickled
            if head[:6] != b"\x93NUMPY":
                raise self._bad(
                    "npz-broken", f"holds {member.filename}, which is no array", "Write it with numpy.savez."
                )
        with self._open(member.filename) as file:
            try:
                version = np.lib.format.read_magic(file)
                read = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }.get(version)
                if read is None:
                    raise ValueError(f".npy version {version}")
                shape, fortran, dtype = read(file)
                offset = file.tell()
            except (ValueError, EOFError, SyntaxError, TypeError) as error:
                raise self._bad("npz-broken", f"holds {member.filename} with an unreadable header", "") from error
        if dtype.hasobject:
            raise pickled
        if dtype.names is not None or dtype.kind not in "buifUS":
            raise self._bad("npz-broken", f"holds {member.filename} of type {dtype}, not numbers or text", "")
        size = dtype.itemsize
        for n in shape:
            size *= int(n)
        if any(n < 0 for n in shape) or size + offset != member.file_size:
            raise self._bad("npz-broken", f"holds {member.filename}, which is not as long as its header says", "")
        name = member.filename.removesuffix(".npy")
        return name, Header(member.filename, tuple(int(n) for n in shape), dtype, bool(fortran), offset)

    def _open(self, member: str) -> IO[bytes]:
        try:
            return self._zip.open(member)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, struct.error) as error:
            raise self._bad("npz-broken", f"cannot be read at {member}", "Write it again with numpy.savez.") from error

    def _exactly(self, file: IO[bytes], count: int, name: str) -> bytes:
        try:
            data = file.read(count) if count else b""
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise self._bad("npz-broken", f"is damaged inside {name}", "Copy or download it again.") from error
        if len(data) != count:
            raise self._bad("npz-broken", f"ends early inside {name}", "Copy or download it again.")
        return data

    def _skip(self, file: IO[bytes], count: int, name: str) -> None:
        while count > 0:
            step = min(count, 2**20)
            self._exactly(file, step, name)
            count -= step

    def _bad(self, code: str, what: str, hint: str) -> BadData:
        return BadData(code, f"{self.path.name} {what}.", hint=hint)
