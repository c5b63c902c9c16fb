"""The folder of keys in one file that a passphrase opens: nothing of it is readable beside the data.

    seal(path, read_keys(settings), passphrase)
    keys = unseal(path, passphrase)                 # {"master-0001.key": b"...", ...}

Source: RFC 9106, section 4, second recommended option (Argon2id: 3 passes, 64 MiB, 4 lanes); NIST SP 800-38D (AES-GCM).
"""

import base64
import json
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from medserve.errors import BadData, Fault, Usage
from medserve.settings import Settings
from medserve.store.files import write_bytes
from medserve.store.wrap import KEY_BYTES, NONCE_BYTES, binding

SHORTEST = 12
MAX_BYTES = 2**24  # of all keys
MOST_KIB, MOST_PASSES, MOST_LANES = 2**20, 16, 16  # a forged file asks for no more work than this
_COST = {"memory_kib": 64 * 2**10, "passes": 3, "lanes": 4}


def read_keys(settings: Settings) -> dict[str, bytes]:
    """Every file of MEDSERVE_HOME/keys, by name."""
    folder = settings.folder("keys")
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    keys = {}
    for path in found:
        if path.suffix == ".lock":
            continue
        try:
            keys[path.name] = path.read_bytes()
        except FileNotFoundError:
            continue  # a rotation has just destroyed it
        except OSError as error:
            raise Fault("key-unreadable", f"Cannot read {path}: {error.strerror}.", hint="Check its owner.") from error
    return keys


def check_passphrase(passphrase: str) -> None:
    """Raises: Usage "passphrase-short"."""
    if len(passphrase) < SHORTEST:
        raise Usage(
            "passphrase-short",
            f"The passphrase of a backup has at least {SHORTEST} characters.",
            hint="Take six or more random words.",
        )


def seal(path: Path, keys: dict[str, bytes], passphrase: str) -> None:
    """Raises: Usage "passphrase-short"; Fault "disk-full", "file-unwritable"."""
    check_passphrase(passphrase)
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(NONCE_BYTES)
    plain = json.dumps({name: base64.b64encode(data).decode() for name, data in keys.items()}).encode()
    head = {"format": 1, "kdf": "argon2id", "salt": salt.hex(), **_COST, "nonce": nonce.hex()}
    sealed = AESGCM(_derive(passphrase, salt, **_COST)).encrypt(nonce, plain, _bound(head))
    text = json.dumps(head | {"sealed": base64.b64encode(sealed).decode()})
    write_bytes(path, text.encode(), mode=0o600)


def unseal(path: Path, passphrase: str) -> dict[str, bytes]:
    """Raises: BadData "keys-sealed": another passphrase, or an altered file."""
    try:
        if path.stat().st_size > 2 * MAX_BYTES:
            raise ValueError
        said = json.loads(path.read_bytes())
        sealed = base64.b64decode(said.pop("sealed"), validate=True)
        cost = {name: int(said[name]) for name in _COST}
        if not (8 <= cost["memory_kib"] <= MOST_KIB and 1 <= cost["passes"] <= MOST_PASSES):
            raise ValueError
        if not 1 <= cost["lanes"] <= MOST_LANES:
            raise ValueError
        key = _derive(passphrase, bytes.fromhex(said["salt"]), **cost)
        plain = AESGCM(key).decrypt(bytes.fromhex(said["nonce"]), sealed, _bound(said))
        keys = {name: base64.b64decode(text) for name, text in json.loads(plain).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidTag):
        raise BadData(
            "keys-sealed",
            f"{path.name} does not open: another passphrase, or the file was altered.",
            hint="Give the passphrase with which the backup was made.",
        ) from None
    if any("/" in name or name.startswith(".") or not name for name in keys):
        raise BadData("keys-sealed", f"{path.name} holds names that are no file's.", hint="Take another backup.")
    return keys


def _derive(passphrase: str, salt: bytes, *, memory_kib: int, passes: int, lanes: int) -> bytes:
    kdf = Argon2id(salt=salt, length=KEY_BYTES, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    return kdf.derive(passphrase.encode())


def _bound(head: dict[str, object]) -> bytes:
    return binding("backup keys", json.dumps(head, sort_keys=True))
