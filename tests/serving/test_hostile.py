"""Whatever is sent, the answer is a coded error in one form, and the service still answers afterwards."""

import json
import socket
import struct
import time
import zlib

import numpy as np
import pytest
from tiny_package import SIDE, dicom, noise, png, ramp, raw

PREDICT = "/v1/models/tiny/predict"
COLOUR = np.stack([ramp(), ramp(10, 200), ramp(255, 0)], axis=-1)


def huge_png() -> bytes:
    """A PNG that declares 65535 x 65535 pixels in a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 65535, 65535, 8, 0, 0, 0, 0)
    parts = {b"IHDR": head, b"IDAT": zlib.compress(bytes(99)), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts.items())


def wrapped(value: object) -> bytes:
    return json.dumps(value).encode()


BODIES = {
    "empty": (b"", "image/png", 422, "file-empty"),
    "text renamed": (b"these are words", "image/png", 422, "format-unknown"),
    "truncated png": (png(ramp())[:-30], "image/png", 422, None),
    "truncated jpeg": (png(noise(), "JPEG")[:300], "image/jpeg", 422, None),
    "truncated dicom": (dicom(ramp())[:-300], "application/dicom", 422, None),
    "65535 x 65535": (huge_png(), "image/png", 422, "image-too-large"),
    "wrong modality": (dicom(ramp(), modality="MR"), "application/dicom", 422, "wrong-modality"),
    "colour": (png(COLOUR), "image/png", 422, "wrong-colour"),
    "blank": (png(np.full((SIDE, SIDE), 9, np.uint8)), "image/png", 422, "image-blank"),
    "out of distribution": (png(noise()), "image/png", 422, "out-of-distribution"),
    "jpeg called png": (png(ramp(), "JPEG"), "image/png", 415, "media-type-mismatch"),
    "tiff called png": (png(ramp(), "TIFF"), "image/png", 415, "media-type"),
    "text": (b"hello", "text/plain", 415, "media-type"),
    "curl's own type": (png(ramp()), "application/x-www-form-urlencoded", 415, "media-type"),
    "bad json": (b"{", "application/json", 400, "json-invalid"),
    "json of another shape": (wrapped([1, 2]), "application/json", 400, "json-invalid"),
    "json with more": (wrapped({"inputs": {}, "debug": True}), "application/json", 400, "json-invalid"),
    "json, no base64": (wrapped({"inputs": {"image": "***"}}), "application/json", 400, "json-invalid"),
    "json, another input": (wrapped({"inputs": {"film": ""}}), "application/json", 422, "inputs-mismatch"),
    "deep json": (b'{"inputs":' + b"[" * 100_000, "application/json", 400, "json-invalid"),
    "no utf-8": (b'{"inputs": {"\xff": ""}}', "application/json", 400, "json-invalid"),
    "json, tiff inside": (wrapped({"inputs": {"image": "SUkqAAgAAAAAAAAA"}}), "application/json", 415, "media-type"),
    "oversize": (b"\x89PNG\r\n\x1a\n" + bytes(3 * 2**20), "image/png", 413, "body-too-large"),
}


def still_answers(running) -> None:
    with running.http() as http:
        got = http.post(PREDICT, content=png(ramp()), headers={"content-type": "image/png"})
    assert got.status_code == 200


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_is_refused_with_its_code(running, http, name):
    """One form of error, a stable code, a trace, no traceback; then the service answers a good one."""
    body, media, status, code = BODIES[name]
    got = http.post(PREDICT, content=body, headers={"content-type": media})
    error = got.json()["error"]
    assert got.status_code == status, error
    assert set(got.json()) == {"error", "trace"}
    assert set(error) == {"code", "message", "hint", "kind"}
    assert code is None or error["code"] == code
    assert error["code"] != "internal" and "Traceback" not in got.text
    assert got.headers["x-trace-id"] == got.json()["trace"]
    still_answers(running)


def test_a_body_of_unknown_length_is_cut_at_the_limit(running, http):
    """Chunked, without Content-Length: refused once it is too long, however much would follow."""
    sent = 0

    def endless():
        nonlocal sent
        while sent < 200 * 2**20:
            sent += 65536
            yield bytes(65536)

    got = http.post(PREDICT, content=endless(), headers={"content-type": "image/png"})
    assert (got.status_code, got.json()["error"]["code"]) == (413, "body-too-large")
    still_answers(running)


def test_a_declared_length_that_is_too_large_is_refused_before_the_first_byte(running):
    """The answer comes although no byte of the body was sent."""
    head = (
        f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\ncontent-type: image/png\r\n"
        "content-length: 99999999999\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as sock:
        sock.sendall(head.encode())
        assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")
    still_answers(running)


def test_a_stalled_body_is_given_up(running):
    """Half a body, then silence: 408 after the stall time, and the room it held is free again."""
    head = (
        f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\ncontent-type: image/png\r\n"
        "content-length: 1000\r\nconnection: close\r\n\r\n"
    )
    began = time.monotonic()
    answer = raw(running.port, head.encode() + bytes(500))
    assert answer.startswith(b"HTTP/1.1 408 ") and b"body-slow" in answer
    assert 0.4 < time.monotonic() - began < 5
    assert running.application.admission.requests == 0
    still_answers(running)


def test_a_dripping_body_is_given_up(running):
    """A byte now and then is no progress: a body has to keep a least rate."""
    head = (
        f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\ncontent-type: image/png\r\n"
        "content-length: 100000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as sock:
        sock.sendall(head.encode())
        sock.settimeout(0.1)
        answer = b""
        for _ in range(50):
            sock.sendall(b"x")
            try:
                answer = sock.recv(65536)
                break
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")
    still_answers(running)


def test_a_client_that_leaves_takes_its_work_with_it(running):
    """The connection closes in the middle of a body; the log says 499 and no room stays taken."""
    head = (
        f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\ncontent-type: image/png\r\n"
        "content-length: 1000\r\n\r\n"
    )
    before = len(running.lines())
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as sock:
        sock.sendall(head.encode() + bytes(10))
        time.sleep(0.1)
    for _ in range(100):
        if any(line.get("code") == "client-left" and line["status"] == 499 for line in running.lines()[before:]):
            break
        time.sleep(0.02)
    else:
        pytest.fail("the log does not say that the client left")
    assert running.application.admission.requests == 0
    still_answers(running)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),  # a TLS client
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 100_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000, 431),
    ],
)
def test_what_is_no_request_is_answered_in_json_and_disconnected(running, data, status):
    """Another protocol, request smuggling, endless headers."""
    answer = raw(running.port, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert set(json.loads(body)) == {"error", "trace"}
    said = head.lower().split(b"\r\n")
    assert b"x-content-type-options: nosniff" in said and b"cache-control: no-store" in said
    still_answers(running)


def test_a_request_that_never_ends_its_headers_is_disconnected(running, monkeypatch):
    """Silent and dripping connections are closed when the time for a head is over."""
    monkeypatch.setattr("medserve.serving.http.HEAD_S", 0.4)
    began = time.monotonic()
    assert raw(running.port, b"") == b""
    assert b" 408 " in raw(running.port, b"GET / HTTP/1.1\r\nhost: x\r\n").partition(b"\r\n")[0]
    assert time.monotonic() - began < 5
    still_answers(running)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", PREDICT, {}, 405, "method-not-allowed"),
        ("DELETE", "/v1/models", {}, 405, "method-not-allowed"),
        ("POST", "/v1/models/nope/predict", {}, 404, "unknown-model"),
        ("POST", "/v1/models/tiny/versions/9/predict", {}, 404, "unknown-version"),
        ("GET", "/v1/models/nope", {}, 404, "unknown-model"),
        ("GET", "/v1/nothing", {}, 404, "unknown-address"),
        ("POST", PREDICT + "?explain=integrated-gradients", {}, 400, "explanation-not-offered"),
        ("POST", PREDICT + "?explain=", {}, 400, "explanation-not-offered"),
        ("POST", PREDICT + "?explain=cam&explain=cam", {}, 400, "query-invalid"),
        ("POST", PREDICT + "?debug=1", {}, 400, "query-invalid"),
        ("POST", PREDICT + "?" + "&".join(f"a{i}=1" for i in range(99)), {}, 400, "query-invalid"),
        ("POST", PREDICT, {"x-request-deadline-ms": "soon"}, 400, "deadline-invalid"),
        ("POST", PREDICT, {"x-request-deadline-ms": "-5"}, 400, "deadline-invalid"),
        ("POST", PREDICT, {"content-type": ""}, 415, "media-type"),
    ],
)
def test_a_wrong_question_is_told_what_was_expected(http, method, path, headers, status, code):
    """Methods, names, versions, parameters, headers."""
    got = http.request(method, path, content=png(ramp()), headers={"content-type": "image/png"} | headers)
    assert (got.status_code, got.json()["error"]["code"]) == (status, code), got.text
    if status == 405:
        assert got.headers["allow"] == ("POST" if path == PREDICT else "GET")


def test_a_seeded_storm_of_damaged_files_never_breaks_it(running, http):
    """300 mutations of a PNG and a DICOM file: answered, or refused with 415 or 422; never 500, never a hang."""
    rng = np.random.default_rng(0)
    whole = {"image/png": png(ramp()), "application/dicom": dicom(ramp())}
    for _ in range(150):
        for media, data in whole.items():
            broken = bytearray(data)
            for at in rng.integers(0, len(broken), rng.integers(1, 12)):
                broken[at] = rng.integers(0, 256)
            cut = rng.integers(1, len(broken) + 1) if rng.random() < 0.3 else len(broken)
            got = http.post(PREDICT, content=bytes(broken[:cut]), headers={"content-type": media})
            assert got.status_code in (200, 415, 422), got.text
    still_answers(running)
