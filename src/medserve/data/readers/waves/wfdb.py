"""WFDB records (PhysioNet): a text header and the data files that it names.

    found = signals_of_path(Path("100.hea"))
    found = signals_of_zip(body)                       # header and data together, as a request carries them

The header is checked here, before any of its sizes or file names is believed. Data in whole bytes or in format 212 are
decoded here, so that serving needs no further library; rarer formats (310, 311, the compressed ones, several samples a
frame, several segments) go through the `wfdb` package where it is installed.
Source: the WFDB applications guide, header(5) and signal(5).
"""

import io
import re
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medserve.data.readers.waves._signals import MAX_BYTES, Signal, check_hz, check_size, lead_name
from medserve.errors import Refusal
from medserve.types import Array

MAX_HEADER = 2**20
MAX_DIRECTORY = 2**19  # bytes; 512 entries take some 50,000
_SIZE = {"16": 2.0, "212": 1.5, "80": 1.0, "24": 3.0, "32": 4.0, "61": 2.0, "160": 2.0}  # bytes a sample
_RECORD = re.compile(
    r"(?P<name>[\w.-]{1,200})(/(?P<segments>\d{1,6}))?\s+(?P<leads>\d{1,6})"
    r"(\s+(?P<hz>[\d.eE+-]{1,20})(/[^\s]*)?(\s+(?P<samples>\d{1,12}))?)?(\s.*)?"
)
_SIGNAL = re.compile(
    r"(?P<file>\S{1,255})\s+(?P<format>\d{1,4})(x(?P<frame>\d{1,6}))?(:(?P<skew>\d{1,9}))?(\+(?P<offset>\d{1,12}))?"
    r"(\s+(?P<gain>-?[\d.eE+-]{1,24}?)(\((?P<baseline>-?\d{1,12})\))?(/(?P<unit>\S{1,32}))?"
    r"(\s+\d+(\s+(?P<zero>-?\d{1,12})(\s+-?\d+(\s+(?P<checksum>-?\d{1,9})(\s+\d+(\s+(?P<what>.*))?)?)?)?)?)?)?\s*"
)

Files = Callable[[str], bytes]


@dataclass(frozen=True)
class Line:
    """One lead, as the header describes it."""

    file: str
    format: str
    offset: int
    gain: float
    baseline: int
    unit: str
    name: str
    checksum: int | None
    plain: bool  # one sample a frame, no skew


def looks_like_header(head: bytes) -> bool:
    try:
        lines = _lines(head.decode("ascii", "ignore"))
    except IndexError:
        return False
    found = _RECORD.fullmatch(lines[0]) if len(lines) > 1 else None
    return bool(found and (found["segments"] or _SIGNAL.fullmatch(lines[1]) or len(lines[1].split()) < 2))


def header_of(path: Path) -> Path | None:
    """The header that a path means, or None when it means no WFDB record."""
    if path.suffix == ".hea":
        return path
    beside = path.with_name(path.name + ".hea")
    if not path.suffix or not path.exists():
        return beside if beside.is_file() else None
    header = path.with_suffix(".hea")
    return header if path.suffix in (".dat", ".mat") and header.is_file() else None


def signals_of_path(header: Path) -> list[Signal]:
    """Raises: Refusal."""

    def read(name: str) -> bytes:
        path = header.parent / name
        try:
            if path.stat().st_size > MAX_BYTES:
                raise Refusal("wave-too-large", f"{name}: more than {MAX_BYTES} bytes.")
            return path.read_bytes()
        except FileNotFoundError as error:
            raise Refusal(
                "file-missing", f"There is no file {name}.", hint="A WFDB record is a header and its data files."
            ) from error
        except OSError as error:
            raise Refusal("wave-unreadable", f"{name}: {error.strerror}.") from error

    return _signals(header.name, read)


def signals_of_zip(data: bytes) -> list[Signal]:
    """Raises: Refusal; zipfile.BadZipFile."""
    _check_directory(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {Path(e.filename).name: e for e in archive.infolist() if not e.is_dir()}
        headers = sorted(name for name in entries if name.endswith(".hea"))
        if len(entries) > 512 or sum(e.file_size for e in entries.values()) > MAX_BYTES:
            raise Refusal("wave-too-large", f"The archive unpacks to more than {MAX_BYTES} bytes or 512 files.")
        if not headers:
            raise Refusal("wave-unreadable", "The archive holds no WFDB header (.hea).")

        def read(name: str) -> bytes:
            if name not in entries:
                raise Refusal("file-missing", f"The archive holds no file {name}.")
            with archive.open(entries[name]) as stream:
                found = stream.read(MAX_BYTES + 1)
            if len(found) > MAX_BYTES:
                raise Refusal("wave-too-large", f"{name} unpacks to more than {MAX_BYTES} bytes.")
            return found

        # of several headers, that of the whole record: the one no other header names
        texts = {name: read(name) for name in headers}
        tops = [n for n in headers if not any(n[:-4].encode() in t.split() for o, t in texts.items() if o != n)]
        if len(tops) != 1:
            raise Refusal("wave-unreadable", f"The archive holds {len(headers)} records; one was expected.")
        return _signals(tops[0], read)


def _check_directory(data: bytes) -> None:
    """The directory of an archive, by the size that its end record says, before it is read. Source: APPNOTE 4.3.16."""
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - 65_557))
    if end >= 0 and int.from_bytes(data[end + 12 : end + 16], "little") > MAX_DIRECTORY:
        raise Refusal("wave-too-large", "The archive holds far too many files; a WFDB record has a few.")


def _signals(header: str, read: Files) -> list[Signal]:
    text = read(header)
    if len(text) > MAX_HEADER:
        raise Refusal("wave-too-large", f"{header}: a header of more than {MAX_HEADER} bytes.")
    top, lines, multi = _parse(text.decode("utf-8", "replace"))
    hz = check_hz(_float(top["hz"] or "250"))
    count = int(top["samples"] or 0)
    if multi or not all(line.plain and line.format in _SIZE for line in lines):
        return _by_library(header, read)
    check_size(len(lines), max(1, count * len(lines)))
    found: list[Signal] = []
    while len(found) < len(lines):  # leads of one file stand together, interleaved
        first = lines[len(found)]
        group = [line for line in lines[len(found) :] if line.file == first.file]
        if len({(line.format, line.offset) for line in group}) > 1:
            raise Refusal("wave-unreadable", f"{header}: leads of {first.file} differ in format or offset.")
        if lines[len(found) : len(found) + len(group)] != group:
            raise Refusal("wave-unreadable", f"{header}: the leads of {first.file} do not stand together.")
        stored = _decode(read(first.file), group, count)
        count = stored.shape[1]
        for line, row in zip(group, stored, strict=True):
            if line.checksum is not None and top["samples"] and (_sum(row) - line.checksum) % 65536:
                raise Refusal(
                    "wave-unreadable",
                    f"{line.file}: the samples of {line.name} do not add up to the header's checksum.",
                    hint="The file was altered or damaged: copy it again.",
                )
            values = (row.astype(np.float32) - np.float32(line.baseline)) / np.float32(line.gain)
            values[row == _MISSING[line.format]] = np.nan
            found.append(Signal(line.name, line.unit, hz, values))
    return found


_MISSING = {"16": -(2**15), "61": -(2**15), "160": -(2**15), "212": -(2**11), "80": -(2**7), "24": -(2**23),
            "32": -(2**31)}  # fmt: skip


def _sum(row: Array) -> int:
    return int(row.sum(dtype=np.int64))


def _lines(text: str) -> list[str]:
    found = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [line.split("#")[0].strip() for line in found]


def _parse(text: str) -> tuple[re.Match[str], list[Line], bool]:
    lines = _lines(text)
    top = _RECORD.fullmatch(lines[0]) if lines else None
    if top is None:
        raise Refusal("wave-unreadable", "The first line of the WFDB header is not a record line.")
    leads, multi = int(top["leads"]), top["segments"] is not None
    check_size(leads, max(1, int(top["samples"] or 0) * leads))
    if multi:
        return top, [], True
    if len(lines) - 1 < leads:
        raise Refusal("wave-truncated", f"The header promises {leads} leads and describes {len(lines) - 1}.")
    return top, [_line(line, i) for i, line in enumerate(lines[1 : leads + 1])], False


def _line(text: str, index: int) -> Line:
    said = _SIGNAL.fullmatch(text)
    if said is None:
        raise Refusal("wave-unreadable", f"Lead {index + 1} of the WFDB header is not a signal line.")
    if not re.fullmatch(r"[\w][\w.-]*", said["file"]):  # never a path, an address or a device
        raise Refusal("wave-unreadable", f"Lead {index + 1}: the data must stand beside the header, by a plain name.")
    gain = _float(said["gain"] or "0") or 200.0
    zero = int(said["zero"] or 0)
    name = lead_name((said["what"] or "").strip() or f"lead {index + 1}")
    return Line(
        said["file"],
        said["format"],
        int(said["offset"] or 0),
        gain,
        int(said["baseline"]) if said["baseline"] is not None else zero,
        said["unit"] or "mV",
        name,
        int(said["checksum"]) if said["checksum"] is not None else None,
        int(said["frame"] or 1) == 1 and int(said["skew"] or 0) == 0,
    )


def _float(word: str) -> float:
    try:
        value = float(word)
    except ValueError as error:
        raise Refusal("wave-unreadable", "A number in the WFDB header is none.") from error
    if not np.isfinite(value):
        raise Refusal("wave-unreadable", "A number in the WFDB header is not finite.")
    return value


def _decode(data: bytes, group: list[Line], count: int) -> Array:
    """(leads, samples) as stored. count: as the header says; 0: as many as the file holds."""
    size, leads = _SIZE[group[0].format], len(group)
    here = int((len(data) - group[0].offset) / size) // leads
    count = count or here
    if here < count or count < 1:
        raise Refusal(
            "wave-truncated",
            f"{group[0].file}: {max(0, here)} samples a lead where the header promises {count}.",
            hint="Copy or export the file again.",
        )
    check_size(leads, leads * count)
    total = leads * count
    raw = np.frombuffer(data, np.uint8, int(np.ceil(total * size)), group[0].offset)
    return _STORED[group[0].format](raw, total).reshape(count, leads).T


def _pairs_of_12(raw: Array, total: int) -> Array:
    """Format 212: bytes a, b, c hold two samples: (b & 15) * 256 + a and (b >> 4) * 256 + c, in two's complement."""
    whole = np.zeros(-(-total // 2) * 3, np.uint8)
    whole[: len(raw)] = raw
    a, b, c = whole.reshape(-1, 3).T.astype(np.int16)
    out = np.empty(2 * len(a), np.int16)
    out[0::2] = ((b & 15) << 12 | a << 4) >> 4  # shifted up so that the sign bit comes along when shifted down
    out[1::2] = ((b >> 4) << 12 | c << 4) >> 4
    return out[:total]


def _of_24(raw: Array, total: int) -> Array:
    a, b, c = raw.reshape(-1, 3).T.astype(np.int32)
    return (a << 8 | b << 16 | c << 24) >> 8


_STORED: dict[str, Callable[[Array, int], Array]] = {
    "16": lambda raw, total: raw.view("<i2"),
    "61": lambda raw, total: raw.view(">i2"),
    "160": lambda raw, total: raw.view("<u2").astype(np.int32) - 2**15,
    "80": lambda raw, total: raw.astype(np.int16) - 128,
    "24": _of_24,
    "32": lambda raw, total: raw.view("<i4"),
    "212": _pairs_of_12,
}


def _by_library(header: str, read: Files) -> list[Signal]:
    """Through the wfdb package, on a folder that holds nothing but checked headers and the files they name."""
    import wfdb

    try:
        folder = tempfile.TemporaryDirectory(prefix="medserve-wfdb-")
    except FileNotFoundError as error:  # a worker without a folder of its own
        raise Refusal(
            "codec-missing",
            f"{header}: this WFDB format is read where bubblewrap works, and it does not here.",
            hint="Send the record in format 16, 24, 32, 61, 80, 160 or 212, as one segment; or install bubblewrap.",
        ) from error
    with folder as work:
        _gather(header, read, Path(work), depth=0)
        record = wfdb.rdrecord(str(Path(work) / header[: -len(".hea")]), return_res=32)
    if record.p_signal is None or not record.n_sig:
        raise Refusal("wave-empty", "The record holds no samples.")
    check_size(record.n_sig, record.p_signal.size)
    values = np.ascontiguousarray(record.p_signal.T, np.float32)
    hz = check_hz(float(record.fs))
    described = zip(record.sig_name, record.units, values, strict=True)
    return [Signal(lead_name(n or f"lead {i + 1}"), u or "mV", hz, v) for i, (n, u, v) in enumerate(described)]


def _gather(header: str, read: Files, work: Path, depth: int) -> None:
    """A header and what it names, copied under plain names; every size checked before the library sees it."""
    text = read(header)
    if len(text) > MAX_HEADER:
        raise Refusal("wave-too-large", f"{header}: a header of more than {MAX_HEADER} bytes.")
    top, lines, multi = _parse(text.decode("utf-8", "replace"))
    (work / header).write_bytes(text)
    for line in lines:
        if line.file != "~" and not (work / line.file).exists():
            (work / line.file).write_bytes(read(line.file))
    if not multi:
        return
    if depth or int(top["segments"]) > 256:
        raise Refusal(
            "wave-unreadable", "A record of at most 256 segments, without segments in segments, was expected."
        )
    for entry in _lines(text.decode("utf-8", "replace"))[1:]:
        name = entry.split()[0]
        if name == "~":
            continue
        if not re.fullmatch(r"[\w][\w.-]*", name):
            raise Refusal("wave-unreadable", "A segment must stand beside its header, by a plain name.")
        if not (work / f"{name}.hea").exists():
            _gather(f"{name}.hea", read, work, depth + 1)
