"""DICOM: what is stored, what it means in physical units, and what is refused."""

import contextlib
import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from made_dicom import LITTLE, dicom, ramp
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence

from medserve.data.readers import codecs, iter_pictures, read, stored_values
from medserve.data.readers import dicom as reader
from medserve.data.readers.codestream import rows_and_columns
from medserve.errors import Refusal

ROOT = Path(pydicom.__file__).parent / "data" / "test_files"
TWINS = ["RLE", "bigendian", "expb", "implicit", "padded", "jp2klossless", "jpeg_ls_lossless"]


def bundled(name: str) -> bytes:
    return (ROOT / name).read_bytes()


def one(data: bytes):
    (picture,) = read(data)
    return picture


def code(data: bytes, **options) -> str:
    with pytest.raises(Refusal) as caught:
        read(data, **options)
    return caught.value.code


def item(**tags) -> Sequence:
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return Sequence([dataset])


def test_every_bundled_file_is_read_as_the_codecs_decode_it_or_refused():
    """Stored values equal pydicom's own decoding (59 files and more); any other file is refused, none crashes."""
    codecs.register()
    equal = 0
    for path in sorted(p for p in ROOT.rglob("*") if p.is_file()):
        data = path.read_bytes()
        try:
            with codecs.quiet():
                dataset = pydicom.dcmread(io.BytesIO(data), force=True)
                expected = pixel_array(dataset)
        except Exception:
            with pytest.raises(Refusal):
                read(data)
            continue
        frames = int(dataset.get("NumberOfFrames") or 1)
        read(data)
        with codecs.quiet():
            ours = list(stored_values(data))
        assert len(ours) == frames, path.name
        assert np.array_equal(ours[0] if frames == 1 else np.stack(ours), expected), path.name
        equal += 1
    assert equal >= 59


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_jpeg_extended_is_decoded_by_imagecodecs(name):
    """12-bit JPEG Extended: the plugin gives what imagecodecs gives outside pydicom."""
    import imagecodecs

    dataset = pydicom.dcmread(io.BytesIO(bundled(name)))
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    assert np.array_equal(next(stored_values(bundled(name))), imagecodecs.jpeg_decode(frame))


def test_jpeg_lossless_is_decoded():
    """JPEG Lossless (transfer syntax .70), which pydicom alone cannot read, comes back bit by bit."""
    import imagecodecs

    values = ramp()
    data = dicom(values, BitsStored=16)
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.PixelData = encapsulate([imagecodecs.ljpeg_encode(values)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.70"
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    assert np.array_equal(one(buffer.getvalue()).values, values)


@pytest.mark.parametrize("twin", TWINS)
def test_twins_are_pixel_identical(twin):
    """MR_small in seven other encodings is the same picture."""
    original, other = one(bundled("MR_small.dcm")), one(bundled(f"MR_small_{twin}.dcm"))
    assert np.array_equal(original.values, other.values)
    assert original.shown == other.shown


def test_ct_values_are_hounsfield_units():
    """stored 1064 with slope 1 and intercept -1024 is 40 HU; whole numbers stay whole."""
    picture = one(
        dicom(np.full((2, 2), 1064, "<u2"), BitsStored=12, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    )
    assert picture.unit == "HU" and picture.values.dtype == np.int16
    assert (picture.values == 40).all()


def test_fractions_of_a_slope_are_kept():
    picture = one(dicom(np.full((2, 2), 3, "<i2"), RescaleSlope=0.5, RescaleIntercept=-10))
    assert (picture.values == -8.5).all() and picture.unit is None


def test_window_follows_the_standard():
    """Centre 40, width 400, LINEAR: black at -160, white at 239 (PS3.3 C.11.2.1.2.1); LINEAR_EXACT: -160 to 240."""
    assert one(dicom(ramp(), WindowCenter=40, WindowWidth=400)).shown == (-160, 239)
    exact = dicom(ramp(), WindowCenter=[40, 300], WindowWidth=[400, 10], VOILUTFunction="LINEAR_EXACT")
    assert one(exact).shown == (-160, 240)
    assert one(dicom(ramp(), WindowCenter=40, WindowWidth=0)).header["window"] == "none"


def test_monochrome1_is_turned():
    """Larger is brighter: 12-bit stored 0 becomes 4095, and the window is mirrored with it."""
    values = ramp()
    tags = {"BitsStored": 12, "WindowCenter": 1000.5, "WindowWidth": 201}
    plain, turned = one(dicom(values, **tags)), one(dicom(values, PhotometricInterpretation="MONOCHROME1", **tags))
    assert np.array_equal(turned.values, 4095 - values)
    assert plain.shown == (900, 1100) and turned.shown == (2995, 3195)
    assert turned.values.dtype == np.uint16


def test_monochrome1_signed():
    """16-bit signed values are mirrored about -0.5: -1 - value."""
    values = np.array([[-32768, 0], [5, 32767]], "<i2")
    assert np.array_equal(one(dicom(values, PhotometricInterpretation="MONOCHROME1")).values, -1 - values)


def test_hounsfield_units_are_never_mirrored():
    """A CT stored as MONOCHROME1 keeps air at -1000."""
    tags = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1000, "PhotometricInterpretation": "MONOCHROME1"}
    picture = one(dicom(np.array([[0, 1000]], "<u2"), **tags))
    assert picture.values.tolist() == [[-1000, 0]] and picture.unit == "HU"


def test_modality_lut_sequence():
    """A table instead of a slope: stored 0, 1, 2, 3 become 10, 20, 40, 80."""
    lut = item(LUTDescriptor=[4, 0, 16], ModalityLUTType="US", LUTData=struct.pack("<4H", 10, 20, 40, 80))
    stored = np.array([[0, 1], [2, 3]], "<u2")
    data = dicom(stored, ModalityLUTSequence=lut)
    assert one(data).values.tolist() == [[10, 20], [40, 80]]


def test_voi_lut_is_applied_where_values_have_no_unit():
    """A table of 4 entries from stored 1 on, 8 bit: below the first entry is the first, above the last the last."""
    lut = item(LUTDescriptor=[4, 1, 8], LUTData=struct.pack("<4H", 0, 100, 200, 255))
    stored = np.array([[0, 1, 2], [3, 4, 9]], "<u2")
    picture = one(dicom(stored, VOILUTSequence=lut))
    assert picture.values.tolist() == [[0, 0, 100], [200, 255, 255]]
    assert picture.shown == (0, 255)
    kept = one(dicom(stored, VOILUTSequence=lut, Modality="CT", RescaleSlope=1, RescaleIntercept=0))
    assert np.array_equal(kept.values, stored) and kept.shown == (1, 4) and kept.unit == "HU"


def test_sigmoid_window():
    """Half white at the centre, 1 / (1 + e^-4) one width above it (PS3.3 C.11.2.1.3.1)."""
    data = dicom(np.array([[100, 150]], "<u2"), WindowCenter=100, WindowWidth=50, VOILUTFunction="SIGMOID")
    assert one(data).values[0] == pytest.approx([0.5, 1 / (1 + np.exp(-4))], abs=1e-6)


def test_unused_bits_are_cleared():
    """12 bits stored in 16: an overlay in the high bits is no brightness."""
    assert one(dicom(np.array([[0x8005, 7]], "<u2"), BitsStored=12)).values.tolist() == [[5, 7]]
    assert one(dicom(np.array([[0x0FFF, 7]], "<i2"), BitsStored=12)).values.tolist() == [[-1, 7]]


def test_palette_becomes_colour():
    """Index 1 is the second entry of each table; 16-bit entries are cut to their high byte."""
    tables = {
        f"{name}PaletteColorLookupTable{kind}": value
        for name, second in (("Red", 0xFF00), ("Green", 0x8000), ("Blue", 0x0100))
        for kind, value in (("Descriptor", [2, 0, 16]), ("Data", struct.pack("<2H", 0, second)))
    }
    picture = one(dicom(np.array([[0, 1]], np.uint8), PhotometricInterpretation="PALETTE COLOR", **tables))
    assert picture.colour and picture.values.tolist() == [[[0, 0, 0], [255, 128, 1]]]


def test_a_colour_file_with_equal_channels_is_grey():
    grey = np.repeat(np.arange(16, dtype=np.uint8).reshape(4, 4)[..., None], 3, axis=-1)
    assert not one(dicom(grey)).colour
    grey[0, 0, 1] += 1
    assert one(dicom(grey)).colour


def test_frames_come_one_by_one():
    """The first frame of a file is there before the last is decoded."""
    frames = np.arange(3 * 16, dtype="<u2").reshape(3, 4, 4)
    pictures = iter_pictures(dicom(frames))
    first = next(pictures)
    assert (first.frame, first.frames) == (0, 3) and np.array_equal(first.values, frames[0])
    assert [p.frame for p in pictures] == [1, 2]
    (volume,) = read(dicom(frames), volume=True)
    assert volume.volume and np.array_equal(volume.values, frames)


def test_functional_groups_of_enhanced_files():
    """Per-frame rescale and window, shared spacing."""

    def frame(intercept: int) -> Dataset:
        group = Dataset()
        group.PixelValueTransformationSequence = item(RescaleSlope=1, RescaleIntercept=intercept, RescaleType="HU")
        group.FrameVOILUTSequence = item(WindowCenter=intercept + 0.5, WindowWidth=3)
        return group

    data = dicom(
        np.ones((2, 2, 2), "<u2"),
        Modality="CT",
        PerFrameFunctionalGroupsSequence=Sequence([frame(-1000), frame(50)]),
        SharedFunctionalGroupsSequence=item(PixelMeasuresSequence=item(PixelSpacing=[0.5, 0.25])),
    )
    first, second = read(data)
    assert (first.values == -999).all() and (second.values == 51).all()
    assert second.shown == (49, 51) and first.unit == "HU" and first.spacing_mm == (0.5, 0.25)


def test_float_pixels():
    assert one(dicom(np.array([[0.5, 2.5]], "<f4"))).values.tolist() == [[0.5, 2.5]]


def test_missing_tags_take_sensible_values():
    """No bits stored, no photometric interpretation, no sign, no samples: an unsigned grey image."""
    drop = (
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PhotometricInterpretation",
        "SamplesPerPixel",
        "BitsAllocated",
    )
    assert np.array_equal(one(dicom(ramp(), drop=drop)).values, ramp())


def test_a_bare_data_set_is_read():
    """Without preamble and file meta information, in implicit and explicit little endian and big endian."""
    for name in ("MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"):
        data = bundled(name)
        length = struct.unpack_from("<I", data, 140)[0]
        assert np.array_equal(one(data[144 + length :]).values, one(data).values)


def test_identity_stays_out_of_the_header():
    picture = one(dicom(ramp(), InstitutionName="St Elsewhere", StationName="CT7", Manufacturer="ACME"))
    assert picture.patient == "case-17"
    assert picture.header["manufacturer"] == "ACME" and picture.header["size"] == "16x16"
    said = " ".join(picture.header.values())
    assert not any(word in said for word in ("case-17", "Doe", "Elsewhere", "CT7"))


@pytest.mark.parametrize("name", ["reportsi.dcm", "rtplan.dcm", "waveform_ecg.dcm", "dicomdirtests/DICOMDIR"])
def test_objects_without_pixels_are_refused(name):
    assert code(bundled(name)) == "dicom-no-pixels"


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm", "JPGExtended.dcm", "image_dfl.dcm"]
)
def test_a_cut_file_is_never_a_silent_image(name):
    """Cut anywhere, a file is refused (or whole: its pixels came before the cut)."""
    data = bundled(name)
    whole = one(data).values
    for part in (0.2, 0.5, 0.8, 0.95):
        try:
            found = one(data[: int(len(data) * part)]).values
        except Refusal as refusal:
            assert refusal.code in ("file-truncated", "dicom-no-pixels", "file-unreadable")
        else:
            assert np.array_equal(found, whole)


def test_a_cut_jpeg_inside_a_whole_file_is_refused():
    """A decoder that would paint the missing half grey is not asked."""
    dataset = pydicom.dcmread(io.BytesIO(bundled("JPGExtended.dcm")))
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    buffer = io.BytesIO()
    with codecs.quiet():
        dataset.save_as(buffer)
    assert code(buffer.getvalue()) == "file-truncated"


def test_declared_sizes_are_checked_before_decoding():
    """Rows x columns x frames of the header, and the size inside the compressed frame."""
    assert code(dicom(ramp(), Rows=65535, Columns=65535)) == "image-too-large"
    assert code(dicom(ramp(), NumberOfFrames=10**9)) == "image-too-large"
    dataset = pydicom.dcmread(io.BytesIO(bundled("MR_small_jp2klossless.dcm")))
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    at = frame.find(b"\xff\x4f\xff\x51")
    dataset.PixelData = encapsulate([frame[: at + 8] + struct.pack(">II", 65535, 65535) + frame[at + 16 :]])
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    assert code(buffer.getvalue()) == "image-too-large"


def test_a_deflated_bomb_is_refused():
    """Zeros without end: inflated no further than the limits allow."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    block = bytes(2**22)
    bomb = b"".join(packer.compress(block) for _ in range(8)) + packer.flush()
    head = bundled("image_dfl.dcm")
    length = struct.unpack_from("<I", head, 140)[0]
    assert code(head[: 144 + length] + bomb, max_pixels=10**6) == "image-too-large"


def test_wrong_headers_are_refused():
    assert code(dicom(ramp(), drop=("Rows",))) == "dicom-bad-header"
    assert code(dicom(ramp(), RescaleSlope=0, RescaleIntercept=0)) == "dicom-bad-header"
    assert code(dicom(np.array([[np.nan, 1]], "<f4"))) == "image-not-finite"
    assert code(dicom(ramp(), NumberOfFrames=2)) == "file-truncated"
    assert code(dicom(ramp(), PhotometricInterpretation="HSV")) == "dicom-photometric"


def test_a_transfer_syntax_without_codec_is_named():
    data = bundled("MR_small_RLE.dcm").replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.9\0")
    assert code(data) == "codec-missing"


def test_frame_sizes_are_read_from_the_first_markers():
    """A JPEG with a comment before its frame header; bytes that are no JPEG."""
    sof = b"\xff\xc0\x00\x0b\x08" + struct.pack(">HH", 300, 200) + b"\x01\x01\x11\x00"
    assert rows_and_columns(b"\xff\xd8\xff\xfe\x00\x05abc" + sof) == (300, 200)
    assert rows_and_columns(b"plain") is None


def test_the_quick_way_and_the_thorough_way_agree(monkeypatch):
    """Every bundled file that is read by stepping over its header gives the same picture through pydicom's parser."""
    quick = []
    files = [p.read_bytes() for p in sorted(ROOT.parent.rglob("*")) if p.is_file()]
    made = [dicom(ramp(), syntax=syntax, Manufacturer="A B ", KVP="120") for syntax in ("1.2.840.10008.1.2", LITTLE)]
    for data in made + files:
        with contextlib.suppress(Refusal):
            if reader._quickly(data, *reader.meta(data)) is not None:
                quick.append((data, read(data)))
    monkeypatch.setattr(reader, "_quickly", lambda *_: None)
    assert len(quick) >= 20 and [data for data, _ in quick[:2]] == made
    for data, pictures in quick:
        for ours, thorough in zip(pictures, read(data), strict=True):
            assert np.array_equal(ours.values, thorough.values) and ours.values.dtype == thorough.values.dtype
            assert replace(ours, values=None) == replace(thorough, values=None)
