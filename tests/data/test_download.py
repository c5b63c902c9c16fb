"""Downloads against a real server on this machine: checked, capped, resumed, whole or absent."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from medserve.data.download import DATASETS, Source, download, fetch, matches
from medserve.errors import MedServeError

BODY = bytes(range(256)) * 2000
GOOD = "sha256:" + hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/file honours ranges; /whole ignores them; /break sends half; /liar misplaces ranges; /loop, /away redirect."""

    def do_GET(self):
        server = self.server
        start = int(m.group(1)) if (m := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        server.seen.append((self.path, start))
        if self.path in ("/loop", "/away", "/hop"):
            self.send_response(302)
            self.send_header(
                "Location", {"/loop": "/loop", "/away": "http://example.com/x", "/hop": "/file"}[self.path]
            )
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/gone":
            self.send_error(404)
            return
        if self.path == "/whole":
            start = 0
        if start >= len(BODY):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = BODY[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            at = 0 if self.path == "/liar" else start
            self.send_header("Content-Range", f"bytes {at}-{len(BODY) - 1}/{len(BODY)}")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/break" else body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def at(server):
    server.seen.clear()
    return f"http://127.0.0.1:{server.server_port}"


def code_of(url, out, **more):
    with pytest.raises(MedServeError) as caught:
        download(url, out, **{"digest": GOOD} | more)
    return caught.value.code


def test_a_file_arrives_whole_and_checked(at, server, tmp_path):
    """Bytes, digest, no partial file; a redirect on this machine is followed."""
    assert download(f"{at}/hop", tmp_path / "new" / "x.bin", digest=GOOD).read_bytes() == BODY
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.bin"]
    md5 = "md5:" + hashlib.md5(BODY, usedforsecurity=False).hexdigest()
    assert matches(tmp_path / "new" / "x.bin", md5)


def test_wrong_bytes_are_removed(at, tmp_path):
    """Another digest than published: an error, and nothing stays."""
    assert code_of(f"{at}/file", tmp_path / "x.bin", digest="sha256:" + "0" * 64) == "checksum-mismatch"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("path", "starts"), [("/file", [1000]), ("/whole", [1000])])
def test_a_partial_file_is_continued(at, server, tmp_path, path, starts):
    """What is there is not loaded again; a server without ranges sends all, which is fine too."""
    (tmp_path / "x.bin.part").write_bytes(BODY[:1000])
    assert download(at + path, tmp_path / "x.bin", digest=GOOD).read_bytes() == BODY
    assert [start for _, start in server.seen] == starts


def test_a_complete_partial_file_is_accepted(at, tmp_path):
    """All bytes are here already: the server says so (416) and the digest decides."""
    (tmp_path / "x.bin.part").write_bytes(BODY)
    assert download(f"{at}/file", tmp_path / "x.bin", digest=GOOD).read_bytes() == BODY


def test_a_connection_that_breaks_is_tried_again_from_there(at, server, tmp_path):
    """Each attempt goes on where the last one broke; when all fail, what came is kept for the next call."""
    assert code_of(f"{at}/break", tmp_path / "x.bin") == "download-failed"
    starts = [start for _, start in server.seen]
    assert len(starts) == 3 and starts == sorted(set(starts)) and starts[1] > 0
    assert (tmp_path / "x.bin.part").stat().st_size > starts[-1] and not (tmp_path / "x.bin").exists()
    assert download(f"{at}/file", tmp_path / "x.bin", digest=GOOD).read_bytes() == BODY


def test_what_must_not_be_loaded_is_not(at, server, tmp_path):
    """Too large, plain http elsewhere (also behind a redirect), endless redirects, other schemes, a vague digest."""
    out = tmp_path / "x.bin"
    assert code_of(f"{at}/file", out, max_bytes=1000) == "download-too-large"
    assert code_of(f"{at}/away", out) == "download-url"
    assert code_of(f"{at}/loop", out) == "download-failed"
    assert code_of(f"{at}/gone", out) == "download-failed"
    assert code_of("http://example.com/x", out) == "download-url"
    assert code_of("file:///etc/hostname", out) == "download-url"
    assert code_of(f"{at}/file", out, digest="sha256:abc") == "digest-unknown"
    (tmp_path / "x.bin.part").write_bytes(BODY[:10])
    assert code_of(f"{at}/liar", out) == "download-failed"
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_is_not_there(tmp_path):
    """A closed port is a coded error with the next step."""
    assert code_of("http://127.0.0.1:9/x", tmp_path / "x.bin", attempts=1) == "download-failed"


def test_a_known_data_set_is_loaded_once(at, server, tmp_path):
    """The second call finds the right file and asks nobody; a damaged copy is loaded again."""
    source = Source(f"{at}/file", GOOD, 2**20, "CC0", "none")
    out = fetch(source, tmp_path / "x.bin")
    fetch(source, out)
    assert len(server.seen) == 1
    out.write_bytes(b"damaged")
    assert fetch(source, out).read_bytes() == BODY


def test_the_published_digest_is_pinned():
    """PneumoniaMNIST of Zenodo record 10519652, MD5 as MedMNIST publishes it."""
    known = DATASETS["pneumoniamnist"]
    assert known.url == "https://zenodo.org/records/10519652/files/pneumoniamnist.npz"
    assert known.digest == "md5:28209eda62fecd6e6a2d98b1501bb15f"
