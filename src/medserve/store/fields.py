"""Short identifying columns: encrypted for display, with a blind index for equality search.

    names = vault.fields("cardiology", "people.name")
    db.execute(people.insert().values(name=names.seal("Maria Muster"), name_index=names.index("Maria Muster")))
    db.execute(sa.select(people).where(people.c.name_index == names.index("Maria Muster")))
    names.open(row.name)                                   # "Maria Muster"

A value is bound to tenant, column and, where given, patient. The blind index is HMAC-SHA-256 under a key of the
tenant: equal texts (after Unicode NFC and without surrounding white space) of one column and tenant meet, so the
index shows how often a value occurs, and nothing more without the key.
Source: NIST SP 800-38D (AES-GCM), RFC 5869 (HKDF), RFC 5652 section 6.3 (padding: lengths show in steps of 32 bytes).
"""

import secrets
import unicodedata

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from medserve.errors import Fault, Usage
from medserve.store.keyring import blind
from medserve.store.wrap import KEY_BYTES, NONCE_BYTES, binding

_FORMAT = b"\x01"
_STEP_BITS = 256
MAX_TEXT = 4096  # characters


class Fields:
    """Encrypts one column of one tenant; made by `Vault.fields`. Its repr shows no key."""

    def __init__(self, tenant: str, column: str, key: bytes, index: bytes, *, owner: str = "") -> None:
        self._bound, self._column, self._index = binding("field", tenant, column, owner), column, index
        kdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=binding("field key", column))
        self._cipher = AESGCM(kdf.derive(key))

    def seal(self, text: str) -> bytes:
        """Raises: Usage "field-long"."""
        if len(text) > MAX_TEXT:
            raise Usage("field-long", f"A field has at most {MAX_TEXT} characters.", hint="Store it as an object.")
        pad = padding.PKCS7(_STEP_BITS).padder()
        nonce = secrets.token_bytes(NONCE_BYTES)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, pad.update(text.encode()) + pad.finalize(), self._bound)

    def open(self, sealed: bytes) -> str:
        """Raises: Fault "field-damaged": altered, or of another tenant, column or patient."""
        start = len(_FORMAT) + NONCE_BYTES
        try:
            if sealed[:1] != _FORMAT:
                raise ValueError
            padded = self._cipher.decrypt(sealed[1:start], sealed[start:], self._bound)
            pad = padding.PKCS7(_STEP_BITS).unpadder()
            return (pad.update(padded) + pad.finalize()).decode()
        except (InvalidTag, ValueError):
            raise Fault(
                "field-damaged",
                f"A value of {self._column} does not open: altered, or of another tenant, column or patient.",
                hint="Restore the row from a backup.",
            ) from None

    def index(self, text: str) -> bytes:
        """32 bytes for an equality search."""
        return blind(self._index, "field " + self._column, unicodedata.normalize("NFC", text))
