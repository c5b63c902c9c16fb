"""DICOM files that lie, for `bombs.py`: written by hand, element by element, since no library writes them."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from tiny_package import ramp

LITTLE, DEFLATED, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG, J2K, JPEG_LS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"
IMPLICIT = "1.2.840.10008.1.2"
MIB = 2**20
UNDEFINED = 0xFFFFFFFF
_LONG = {b"OB", b"OW", b"OF", b"OD", b"SQ", b"UN", b"UT"}
ITEM, ITEM_END, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"

DICOM_BOMBS: list[tuple[str, str, Callable[[], bytes], Callable[[], bytes]]] = []


def dicom_bomb(name: str, make: Callable[..., bytes], good: object, bad: object, model: str = "film") -> None:
    DICOM_BOMBS.append((name, model, lambda: make(bad), lambda: make(good)))


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    kind = vr.encode()
    value += (b"\0" if kind in (b"UI", b"OB", b"UN") else b" ") * (len(value) % 2)
    size = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind
    return head + (b"\0\0" + struct.pack("<I", size) if kind in _LONG else struct.pack("<H", size & 0xFFFF)) + value


def meta(syntax: str) -> bytes:
    parts = element(0x00020001, "OB", b"\0\1") + element(0x00020002, "UI", b"1.2.840.10008.5.1.4.1.1.7")
    parts += element(0x00020003, "UI", b"1.2.3") + element(0x00020010, "UI", syntax.encode())
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(parts))) + parts


def us(tag: int, value: int) -> bytes:
    return element(tag, "US", struct.pack("<H", value))


def data_set(pixels: bytes | None = None, *, change: dict[int, bytes | None] | None = None) -> bytes:
    """A CR of 28 x 28 pixels; change: elements by tag, as bytes, or None for none."""
    raw = ramp().tobytes() if pixels is None else pixels
    parts: dict[int, bytes | None] = {
        0x00080016: element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.7"),
        0x00080060: element(0x00080060, "CS", b"CR"),
        0x00100020: element(0x00100020, "LO", b"P1"),
        0x00280002: us(0x00280002, 1),
        0x00280004: element(0x00280004, "CS", b"MONOCHROME2"),
        0x00280010: us(0x00280010, 28),
        0x00280011: us(0x00280011, 28),
        0x00280100: us(0x00280100, 8),
        0x00280101: us(0x00280101, 8),
        0x00280102: us(0x00280102, 7),
        0x00280103: us(0x00280103, 0),
        0x7FE00010: element(0x7FE00010, "OB", raw),
    }
    parts |= change or {}
    return b"".join(parts[tag] or b"" for tag in sorted(parts))


def plain(change: dict[int, bytes | None] | None = None, pixels: bytes | None = None) -> bytes:
    return meta(LITTLE) + data_set(pixels, change=change)


def one(tag: int, vr: str = "US") -> Callable[[object], bytes]:
    """A plain file in which one element says what is given."""

    def make(value: object) -> bytes:
        if isinstance(value, int):
            said = us(tag, value)
        else:
            assert isinstance(value, bytes)
            said = element(tag, vr, value)
        return plain({tag: said})

    return make


def fragments(*parts: bytes, table: bytes = b"", close: bool = True) -> bytes:
    items = [ITEM + struct.pack("<I", len(table)) + table]
    items += [ITEM + struct.pack("<I", len(p) + len(p) % 2) + p + b"\0" * (len(p) % 2) for p in parts]
    return b"".join(items) + (END if close else b"")


def packed(syntax: str, *parts: bytes, change: dict[int, bytes | None] | None = None, table: bytes = b"",
           close: bool = True) -> bytes:  # fmt: skip
    pixels = element(0x7FE00010, "OB", fragments(*parts, table=table, close=close), UNDEFINED)
    return meta(syntax) + data_set(change={0x7FE00010: pixels} | (change or {}))


def sized(rows: int, columns: int) -> dict[int, bytes | None]:
    return {0x00280010: us(0x00280010, rows), 0x00280011: us(0x00280011, columns)}


# -- sizes, counts, lengths ----------------------------------------------------------------------------------------

dicom_bomb("65535 x 65535", lambda n: plain(sized(n, n)), 28, 65535)
dicom_bomb("0 rows", one(0x00280010), 28, 0)
dicom_bomb("10^9 frames", one(0x00280008, "IS"), b"1", b"1000000000")
dicom_bomb("-5 frames as 10^5 digits", one(0x00280008, "IS"), b"1", b"9" * 60_000)
dicom_bomb("a private element of 4 GiB", lambda n: plain({0x00091001: element(0x00091001, "OB", b"abcd", n)}),
           4, UNDEFINED - 2)  # fmt: skip
dicom_bomb("undefined pixel data, not compressed",
           lambda n: plain({0x7FE00010: element(0x7FE00010, "OB", ramp().tobytes(), n)}), 784, UNDEFINED)  # fmt: skip
dicom_bomb("0 bits", one(0x00280100), 8, 0)
dicom_bomb("7 bits", one(0x00280100), 8, 7)
dicom_bomb("65535 bits", one(0x00280100), 8, 65535)
dicom_bomb("64 bits stored in 8", one(0x00280101), 8, 64)
dicom_bomb("65535 samples a pixel", one(0x00280002), 1, 65535)
dicom_bomb("0 samples a pixel", lambda n: plain({0x00280002: us(0x00280002, n[0]), 0x00280004:
           element(0x00280004, "CS", n[1])}), (1, b"MONOCHROME2"), (0, b"NONE"))  # fmt: skip
dicom_bomb("unknown photometric", one(0x00280004, "CS"), b"MONOCHROME2", b"MONOCHROME3")
dicom_bomb("no number where one is due", one(0x00281053, "DS"), b"1", b"1e999")
dicom_bomb("slope 0", one(0x00281053, "DS"), b"1", b"0")
dicom_bomb("cut in the header", lambda n: plain()[: n or None], 0, 300)

# -- depth and number ----------------------------------------------------------------------------------------------


def nested(depth: int, *, undefined: bool = True) -> bytes:
    """A private sequence within a sequence within a sequence ..., of undefined lengths."""
    tag = struct.pack("<HH", 0x0040, 0xA730) + b"SQ\0\0" + struct.pack("<I", UNDEFINED)
    item = ITEM + struct.pack("<I", UNDEFINED)
    return (tag + item) * depth + (ITEM_END + END) * depth


def items(count: int) -> bytes:
    one_item = ITEM + struct.pack("<I", 0)
    return element(0x0040A730, "SQ", one_item * count)


def elements(count: int) -> bytes:
    return b"".join(
        struct.pack("<HH2sH", 0x0011 + 2 * (i >> 15), 0x1000 + (i & 0x7FFF), b"LO", 0) for i in range(count)
    )


def grouped(depth: int) -> bytes:
    """The functional groups of a multi-frame image, nested: a sequence that reading wants."""
    tag = struct.pack("<HH", 0x5200, 0x9229) + b"SQ\0\0" + struct.pack("<I", UNDEFINED)
    item = ITEM + struct.pack("<I", UNDEFINED)
    return (tag + item) * depth + (ITEM_END + END) * depth


dicom_bomb("10,000 sequences deep", lambda n: plain({0x0040A730: nested(n)}), 3, 10_000)
dicom_bomb("wanted sequences 10,000 deep", lambda n: plain({0x52009229: grouped(n)}), 3, 10_000)
dicom_bomb("sequences without an end", lambda n: plain({0x0040A730: nested(3)[: n or None]}), 0, 60)
dicom_bomb(
    "a million items", lambda n: plain({0x0040A730: items(n)}, ramp().tobytes()[: 784 if n < 9 else 700]), 3, 10**6
)
dicom_bomb("a million wanted items", lambda n: plain({0x52009230: element(0x52009230, "SQ", (ITEM + bytes(4)) * n)},
           ramp().tobytes()[: 784 if n < 9 else 700]), 1, 10**6)  # fmt: skip
dicom_bomb("a million elements", lambda n: plain({0x00111000: elements(n)}, ramp().tobytes()[: 784 if n < 9 else 700]),
           5, 10**6)  # fmt: skip

# -- deflated, RLE, JPEG, JPEG 2000, JPEG-LS -----------------------------------------------------------------------


def deflated(size: int) -> bytes:
    """size: MiB of zeros behind the data set."""
    squeeze = zlib.compressobj(9, wbits=-15)
    begun = squeeze.compress(data_set()) + squeeze.flush(zlib.Z_FULL_FLUSH)
    block = squeeze.compress(bytes(MIB)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return meta(DEFLATED) + begun + block * size + b"\x03\0"


def rle(rows: bytes | None = None, *, segments: int = 1, offset: int = 64) -> bytes:
    raw = ramp().tobytes() if rows is None else rows
    literal = b"".join(bytes([len(raw[i : i + 128]) - 1]) + raw[i : i + 128] for i in range(0, len(raw), 128))
    return struct.pack("<16I", segments, offset, *[offset] * 14) + (literal if rows is None else rows)


def corner(side: int) -> np.ndarray:
    """The ramp in the corner of an empty picture."""
    made = np.zeros((side, side), np.uint8)
    made[:28, :28] = ramp()
    return made


def jpeg_film(side: int = 28, **more: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(corner(side)).save(out, "JPEG", **more)
    return out.getvalue()


def jpeg_size(rows: int) -> bytes:
    data = bytearray(jpeg_film())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", rows, rows)
    return bytes(data)


def j2k(side: int = 28, **more: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(corner(side)).save(out, "JPEG2000", no_jp2=True, **more)
    return out.getvalue()


def j2k_siz(at: int, form: str, value: int) -> bytes:
    """One number of the SIZ marker changed; `at` counts from the marker."""
    data = bytearray(j2k())
    start = data.index(b"\xff\x51")
    struct.pack_into(form, data, start + at, value)
    return bytes(data)


def j2k_levels(count: int) -> bytes:
    data = bytearray(j2k(num_resolutions=3))
    start = data.index(b"\xff\x52")
    data[start + 9] = count
    return bytes(data)


def jpeg_ls(rows: int = 28, bits: int = 8) -> bytes:
    import jpeg_ls as codec

    data = bytearray(codec.encode_array(ramp()))
    at = data.index(b"\xff\xf7")
    data[at + 4] = bits
    data[at + 5 : at + 9] = struct.pack(">HH", rows, rows)
    return bytes(data)


dicom_bomb("deflated 1 GiB", deflated, 0, 1024)
dicom_bomb("deflated without end", lambda n: deflated(0)[: n or None], 0, -40)
dicom_bomb("rle 65535 x 65535", lambda n: packed(RLE, rle(), change=sized(n, n)), 28, 65535)
dicom_bomb("rle 10^6 segments", lambda n: packed(RLE, rle(segments=n)), 1, 10**6)
dicom_bomb("rle segment beyond", lambda n: packed(RLE, rle(offset=n)), 64, 2**31)
dicom_bomb("rle of too much", lambda n: packed(RLE, rle(b"\x81\0" * n) if n else rle()), 0, 8 * MIB)
dicom_bomb("rle too short", lambda n: packed(RLE, rle(b"\x81\0" * n) if n else rle()), 0, 2)
dicom_bomb("jpeg inside says 65500", lambda n: packed(JPEG, jpeg_size(n)), 28, 65500)
dicom_bomb("jpeg of 20,000 scans", lambda n: packed(JPEG, jpeg_scans(n), change=sized(2800, 2800)), 0, 20_000)
dicom_bomb("jpeg cut", lambda keep: packed(JPEG, jpeg_film()[:keep]), 10**6, 300)
dicom_bomb("jpeg 2000 2^31 wide", lambda n: packed(J2K, j2k_siz(6, ">I", n)), 28, 2**31 - 1)
dicom_bomb("jpeg 2000 tiles of one pixel", lambda n: packed(J2K, j2k_tiles(n), change=sized(4000, 4000)), 4000, 1)
dicom_bomb("jpeg 2000 tiles of 2^31", lambda n: packed(J2K, j2k_siz(22, ">I", n)), 28, 0)
dicom_bomb("jpeg 2000 16384 components", lambda n: packed(J2K, j2k_siz(38, ">H", n)), 1, 16384)
dicom_bomb("jpeg 2000 33 bits", lambda n: packed(J2K, j2k_siz(40, ">B", n)), 7, 100)
dicom_bomb("jpeg 2000 offset beyond", lambda n: packed(J2K, j2k_siz(14, ">I", n)), 0, 2**31)
dicom_bomb("jpeg 2000 200 levels", lambda n: packed(J2K, j2k_levels(n)), 2, 200)
dicom_bomb("jpeg 2000 cut", lambda keep: packed(J2K, j2k()[:keep]), 10**6, 90)
dicom_bomb("jpeg-ls 65535 x 65535", lambda n: packed(JPEG_LS, jpeg_ls(n)), 28, 65535)
dicom_bomb("jpeg-ls of 99 bits", lambda n: packed(JPEG_LS, jpeg_ls(bits=n)), 8, 99)
dicom_bomb("500,000 fragments", lambda n: packed(JPEG, jpeg_film(), *[b""] * n, change={0x00280008: element(
           0x00280008, "IS", b"1" if n < 9 else b"500001")}), 0, 500_000)  # fmt: skip
dicom_bomb("fragments without an end", lambda c: packed(JPEG, jpeg_film()[: None if c else 500], close=c), True, False)
dicom_bomb("more frames than fragments", lambda n: packed(JPEG, jpeg_film(), change={0x00280008: element(
           0x00280008, "IS", n)}), b"1", b"60000")  # fmt: skip
dicom_bomb("a syntax that does not exist", lambda s: meta(s) + data_set(), LITTLE, "1.2.840.10008.1.2.77.7")
dicom_bomb("compressed by its header alone", lambda s: meta(s) + data_set(), LITTLE, J2K)


def jpeg_scans(times: int) -> bytes:
    data = jpeg_film(2800, progressive=times > 0)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * max(1, times) + b"\xff\xd9"


def j2k_tiles(side: int) -> bytes:
    """A whole codestream of 4000 x 4000 in one tile, or one that says its tiles are of one pixel."""
    out = io.BytesIO()
    Image.fromarray(corner(4000)).save(out, "JPEG2000", no_jp2=True, num_resolutions=2)
    data = bytearray(out.getvalue())
    start = data.index(b"\xff\x51")
    struct.pack_into(">II", data, start + 22, side, side)
    return bytes(data)


# -- lookup tables -------------------------------------------------------------------------------------------------


def palette(entries: int, size: int = 256) -> bytes:
    change: dict[int, bytes | None] = {0x00280004: element(0x00280004, "CS", b"PALETTE COLOR")}
    lut = bytes(range(256)) * (size // 256)
    for i in (1, 2, 3):
        change[0x00281100 + i] = element(0x00281100 + i, "US", struct.pack("<3H", entries, 0, 8))
        change[0x00281200 + i] = element(0x00281200 + i, "OW", lut)
    return plain(change)


def lut_sequence(tag: int, entries: int, bits: int, values: int) -> bytes:
    table = element(0x00283002, "US", struct.pack("<3H", entries, 0, bits))
    table += element(0x00283006, "OW", np.arange(values, dtype="<u2").tobytes())
    return plain({tag: element(tag, "SQ", ITEM + struct.pack("<I", len(table)) + table)})


dicom_bomb("a palette of 65535 with 256 there", palette, 256, 65535)
dicom_bomb("a modality table of 2^16 with 2 there", lambda n: lut_sequence(0x00283000, n[0], n[1], n[2]),
           (256, 16, 256), (65535, 16, 2))  # fmt: skip
dicom_bomb("a table of 65535 bits", lambda n: lut_sequence(0x00283000, 256, n, 256), 16, 65535)

# -- waveforms -----------------------------------------------------------------------------------------------------


def ecg(*, channels: int = 2, samples: int = 400, bits: int = 16, hz: bytes = b"100", keep: int = 2) -> bytes:
    def code(meaning: bytes, value: bytes) -> bytes:
        return (
            element(0x00080100, "SH", value) + element(0x00080102, "SH", b"UCUM") + element(0x00080104, "LO", meaning)
        )

    def sequence(tag: int, *parts: bytes) -> bytes:
        return element(tag, "SQ", b"".join(ITEM + struct.pack("<I", len(p)) + p for p in parts))

    defined = []
    for name in (b"I", b"II")[:keep]:
        channel = sequence(0x003A0208, code(name, name)) + element(0x003A0210, "DS", b"1")
        channel += sequence(0x003A0211, code(b"microvolt", b"uV")) + element(0x003A0212, "DS", b"1")
        channel += element(0x003A0213, "DS", b"0") + us(0x003A021A, 16)
        defined.append(channel)
    wave = (1000 * np.stack([np.sin(np.arange(400) / 9), np.cos(np.arange(400) / 7)], 1)).astype("<i2").tobytes()
    group = element(0x003A0004, "CS", b"ORIGINAL") + us(0x003A0005, channels)
    group += element(0x003A0010, "UL", struct.pack("<I", samples)) + element(0x003A001A, "DS", hz)
    group += sequence(0x003A0200, *defined) + us(0x54001004, bits) + element(0x54001006, "CS", b"SS")
    group += element(0x54001010, "OW", wave)
    body = element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.9.1.1") + element(0x00080060, "CS", b"ECG")
    return meta(LITTLE) + body + sequence(0x54000100, group)


for name, more in {
    "65535 leads": {"channels": 65535}, "4 * 10^9 samples": {"samples": 2**32 - 1}, "no samples": {"samples": 0},
    "1 bit": {"bits": 1}, "65535 bits": {"bits": 65535}, "10^400 Hz": {"hz": b"1e400"}, "0 Hz": {"hz": b"0"},
    "fewer definitions than leads": {"keep": 1},
}.items():  # fmt: skip
    dicom_bomb(f"ecg of {name}", lambda more: ecg(**more), {}, more, "ward")
