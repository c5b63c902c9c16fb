"""A copy of everything under `MEDSERVE_HOME`, made while the service runs, signed, and read again before it counts.

    made = make_backup(settings, Path("/backups/monday"), passphrase=words, still=ledger.still)
    verify_backup(Path("/backups/monday"), passphrase=words)

The folder holds `database.sqlite` or `database.pgdump` (one instant), `objects/` (encrypted as they are stored),
`home/` (packages, policy and whatever else stands there), `keys.sealed` (under a passphrase, see `sealed.py`; absent
where the keys are kept otherwise), `manifest.json` (SHA-256 and size of every file) and `manifest.sig` (Ed25519). Each
object that the database of that instant names is there, but for those that were erased or removed while the copy was
made: the manifest names these, and a restore erases them in the database, too.
"""

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medserve import __version__
from medserve.errors import BadData, Fault, Usage
from medserve.settings import Settings
from medserve.store.database import database
from medserve.store.files import cannot_write, new_folder, write_bytes, write_once
from medserve.store.migrations import HEAD
from medserve.store.sealed import check_passphrase, seal, unseal
from medserve.store.snapshot import SQLITE, Still, check_copy, snapshot
from medserve.store.vault_tables import vault_keys, vault_objects, vault_receipts
from medserve.store.wrap import DESTROYED

MANIFEST, SIGNATURE, KEYS, SIGNER = "manifest.json", "manifest.sig", "keys.sealed", "backup.key"
LEFT_OUT = frozenset({"keys", "objects", "work", "cache", "data", "weights", "tuned"})  # secrets; made or fetched again
MAX_MANIFEST_BYTES = 2**30
_BLOCK = 2**20


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int
    sha256: str


class Erased(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A patient whose key was destroyed; see `erasure.told_erasures`."""

    erased: str
    receipt: str
    tenant: str
    at: float


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """at: seconds since 1970, of the instant. signer: base64 public key. erased, removed: (object, version) since then.
    missing: objects that the database names and the disk did not have."""

    format: int
    at: float
    medserve: str
    revision: str
    database: str
    files: dict[str, FileEntry]
    signer: str
    keys: bool
    erased: list[Erased] = []
    removed: list[tuple[str, int]] = []
    missing: int = 0


@dataclass(slots=True)
class Checked:
    """A backup that was read through. known: its signer was proven, by the passphrase or by a key noted elsewhere."""

    manifest: Manifest
    digest: str
    known: bool
    keys: dict[str, bytes] = field(repr=False, default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.manifest.files.values())


Progress = Callable[[str], None]


def make_backup(
    settings: Settings, out: Path, *, passphrase: str | None, still: Still, progress: Progress = lambda name: None
) -> Checked:
    """Write a backup and read it again.

    Args:
        out: a new folder, which appears whole or not at all.
        passphrase: seals the keys; None leaves them out.
        still: holds the audit log while the instant is taken, so that database and keys fit.
        progress: told each file.

    Raises: Usage "passphrase-short", "out-exists", "backup-inside", "backup-bucket"; Fault "disk-full",
        "file-unwritable", "database-copy", "pg-dump-missing".
    """
    refuse_bucket(settings)
    if passphrase is not None:
        check_passphrase(passphrase)
    if out.absolute().is_relative_to(settings.home):
        raise Usage("backup-inside", f"{out} lies in the home that is copied.", hint="Choose a folder on another disk.")
    write_once(settings.folder("keys") / SIGNER, os.urandom(32))
    engine = database(settings)
    try:
        with new_folder(out) as work:
            work.chmod(0o700)
            with snapshot(settings, engine, still) as taken:
                at = time.time()
                named = [] if taken.db is None else _live_objects(taken.db)
                taken.copy(work)
            if taken.file == SQLITE:
                named = _objects_in(work / SQLITE)
            files = {taken.file: _entry(work / taken.file)}
            if passphrase is not None:
                seal(work / KEYS, taken.keys, passphrase)
                files[KEYS] = _entry(work / KEYS)
            gone = []
            for object, version in named:
                name = f"{object}.{version}"
                place = f"objects/{name[:2]}/{name}"
                entry = _copied(settings.home / place, work / place)
                if entry is None:
                    gone.append((object, version))
                else:
                    files[place] = entry
                progress(place)
            for path in _rest_of(settings.home):
                place = "home/" + path.relative_to(settings.home).as_posix()
                entry = _copied(path, work / place)
                if entry is not None:
                    files[place] = entry
                progress(place)
            removed, missing = _why_gone(engine, gone)
            manifest = Manifest(
                format=1, at=at, medserve=__version__, revision=HEAD, database=taken.file, files=files,
                signer=_public(_signing_key(taken.keys[SIGNER])), keys=passphrase is not None,
                erased=_erased_since(engine, at), removed=removed, missing=missing,
            )  # fmt: skip
            raw = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
            write_bytes(work / MANIFEST, raw, mode=0o600)
            write_bytes(work / SIGNATURE, _signing_key(taken.keys[SIGNER]).sign(raw), mode=0o600)
            checked = verify_backup(work, passphrase=passphrase, signer=manifest.signer)
        out.chmod(0o700)
        return checked
    finally:
        engine.dispose()


def refuse_bucket(settings: Settings) -> None:
    """Raises: Usage "backup-bucket": objects and packages are not on this disk, and half a backup is none."""
    if settings.blobs:
        raise Usage(
            "backup-bucket",
            "Objects and packages lie in the bucket that MEDSERVE_BLOBS names; this command does not copy it.",
            hint="Version or replicate the bucket, and keep pg_dump and MEDSERVE_HOME/keys beside it; docs/cluster.md.",
        )


def verify_backup(
    folder: Path, *, passphrase: str | None = None, signer: str = "", progress: Progress = lambda name: None
) -> Checked:
    """Read a backup through: signature, every file's digest, nothing beside them, the database whole.

    Args:
        passphrase: opens the keys, and so proves who made the backup.
        signer: public key (base64) that must have signed it.

    Raises: BadData "backup-...", "keys-sealed"; Fault "database-copy".
    """
    manifest, raw = read_manifest(folder)
    if signer and manifest.signer != signer:
        raise _bad("signer", f"it is signed by {manifest.signer[:12]}..., not by {signer[:12]}...")
    keys: dict[str, bytes] = {}
    if passphrase is not None:
        if not manifest.keys:
            raise _bad("keys", "it holds no keys, so no passphrase opens anything")
        keys = unseal(folder / KEYS, passphrase)
        if SIGNER not in keys or _public(_signing_key(keys[SIGNER])) != manifest.signer:
            raise _bad("signer", "its manifest is not signed by the key that it holds")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if extra := found - set(manifest.files) - {MANIFEST, SIGNATURE}:
        raise _bad("extra", f"{sorted(extra)[0]} is not in its manifest")
    for name, entry in manifest.files.items():
        path = folder / name
        if name not in found or path.is_symlink():
            raise _bad("incomplete", f"{name} is missing")
        if path.stat().st_size != entry.size or _digest(path) != entry.sha256:
            raise _bad("altered", f"{name} is not as it was written")
        progress(name)
    check_copy(folder / manifest.database)
    return Checked(manifest, hashlib.sha256(raw).hexdigest(), bool(signer or keys), keys)


def read_manifest(folder: Path) -> tuple[Manifest, bytes]:
    """Raises: BadData "backup-unreadable", "backup-signature"."""
    try:
        if (folder / MANIFEST).stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError("too large")
        raw, signature = (folder / MANIFEST).read_bytes(), (folder / SIGNATURE).read_bytes()
        manifest = msgspec.json.decode(raw, type=Manifest)
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(manifest.signer, validate=True))
    except (OSError, ValueError) as error:
        raise _bad("unreadable", "it has no manifest that can be read") from error
    try:
        public.verify(signature, raw)
    except InvalidSignature:
        raise _bad("signature", "its manifest was altered after it was signed") from None
    names = [*manifest.files, manifest.database]
    if manifest.format != 1 or any(_strays(name) for name in names) or manifest.database not in manifest.files:
        raise _bad("unreadable", "this MedServe does not read its format")
    return manifest, raw


def own_signer(settings: Settings) -> str:
    """The public key under which this home signs its backups; "" before the first."""
    path = settings.home / "keys" / SIGNER
    return _public(_signing_key(path.read_bytes())) if path.is_file() else ""


def copy_checked(source: Path, target: Path, entry: FileEntry) -> None:
    """Raises: BadData "backup-altered": not what the manifest says."""
    if _copied(source, target) != entry:
        raise _bad("altered", f"{source.name} is not as it was written")


def _objects_in(path: Path) -> list[tuple[str, int]]:
    engine = sa.create_engine(f"sqlite:///file:{path}?mode=ro&immutable=1&uri=true")
    try:
        with engine.connect() as db:
            return _live_objects(db)
    finally:
        engine.dispose()


def _live_objects(db: sa.Connection) -> list[tuple[str, int]]:
    query = (
        sa.select(vault_objects.c.object, vault_objects.c.version)
        .select_from(vault_objects.join(vault_keys, vault_keys.c.id == vault_objects.c.patient))
        .where(vault_objects.c.wrapped != DESTROYED, vault_keys.c.wrapped != DESTROYED)
    )
    return [(object, version) for object, version in db.execute(query.order_by(vault_objects.c.serial))]


def _rest_of(home: Path) -> Iterator[Path]:
    """Every other file, in order; nothing hidden, no link followed."""
    for root, folders, files in os.walk(home):
        here = Path(root)
        top = here == home
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not (top and f in LEFT_OUT))
        for name in sorted(files):
            path = here / name
            if name.startswith(".") or path.is_symlink() or not path.is_file():
                continue
            if not (top and name.startswith("medserve.db")):
                yield path


def _why_gone(engine: sa.Engine, gone: list[tuple[str, int]]) -> tuple[list[tuple[str, int]], int]:
    """Those that were erased or removed since the instant, and how many are missing without such a reason."""
    if not gone:
        return [], 0
    with engine.connect() as db:
        live = set(_live_objects(db))
    return [one for one in gone if one not in live], sum(one in live for one in gone)


def _erased_since(engine: sa.Engine, at: float) -> list[Erased]:
    """With a minute before: clocks, and erasures that were under way."""
    with engine.connect() as db:
        rows = db.execute(sa.select(vault_receipts).where(vault_receipts.c.at > at - 60)).all()
    return [Erased(row.key, row.id, row.tenant, row.at) for row in rows]


def _copied(source: Path, target: Path) -> FileEntry | None:
    """None where the source is gone by now."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(source, "rb") as file:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                    while block := file.read(_BLOCK):
                        digest.update(block)
                        out.write(block)
                        size += len(block)
                    out.flush()
                    os.fsync(out.fileno())
            except OSError as error:
                raise cannot_write(target, error) from error
    except FileNotFoundError:
        return None
    return FileEntry(size, digest.hexdigest())


def _entry(path: Path) -> FileEntry:
    return FileEntry(path.stat().st_size, _digest(path))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _strays(name: str) -> bool:
    """True for a name that would leave the folder."""
    return name.startswith("/") or any(step in ("", ".", "..") for step in name.split("/")) or "\\" in name


def _signing_key(raw: bytes) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(raw)
    except ValueError as error:
        raise Fault(
            "key-unreadable", f"keys/{SIGNER} is not 32 bytes.", hint="Move it away; a new one is made."
        ) from error


def _public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def _bad(what: str, why: str) -> BadData:
    return BadData(f"backup-{what}", f"This backup cannot be used: {why}.", hint="Take another one.")
