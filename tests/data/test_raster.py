"""PNG, JPEG, TIFF, NIfTI and arrays; and the one door through which every bad file is refused."""

import gzip
import io
import struct
import sys
import threading
import warnings
import zlib

import nibabel
import numpy as np
import pytest
from made_dicom import dicom, ramp
from PIL import Image

from medserve.data.readers import READERS, iter_pictures, picture_from_array, read, read_file, sniff
from medserve.data.readers.codecs import quiet
from medserve.errors import Refusal

GREY = (np.arange(30 * 40, dtype=np.uint32) * 7 % 256).astype(np.uint8).reshape(30, 40)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


def encoded(values: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def volume_file(values: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    return nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine).to_bytes()


def png_that_declares(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def one(data: bytes, **options):
    (picture,) = read(data, **options)
    return picture


def code(data: bytes, **options) -> str:
    with pytest.raises(Refusal) as caught:
        read(data, **options)
    return caught.value.code


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_lossless_formats_give_the_pixels_back(kind):
    """8-bit grey, colour, 16-bit grey and 1-bit."""
    for values in (GREY, COLOUR, GREY.astype(np.uint16) * 257):
        picture = one(encoded(values, kind))
        assert np.array_equal(picture.values, values) and picture.header["format"] == kind
    bits = io.BytesIO()
    Image.fromarray(GREY > 99).save(bits, kind)
    assert np.array_equal(one(bits.getvalue()).values, (GREY > 99) * np.uint8(255))


def test_a_grey_scan_saved_in_colour_is_grey():
    same = np.repeat(GREY[..., None], 3, axis=-1)
    assert np.array_equal(one(encoded(same, "PNG")).values, GREY)
    assert one(encoded(COLOUR, "JPEG")).colour


def test_alpha_lies_over_black():
    """A pixel of 200 at alpha 255 stays, at alpha 0 is black."""
    values = np.full((2, 2, 4), 200, np.uint8)
    values[0, 0, 3], values[1, 1, 3] = 0, 255
    found = one(encoded(values, "PNG")).values
    assert found[0, 0] == 0 and found[1, 1] == 200


def test_orientation_is_as_the_file_says():
    """Exif orientation 6: the stored picture is shown turned clockwise by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(one(encoded(GREY, "PNG", exif=exif.tobytes())).values, np.rot90(GREY, -1))


def test_pages_of_a_tiff_are_frames():
    buffer = io.BytesIO()
    pages = [Image.fromarray(GREY + np.uint8(k)) for k in range(3)]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    pictures = read(buffer.getvalue())
    assert [p.frame for p in pictures] == [0, 1, 2] and pictures[2].values[0, 0] == GREY[0, 0] + 2
    assert one(buffer.getvalue(), volume=True).values.shape == (3, 30, 40)


def test_nifti_is_turned_upright():
    """Voxel (i, j, k) stored towards right, anterior, superior: the first slice is the lowest, its first row the most
    anterior, its first column the patient's right."""
    values = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    slices = read(volume_file(values, np.diag([1.0, 2.0, 5.0, 1.0])))
    assert len(slices) == 4 and slices[1].spacing_mm == (2.0, 1.0)
    assert slices[1].values.shape == (3, 2)
    assert slices[1].values[0, 0] == values[1, 2, 1]  # anterior: largest j; right: largest i
    flipped = read(volume_file(values[::-1], np.diag([-1.0, 2.0, 5.0, 1.0])))
    assert all(np.array_equal(a.values, b.values) for a, b in zip(slices, flipped, strict=True))
    whole = one(gzip.compress(volume_file(values, np.diag([1.0, 2.0, 5.0, 1.0]))), volume=True)
    assert whole.volume and np.array_equal(whole.values, [s.values for s in slices])
    assert whole.spacing_mm == (5.0, 2.0, 1.0)


def test_nifti_scale_is_applied():
    image = nibabel.Nifti1Image(np.array([[[0.5, 100.25]]]), np.eye(4), dtype=np.int16)
    found = one(image.to_bytes(), volume=True).values.ravel()
    assert found == pytest.approx([0.5, 100.25], abs=0.01)


def test_arrays():
    """Rows of an array file: grey, colour, a trailing single channel, a volume; anything else is refused."""
    assert picture_from_array(GREY).shown == (0, 255)
    assert picture_from_array(COLOUR).colour
    assert picture_from_array(GREY[..., None]).values.shape == GREY.shape
    assert picture_from_array(np.zeros((4, 5, 6), np.int16), volume=True).volume
    for bad, expected in (
        (np.zeros((2, 2, 2)), "image-shape"),
        (np.zeros((0, 2)), "image-shape"),
        (np.full((2, 2), np.nan), "image-not-finite"),
        (np.zeros((2, 2), complex), "image-type"),
        (np.array([["a"]]), "image-type"),
    ):
        with pytest.raises(Refusal) as caught:
            picture_from_array(bad)
        assert caught.value.code == expected


def test_bytes_decide_and_not_the_name(tmp_path):
    """A text file called .png is of unknown format; a DICOM file whose preamble holds a TIFF header is DICOM."""
    path = tmp_path / "scan.png"
    path.write_text("Dear colleague, please find no picture here." * 20)
    with pytest.raises(Refusal, match="scan.png") as caught:
        read_file(path)
    assert caught.value.code == "format-unknown"
    both = b"II*\0".ljust(128, b"\0") + dicom(ramp())[128:]
    assert sniff(both[:1024]) == "application/dicom" and np.array_equal(one(both).values, ramp())
    assert {sniff(d) for d in (encoded(GREY, "PNG"), encoded(GREY, "JPEG"), encoded(GREY, "TIFF"))} <= set(READERS)
    assert sniff(gzip.compress(volume_file(GREY[..., None]))[:1024]) == "application/x-nifti"


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(Refusal) as caught:
        read_file(tmp_path / "gone.png")
    assert caught.value.code == "file-missing" and "gone.png" in caught.value.message
    assert code(b"") == "file-empty"


@pytest.mark.parametrize(
    "data",
    [
        encoded(GREY, "PNG"),
        encoded(COLOUR, "JPEG"),
        encoded(GREY, "TIFF", compression="tiff_deflate"),
        volume_file(GREY[..., None]),
        gzip.compress(volume_file(GREY[..., None])),
    ],
    ids=["png", "jpeg", "tiff", "nifti", "nifti.gz"],
)
def test_a_cut_file_is_refused(data):
    """Half of a file is no image, and the last bytes matter too."""
    whole = one(data).values
    assert code(data[: len(data) // 2]) in ("file-truncated", "file-unreadable")
    for cut in (0.8, 0.97):
        try:
            assert np.array_equal(one(data[: int(len(data) * cut)]).values, whole)
        except Refusal as refusal:
            assert refusal.code in ("file-truncated", "file-unreadable")


def test_declared_sizes_are_checked_before_decoding():
    """65535 x 65535 in a PNG, a JPEG, a TIFF and a NIfTI header, in small files; and a limit of one's own."""
    jpeg = bytearray(encoded(GREY, "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xff\xff\xff\xff"
    tiff = bytearray(encoded(GREY, "TIFF"))
    for tag in (256, 257):  # ImageWidth, ImageLength
        entry = tiff.index(struct.pack("<H", tag), struct.unpack_from("<I", tiff, 4)[0])
        struct.pack_into("<HII", tiff, entry + 2, 4, 1, 65535)
    nifti = bytearray(volume_file(GREY[..., None]))
    struct.pack_into("<3h", nifti, 42, 32767, 32767, 32767)
    for data in (png_that_declares(65535, 65535), bytes(jpeg), bytes(tiff), bytes(nifti), gzip.compress(bytes(nifti))):
        assert code(data) == "image-too-large"
    assert code(encoded(GREY, "PNG"), max_pixels=GREY.size - 1) == "image-too-large"
    assert one(encoded(GREY, "PNG"), max_pixels=GREY.size)


def test_a_zipped_nifti_is_inflated_no_further_than_its_header_says():
    """A gigabyte of zeros behind a small volume costs nothing."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    bomb = packer.compress(volume_file(GREY[..., None])) + packer.compress(bytes(2**24)) + packer.flush()
    assert one(bomb, volume=True).values.size == GREY.size


def test_not_a_number_is_refused():
    assert code(volume_file(np.full((2, 2, 2), np.inf, np.float32))) == "image-not-finite"
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 3), np.nan, np.float32)).save(buffer, "TIFF")
    assert code(buffer.getvalue()) == "image-not-finite"


def test_a_volume_is_asked_for_by_name():
    assert code(encoded(GREY, "PNG"), volume=True) == "volume-expected"
    assert code(volume_file(np.zeros((2, 2, 2, 2), np.int16)), volume=True) == "volume-4d"
    assert len(read(volume_file(np.zeros((2, 2, 2, 2), np.int16)))) == 4


def test_a_library_that_breaks_becomes_a_refusal(monkeypatch):
    """Whatever is raised inside, the message holds no detail of the header."""

    def broken(*_):
        raise RuntimeError("PatientName Doe^Jane")
        yield

    monkeypatch.setitem(READERS._items, "image/png", broken)
    with pytest.raises(Refusal) as caught:
        read(encoded(GREY, "PNG"), name="a.png")
    assert caught.value.code == "file-unreadable" and "Doe" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    """Without Pillow a PNG cannot be read, and the answer says what to install."""
    data = encoded(GREY, "PNG")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(Refusal) as caught:
        read(data)
    assert caught.value.code == "codec-missing" and "medserve[imaging]" in caught.value.hint


def test_random_bytes_after_a_true_beginning_never_crash():
    """Files with some bytes changed are read or refused, nothing else."""
    rng = np.random.default_rng(5)
    for data in (encoded(COLOUR, "JPEG"), encoded(GREY, "PNG"), dicom(ramp()), volume_file(GREY[..., None])):
        for _ in range(25):
            changed = bytearray(data)
            for at in rng.integers(0, len(data), 4):
                changed[at] = rng.integers(256)
            try:
                read(bytes(changed))
            except Refusal as refusal:
                assert refusal.code


def test_warnings_stay_inside_and_filters_come_back():
    """Two threads that read at once leave the warning filters as they were."""
    before = list(warnings.filters)
    inside, leave = threading.Barrier(2), threading.Barrier(2)

    def reader():
        with quiet():
            inside.wait(5)
            warnings.warn("an odd header", stacklevel=1)
            leave.wait(5)

    threads = [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    with pytest.warns(UserWarning):
        warnings.warn("heard again", stacklevel=1)


def test_reading_is_lazy():
    """Asking for pictures decodes nothing until the first is taken."""
    pictures = iter_pictures(b"no image at all")
    with pytest.raises(Refusal):
        next(pictures)
