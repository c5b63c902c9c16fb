"""TLS of the service: a hospital's own certificate, or a self-signed one for the first day.

    tls = Tls.of(Path("server.pem"), Path("server.key"))
    tls = Tls.self_signed(settings, ["ward.example"])        # made once, MEDSERVE_HOME/keys/tls.pem; says so loudly
    context = tls.context()                                  # TLS 1.2 and 1.3, forward secrecy and AEAD only

With `clients` only those with a certificate of that authority get as far as a request (mutual TLS).
"""

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from medserve.errors import Fault, Usage
from medserve.settings import Settings
from medserve.store.files import write_once

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all of this kind
DAYS = 90  # of a self-signed certificate


@dataclass(frozen=True, slots=True)
class Tls:
    """certificate: PEM, with its chain. key: PEM; may be the same file. clients: PEM of an authority, or None."""

    certificate: Path
    key: Path
    clients: Path | None = None
    warning: str = ""

    @classmethod
    def of(cls, certificate: Path, key: Path | None = None, clients: Path | None = None) -> "Tls":
        """Raises: Usage "tls-file"; Fault "key-exposed": others can read the private key."""
        key = key or certificate
        for path in (certificate, key, *([clients] if clients else [])):
            if not path.is_file():
                raise Usage("tls-file", f"There is no file {path}.", hint="Name PEM files: --tls-cert, --tls-key.")
        if key.stat().st_mode & 0o077:
            raise Fault("key-exposed", f"{key} can be read by others.", hint=f"Run: chmod 600 {key}")
        made = cls(certificate, key, clients)
        made.context()
        return made

    @classmethod
    def self_signed(cls, settings: Settings, names: Sequence[str], clients: Path | None = None) -> "Tls":
        """This machine's own certificate, for `names` and loopback; it proves nothing to who does not know it."""
        path = settings.folder("keys") / "tls.pem"
        if path.exists() and (_ended(path) or not _names(path) >= {str(_named(n).value) for n in names}):
            path.unlink()
        write_once(path, _make(["localhost", "127.0.0.1", "::1", *names]))
        made = cls.of(path, path, clients)
        warning = (
            f"The certificate {path} is self-signed: clients have to be given it by hand. "
            "Use one of your own authority: --tls-cert FILE --tls-key FILE"
        )
        return cls(made.certificate, made.key, clients, warning)

    def context(self) -> ssl.SSLContext:
        """Raises: Usage "tls-file": not a certificate with its key."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        try:
            # a key under a passphrase is refused below: nobody is there to type it
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
            if self.clients is not None:
                context.load_verify_locations(self.clients)
                context.verify_mode = ssl.CERT_REQUIRED
        except (ssl.SSLError, OSError) as error:
            raise Usage(
                "tls-file",
                f"{self.certificate} and {self.key} are not a certificate and its private key.",
                hint="PEM files, the certificate with its chain; the key without a passphrase.",
            ) from error
        return context


def _ended(path: Path) -> bool:
    """Within a week of its end, or broken."""
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        return True
    return found.not_valid_after_utc < datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=7)


def _make(names: Sequence[str], usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH) -> bytes:
    """A private key and a certificate for it, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "MedServe, self-signed")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName([_named(n) for n in dict.fromkeys(names)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form) + certificate.public_bytes(serialization.Encoding.PEM)


def _named(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise Usage("tls-file", f"{name!r} cannot stand in a certificate.", hint="Write it in ASCII.") from error


def _names(path: Path) -> set[str]:
    found = x509.load_pem_x509_certificate(path.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}
