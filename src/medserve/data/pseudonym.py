"""Patient keys that cannot be turned back: HMAC-SHA256 of the identifier under a random key of this installation.

    key = pseudonym_key(settings)                  # MEDSERVE_HOME/keys/pseudonym.key, 0600, made once
    patient = pseudonym(key, "PAT-0012")           # "p-8c1f0e..."; the same person, the same key, on this machine only

The raw identifier stays inside readers and forms. Without a key (tests, quick looks) `DEFAULT_KEY` is used: equal
patients still meet, but anyone who knows the identifiers can recompute the result.
Source: ENISA, Pseudonymisation techniques and best practices (2019), section 5.1 (HMAC with a secret key).
"""

import hashlib
import hmac
import secrets
from typing import Any

import numpy as np

from medserve.errors import Fault
from medserve.settings import Settings
from medserve.store.files import write_once
from medserve.types import Array

KEY_BYTES = 32
DEFAULT_KEY = b"medserve: no key was given, not secret"


def pseudonym(key: bytes, raw: str) -> str:
    """A stable name for one patient; surrounding white space does not make another person."""
    digest = hmac.new(key, b"patient\0" + raw.strip().encode(), hashlib.sha256).hexdigest()
    return f"p-{digest[:24]}"


def numbered(patients: Any) -> Array:
    """(N,) int64: the number of each patient, 0 for the one of the first row, and so on.

    Whatever is dealt or drawn at random by patient goes by these numbers, never by the order of the pseudonyms: that
    order is the key's, and two installations would train and choose differently on the same data and seed.
    """
    _, first, who = np.unique(np.asarray(patients), return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[who.ravel()]


def pseudonym_key(settings: Settings) -> bytes:
    """The key of this installation, made on first use.

    Raises: Fault "key-damaged": the file is there but is not a key; restore it, or old pseudonyms are lost.
    """
    path = settings.folder("keys") / "pseudonym.key"
    write_once(path, secrets.token_bytes(KEY_BYTES))
    try:
        key = path.read_bytes()
    except OSError as error:
        raise Fault("key-damaged", f"Cannot read {path}: {error.strerror}.", hint="Check its owner.") from error
    if len(key) != KEY_BYTES:
        raise Fault(
            "key-damaged",
            f"{path} does not hold a key of {KEY_BYTES} bytes.",
            hint="Restore it from a backup, or remove it to start with new pseudonyms.",
        )
    return key
