"""Keyed digests of what was asked and what was answered, so that the log can bear witness without telling either.

    witness = Witness.open(settings)
    witness.of("input", tenant, trace, data)         # "hmac-sha256:..." for the audit event
    witness.agrees(event.input, "input", tenant, trace, data)

A plain digest of an answer could be guessed (there are few probabilities of four digits), and a plain digest of an
input would show that one patient was asked about twice. So both are HMAC-SHA-256 under a key of this service, with the
request's trace among the words.
"""

import hashlib
import hmac

from medserve.access.keys import load_pepper
from medserve.access.mac import Mac
from medserve.settings import Settings

KIND = "hmac-sha256:"


class Witness:
    """Digests under one key. Safe to use from several threads."""

    def __init__(self, key: bytes) -> None:
        self._mac = Mac(key)

    @classmethod
    def open(cls, settings: Settings) -> "Witness":
        """Raises: Fault "key-exposed", "key-unreadable"."""
        return cls(hmac.digest(load_pepper(settings), b"medserve witness", "sha256"))

    def of(self, what: str, tenant: str, trace: str, data: bytes) -> str:
        """The digest of one request's input or answer. what: "input" or "answer"."""
        inner = hashlib.sha256(data).digest()  # first, so that a long body is not copied
        return KIND + self._mac.of(f"{what}\0{tenant}\0{trace}\0".encode() + inner).hex()

    def agrees(self, said: str, what: str, tenant: str, trace: str, data: bytes) -> bool:
        return hmac.compare_digest(said, self.of(what, tenant, trace, data))
