"""TLS of the service: what is offered, what is not, and who gets in."""

import socket
import ssl
import sys
import time
from pathlib import Path

import httpx2
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from tiny_package import png, ramp, serving, write_package

from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.cli.serve import serve
from medserve.errors import Fault, Usage
from medserve.serving import server
from medserve.serving.tls import Tls, _make
from medserve.settings import Settings


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secured(home):
    """(port, key, certificate) of a service under a self-signed certificate."""
    tls = Tls.self_signed(home, ["ward.example", "10.1.2.3"])
    ring = KeyRing.open(home)
    key = ring.create("tls").key
    with serving(build(home, [write_package(home.home / "m", home)], keys=ring, threads=1), tls) as port:
        yield port, key, tls.certificate
    ring.close()


def _trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


def test_an_answer_over_tls_says_that_it_stays_so(secured):
    port, key, certificate = secured
    headers = {"authorization": f"Bearer {key}", "content-type": "image/png"}
    with httpx2.Client(verify=_trusting(certificate), headers=headers) as client:
        answer = client.post(f"https://localhost:{port}/v1/models/tiny/predict", content=png(ramp()))
    assert answer.status_code == 200
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_who_does_not_know_the_certificate_is_warned(secured):
    with pytest.raises(httpx2.ConnectError, match="(?i)certificate"):
        httpx2.get(f"https://localhost:{secured[0]}/v2/health/live")


def test_a_handshake_that_does_not_come_is_given_up(home, monkeypatch):
    """After `HEAD_S`; others are served meanwhile."""
    monkeypatch.setattr(server, "HEAD_S", 1.0)
    tls, ring = Tls.self_signed(home, ["localhost"]), KeyRing.open(home)
    with serving(build(home, [write_package(home.home / "slow", home)], keys=ring, threads=1), tls) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=8) as silent:
            url = f"https://localhost:{port}/v2/health/live"
            assert httpx2.get(url, verify=_trusting(tls.certificate)).status_code == 200
            began = time.monotonic()
            assert silent.recv(1) == b"" and time.monotonic() - began < 5
    ring.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_and_ciphers(secured, version):
    context = _trusting(secured[2])
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("localhost", secured[0])) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
            name, protocol, _ = wrapped.cipher()
            assert "GCM" in name or "CHACHA20" in name
            assert wrapped.compression() is None
            assert protocol == wrapped.version() == {771: "TLSv1.2", 772: "TLSv1.3"}[int(version)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("ciphers", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256"])
def test_what_is_weak_is_not_spoken(secured, ciphers):
    """Without forward secrecy, or without AEAD."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers + ":@SECLEVEL=0")
    with socket.create_connection(("localhost", secured[0])) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


def test_the_own_certificate_names_its_hosts_and_is_kept(home):
    one, two = Tls.self_signed(home, ["ward.example"]), Tls.self_signed(home, ["ward.example"])
    assert one.certificate.read_bytes() == two.certificate.read_bytes()
    assert "self-signed" in one.warning and one.key.stat().st_mode & 0o077 == 0
    assert one.context().minimum_version == ssl.TLSVersion.TLSv1_2
    found = x509.load_pem_x509_certificate(one.certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "ward.example"} <= set(names.get_values_for_type(x509.DNSName))


def test_mutual_tls_asks_for_a_certificate(home, tmp_path):
    client = tmp_path / "client.pem"
    client.write_bytes(_make(["localhost"], ExtendedKeyUsageOID.CLIENT_AUTH))
    tls = Tls.self_signed(home, [], clients=client)
    ring = KeyRing.open(home)
    with serving(build(home, [write_package(tmp_path / "m", home)], keys=ring, threads=1), tls) as port:
        context = _trusting(tls.certificate)
        with pytest.raises((httpx2.TransportError, ssl.SSLError)):
            httpx2.get(f"https://localhost:{port}/v2/health/live", verify=context)
        context.load_cert_chain(client)
        assert httpx2.get(f"https://localhost:{port}/v2/health/live", verify=context).status_code == 200
    ring.close()


def test_unusable_files_are_refused_by_name(home, tmp_path):
    with pytest.raises(Usage, match="no file"):
        Tls.of(tmp_path / "none.pem")
    text = tmp_path / "text.pem"
    text.write_text("not a certificate")
    text.chmod(0o600)
    with pytest.raises(Usage, match="not a certificate"):
        Tls.of(text)
    locked = tmp_path / "locked.pem"  # it would be asked for at a keyboard that nobody sits at
    private = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    locked.write_bytes(
        private.private_bytes(*form, serialization.BestAvailableEncryption(b"words"))
        + Tls.self_signed(home, []).certificate.read_bytes()
    )
    locked.chmod(0o600)
    with pytest.raises(Usage, match="not a certificate") as refused:
        Tls.of(locked)
    assert "without a passphrase" in refused.value.hint
    text.chmod(0o644)
    with pytest.raises(Fault, match="chmod 600"):
        Tls.of(text)


def test_a_certificate_of_ones_own_and_a_made_one_are_not_both_taken(home):
    with pytest.raises(Usage) as refused:
        serve(tls="self-signed", tls_cert=home.home / "keys" / "tls.pem", home=home.home)
    assert refused.value.code == "tls-twice"
