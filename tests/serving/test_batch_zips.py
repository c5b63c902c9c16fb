"""A ZIP of inputs is a batch: of files, or of a manifest that names them; and no bomb."""

import io
import json
import random
import struct
import time
import zipfile
import zlib

import pytest
from test_batches import PICTURE, Door, door, item  # noqa: F401  (the fixture)
from tiny_package import png, ramp, spec

from medserve.client import Client
from medserve.errors import MedServeError
from medserve.models.spec import InputSpec
from medserve.serving.zipped import lines_of, members_of

MIB = 2**20


def zipped(*members, how=zipfile.ZIP_DEFLATED) -> bytes:
    """members: name or ZipInfo, and content."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def send(door: Door, body: bytes, **more):  # noqa: F811
    return door.send(body, headers={"content-type": "application/zip"}, **more)


def codes(found: list[dict]) -> list[str]:
    return [one["error"]["code"] if "error" in one else "answered" for one in found]


def answered(door: Door, body: bytes) -> list[dict]:  # noqa: F811
    sent = send(door, body)
    assert sent.status_code == 202, sent.text
    door.ended(sent.json()["batch"])
    return door.results(sent.json()["batch"])


def test_every_file_is_an_item_under_its_name(door):  # noqa: F811
    """What is wrong with one is its own result; what a system leaves there is no item."""
    found = answered(
        door,
        zipped(
            ("ward/a.png", png(ramp())), ("ward/", b""), ("b.png", b"no picture"), ("__MACOSX/._b.png", b"x"),
            ("c.json", json.dumps({"inputs": {"image": PICTURE}})), ("d.json", b"{broken"), (".DS_Store", b"x"),
            ("e.json", json.dumps({"id": "own", "inputs": {"image": PICTURE}, "patient": "p-7"})),
            ("large.png", random.Random(1).randbytes(2**20 + 1)),
        ),
    )  # fmt: skip
    assert [one["id"] for one in found] == ["ward/a.png", "b.png", "c.json", "d.json", "own", "large.png"]
    assert codes(found)[0] == codes(found)[2] == codes(found)[4] == "answered"
    assert codes(found)[3] == "item-invalid" and codes(found)[5] == "item-too-large" and "error" in found[1]
    assert found[0]["answer"]["outputs"] == found[2]["answer"]["outputs"]


@pytest.mark.parametrize(
    ("kind", "media", "data", "value"),
    [
        ("waveform", "application/octet-stream", b"0     ", {"data": "MCAgICAg"}),
        ("text", "text/plain", b"No fever.", "No fever."),
    ],
)
def test_a_file_is_what_its_model_takes(kind, media, data, value):
    """A recording as its field reads it, words as words."""
    model = spec(inputs=[InputSpec(name="given", kind=kind, shape=(1, 100), media_types=["application/json", media])])
    body = zipped(("a", data))
    (line,) = lines_of(body, members_of(body, most_bytes=MIB, most_items=9), model, most_bytes=MIB)
    assert json.loads(line)["inputs"] == {"given": value}


def test_a_manifest_names_its_files(door):  # noqa: F811
    """In its order, with ids and patients; a file that is not there, or named beside inputs, is one bad result."""
    lines = [
        {"id": "1", "file": "x/a.png", "patient": "p-1"}, item("2"), {"id": "3", "file": "nowhere.png"},
        {"id": "4", "file": "x/a.png", "inputs": {}}, {"id": "5", "file": "manifest.ndjson"},
        {"id": "1", "file": "x/a.png"},
    ]  # fmt: skip
    manifest = "\n".join(map(json.dumps, lines)) + "\n\n{not json\n"
    found = answered(door, zipped(("x/a.png", png(ramp())), ("manifest.ndjson", manifest), ("unused.png", b"x")))
    assert codes(found) == [
        "answered", "answered", "item-file-missing", "item-invalid", "item-file-missing",
        "item-id-taken", "item-invalid",
    ]  # fmt: skip
    assert found[0]["answer"]["outputs"] == found[1]["answer"]["outputs"]


def test_the_client_sends_a_zip_by_its_suffix(door, tmp_path):  # noqa: F811
    (tmp_path / "films.zip").write_bytes(zipped(("a.png", png(ramp()))))
    with Client(door.url, door.keys["a"]) as client:
        assert client.start_batch(tmp_path / "films.zip", model="tiny").items == 1


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def overlapping() -> bytes:
    """Two entries of the directory over one member."""
    body = bytearray(zipped(("a.png", b"x" * 50), how=zipfile.ZIP_STORED))
    at = body.index(b"PK\1\2")
    end = body.index(b"PK\5\6")
    entry = bytes(body[at:end])
    second = entry.replace(b"a.png", b"b.png")
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, 2 * len(entry), at, 0)
    return bytes(body[:at]) + entry + second + tail


def encrypted() -> bytes:
    body = bytearray(zipped(("a.png", b"x")))
    body[body.index(b"PK\1\2") + 8] |= 1
    return bytes(body)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (lambda: b"no archive", 422, "archive-broken"),
        (lambda: zipped(("a.png", b"x"))[:-5], 422, "archive-broken"),
        (lambda: zipped(("../a.png", b"x")), 422, "archive-names"),
        (lambda: zipped(("/etc/passwd", b"x")), 422, "archive-names"),
        (lambda: zipped(("a\\b.png", b"x")), 422, "archive-names"),
        (lambda: zipped(("C:a.png", b"x")), 422, "archive-names"),
        (lambda: zipped(("a/./b.png", b"x")), 422, "archive-names"),
        (lambda: zipped(("a.png", b"x"), ("a.png", b"y")), 422, "archive-names"),
        (lambda: zipped((link("a.png"), b"/etc/passwd")), 422, "archive-names"),
        (lambda: zipped(("n" * 257, b"x")), 422, "archive-names"),
        (lambda: zipped(("a.png", bytes(4 * MIB))), 422, "archive-bomb"),
        (lambda: zipped(*((f"{n}", bytes(900_000)) for n in range(10))), 413, "archive-too-large"),
        (overlapping, 422, "archive-broken"),
        (encrypted, 422, "archive-broken"),
        (lambda: zipped(), 422, "batch-empty"),
        (lambda: bytes(5 * MIB), 413, "body-too-large"),
        (lambda: zipped(("manifest.ndjson", b"")), 422, "batch-empty"),
    ],
)
def test_what_is_no_zip_of_inputs_is_refused_whole_and_leaves_nothing(door, body, status, code):  # noqa: F811
    before = [one["batch"] for one in door.ask("GET", "/v1/batches").json()["batches"]]
    answer = send(door, body())
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert [one["batch"] for one in door.ask("GET", "/v1/batches").json()["batches"]] == before


def test_a_member_that_is_not_as_declared_is_one_bad_result(door):  # noqa: F811
    """Bytes changed on their way, or more than the directory says: the checksum and the size are held to."""
    body = bytearray(zipped(("a.png", png(ramp())), ("b.png", png(ramp())), how=zipfile.ZIP_STORED))
    body[body.index(b"IDAT") + 8] ^= 255
    assert codes(answered(door, bytes(body))) == ["item-broken", "answered"]
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    long = raw.compress(b"x" * MIB) + raw.flush()
    body = bytearray(zipped(("a.png", bytes(len(long))), how=zipfile.ZIP_STORED))
    for head, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        start = body.index(head)
        body[start + at : start + at + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
    at = body.index(bytes(100))
    body[at : at + len(long)] = long
    assert codes(answered(door, bytes(body))) == ["item-broken"]


def test_a_directory_of_millions_is_counted_before_it_is_read():
    """Each entry would become an object of half a kilobyte."""
    body = b"PK\1\2" * 500_000
    began = time.process_time()
    with pytest.raises(MedServeError) as caught:
        members_of(body, most_bytes=2**32, most_items=100_000)
    assert caught.value.code == "batch-too-long" and time.process_time() - began < 5
