# ruff: noqa: E501  (one bomb a line)
"""Files and texts made to break a service, each with a benign twin that differs in one thing and is answered.

    for bomb in BODIES: ask(bomb.model, bomb.make(), bomb.media)          # refused, with a code
                        ask(bomb.model, bomb.twin(), bomb.media)          # 200

Nothing is stored: all are generated when they are asked for. Those of HTTP itself stand in `test_hostile.py`.
"""

import base64
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from bombs_dicom import DICOM_BOMBS
from PIL import Image
from tiny_package import png, ramp

PNG, JPEG, TIFF, NIFTI = "image/png", "image/jpeg", "image/tiff", "application/x-nifti"
JSON, FHIR, TEXT, ZIP, EDF, CSV = (
    "application/json", "application/fhir+json", "text/plain", "application/zip", "application/edf", "text/csv",
)  # fmt: skip
MIB = 2**20


@dataclass(frozen=True)
class Bomb:
    """make: the malicious body. twin: the same but for the malice, answered with 200."""

    name: str
    model: str
    media: str
    make: Callable[[], bytes]
    twin: Callable[[], bytes]


BODIES: list[Bomb] = []


def bomb(name: str, model: str, media: str, make: Callable[..., bytes], good: object, bad: object) -> None:
    """`make(good)` is the twin of `make(bad)`."""
    BODIES.append(Bomb(name, model, media, lambda: make(bad), lambda: make(good)))


# -- PNG -----------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def ihdr(width: int, height: int, bits: int = 8, colour: int = 0, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace))


def rows() -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in ramp())


def png_of(*between: bytes, head: bytes = b"", data: bytes | None = None) -> bytes:
    """The ramp, with other chunks before its data."""
    body = chunk(b"IDAT", zlib.compress(rows())) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + (head or ihdr(28, 28)) + b"".join(between) + body + chunk(b"IEND", b"")


def deflated_zeros(size: int, *, raw: bool = False) -> bytes:
    """`size` zeros (whole MiB), one deflated block again and again; raw: without the frame of zlib."""
    squeeze = zlib.compressobj(9, wbits=-15)
    block = squeeze.compress(bytes(MIB)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    body = block * (size // MIB) + b"\x03\0"
    return body if raw else b"\x78\xda" + body + struct.pack(">HH", size % 65521, 1)


zeros = deflated_zeros


_SIZES = {"65535 x 65535": (65535, 65535), "2^31 x 2^31": (2**31 - 1, 2**31 - 1), "1 x 2^31": (1, 2**31 - 1)}
for said, (w, hh) in _SIZES.items():
    bomb(f"png {said}", "film", PNG, lambda s: png_of(head=ihdr(*s)), (28, 28), (w, hh))
bomb("png 16 bit rgba", "film", PNG, lambda s: png_of(head=ihdr(*s)), (28, 28, 8, 0), (30000, 30000, 16, 6))
bomb("png interlaced", "film", PNG, lambda s: png_of(head=ihdr(s[0], s[0], interlace=s[1])), (28, 0), (65535, 1))
bomb("png ztxt 1 GiB", "film", PNG, lambda n: png_of(chunk(b"zTXt", b"a\0\0" + zeros(n))), 0, 1024 * MIB)
bomb("png itxt 1 GiB", "film", PNG, lambda n: png_of(chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(n))), 0, 1024 * MIB)
bomb("png iccp 1 GiB", "film", PNG, lambda n: png_of(chunk(b"iCCP", b"a\0\0" + zeros(n))), 0, 1024 * MIB)
bomb("png 900 text chunks of 1 MiB", "film", PNG,
     lambda n: png_of(*[chunk(b"zTXt", b"a%d\0\0" % i + zlib.compress(bytes(MIB - 9 if n > 9 else 9))) for i in range(n)]),
     3, 900)  # fmt: skip
bomb("png a million chunks", "film", PNG, lambda n: png_of(chunk(b"tEXt", b"a\0b") * n), 9, 10**6)
bomb("png chunk length 2^31", "film", PNG,
     lambda n: png_of(struct.pack(">I", n) + b"teXt" + b"abcd" + struct.pack(">I", zlib.crc32(b"teXtabcd"))),
     4, 2**31 - 1)  # fmt: skip
bomb("png two headers", "film", PNG, lambda more: png_of(*more), (), (ihdr(65535, 65535),))

# -- JPEG ----------------------------------------------------------------------------------------------------------


def jpeg(**more: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.repeat(np.repeat(ramp(), 8, 0), 8, 1)).save(out, "JPEG", **more)
    return out.getvalue()


def jpeg_of_size(rows: int) -> bytes:
    """The header says `rows` lines and columns, or what is there for 0."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    if rows:
        data[at + 5 : at + 9] = struct.pack(">HH", rows, rows)
    return bytes(data)


def jpeg_of_scans(times: int) -> bytes:
    """A progressive picture whose last scan is told again and again; each costs a pass over the whole of it."""
    out, large = io.BytesIO(), np.zeros((2800, 2800), np.uint8)
    large[:28, :28] = ramp()
    Image.fromarray(large).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * times + b"\xff\xd9"


def jpeg_of_segments(times: int) -> bytes:
    data = jpeg()
    return data[:2] + b"\xff\xe5\x00\x04ab" * times + data[2:]


def exif(count: int) -> bytes:
    """An Exif orientation, and a tag that says it has `count` values."""
    entries = [struct.pack("<HHII", 0x0112, 3, 1, 1), struct.pack("<HHII", 0x010E, 2, count, 8)]
    body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + b"".join(entries) + bytes(4)
    data = jpeg()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


bomb("jpeg 65500 x 65500", "film", JPEG, jpeg_of_size, 0, 65500)
bomb("jpeg 20000 scans", "film", JPEG, jpeg_of_scans, 1, 20_000)
bomb("jpeg a million segments", "film", JPEG, jpeg_of_segments, 3, 10**6)
bomb("jpeg without tables", "film", JPEG, lambda cut: jpeg().replace(b"\xff\xdb", cut), b"\xff\xdb", b"\xff\xe9")
bomb("jpeg cut in the scan", "film", JPEG, lambda keep: jpeg()[: int(len(jpeg()) * keep)], 1.0, 0.5)

# -- other formats, by name only -----------------------------------------------------------------------------------


def gif(frames: int) -> bytes:
    frame = b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0"
    return b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"


def npz(size: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(size))
    return out.getvalue()


for said, body in {
    "gif 100,000 frames": lambda: gif(100_000),
    "npz 64 MiB": lambda: npz(64 * MIB),
    "webp": lambda: b"RIFF\xff\xff\xff\xffWEBPVP8L" + bytes(64),
    "bmp 2^31": lambda: (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, *[0] * 6)
    ),
    "svg with entities": lambda: b'<!DOCTYPE x [<!ENTITY a "aaaa">]><svg>' + b"&a;" * 10**5 + b"</svg>",
    "python pickle": lambda: b"\x80\x04\x95\x1c\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 65535 65535\n{pop} loop\n",
}.items():
    BODIES.append(Bomb(f"{said} as a picture", "film", PNG, body, lambda: png(ramp())))

# -- TIFF ----------------------------------------------------------------------------------------------------------


def tiff(width: int = 28, height: int = 28, *, strip: int | None = None, pages: int = 1, loop: bool = False,
         data: bytes | None = None, squeeze: int = 1, more: tuple[tuple[int, int, int, int], ...] = ()) -> bytes:  # fmt: skip
    """Grey, one strip. pages: the same one again; loop: the last page points to the first."""
    body = ramp().tobytes() if data is None else data
    tags = sorted([(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, squeeze), (262, 3, 1, 1),
                   (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height),
                   (279, 4, 1, len(body) if strip is None else strip), *more])  # fmt: skip
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    size, start = len(page) + 4, 8 + len(body) + len(body) % 2
    heads = [page + struct.pack("<I", start + size * (i + 1)) for i in range(pages)]
    heads[-1] = page + struct.pack("<I", start if loop else 0)
    return b"II*\0" + struct.pack("<I", start) + body + b"\0" * (len(body) % 2) + b"".join(heads)


bomb("tiff 65535 x 65535", "film", TIFF, lambda n: tiff(n, n), 28, 65535)
bomb("tiff 2^31 wide", "film", TIFF, lambda n: tiff(n), 28, 2**31 - 1)
bomb("tiff 200,000 pages", "film", TIFF, lambda n: tiff(pages=n), 1, 200_000)
bomb("tiff pages in a ring", "film", TIFF, lambda ring: tiff(pages=1 + ring, loop=ring), False, True)
bomb(
    "tiff deflate bomb",
    "film",
    TIFF,
    lambda n: tiff(n, n, data=zlib.compress(ramp().tobytes()) if n == 28 else zeros(1024 * MIB), squeeze=8),
    28,
    40000,
)
bomb("tiff 2^16 samples a pixel", "film", TIFF, lambda n: tiff(more=((339, 3, 1, 1),)).replace(
     struct.pack("<HHII", 277, 3, 1, 1), struct.pack("<HHII", 277, 3, 1, n)), 1, 65535)  # fmt: skip

# -- NIfTI ---------------------------------------------------------------------------------------------------------


def nifti(*, dim: tuple[int, ...] = (3, 8, 8, 8), offset: float = 352, kind: int = 4, slope: float = 1,
          bits: int = 16, esize: int = 0, tail: bytes = b"", packed: bool = False) -> bytes:  # fmt: skip
    head = bytearray(348)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into(f"<{len(dim)}h", head, 40, *dim)
    struct.pack_into("<2h", head, 70, kind, bits)
    struct.pack_into("<8f", head, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<3f", head, 108, offset, slope, 0)
    head[344:348] = b"n+1\0"
    ext = struct.pack("<4B2i", 1, 0, 0, 0, esize, 6) if esize else bytes(4)
    whole = bytes(head) + ext + np.arange(512, dtype="<i2").tobytes() + tail
    if not packed:
        return whole
    return _gzip(whole)


def _gzip(data: bytes, more: int = 0) -> bytes:
    """more: MiB of zeros behind the data; then the checksum at the end does not hold."""
    squeeze = zlib.compressobj(9, wbits=31)
    begun = squeeze.compress(data) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return begun + (zeros(more * MIB, raw=True) + bytes(8) if more else squeeze.flush())


bomb("nifti 32767^3", "block", NIFTI, lambda d: nifti(dim=d), (3, 8, 8, 8), (3, 32767, 32767, 32767))
bomb("nifti 32767^7", "block", NIFTI, lambda d: nifti(dim=d), (3, 8, 8, 8), (7, *[32767] * 7))
bomb("nifti negative", "block", NIFTI, lambda d: nifti(dim=d), (3, 8, 8, 8), (3, -8, 8, -8))
bomb("nifti a thousand axes", "block", NIFTI, lambda d: nifti(dim=d), (3, 8, 8, 8), (1000, 8, 8, 8))
bomb("nifti offset 1e30", "block", NIFTI, lambda o: nifti(offset=o), 352, 1e30)
bomb("nifti offset below zero", "block", NIFTI, lambda o: nifti(offset=o), 352, -1e9)
bomb("nifti offset nan", "block", NIFTI, lambda o: nifti(offset=o), 352, float("nan"))
bomb("nifti unknown type", "block", NIFTI, lambda k: nifti(kind=k), 4, 31000)
bomb("nifti complex", "block", NIFTI, lambda k: nifti(kind=k[0], bits=k[1]), (4, 16), (2048, 256))
bomb("nifti.gz 1 GiB in 1 MiB", "block", NIFTI, lambda d: _gzip(nifti(dim=d), 1024 if d[1] > 8 else 0),
     (3, 8, 8, 8), (3, 2048, 2048, 256))  # fmt: skip
bomb("nifti.gz in gz in gz", "block", NIFTI, lambda n: [nifti(packed=True), _gzip(_gzip(nifti(packed=True)))][n], 0, 1)
bomb("nifti.gz cut", "block", NIFTI, lambda n: nifti(packed=True)[: n or None], 0, 200)

# -- WFDB, EDF, CSV ------------------------------------------------------------------------------------------------

STRIP = (1000 * np.stack([np.sin(np.arange(400) / 9), np.cos(np.arange(400) / 7)], 1)).astype("<i2").tobytes()


def wfdb(
    record: str = "r 2 100 400",
    *,
    first: str = "r.dat 16 1000/mV",
    more: dict[str, bytes] | None = None,
    tail: str = "",
) -> bytes:
    one, two = (int(lead.sum()) for lead in np.frombuffer(STRIP, "<i2").reshape(-1, 2).T)
    text = f"{record}\n{first} 16 0 0 {one} 0 I\nr.dat 16 1000/mV 16 0 0 {two} 0 II\n{tail}"
    files = {"r.hea": text.encode(), "r.dat": STRIP} | (more or {})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def zip_of_many(count: int) -> bytes:
    """A WFDB record beside `count` empty files: only their headers."""
    good = wfdb()
    end = good.rindex(b"PK\x05\x06")
    directory_at = struct.unpack("<I", good[end + 16 : end + 20])[0]
    entry = good[directory_at : good.index(b"PK\x01\x02", directory_at + 4)]
    name = len(b"r.hea")
    central = b"".join(
        entry[:28] + struct.pack("<H", 8) + entry[30:46] + b"%08d" % i + entry[46 + name :] for i in range(count)
    )
    whole = good[directory_at:end] + central
    total = min(2 + count, 65535)
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, total, total, len(whole), directory_at, 0)
    return good[:directory_at] + whole + tail


def zip_overlapping(times: int) -> bytes:
    """One kernel of deflated zeros that `times` entries share, as in Fifield's zip bomb."""
    kernel = zeros(64 * MIB, raw=True)
    good = wfdb(more={"k.bin": b""})
    end = good.rindex(b"PK\x05\x06")
    at = struct.unpack("<I", good[end + 16 : end + 20])[0]
    local = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 0, 8, 0, 33, 0, len(kernel), 64 * MIB, 5, 0) + b"k.bin"
    entries = b"".join(
        struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 20, 20, 0, 8, 0, 33, 0, len(kernel), 64 * MIB, 8, 0, 0, 0, 0,
                    0, at) + b"x%03d.dat" % i for i in range(times))  # fmt: skip
    body = good[:at] + local + kernel
    directory = good[at:end] + entries
    count = 3 + times
    return body + directory + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)


def zip_that_lies(size: int) -> bytes:
    """The signal file says that it is 1,600 bytes long; it inflates to `size`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("r.hea", b"r 2 100\nr.dat 16 1000/mV 16 0 0 0 0 I\nr.dat 16 1000/mV 16 0 0 0 0 II\n")
        archive.writestr("r.dat", STRIP + bytes(size))
    data = bytearray(out.getvalue())
    real = len(STRIP) + size
    while (at := data.find(struct.pack("<I", real))) >= 0 and real != len(STRIP):
        data[at : at + 4] = struct.pack("<I", len(STRIP))
    return bytes(data)


def zip_in_zip(depth: int) -> bytes:
    inner = wfdb()
    for _ in range(depth):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("r.zip", inner)
        inner = out.getvalue()
    return inner


def edf(*, leads: str = "2", records: str = "4", samples: str = "100", low: str = "-3200", keep: int = 2,
        duration: str = "1") -> bytes:  # fmt: skip
    def field(text: object, size: int) -> bytes:
        return str(text).encode().ljust(size)[:size]

    fixed = field("0", 8) + field("X", 80) + field("X", 80) + b"01.01.0101.01.01" + field(256 * (keep + 1), 8)
    fixed += field("", 44) + field(records, 8) + field(duration, 8) + field(leads, 4)
    names = [field(n, 16) for n in ("I", "II")[:keep]]
    rest = [field("", 80)] * keep + [field("uV", 8)] * keep + [field(low, 8)] * keep + [field("3200", 8)] * keep
    rest += [field("-32768", 8)] * keep + [field("32767", 8)] * keep + [field("", 80)] * keep
    rest += [field(samples, 8)] * keep + [field("", 32)] * keep
    wave = (1000 * np.sin(np.arange(800) / 9)).astype("<i2").tobytes()
    return fixed + b"".join(names + rest) + wave


def csv(columns: int = 0) -> bytes:
    head = "time [s],I [mV],II [mV]" + ",x" * columns
    lines = [
        f"{i / 100:.2f},{np.sin(i / 9):.3f},{np.cos(i / 7):.3f}" + ",1" * columns for i in range(2 if columns else 400)
    ]
    return "\n".join([head, *lines, ""]).encode()


bomb("wfdb 10^12 samples", "ward", ZIP, lambda r: wfdb(r), "r 2 100 400", "r 2 100 999999999999")
bomb("wfdb 999,999 leads", "ward", ZIP, lambda r: wfdb(r), "r 2 100 400", "r 999999 100 400")
bomb("wfdb 10^300 Hz", "ward", ZIP, lambda r: wfdb(r), "r 2 100 400", "r 2 1e300 400")
bomb("wfdb gain nan", "ward", ZIP, lambda f: wfdb(first=f), "r.dat 16 1000/mV", "r.dat 16 1e999/mV")
bomb("wfdb offset beyond", "ward", ZIP, lambda f: wfdb(first=f), "r.dat 16 1000/mV", "r.dat 16+999999999999 1000/mV")
bomb("wfdb another folder", "ward", ZIP, lambda f: wfdb(first=f), "r.dat 16 1000/mV", "../../etc/passwd 16 1000/mV")
bomb("wfdb 999,999 segments", "ward", ZIP, lambda r: wfdb(r), "r 2 100 400", "r/999999 2 100 400")
bomb("wfdb segments in a ring", "ward", ZIP,
     lambda r: wfdb(r[0], first=r[1]), ("r 2 100 400", "r.dat 16 1000/mV"), ("r/2 2 100 400", "r 400"))  # fmt: skip
bomb("wfdb megabyte signal line", "ward", ZIP, lambda n: wfdb(first="r.dat 16 1000/mV" + " 1" * n), 0, 400_000)
bomb("wfdb header of 64 MiB", "ward", ZIP, lambda n: wfdb(tail="#" * n), 9, 64 * MIB)
bomb("wfdb frames of 10^6 samples", "ward", ZIP, lambda f: wfdb(first=f), "r.dat 16 1000/mV", "r.dat 16x999999 1000/mV")
bomb("zip 500,000 entries", "ward", ZIP, zip_of_many, 2, 500_000)
bomb("zip 300 overlapping entries", "ward", ZIP, zip_overlapping, 0, 300)
bomb("zip that lies about a size", "ward", ZIP, zip_that_lies, 0, 64 * MIB)
bomb("zip in zip in zip", "ward", ZIP, zip_in_zip, 0, 5)
bomb("edf 10^8 records", "ward", EDF, lambda r: edf(records=r), "4", "99999999")
bomb("edf 9999 leads", "ward", EDF, lambda n: edf(leads=n), "2", "9999")
bomb("edf -1 leads", "ward", EDF, lambda n: edf(leads=n), "2", "-1")
bomb("edf 10^8 samples a record", "ward", EDF, lambda n: edf(samples=n), "100", "99999999")
bomb("edf negative samples", "ward", EDF, lambda n: edf(samples=n), "100", "-100")
bomb("edf records of no length", "ward", EDF, lambda n: edf(duration=n), "1", "0")
bomb("csv a million columns", "ward", CSV, csv, 0, 10**6)
bomb("csv a number of a megabyte", "ward", CSV, lambda n: csv() + b"4.00," + b"9" * n + b",0.5\n", 1, MIB)
bomb("csv of quotes", "ward", CSV, lambda n: csv() + b'"' * n, 0, MIB)

# -- JSON, FHIR, text ----------------------------------------------------------------------------------------------

CASE = b'{"age": 50, "note": "no fever and no cough."}'


def inputs(more: bytes) -> bytes:
    return b'{"inputs": {"age": 50' + more + b"}}"


def keyed(name: str, value: object) -> bytes:
    return json.dumps({"inputs": {"age": 50, name: value}}).encode()


def many_keys(n: int) -> bytes:
    return inputs(b"".join(b', "k%d": 1' % i for i in range(n)))


def events(n: int, *, code: str = "loinc|8867-4", unit: str = "/min", time: object = 1.0) -> bytes:
    return keyed("history", [[time, code, 80, unit]] * n)


def bundle(*resources: object, times: int = 1) -> bytes:
    one = {"resourceType": "Observation", "status": "final", "subject": {"reference": "Patient/1"},
           "effectiveDateTime": "2020-01-01T10:00:00Z",
           "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
           "valueQuantity": {"value": 80, "unit": "/min", "code": "/min", "system": "http://unitsofmeasure.org"}}  # fmt: skip
    first = {"resourceType": "Patient", "id": "1", "birthDate": "1970-01-01"}
    entries = [{"resource": r} for r in (first, one, *resources)]
    head, _, tail = json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).rpartition("]")
    return (head + (", " + json.dumps(entries[1])) * (times - 1) + "]" + tail).encode()


def deep(open_: bytes, close: bytes, n: int) -> bytes:
    return open_ * n + b"1" + close * n


def nested_extension(n: int) -> bytes:
    deepest = b'{"url": "x", "extension": [' * n + b"]}" * n
    whole = bundle()
    return whole.replace(b'"birthDate"', b'"extension": [' + deepest + b'], "birthDate"')


def in_itself(n: int) -> bytes:
    """A Bundle within a Bundle within a Bundle ..."""
    body = bundle()
    for _ in range(n):
        body = b'{"resourceType": "Bundle", "type": "collection", "entry": [{"resource": ' + body + b"}]}"
    return body


bomb(
    "json 100,000 arrays",
    "ward",
    JSON,
    lambda n: inputs(b', "history": ' + (b"[" * n + b"]" * n if n > 1 else b'[[1.0, "loinc|8867-4", 80, "/min"]]')),
    1,
    100_000,
)
bomb("json 100,000 objects", "ward", JSON, lambda n: inputs(b', "film": ' * bool(n) + deep(b'{"a":', b"}", n) * bool(n)),
     0, 100_000)  # fmt: skip
bomb(
    "json depth 900",
    "ward",
    JSON,
    lambda n: inputs(b', "history": ' + (b"[" * n + b"]" * n if n > 1 else b'[[1.0, "loinc|8867-4", 80, "/min"]]')),
    1,
    900,
)
bomb("json number of a megabyte", "ward", JSON, lambda n: b'{"inputs": {"age": ' + b"5" * n + b"}}", 2, MIB)
bomb("json 1e400", "ward", JSON, lambda v: b'{"inputs": {"age": ' + v + b"}}", b"4e1", b"4e400")
bomb("json -1e-400 deep exponent", "ward", JSON, lambda n: b'{"inputs": {"age": 5' + b"e" * bool(n) + b"9" * n + b"}}",
     0, MIB)  # fmt: skip
bomb("json nan", "ward", JSON, lambda v: b'{"inputs": {"age": ' + v + b"}}", b"40", b"NaN")
bomb("json a string of 32 MiB", "ward", JSON, lambda n: keyed("note", "no fever " * n), 2, 32 * MIB // 9)
bomb("json a name of 8 MiB", "ward", JSON, lambda n: keyed("age" + "e" * n, 50), 0, 8 * MIB)
bomb("json a name of 2 MiB of noise", "ward", JSON,
     lambda n: keyed("".join(map(chr, np.random.default_rng(1).integers(97, 122, n))) or "age", 50), 0, 2 * MIB)  # fmt: skip
bomb("json a million names", "ward", JSON, many_keys, 0, 10**6)
bomb("json a million equal names", "ward", JSON, lambda s: b"{" + s + b'"inputs": {"age": 50}}', b"",
     b'"inpuls": 1, ' * 10**6)  # fmt: skip
bomb("json names that collide", "ward", JSON,
     lambda n: inputs(b"".join(b', "\\u%04x%d": 1' % (i % 7 + 1, i * 2**31) for i in range(n))), 0, 200_000)  # fmt: skip
bomb("json an open string", "ward", JSON, lambda cut: inputs(b', "note": "no fever' + b'"' * cut), 1, 0)
bomb("json lone surrogates", "ward", JSON, lambda n: inputs(b', "note": "no fever' + b"\\ud800" * n + b'"'), 0, 10**5)
bomb("json utf-16", "ward", JSON, lambda kind: CASE.decode().encode(kind), "utf-8", "utf-16")
bomb("json bytes that are none", "ward", JSON, lambda b: inputs(b', "note": "no fever ' + b + b'"'), b"a", b"\xff\xfe")
bomb("json base64 of a bomb", "ward", JSON, lambda n: keyed("film", base64.b64encode(png_of(head=ihdr(n, n))).decode()),
     28, 65535)  # fmt: skip
bomb("json 8 MiB of base64 that is none", "ward", JSON,
     lambda n: keyed("film", base64.b64encode(png(ramp())).decode() + "=A" * n), 0, 4 * MIB)  # fmt: skip
bomb("json base64 whole and long", "film", JSON,
     lambda n: json.dumps({"inputs": {"image": base64.b64encode(png(ramp()) + bytes(n)).decode()}}).encode(),
     0, 32 * MIB)  # fmt: skip
bomb("json a waveform of a million leads", "ward", JSON,
     lambda n: keyed("ecg", {"leads": ["I", "II"], "hz": 100, "unit": "mV",
                             "values": [np.sin(np.arange(200) / 9).tolist(), np.cos(np.arange(200) / 9).tolist()]
                             + [[1, 2]] * n}), 0, 10**6)  # fmt: skip
bomb("json a waveform of 1e308 Hz", "ward", JSON,
     lambda hz: keyed("ecg", {"leads": ["I", "II"], "hz": hz, "unit": "mV", "values": [np.sin(np.arange(400) / 9).tolist(), np.cos(np.arange(400) / 7).tolist()]}),
     100, 1e308)  # fmt: skip
bomb("json a waveform of 1e-308 Hz", "ward", JSON,
     lambda hz: keyed("ecg", {"leads": ["I", "II"], "hz": hz, "unit": "mV", "values": [np.sin(np.arange(400) / 9).tolist(), np.cos(np.arange(400) / 7).tolist()]}),
     100, 1e-308)  # fmt: skip
bomb("json a million events", "ward", JSON, events, 3, 10**6)
bomb("json a code of a megabyte", "ward", JSON, lambda n: events(1, code="loinc|8867-4" + "0" * n), 0, MIB)
bomb("json a unit of a megabyte", "ward", JSON, lambda n: events(1, unit="/min" + ".m" * n), 0, MIB)
bomb("json a unit of brackets", "ward", JSON, lambda n: events(1, unit="(" * n + "/min" + ")" * n), 0, 3000)
bomb("json a unit to the power", "ward", JSON, lambda u: keyed("age", {"value": 5, "unit": u}), "a", "a999999999")
bomb("json a unit of a thousand factors", "ward", JSON, lambda n: keyed("age", {"value": 5, "unit": "a" + "/a.a" * n}),
     0, 1000)  # fmt: skip
bomb("json a date of a megabyte", "ward", JSON, lambda n: events(1, time="2020-01-01" + "0" * n), 0, MIB)
bomb("json the year 10^9", "ward", JSON, lambda t: events(1, time=t), "2020-01-01", "1000000000-01-01")
bomb("fhir 5,000 extensions deep", "ward", FHIR, nested_extension, 3, 5000)
bomb("fhir bundles in bundles", "ward", FHIR, in_itself, 0, 5000)
bomb("fhir 200,000 entries", "ward", FHIR, lambda n: bundle(times=n), 1, 200_000)
bomb("fhir a date of a megabyte", "ward", FHIR, lambda n: bundle().replace(b"10:00:00Z", b"10:00:00" + b"0" * n + b"Z"),
     0, MIB)  # fmt: skip
bomb("fhir lines (ndjson)", "ward", FHIR, lambda n: bundle() + (b"\n" + bundle()) * n, 0, 1000)
bomb("fhir one patient each", "ward", FHIR,
     lambda n: bundle(*[{"resourceType": "Observation", "subject": {"reference": f"Patient/{i}"},
                         "effectiveDateTime": "2020-01-01", "code": {"text": "x"}, "valueInteger": 1}
                        for i in range(n)]), 0, 20_000)  # fmt: skip
bomb(
    "text ten million combining marks", "ward", TEXT, lambda n: ("no fever" + "\u0301\u0316" * n).encode(), 5, 5 * 10**6
)
bomb("text half a million marks alone", "ward", TEXT, lambda n: (("no fever" if n < 9 else "") + "\u0301\u0316" * n).encode(),
     5, 250_000)  # fmt: skip
bomb(
    "text of nothing visible", "ward", TEXT, lambda n: ("no fever" * (n < 9) + "\u200b\u202e" * n).encode(), 1, 150_000
)
bomb("text of 2 MiB", "ward", TEXT, lambda n: b"no fever " * n, 2, 2 * MIB // 9)
bomb("text of 2 MiB of apostrophes", "ward", TEXT, lambda n: b"no fever " + b"a'" * n, 2, MIB)

BODIES += [Bomb(f"dicom {name}", model, "application/dicom", make, twin) for name, model, make, twin in DICOM_BOMBS]
