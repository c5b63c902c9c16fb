"""A model package as one ZIP file: packed for sending, and unpacked where nothing in it is believed.

    pack(Path("out/chest"), Path("chest.zip"))
    unpack(Path("chest.zip"), folder)             # a new folder with the package's files, and nothing else

Names come from a closed list, so no path can leave the folder, no two names can differ in case or in a letter that
only looks alike, and no file is there that a package does not hold. Sizes, their sum and the ratio of compression are
checked from the directory before a byte is inflated, and inflating ends where the declared size ends.
Source: APPNOTE.TXT 6.3.10 (ZIP); Fifield, "A better zip bomb" (2019), for members that overlap.
"""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from medserve.errors import BadPackage
from medserve.models.package import ALTERNATIVE, MANIFEST, SIGNATURE, cap_of

MAX_ENTRIES = 64
MAX_BYTES = 4 * 2**30  # of all members together, inflated
MAX_RATIO, RATIO_FROM = 200, 2**20  # a member above 1 MiB may shrink to a 200th
_FOLDERS = ("evaluation/", f"{ALTERNATIVE}/", f"{ALTERNATIVE}/evaluation/")
_ENCRYPTED, _HEAD = 0x1, 30
_CHUNK = 2**20


def pack(folder: Path, out: Path) -> Path:
    """Raises: BadPackage "package-missing"."""
    if not (folder / MANIFEST).is_file():
        raise BadPackage(
            "package-missing", f"{folder} holds no model package.", hint="Name a folder that `medserve train` wrote."
        )
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:  # tensors do not shrink
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.write(path, path.relative_to(folder).as_posix())
    return out


def unpack(archive: Path, out: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Write the members into `out`, which must not exist yet.

    Raises: BadPackage "archive-broken", "archive-names", "archive-too-large", "archive-bomb".
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = _checked(source, archive.stat().st_size, max_bytes)
            out.mkdir(mode=0o700)
            for member in members:
                path = out / member.filename
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with source.open(member) as data, open(path, "xb") as file:
                    left = member.file_size
                    while chunk := data.read(_CHUNK):
                        left -= len(chunk)
                        if left < 0:
                            raise _bomb(member.filename)
                        file.write(chunk)
                if left:
                    raise _broken(f"{member.filename} is shorter than it declares")
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileExistsError):
            raise
        raise _broken(type(error).__name__) from error


def _checked(source: zipfile.ZipFile, size: int, max_bytes: int) -> list[zipfile.ZipInfo]:
    """The members that are files, judged by the directory alone."""
    members = source.infolist()
    if len(members) > MAX_ENTRIES:
        raise BadPackage("archive-too-large", f"The archive has {len(members)} members; a package {MAX_ENTRIES}.")
    files: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        name = member.orig_filename
        mode = stat.S_IFMT(member.external_attr >> 16)
        if name != member.filename or not name.isascii():
            raise _names(name)
        if name in _FOLDERS and member.file_size == 0:
            continue
        if mode not in (0, stat.S_IFREG) or name in files:
            raise _names(name)
        if member.flag_bits & _ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _broken("a member is encrypted, or packed in an unusual way")
        try:
            cap = cap_of(name.removeprefix(f"{ALTERNATIVE}/"))
        except BadPackage:
            raise _names(name) from None
        if member.file_size > cap:
            raise BadPackage("archive-too-large", f"{name} declares {member.file_size} bytes; at most {cap} are read.")
        if member.file_size > RATIO_FROM and member.file_size > MAX_RATIO * max(1, member.compress_size):
            raise _bomb(name)
        files[name] = member
    if not files or SIGNATURE not in files or MANIFEST not in files:
        raise BadPackage("package-missing", "The archive holds no signed model package at its top.",
                         hint="Pack the files of the package, not the folder around them.")  # fmt: skip
    if sum(member.file_size for member in files.values()) > max_bytes:
        raise BadPackage("archive-too-large", f"The archive's members are larger than {max_bytes} bytes together.")
    if problem := overlaps(members, size):
        raise _broken(problem)
    return list(files.values())


def overlaps(members: Sequence[zipfile.ZipInfo], size: int) -> str:
    """What is wrong with where the members of an archive of `size` bytes lie; "" where nothing is."""
    at = 0
    for member in sorted(members, key=lambda one: one.header_offset):
        if member.header_offset < at or (at == 0 and member.header_offset != 0):
            return "members overlap, or something stands before them"
        at = member.header_offset + _HEAD + len(member.orig_filename) + member.compress_size
    return "a member ends beyond the file" if at > size else ""


def read_bytes(path: Path) -> int:
    """Bytes of all files of an unpacked package."""
    return sum(os.lstat(file).st_size for file in path.rglob("*") if file.is_file())


def _names(name: str) -> BadPackage:
    return BadPackage(
        "archive-names", f"{name[:80]!r} is no file of a model package, or stands in the archive twice.",
        hint="Pack the files that `medserve train` wrote, and nothing else.",
    )  # fmt: skip


def _bomb(name: str) -> BadPackage:
    return BadPackage("archive-bomb", f"{name} inflates out of proportion.", hint="Pack it without compression.")


def _broken(why: str) -> BadPackage:
    return BadPackage("archive-broken", f"This is not an archive of a model package: {why}.", hint="Pack it again.")
