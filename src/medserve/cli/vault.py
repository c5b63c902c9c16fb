"""`medserve vault status | rotate | erase`: what is encrypted at rest, new keys, and an end to a patient's data."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from medserve.cli._answer import Answer, table
from medserve.errors import Usage
from medserve.settings import Settings
from medserve.store.masters import Source
from medserve.store.rotation import Rotated, finish, rotate_master, rotate_tenant, tenants
from medserve.store.sources import first_line, sources_of
from medserve.store.vault import Vault

app = App(name="vault", help="What is encrypted at rest; new keys; erasing a patient.", help_format="plaintext",
          result_action="return_value")  # fmt: skip

Flag = Annotated[bool, Parameter(negative=())]


@app.command
def status(*, passphrase_file: Path | None = None, home: Path | None = None, json: Flag = False) -> Answer:
    """Count keys by version, patients, objects and erasures; names no patient.

    Opening the vault also finishes erasures and writes that a crash interrupted.

    Parameters
    ----------
    passphrase_file
        A file with the passphrase in its first line, where the master key comes from one.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    vault = Vault.open(*_doors(home, [passphrase_file]))
    try:
        data = vault.status()
    finally:
        vault.close()
    rows = [("master key", str(m["version"]), m["source"], f"{m['keys']} keys") for m in data["masters"]]
    rows += [
        (f"tenant {t['tenant']}", str(v["version"]), "", f"{v['keys']} keys") for t in data["tenants"]
        for v in t["versions"]
    ]  # fmt: skip
    rows += [("patients", "", "", str(data["patients"])), ("objects", "", "", f"{data['objects']}, {data['bytes']} B")]
    rows += [("patients erased", "", "", str(data["erased"]))]
    if data["rotation_unfinished"]:
        rows += [("unfinished", "", "", "a rotation: run `medserve vault rotate --resume`")]
    return Answer(data, table("The vault", "what", "version", "from", "holds", rows=rows))


@app.command
def rotate(
    *,
    tenant: str | None = None,
    master: Flag = False,
    resume: Flag = False,
    to: str | None = None,
    passphrase_file: Path | None = None,
    new_passphrase_file: Path | None = None,
    home: Path | None = None,
    json: Flag = False,
) -> Answer:
    """Make new keys and wrap everything anew, while the service reads and writes on.

    Without an option: a new master key and a new key for every tenant. A rotation that was interrupted is finished
    first. Objects are not rewritten, only the keys above them; the old keys are destroyed at the end, so a backup of
    the database made before needs the old master key, which you keep or let go with that backup.

    Parameters
    ----------
    tenant
        Only this tenant's key.
    master
        Only the master key.
    resume
        Only finish what was interrupted; make no new version.
    to
        Where the new master key comes from: file, passphrase or pkcs11. Default: where the current one comes from.
    passphrase_file
        A file with the passphrase in its first line, where the master key comes from one.
    new_passphrase_file
        The same for the new master key.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    if sum((tenant is not None, master, resume)) > 1 or (to and (tenant is not None or resume)):
        raise Usage(
            "bad-arguments",
            "--tenant, --master and --resume exclude each other; --to goes with the master key.",
            hint="For a new master key alone: medserve vault rotate --master",
        )
    if new_passphrase_file is not None and (tenant is not None or resume or to in ("file", "pkcs11")):
        raise Usage("bad-arguments", "--new-passphrase-file goes with a new master key from a passphrase.",
                    hint="medserve vault rotate --master --to passphrase --new-passphrase-file FILE")  # fmt: skip
    vault = Vault.open(*_doors(home, [passphrase_file, new_passphrase_file]))
    try:
        done: list[Rotated] = finish(vault)
        if not resume:
            if tenant is None:
                done.append(rotate_master(vault, to or ("passphrase" if new_passphrase_file else "")))
            if not master:
                with vault.engine.connect() as db:
                    names = [tenant] if tenant is not None else tenants(db)
                done += [rotate_tenant(vault, name) for name in names]
    finally:
        vault.close()
    rows = [{"what": d.what, "version": d.version, "keys": d.keys, "seconds": round(d.seconds, 3)} for d in done]
    lines = [f"{d.what}: version {d.version}, {d.keys} keys wrapped anew in {d.seconds:.1f} s" for d in done]
    return Answer({"rotated": rows}, "\n".join(lines) or "Nothing was interrupted.")


@app.command
def erase(
    *, patient: str, tenant: str, passphrase_file: Path | None = None, home: Path | None = None, json: Flag = False
) -> Answer:
    """Destroy a patient's key: nothing stored for him opens again. It cannot be undone.

    A receipt stays: when, which key, how many objects, and his blind index, which only this vault can compute. Backups
    made before still hold the key until they, or the master key they need, are destroyed.

    Parameters
    ----------
    patient
        The pseudonym under which the objects were stored.
    tenant
        Whose patient; one person at two tenants has two keys.
    passphrase_file
        A file with the passphrase in its first line, where the master key comes from one.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    vault = Vault.open(*_doors(home, [passphrase_file]))
    try:
        receipt = vault.erase(tenant, patient)
    finally:
        vault.close()
    when = datetime.fromtimestamp(int(receipt.at), UTC).isoformat()
    data = {
        "receipt": receipt.id, "tenant": receipt.tenant, "blind_index": receipt.name, "key": receipt.key,
        "objects": receipt.objects, "erased_at": when,
    }  # fmt: skip
    return Answer(data, f"Erased at {when}: {receipt.objects} objects cannot be read any more. Receipt {receipt.id}.")


def _doors(home: Path | None, files: Sequence[Path | None]) -> tuple[Settings, list[Source]]:
    settings = Settings.from_environment(home)
    return settings, sources_of(settings, [first_line(file) for file in files if file is not None])
