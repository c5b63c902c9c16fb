"""Keys under keys: AES-256-GCM, bound to what the key is for.

    outer = LocalKey(new_key())
    wrapped = outer.wrap(inner, binding("patient", tenant, name, id))
    inner = outer.unwrap(wrapped, binding("patient", tenant, name, id))      # other words: Fault "key-damaged"

A wrapped key is nonce (12 bytes, random) + key (32) + tag (16). Random nonces are safe to about
2**32 keys under one key.
Source: NIST SP 800-38D, sections 5.2.1.1 and 8.2.2; the associated data is the caller's `binding`.
"""

import secrets
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from medserve.errors import Fault

KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
WRAPPED_BYTES = NONCE_BYTES + KEY_BYTES + TAG_BYTES
DESTROYED = bytes(WRAPPED_BYTES)  # what stands where a wrapped key stood


class Wrapper(Protocol):
    """Something that can wrap keys; it may live in this process or in a hardware module."""

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        """Returns: WRAPPED_BYTES bytes."""
        ...

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """Raises: Fault "key-damaged"."""
        ...


class LocalKey:
    """A key held in this process's memory; its repr shows nothing."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = AESGCM(key)

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, bound)

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """Raises: Fault "key-damaged": altered, or wrapped for something else."""
        if len(wrapped) != WRAPPED_BYTES:
            raise key_damaged()
        try:
            return self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], bound)
        except InvalidTag:
            raise key_damaged() from None


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def new_id() -> str:
    """32 random hexadecimal digits."""
    return secrets.token_hex(16)


def binding(*parts: str | int | bytes) -> bytes:
    """Associated data: each part with its kind and length before it, so that no two lists give the same bytes.

    binding("ab", 7) == b"s\\x00\\x00\\x00\\x02ab" + b"i\\x00\\x00\\x00\\x017"
    """
    out = bytearray()
    for part in parts:
        kind = b"b" if isinstance(part, bytes) else b"i" if isinstance(part, int) else b"s"
        data = part if isinstance(part, bytes) else str(part).encode()
        out += kind + len(data).to_bytes(4) + data
    return bytes(out)


def key_damaged() -> Fault:
    return Fault(
        "key-damaged",
        "A stored key does not open: it was altered, or stands where another key belongs.",
        hint="Restore the database and the master key from one and the same backup.",
    )
