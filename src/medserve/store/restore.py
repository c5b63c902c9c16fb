"""A backup becomes a home again, in a place that is empty.

    done = restore_backup(Path("/backups/monday"), Settings(home=new), passphrase=words, mirror=Path("heads.jsonl"))

Everything is verified before it is used, and the home appears whole or not at all. A backup still holds the keys of
patients who were erased after it was made: they are erased again, by what the manifest knows and by what the audit
log's mirror on another disk was told. Erasures that neither was told of cannot be known here.
"""

import contextlib
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from medserve.errors import BadData, Usage
from medserve.settings import Settings
from medserve.store.backup import KEYS, Checked, Erased, Progress, copy_checked, refuse_bucket, verify_backup
from medserve.store.database import database
from medserve.store.engines import check_url
from medserve.store.erasure import destroy, finish_erasures, told_erasures
from medserve.store.files import cannot_write, write_bytes
from medserve.store.keyring import writing
from medserve.store.migrations import HEAD
from medserve.store.object_files import ObjectFiles
from medserve.store.sealed import read_keys
from medserve.store.snapshot import restore_database
from medserve.store.vault_tables import vault_keys, vault_objects
from medserve.store.wrap import DESTROYED


@dataclass(frozen=True, slots=True)
class Restored:
    """erased: patients whose keys were destroyed again. missing: objects that the backup never had."""

    checked: Checked
    erased: int
    missing: int
    seconds: float


def restore_backup(
    folder: Path,
    settings: Settings,
    *,
    passphrase: str | None = None,
    keys: Path | None = None,
    signer: str = "",
    mirror: Path | None = None,
    progress: Progress = lambda name: None,
) -> Restored:
    """Verify a backup and make a home of it.

    Args:
        settings: the new home, absent or empty; with `database`, an empty PostgreSQL database.
        passphrase: opens the backup's keys. keys: a folder of keys instead, where the backup has none.
        mirror: file that was told of erasures (MEDSERVE_AUDIT_MIRROR of the service that was backed up).

    Raises: what `verify_backup` raises; Usage "restore-not-empty", "restore-keys"; BadData "backup-newer";
        Fault "disk-full", "file-unwritable", "database-copy".
    """
    refuse_bucket(settings)
    began, home = time.monotonic(), settings.home
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise Usage("restore-not-empty", f"{home} is not empty; nothing is overwritten.", hint="Name a new --home.")
    if mirror is not None and not mirror.is_file():
        raise Usage("mirror-missing", f"There is no mirror {mirror}.", hint="Name the file on the other disk.")
    checked = verify_backup(folder, passphrase=passphrase, signer=signer, progress=progress)
    manifest = checked.manifest
    if manifest.revision > HEAD:
        raise BadData("backup-newer", f"The backup was made by MedServe {manifest.medserve}, which is newer.",
                      hint="Restore it with that version.")  # fmt: skip
    secrets = checked.keys or _given(keys, manifest.keys)
    if manifest.database.endswith(".pgdump") != bool(settings.database):
        raise Usage(
            "restore-store",
            f"The backup holds {manifest.database}.",
            hint="Set MEDSERVE_DATABASE to an empty PostgreSQL database for a .pgdump, and to nothing for a .sqlite.",
        )
    told = [*manifest.erased, *(_told(mirror) if mirror is not None else ())]
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{home.name}."))
    except OSError as error:
        raise cannot_write(home, error) from error
    try:
        new = replace(settings, home=work, audit_mirror=None)
        for name, entry in manifest.files.items():
            if name in (manifest.database, KEYS):
                continue
            copy_checked(folder / name, work / name.removeprefix("home/"), entry)
            progress(name)
        new.folder("keys")
        for name, data in secrets.items():
            write_bytes(work / "keys" / name, data, mode=0o600)
        _refuse_tables(new)
        restore_database(folder / manifest.database, new)
        erased = _erase_again(new, told, manifest.removed)
        with contextlib.suppress(FileNotFoundError):
            home.rmdir()
        work.rename(home)
    except OSError as error:
        raise cannot_write(home, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Restored(checked, erased, manifest.missing, time.monotonic() - began)


def _given(keys: Path | None, sealed: bool) -> dict[str, bytes]:
    if keys is None or not keys.is_dir():
        raise Usage(
            "restore-keys",
            "The keys are needed: without them nothing opens and the audit log cannot go on.",
            hint="Give --passphrase-file FILE." if sealed else "Give --keys DIR, the folder kept beside this backup.",
        )
    return read_keys(Settings(home=keys.absolute().parent)) if keys.name == "keys" else _files(keys)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".lock"}


def _told(mirror: Path) -> list[Erased]:
    return [
        Erased(str(s["erased"]), str(s["receipt"]), str(s["tenant"]), float(s["at"])) for s in told_erasures(mirror)
    ]


def _refuse_tables(settings: Settings) -> None:
    """Raises: Usage "restore-not-empty": the PostgreSQL database has tables."""
    if not settings.database:
        return
    engine = sa.create_engine(check_url(settings.database))
    try:
        if sa.inspect(engine).get_table_names():
            raise Usage("restore-not-empty", "The database that MEDSERVE_DATABASE names has tables.",
                        hint="Make a new, empty one for the restore.")  # fmt: skip
    finally:
        engine.dispose()


def _erase_again(settings: Settings, told: list[Erased], removed: list[tuple[str, int]]) -> int:
    """Destroy in the copy what was destroyed after its instant; returns how many patients."""
    engine = database(settings)
    files = ObjectFiles(settings.folder("objects"))
    done = 0
    try:
        with writing(engine) as db:
            for said in {one.erased: one for one in told}.values():
                row = db.execute(
                    sa.select(vault_keys).where(
                        vault_keys.c.id == said.erased,
                        vault_keys.c.kind == "patient",
                        vault_keys.c.wrapped != DESTROYED,
                    )
                ).one_or_none()
                if row is not None and row.tenant == said.tenant:
                    destroy(db, row, said.receipt, said.at)
                    done += 1
            # An erased patient's objects keep their rows, so that they answer "gone" and not "unknown".
            whole = sa.select(vault_keys.c.id).where(vault_keys.c.wrapped != DESTROYED)
            for object, version in removed:
                one = sa.and_(vault_objects.c.object == object, vault_objects.c.version == version)
                one &= vault_objects.c.patient.in_(whole)
                db.execute(vault_objects.update().where(one).values(wrapped=DESTROYED))
        finish_erasures(engine, files)
    finally:
        engine.dispose()
    return done
