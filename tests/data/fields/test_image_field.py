"""A picture beside other inputs: read, limited, prepared and refused as a picture alone."""

import base64
import io
import struct
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image as Pillow

from medserve.data.declaration import Input
from medserve.data.fields import Records
from medserve.data.fields.image import MOST_SIDE, Image
from medserve.data.readers import read
from medserve.data.transforms import build, default_transforms
from medserve.errors import Refusal


def png(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    Pillow.fromarray(values).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def film() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)


@pytest.fixture
def field(film) -> Image:
    return Image.declare("film", Input(kind="image")).look([png(film)])


def refused(field: Image, raw: object) -> str:
    with pytest.raises(Refusal) as caught:
        field.parse(raw)
    assert caught.value.hint or caught.value.message
    return caught.value.code


def test_the_shape_follows_the_pictures_within_bounds(film):
    """The longer side of the middle one, never above the bound; a declared size; three channels where any is colour."""
    bare = Image.declare("film", Input(kind="image"))
    assert bare.look([png(film)]).shape == (1, 40, 40)
    large, tiny = np.zeros((900, 500), np.uint8), np.zeros((5, 9), np.uint8)
    assert bare.look([png(large)]).shape == (1, MOST_SIDE, MOST_SIDE) and bare.look([png(tiny)]).shape == (1, 16, 16)
    colour = np.random.default_rng(1).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert bare.look([png(film), None, b"broken", png(colour)]).shape[0] == 3
    assert Image.declare("film", Input(kind="image", size=[48, 32])).look([png(film)]).shape == (1, 48, 32)
    assert bare.look([]).shape == bare.shape


def test_every_way_to_send_it_gives_the_same_levels_as_a_picture_alone(field, film, tmp_path):
    """Path, bytes, base64, and the object of a request: equal to what the transforms of pictures make of the file."""
    data = png(film)
    (tmp_path / "film.png").write_bytes(data)
    text = base64.b64encode(data).decode()
    ways = [tmp_path / "film.png", data, text, {"data": text}, {"media_type": "image/png", "data": text}]
    wanted = build(default_transforms(shape=(1, 40, 40), colour=False, unit=None))(read(data)[0])
    for raw in ways:
        value = field.parse(raw)
        assert value is not None and np.array_equal(value.levels, wanted)
    assert field.parse(None) is None and field.parse("") is None


def test_a_value_survives_the_disk_and_a_field_its_package(field, film):
    """MessagePack and back; parameters as JSON and back: the same record, bytes for bytes, NaN where it is missing."""
    value = field.parse(png(film))
    again = field.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(value)))
    assert again == value and np.array_equal(field.encode(again), field.encode(value))
    fitted = field.fit([value, None])
    named = msgspec.json.decode(msgspec.json.encode(fitted.named()), type=type(fitted.named()))
    built = Records.build([named]).fields[0]
    assert built == fitted and np.array_equal(built.encode(built.parse(png(film))), fitted.encode(value))
    record = fitted.encode(value)
    assert record.dtype == np.float32 and record.shape == (1, 40, 40) and 0 <= record.min() <= record.max() <= 1
    assert np.isnan(fitted.encode(None)).all() and fitted.encode(None).shape == (1, 40, 40)
    example = fitted.example(np.random.default_rng(0))
    assert example.shape == record.shape and np.allclose(example * 255, np.rint(example * 255), atol=1e-4)


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in its header, and next to nothing behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_what_is_no_picture_is_refused_with_its_code(field, film):
    """The codes of the readers, those of the request, and the cap on declared pixels before anything is decoded."""
    data = png(film)
    text = base64.b64encode(data).decode()
    assert refused(field, 7) == refused(field, ["x"]) == refused(field, "not base64!") == "image-expected"
    assert refused(field, {"data": 5}) == refused(field, {"data": text, "path": "/etc/passwd"}) == "image-expected"
    assert refused(field, {"media_type": "image/jpeg", "data": text}) == "media-type-mismatch"
    assert refused(field, b"GIF89a" + bytes(40)) == "format-unknown"
    assert refused(field, data[:-20]) == "file-truncated" and refused(field, b"") == "file-empty"
    assert refused(field, bomb()) == "image-too-large"
    assert refused(Records((field,)).within(100).fields[0], data) == "image-too-large"  # type: ignore[arg-type]
    out = io.BytesIO()
    Pillow.fromarray(film).save(out, "TIFF", save_all=True, append_images=[Pillow.fromarray(film)])
    assert refused(field, out.getvalue()) == "several-images"
    assert refused(field, Path("/nowhere/film.png")) == "file-missing"


def test_a_text_is_never_taken_for_a_path(field, tmp_path, film):
    """A request cannot make the service open a file."""
    (tmp_path / "film.png").write_bytes(png(film))
    assert refused(field, str(tmp_path / "film.png")) in ("image-expected", "format-unknown", "file-empty")


def test_what_training_never_saw_is_refused(field, film):
    """Colour, a blank film, another modality, values without the unit: codes as for a picture alone."""

    def code(value: object) -> str:
        with pytest.raises(Refusal) as caught:
            fitted.check(value)
        assert caught.value.message.startswith("film: ")
        return caught.value.code

    value = field.parse(png(film))
    fitted = field.fit([msgspec.structs.replace(value, modality="CR"), None])
    assert fitted.modalities == ("CR",)
    fitted.check(None)
    fitted.check(value)
    assert code(msgspec.structs.replace(value, modality="MR")) == "wrong-modality"
    assert code(field.parse(png(np.dstack([film, film // 2, film])))) == "wrong-colour"
    assert code(field.parse(png(np.full((20, 20), 7, np.uint8)))) == "image-blank"
    fitted = Image("film", unit="HU")
    assert code(value) == "wrong-unit"
