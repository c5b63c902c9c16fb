"""A ZIP of inputs as the lines of a batch's manifest.

    members = members_of(archive, most_bytes=..., most_items=100_000)      # refused whole, from its directory alone
    for line in lines_of(archive, members, spec, most_bytes=...): ...      # bytes, or Wrong

With `manifest.ndjson` at its top the items are its lines, which may say `"file": NAME` in the place of `"inputs"`.
Without it every file is an item under its own name: a picture or a recording of the model's one input, or a `.json`
file that holds what a line would. Nothing is unpacked to a disk; a member is inflated when its turn comes, up to the
size that the directory declares, and what is wrong with one is its own result.
Source: APPNOTE.TXT 6.3.10 (ZIP).
"""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from medserve.errors import MedServeError, Refusal, Usage
from medserve.models.archive import MAX_RATIO, RATIO_FROM, overlaps
from medserve.models.spec import ModelSpec
from medserve.runtime.inputs import value_of_file
from medserve.serving.wire import TooLarge

MANIFEST = "manifest.ndjson"
_HEAD = b"PK\1\2"  # of each entry of the directory
_ENCRYPTED = 0x1
_MOST_NAME = 256
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, OSError)


class Wrong(NamedTuple):
    """An item that is none."""

    id: str | None
    error: MedServeError


class _Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    id: str | None = None
    patient: str | None = None
    case: str | None = None
    inputs: msgspec.Raw = msgspec.Raw()
    facts: msgspec.Raw = msgspec.Raw()
    file: str | None = None


def members_of(body: bytes, *, most_bytes: int, most_items: int) -> dict[str, zipfile.ZipInfo]:
    """The files, by name, judged before anything is inflated.

    Args:
        most_bytes: of all of them, inflated.

    Raises: Refusal "archive-broken", "archive-names", "archive-bomb"; TooLarge "batch-too-long", "archive-too-large".
    """
    if body.count(_HEAD) > 2 * most_items:  # before the directory is read: each entry becomes an object
        raise _too_long(most_items)
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            entries = archive.infolist()
    except _BROKEN as error:
        raise _broken(type(error).__name__) from None
    files: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
        steps = name.split("/")
        if name.endswith("/") and entry.file_size == 0:
            steps.pop()
        bad = not name.isprintable() or "\\" in name or ":" in name or {"", ".", ".."} & set(steps)
        if bad or name in files or len(name) > _MOST_NAME or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise Refusal(
                "archive-names", "The archive holds a name that is no plain path below its top, or holds it twice.",
                hint="Pack files and folders alone, by relative names of at most 256 characters.",
            )  # fmt: skip
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _broken("a member is encrypted, or packed in an unusual way")
        if entry.file_size > RATIO_FROM and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
            raise Refusal("archive-bomb", "A member inflates out of proportion.", hint="Pack without compression.")
        if not name.endswith("/") and not _aside(steps):
            files[name] = entry
    if problem := overlaps(entries, len(body)):
        raise _broken(problem)
    if len(files) > most_items + 1:
        raise _too_long(most_items)
    if sum(entry.file_size for entry in files.values()) > most_bytes:
        raise TooLarge("archive-too-large", f"The members are larger than {most_bytes} bytes together.",
                       hint="Send several archives.")  # fmt: skip
    return files


def lines_of(
    body: bytes, members: dict[str, zipfile.ZipInfo], spec: ModelSpec, *, most_bytes: int
) -> Iterator[bytes | Wrong]:
    """One for each item, in the order of the manifest, else of the archive. Blocks while it inflates.

    Args:
        most_bytes: of one member.

    Raises: Refusal "archive-broken": the manifest does not open.
    """
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        if MANIFEST not in members:
            for name in members:
                yield _of_file(archive, members, name, spec, most_bytes)
            return
        try:
            with archive.open(members[MANIFEST]) as manifest:
                for line in iter(lambda: manifest.readline(most_bytes * 4 // 3 + 2048), b""):
                    if line.strip():
                        yield _of_line(archive, members, line, spec, most_bytes)
        except _BROKEN as error:
            raise _broken(f"its manifest does not open ({type(error).__name__})") from None


def _of_line(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], line: bytes, spec: ModelSpec, most: int
) -> bytes | Wrong:
    """A line as it is, or with its file in it."""
    try:
        said = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError):
        return line  # its fault is told where all lines are read
    if said.file is None:
        return line
    try:
        if bytes(said.inputs) or said.case is not None:
            raise Usage("item-invalid", 'An item is a "file", or "inputs", or a "case".', hint="Keep one of them.")
        if said.file not in members or said.file == MANIFEST:
            raise Usage("item-file-missing", "The archive has no file of this name.", hint="Names are whole paths.")
        data = _inflated(archive, members[said.file], most)
        return _filled(said, _inputs(data, spec), id=said.id)
    except MedServeError as error:
        return Wrong(said.id, error)


def _of_file(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str, spec: ModelSpec, most: int
) -> bytes | Wrong:
    try:
        data = _inflated(archive, members[name], most)
        if not name.lower().endswith(".json"):
            return _filled(_Line(), _inputs(data, spec), id=name)
        try:
            said = msgspec.json.decode(data, type=_Line)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError):
            said = _Line(file="")
        if said.file is not None:
            raise Usage(
                "item-invalid",
                'A .json file is {"inputs": {...}}, as a line of a manifest.',
                hint="See docs/batches.md; a file's own name is its id.",
            )
        return _filled(said, said.inputs, id=said.id or name)
    except MedServeError as error:
        return Wrong(name, error)


def _filled(said: _Line, inputs: msgspec.Raw, *, id: str | None) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(said, id=id, inputs=inputs, file=None))


def _inputs(data: bytes, spec: ModelSpec) -> msgspec.Raw:
    """Raises: Usage "item-invalid": the model does not take one file."""
    want = spec.inputs[0]
    if len(spec.inputs) != 1 or not [media for media in want.media_types if media != "application/json"]:
        raise Usage(
            "item-invalid", "A file is an item only where the model takes one picture, recording or text.",
            hint='Pack .json files of {"inputs": {...}}, or a manifest.',
        )  # fmt: skip
    return msgspec.Raw(msgspec.json.encode({want.name: value_of_file(want.kind, data)}))


def _inflated(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    """Raises: TooLarge "item-too-large"; Refusal "item-broken"."""
    if member.file_size > most:
        raise TooLarge(
            "item-too-large",
            "The file is larger than one prediction may be.",
            hint="Send one image, not a whole study.",
        )
    try:
        with archive.open(member) as file:
            data = file.read(member.file_size + 1)
    except _BROKEN:
        data = None
    if data is None or len(data) != member.file_size:
        raise Refusal("item-broken", "The member does not inflate to what the archive declares.", hint="Pack it again.")
    return data


def _aside(steps: list[str]) -> bool:
    """What systems leave in archives, and nobody means."""
    return steps[0] == "__MACOSX" or steps[-1] in (".DS_Store", "Thumbs.db")


def _too_long(most: int) -> TooLarge:
    return TooLarge("batch-too-long", f"A batch has at most {most} items.", hint="Send several.")


def _broken(why: str) -> Refusal:
    return Refusal("archive-broken", f"This is no ZIP of inputs: {why}.", hint="Pack it again.")
