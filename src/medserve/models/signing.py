"""Who made a package: Ed25519 signatures and the local list of trusted signers.

    key = Signer.load(settings)              # made on first use, MEDSERVE_HOME/keys/signing.pem, 0600
    signature = key.sign(manifest_bytes)
    Trust.load(settings).verify(manifest_bytes, signature, key.public)

A package from elsewhere is accepted once its signer's public key stands in MEDSERVE_HOME/trusted/NAME.pub (base64).
"""

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medserve.errors import BadPackage, Fault
from medserve.settings import Settings
from medserve.store.files import write_once


@dataclass(frozen=True, slots=True)
class Signer:
    """This machine's signing key. `public` is the base64 of its 32 raw bytes."""

    _key: Ed25519PrivateKey

    @classmethod
    def load(cls, settings: Settings) -> "Signer":
        """Raises: Fault "key-exposed": others can read the private key. Fault "key-unreadable"."""
        path = settings.folder("keys") / "signing.pem"
        if not path.exists():
            pem = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_once(path, pem)
        if path.stat().st_mode & 0o077:
            raise Fault("key-exposed", f"{path} can be read by others.", hint=f"Run: chmod 600 {path}")
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise Fault("key-unreadable", f"{path} is not an Ed25519 key.", hint="Move it away; a new one is made.")
        return cls(key)

    @property
    def public(self) -> str:
        raw = self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return base64.b64encode(raw).decode()

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


@dataclass(frozen=True, slots=True)
class Trust:
    """Public keys (base64) whose packages this machine opens, with the names they are kept under."""

    signers: dict[str, str]

    @classmethod
    def load(cls, settings: Settings) -> "Trust":
        """This machine's own key, and every MEDSERVE_HOME/trusted/*.pub."""
        signers = {Signer.load(settings).public: "this machine"}
        for path in sorted(settings.folder("trusted").glob("*.pub")):
            signers[path.read_text().strip()] = path.stem
        return cls(signers)

    def verify(self, message: bytes, signature: bytes, public: str, *, what: Path) -> str:
        """Returns: the signer's local name.

        Raises: BadPackage "package-signer" for a stranger, "package-signature" for a wrong signature.
        """
        if public not in self.signers:
            raise BadPackage(
                "package-signer",
                f"{what} is signed by {public[:12]}..., who is not in the trusted list.",
                hint="If you trust the sender, save the public key as MEDSERVE_HOME/trusted/NAME.pub.",
            )
        try:
            Ed25519PublicKey.from_public_bytes(base64.b64decode(public, validate=True)).verify(signature, message)
        except (InvalidSignature, ValueError, binascii.Error) as error:
            raise BadPackage(
                "package-signature",
                f"The signature of {what} does not match its manifest.",
                hint="The package was altered; fetch it again from where it was made.",
            ) from error
        return self.signers[public]
