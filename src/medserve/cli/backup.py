"""`medserve backup DIR` and `medserve backup verify DIR`; see `restore.py` for the way back."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from medserve.access.audit import Event, Ledger
from medserve.cli._answer import Answer
from medserve.errors import Usage
from medserve.progress import Progress
from medserve.settings import Settings
from medserve.store.backup import Checked, make_backup, own_signer, verify_backup
from medserve.store.sources import first_line

app = App(name="backup", help="A signed copy of everything, made while the service runs.", help_format="plaintext",
          result_action="return_value")  # fmt: skip

Flag = Annotated[bool, Parameter(negative=())]


@app.default
def backup(
    out: Path,
    *,
    passphrase_file: Path | None = None,
    without_keys: Flag = False,
    home: Path | None = None,
    json: Flag = False,
) -> Answer:
    """Copy database, objects, packages and policy of one instant into a new folder, and read it again.

    The service goes on. The keys go along in one file that only the passphrase opens; without them nothing in the
    backup can be read, and a restored service cannot write its audit log.

    Parameters
    ----------
    out
        The new folder.
    passphrase_file
        A file with a passphrase of at least 12 characters in its first line, readable by you alone.
    without_keys
        Leave the keys out: you copy MEDSERVE_HOME/keys yourself, while the service stands still.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    if (passphrase_file is None) != without_keys:
        raise Usage(
            "backup-keys",
            "Say what becomes of the keys: either --passphrase-file FILE or --without-keys.",
            hint="With --without-keys you keep MEDSERVE_HOME/keys elsewhere.",
        )
    settings = Settings.from_environment(home)
    passphrase = None if passphrase_file is None else first_line(passphrase_file)
    ledger = Ledger.open(settings)
    try:
        with Progress(quiet=json) as progress:
            made = make_backup(
                settings,
                out.absolute(),
                passphrase=passphrase,
                still=ledger.still,
                progress=bar_of(progress, "copying"),
            )
        ledger.write([event_of("state.backup", made)])
    finally:
        ledger.close()
    lines = [f"{out}: {len(made.manifest.files)} files, {made.bytes} bytes, read again and whole.",
             f"Signed by {made.manifest.signer}: note this key elsewhere."]  # fmt: skip
    if made.manifest.missing:
        lines.append(f"{made.manifest.missing} objects that the database names were not on this disk.")
    return Answer(as_dict(made), "\n".join(lines))


@app.command
def verify(
    folder: Path,
    *,
    passphrase_file: Path | None = None,
    signer: str = "",
    home: Path | None = None,
    json: Flag = False,
) -> Answer:
    """Read a backup through: signature, every file, nothing besides, the database whole.

    Parameters
    ----------
    folder
        The backup.
    passphrase_file
        Opens the keys, too, and so proves that who made the backup knew the passphrase.
    signer
        The public key that must have signed it. Default: this home's own, where it has one.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    passphrase = None if passphrase_file is None else first_line(passphrase_file)
    own = "" if passphrase is not None else own_signer(Settings.from_environment(home))
    with Progress(quiet=json) as progress:
        checked = verify_backup(
            folder, passphrase=passphrase, signer=signer or own, progress=bar_of(progress, "reading")
        )
    who = "by a known key" if checked.known else "by a key that is not known here (--signer KEY or --passphrase-file)"
    text = f"{folder}: {len(checked.manifest.files)} files as they were written, signed {who}."
    return Answer(as_dict(checked), text)


def event_of(action: str, checked: Checked) -> Event:
    return Event(action=action, outcome="allow", principal="local", purpose="operations", resource=checked.digest[:16])


def as_dict(checked: Checked) -> dict[str, Any]:
    manifest = checked.manifest
    return {
        "at": datetime.fromtimestamp(int(manifest.at), UTC).isoformat(), "files": len(manifest.files),
        "bytes": checked.bytes, "database": manifest.database, "revision": manifest.revision, "keys": manifest.keys,
        "signer": manifest.signer, "signer_known": checked.known, "manifest": f"sha256:{checked.digest}",
        "missing": manifest.missing,
    }  # fmt: skip


def bar_of(progress: Progress, what: str) -> Callable[[str], None]:
    bar = progress.start(what, None)
    return lambda name: progress.step(bar)
