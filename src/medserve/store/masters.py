"""The master key and where it comes from: a file that its owner alone can read, a passphrase, a hardware module.

    masters = Masters([FileSource(settings)])
    with writing(engine) as db:
        master = masters.current(db)             # made on first use
        wrapped = master.wrapper.wrap(tenant_key, bound)

A source is anything with the four members of `Source`; the hardware module's is in `hardware`, and `sources` says which
are in use here. The database keeps each version's source, its parameters (never the key) and known bytes under the key,
so that a wrong file or passphrase is told apart from damaged data. A master key that once existed is never silently
made again.
Source: RFC 9106, section 4, second recommended option (Argon2id: 3 passes, 64 MiB, 4 lanes).
"""

import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from medserve.errors import Fault, Usage
from medserve.settings import Settings
from medserve.store.files import write_once
from medserve.store.vault_tables import vault_keys, vault_masters
from medserve.store.wrap import DESTROYED, KEY_BYTES, LocalKey, Wrapper, binding, new_id

_KNOWN = b"medserve vault master key check\0"  # 32 bytes


class Source(Protocol):
    """Where master keys of one kind live."""

    kind: str

    def make(self, version: int) -> dict[str, Any]:
        """Make the key of this version unless it is there; returns what `candidates` needs, fit for JSON."""
        ...

    def candidates(self, version: int, parameters: dict[str, Any]) -> Iterator[Wrapper]:
        """Keys that may be the one; the caller tries each against the known bytes."""
        ...

    def remove(self, version: int, parameters: dict[str, Any]) -> None:
        """Destroy the key of a version that wraps nothing any more; again is no error."""
        ...


class FileSource:
    """`MEDSERVE_HOME/keys/master-0001.key`, 32 random bytes, 0600. Put the folder on another disk than the data."""

    kind = "file"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def _path(self, version: int) -> Path:
        return self._settings.folder("keys") / f"master-{version:04}.key"

    def make(self, version: int) -> dict[str, Any]:
        write_once(self._path(version), secrets.token_bytes(KEY_BYTES))
        self._read(version)
        return {}

    def candidates(self, version: int, parameters: dict[str, Any]) -> Iterator[Wrapper]:
        yield LocalKey(self._read(version))

    def _read(self, version: int) -> bytes:
        """Raises: Fault "key-exposed", "key-unreadable"."""
        path = self._path(version)
        try:
            with open(path, "rb") as file:
                mode, key = os.fstat(file.fileno()).st_mode, file.read(KEY_BYTES + 1)
        except OSError as error:
            raise Fault(
                "key-unreadable",
                f"Cannot read the master key {path}: {error.strerror}.",
                hint="Restore it from where it is kept apart from the data; without it nothing in the vault opens.",
            ) from error
        if mode & 0o077:
            raise Fault("key-exposed", f"{path} can be read or changed by others.", hint=f"Run: chmod 600 {path}")
        if len(key) != KEY_BYTES:
            raise Fault("key-unreadable", f"{path} is not {KEY_BYTES} bytes.", hint="Restore it from its backup.")
        return key

    def remove(self, version: int, parameters: dict[str, Any]) -> None:
        path = self._path(version)
        try:
            with open(path, "r+b") as file:
                file.write(bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            return
        path.unlink(missing_ok=True)


class PassphraseSource:
    """A key computed from a passphrase; nothing secret is stored.

    Args:
        passphrases: those that may be in use; the last one is for new versions.
        memory_kib, passes, lanes: cost of Argon2id for new versions; old versions keep their own.
    """

    kind = "passphrase"
    SHORTEST = 12

    def __init__(
        self, passphrases: Sequence[str], *, memory_kib: int = 64 * 2**10, passes: int = 3, lanes: int = 4
    ) -> None:
        if not passphrases or min(map(len, passphrases)) < self.SHORTEST:
            raise Usage(
                "passphrase-short",
                f"A passphrase of the vault has at least {self.SHORTEST} characters.",
                hint="Take six or more random words.",
            )
        self._passphrases = tuple(passphrases)
        self._cost = {"memory_kib": memory_kib, "passes": passes, "lanes": lanes}

    def make(self, version: int) -> dict[str, Any]:
        return {"kdf": "argon2id", "salt": secrets.token_hex(16), **self._cost}

    def candidates(self, version: int, parameters: dict[str, Any]) -> Iterator[Wrapper]:
        for passphrase in reversed(self._passphrases):
            kdf = Argon2id(
                salt=bytes.fromhex(parameters["salt"]),
                length=KEY_BYTES,
                iterations=parameters["passes"],
                lanes=parameters["lanes"],
                memory_cost=parameters["memory_kib"],
            )
            yield LocalKey(kdf.derive(passphrase.encode()))

    def remove(self, version: int, parameters: dict[str, Any]) -> None:
        """Nothing is stored; forget the passphrase."""


@dataclass(frozen=True, slots=True)
class Master:
    """One version of the master key, opened."""

    id: str
    version: int
    source: str
    wrapper: Wrapper


class Masters:
    """All master keys of one installation, opened once each. Safe to use from several threads.

    Args:
        sources: one of each kind that may be in use; the first makes the very first key.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = {source.kind: source for source in sources}
        self._first = sources[0].kind
        self._opened: dict[str, Master] = {}
        self._lock = threading.Lock()

    def current(self, db: sa.Connection) -> Master:
        """The newest version; the first one is made here.

        Raises: Fault "key-exposed", "key-unreadable", "key-wrong"; Usage "key-source".
        """
        row = db.execute(sa.select(vault_masters).order_by(vault_masters.c.version.desc()).limit(1)).one_or_none()
        return self.add(db) if row is None else self._open(row)

    def get(self, db: sa.Connection, id: str) -> Master:
        with self._lock:
            known = self._opened.get(id)
        return known or self._open(db.execute(sa.select(vault_masters).where(vault_masters.c.id == id)).one())

    def add(self, db: sa.Connection, kind: str = "") -> Master:
        """A new version, from now on the current one. Call it inside `writing`."""
        source = self._source(kind or self._first)
        newest = db.scalar(sa.select(sa.func.max(vault_masters.c.version))) or 0
        id, version = new_id(), newest + 1
        parameters = source.make(version)
        wrapper = next(iter(source.candidates(version, parameters)))
        db.execute(
            vault_masters.insert().values(
                id=id,
                version=version,
                source=source.kind,
                parameters=parameters,
                check=wrapper.wrap(_KNOWN, binding("check", id, version)),
                created_at=time.time(),
            )
        )
        return Master(id, version, source.kind, wrapper)  # not cached: the transaction may yet fail

    def live(self, db: sa.Connection) -> list[sa.Row[Any]]:
        """Versions that are not retired, the oldest first."""
        query = sa.select(vault_masters).where(vault_masters.c.check != DESTROYED)
        return list(db.execute(query.order_by(vault_masters.c.version)))

    def retire(self, db: sa.Connection, id: str) -> None:
        """Give up a version that wraps nothing any more; `sweep` then destroys the key itself."""
        under = sa.select(vault_keys.c.id).where(vault_keys.c.under == id, vault_keys.c.wrapped != DESTROYED)
        assert db.execute(under.limit(1)).one_or_none() is None, "the master key still wraps something"
        db.execute(vault_masters.update().where(vault_masters.c.id == id).values(check=DESTROYED))

    def sweep(self, db: sa.Connection) -> None:
        """Destroy the keys of retired versions, also those a crash left behind."""
        for row in db.execute(sa.select(vault_masters).where(vault_masters.c.check == DESTROYED)):
            if row.source in self._sources:
                self._sources[row.source].remove(row.version, row.parameters)

    def _open(self, row: sa.Row[Any]) -> Master:
        with self._lock:
            if row.id in self._opened:
                return self._opened[row.id]
        for wrapper in self._source(row.source).candidates(row.version, row.parameters):
            try:
                fits = wrapper.unwrap(row.check, binding("check", row.id, row.version)) == _KNOWN
            except Fault:
                continue
            if fits:
                master = Master(row.id, row.version, row.source, wrapper)
                with self._lock:
                    self._opened[row.id] = master
                return master
        raise Fault(
            "key-wrong",
            f"This {row.source} does not hold master key {row.version} of this vault.",
            hint="Give the passphrase, key file or token that the vault was made with.",
        )

    def _source(self, kind: str) -> Source:
        if kind not in self._sources:
            raise Usage(
                "key-source",
                f"The vault's master key comes from a {kind}, and none was given.",
                hint="Set MEDSERVE_PASSPHRASE_FILE, or for pkcs11 MEDSERVE_PKCS11_MODULE, _TOKEN and _PIN_FILE.",
            )
        return self._sources[kind]
