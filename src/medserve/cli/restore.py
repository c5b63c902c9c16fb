"""`medserve restore DIR --home NEW`: a backup becomes a home again."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
from cyclopts import Parameter

from medserve.access.audit import Ledger
from medserve.cli._answer import Answer
from medserve.cli.backup import as_dict, bar_of, event_of
from medserve.errors import Usage
from medserve.progress import Progress
from medserve.settings import Settings
from medserve.store.restore import restore_backup
from medserve.store.sources import first_line
from medserve.store.vault import Vault
from medserve.store.vault_tables import vault_keys, vault_objects
from medserve.store.wrap import DESTROYED

Flag = Annotated[bool, Parameter(negative=())]


def restore(
    folder: Path,
    *,
    home: Path,
    passphrase_file: Path | None = None,
    keys: Path | None = None,
    signer: str = "",
    mirror: Path | None = None,
    json: Flag = False,
) -> Answer:
    """Make a home of a backup, in an empty place; verify it all, and erase again who was erased since.

    The restored service goes on from the backup's instant: what was written later is not there. Its audit log says that
    it was restored, and wants a new mirror file: the old one knows rows that are gone.

    Parameters
    ----------
    folder
        The backup.
    home
        The new home; must not exist, or be empty.
    passphrase_file
        Opens the backup's keys.
    keys
        A folder of keys, where the backup was made without them.
    signer
        The public key that must have signed it.
    mirror
        The mirror of the service that was backed up: whom it says to be erased is erased here, too.
    json
        Print exactly one JSON object.
    """
    settings = Settings.from_environment(home)
    passphrase = None if passphrase_file is None else first_line(passphrase_file)
    with Progress(quiet=json) as progress:
        done = restore_backup(
            folder, settings, passphrase=passphrase, keys=keys, signer=signer, mirror=mirror,
            progress=bar_of(progress, "restoring"),
        )  # fmt: skip
    ledger = Ledger.unchecked(Settings(home=settings.home, database=settings.database))
    try:
        verdict = ledger.verify()
        if verdict.sound:
            ledger.write([event_of("state.restore", done.checked)])
    finally:
        ledger.close()
    opened = _open_some(settings) if verdict.sound else None
    data = as_dict(done.checked) | {
        "home": str(settings.home), "erased": done.erased, "missing": done.missing, "seconds": round(done.seconds, 2),
        "audit": {"sound": verdict.sound, "events": verdict.events, "problem": verdict.problem}, "opened": opened,
    }  # fmt: skip
    lines = [
        f"{settings.home}: restored in {done.seconds:.1f} s to {data['at']}.",
        f"Audit log: {'sound' if verdict.sound else verdict.problem}, {verdict.events} events.",
        f"Erased again: {done.erased} patients.",
        "Objects opened as a sample: " + ("none, the master key was not given." if opened is None else f"{opened}."),
    ]
    if mirror is None:
        lines.append("No --mirror was given: patients who were erased after the backup may be back.")
    if not done.checked.known:
        lines.append("The backup's signer is not known here; --signer KEY or --passphrase-file would prove it.")
    return Answer(data, "\n".join(lines))


def _open_some(settings: Settings, most: int = 100) -> int | None:
    """Decrypt some objects; None where the master key's passphrase or module is not named here."""
    try:
        vault = Vault.open(replace(settings, audit_mirror=None))
    except Usage:
        return None
    try:
        query = sa.select(vault_objects.c.tenant, vault_objects.c.object, vault_objects.c.version)
        query = query.select_from(vault_objects.join(vault_keys, vault_keys.c.id == vault_objects.c.patient))
        query = query.where(vault_objects.c.wrapped != DESTROYED, vault_keys.c.wrapped != DESTROYED)
        with vault.engine.connect() as db:
            found = db.execute(query.order_by(vault_objects.c.serial.desc()).limit(most)).all()
        for tenant, object, version in found:
            for _ in vault.read(tenant, object, version):
                pass
        return len(found)
    finally:
        vault.close()
