"""Blobs in an S3-compatible bucket. The bucket is a stand-in (moto's server): our side of the talk is tested."""

import contextlib
import datetime
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import obstore
import pytest
from obstore.store import S3Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from throwaway_bucket import new_bucket

from medserve.errors import Fault, Gone, MedServeError, NotFound, Usage
from medserve.settings import Settings
from medserve.store import bucket as bucket_module
from medserve.store.backup import make_backup
from medserve.store.bucket import Bucket, BucketFault, BucketIncoming
from medserve.store.packages import PackageRow, Shelf
from medserve.store.vault import Vault


@pytest.mark.parametrize(
    ("blobs", "endpoint", "code"),
    [
        ("file:///tmp", "", "blobs-address"),
        ("s3://", "", "blobs-address"),
        ("s3://bucket/../../etc passwd", "", "blobs-address"),
        ("s3://bucket", "http://s3.clinic", "blobs-without-tls"),
        ("s3://bucket", "ftp://127.0.0.1", "blobs-without-tls"),
    ],
)
def test_an_address_that_is_none_or_can_be_read_on_the_way(tmp_path, blobs, endpoint, code):
    """Another machine is spoken to over TLS alone."""
    with pytest.raises(Usage) as caught:
        Bucket.open(Settings(home=tmp_path, blobs=blobs), {"AWS_ENDPOINT_URL": endpoint})
    assert caught.value.code == code


class Plain(BaseHTTPRequestHandler):
    """A machine that listens to who speaks without TLS."""

    heard: ClassVar[list[str]] = []

    def do_GET(self):
        self.heard.append(self.path)
        self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    "name", ["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_endpoint", "AWS_Endpoint_Url"]
)
def test_no_variable_leads_around_tls(tmp_path, monkeypatch, name):
    """Every name that the client reads an endpoint by is checked, whatever AWS_ALLOW_HTTP says."""
    monkeypatch.setenv(name, "http://s3.clinic")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    with pytest.raises(Usage) as caught:
        Bucket.open(Settings(home=tmp_path, blobs="s3://bucket"))
    assert caught.value.code == "blobs-without-tls"


def test_allow_http_of_the_environment_does_not_count(tmp_path, monkeypatch):
    """An https endpoint is spoken to with TLS alone; the client's own variables would let it speak plainly."""
    server = HTTPServer(("127.0.0.1", 0), Plain)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for said in ("AWS_ALLOW_HTTP", "AWS_ALLOW_INVALID_CERTIFICATES"):
        monkeypatch.setenv(said, "true")
    for said in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(said, "no-secret")
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT", url)
    plain = S3Store("bucket", region="us-east-1", virtual_hosted_style_request=False)
    with contextlib.suppress(FileNotFoundError):
        obstore.get(plain, "x")
    assert Plain.heard  # so it would be
    Plain.heard.clear()
    monkeypatch.setenv("AWS_ENDPOINT", url.replace("http:", "https:"))
    bucket = Bucket.open(Settings(home=tmp_path, blobs="s3://bucket"))
    monkeypatch.setattr(bucket_module, "_named", lambda env: "")  # as where no endpoint is named
    unnamed = Bucket.open(Settings(home=tmp_path, blobs="s3://bucket"))
    for found in (bucket, unnamed):
        assert found._store.client_options["allow_http"] in (False, "false")
        assert found._store.client_options["allow_invalid_certificates"] in (False, "false")
    server.shutdown()
    server.server_close()


def test_without_an_address_there_is_no_bucket(tmp_path):
    assert Bucket.open(Settings(home=tmp_path), {}) is None


def test_a_backup_that_would_be_half_of_one_is_refused(tmp_path):
    """The command copies this disk; what lies in the bucket is not on it."""
    settings = Settings(home=tmp_path / "home", blobs="s3://bucket")
    with pytest.raises(Usage) as caught:
        make_backup(settings, tmp_path / "out", passphrase=None, still=lambda: None)
    assert caught.value.code == "backup-bucket" and not (tmp_path / "out").exists()


@pytest.fixture
def home(tmp_path, monkeypatch):
    with new_bucket() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield Settings(home=tmp_path / "home", blobs=variables["MEDSERVE_BLOBS"])


def names(settings: Settings) -> list[str]:
    found = Bucket.open(settings)
    assert found is not None
    return sorted(name for name, _ in found.names(""))


@pytest.mark.slow
def test_objects_lie_in_the_bucket_encrypted_and_nowhere_else(home):
    """Small and of many segments; the plaintext is in neither place; erased means gone from the bucket."""
    vault = Vault.open(home)
    small, large = b"Potassium 5.1", b"Potassium" + bytes(range(256)) * 8_000
    refs = [vault.put("ward", "p-1", data) for data in (small, large, b"")]
    assert [vault.get("ward", ref.object) for ref in refs] == [small, large, b""]
    assert names(home) == sorted(f"objects/{r.object[:2]}/{r.object}.1" for r in refs)
    store = Bucket.open(home)
    assert all(b"Potassium" not in store.read(name, 2**25) for name in names(home))
    assert not [path for path in home.folder("objects").rglob("*") if path.is_file()]
    other = Vault.open(home)
    vault.erase("ward", "p-1")
    assert names(home) == []
    for one in (vault, other):
        with pytest.raises(Gone):
            one.get("ward", refs[0].object)
        one.close()


@pytest.mark.slow
def test_a_writer_that_died_leaves_nothing_visible_and_is_swept(home, monkeypatch):
    """Whole in the bucket, without a row: unknown at once, removed once its mark is old; a committed one stays."""
    vault = Vault.open(home)
    kept = vault.put("ward", "p", b"kept")
    with monkeypatch.context() as patch:
        patch.setattr(BucketIncoming, "settle", lambda self: self._held.close())  # died after its row
        late = vault.put("ward", "p", b"late")
    dead = vault.files.incoming("aa11.1")  # died before its row
    dead.write(b"whole")
    dead.publish()
    dead._held.close()
    assert len(names(home)) == 5 and vault.repair() == 0
    with pytest.raises(NotFound):
        vault.get("ward", "aa11")
    monkeypatch.setattr(bucket_module, "DEAD_S", -60.0)
    assert vault.repair() == 2
    assert names(home) == sorted(f"objects/{r.object[:2]}/{r.object}.1" for r in (kept, late))
    assert vault.get("ward", late.object) == b"late"
    vault.close()


@pytest.mark.slow
def test_a_second_writer_of_a_version_does_not_touch_the_first(home):
    """The name is taken: told so, and the first one's bytes stay when it discards its own."""
    vault = Vault.open(home)
    ref = vault.put("ward", "p", b"first")
    second = vault.files.incoming(f"{ref.object}.1")
    second.write(b"second")
    with pytest.raises(Usage) as caught:
        second.publish()
    assert caught.value.code == "object-conflict"
    second.discard()
    assert vault.get("ward", ref.object) == b"first" and len(names(home)) == 1
    vault.close()


@pytest.mark.slow
def test_what_was_changed_in_the_bucket_does_not_open(home):
    """A bucket is trusted with nothing: other bytes, fewer bytes, no bytes are damage, and are never given out."""
    vault = Vault.open(home)
    ref = vault.put("ward", "p", b"x" * 1000)
    (name,) = names(home)
    store = Bucket.open(home)
    sealed = store.read(name, 2**20)
    for bad in (sealed[:-1], bytes([sealed[0] ^ 1]) + sealed[1:], b""):
        store.put(name, bad, new=False)
        with pytest.raises(Fault) as caught:
            vault.get("ward", ref.object)
        assert caught.value.code == "object-damaged"
    store.remove(name)
    with pytest.raises(Fault):
        vault.get("ward", ref.object)
    vault.close()


@pytest.mark.slow
def test_a_bucket_that_is_away_is_said_to_be_and_no_secret_with_it(home, monkeypatch):
    """Nothing half stored; the code says what to look at."""
    vault = Vault.open(home)
    gone = S3Store("bucket", endpoint="http://127.0.0.1:9", virtual_hosted_style_request=False,
                   client_options={"allow_http": True}, retry_config={"max_retries": 0,
                   "retry_timeout": datetime.timedelta(seconds=1)})  # fmt: skip
    monkeypatch.setattr(vault.files._bucket, "_store", gone)
    with pytest.raises(BucketFault) as caught:
        vault.put("ward", "p", b"x")
    assert caught.value.code == "blobs-unreachable" and caught.value.status == 503
    assert "stand-in" not in str(caught.value)
    assert vault.status()["objects"] == 0
    vault.close()


@pytest.mark.slow
def test_a_package_placed_here_is_fetched_there(home, tmp_path):
    """Another home over the same bucket; one that the bucket lacks is unknown."""
    shelf = Shelf(home)
    work = shelf.staging() / "x" / "package"
    (work / "sub").mkdir(parents=True)
    (work / "model.json").write_bytes(b"{}")
    (work / "sub" / "weights").write_bytes(bytes(3000))
    shelf.place(work, "ward", "sha256:" + "a" * 64)
    there = Shelf(Settings(home=tmp_path / "there", blobs=home.blobs))

    def row(digest: str) -> PackageRow:
        return PackageRow("ward", digest, "n", "1", 1, "s", "published", "k", "k", 0.0)

    out = there.fetched(row("sha256:" + "a" * 64))
    assert out.is_relative_to(tmp_path / "there") and (out / "sub" / "weights").read_bytes() == bytes(3000)
    with pytest.raises(MedServeError):
        there.fetched(row("sha256:" + "b" * 64))
    assert not list(there.staging().iterdir())
    shelf.close()
    there.close()
