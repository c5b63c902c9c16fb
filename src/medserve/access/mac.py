"""HMAC-SHA-256 under one key, for every request: the key's two blocks are hashed once, so a digest costs a fifth.

mac = Mac(key)
mac.of(data)        # what hmac.digest(key, data, "sha256") gives
"""

import hashlib

BLOCK = 64  # bytes of SHA-256


class Mac:
    """Digests under one key. Safe to use from several threads."""

    def __init__(self, key: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > BLOCK else key).ljust(BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def of(self, data: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(data)
        outer.update(inner.digest())
        return outer.digest()
