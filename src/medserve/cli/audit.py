"""`medserve audit verify | list | review | export | anchor`: who did what, and whether the log is as it was written."""

import json as json_text
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from medserve.access.audit import Event, Ledger, events_of
from medserve.access.glass import Glass
from medserve.channels.audit_event import audit_event
from medserve.cli._answer import Answer, table
from medserve.errors import BadData
from medserve.settings import Settings
from medserve.store.database import database
from medserve.store.files import write_bytes

app = App(name="audit", help="Who did what, and whether the log is as it was written.", help_format="plaintext",
          result_action="return_value")  # fmt: skip

Flag = Annotated[bool, Parameter(negative=())]
WORDS = {
    "row-missing": "a row is missing, or stands twice",
    "row-altered": "the row was changed, or the one before it",
    "row-forged": "the row was not written by this service",
    "rows-cut": "rows were cut from the end",
    "checkpoint-missing": "the signature of an epoch is missing",
    "checkpoint-differs": "the rows of an epoch are not those that were signed",
    "signature-invalid": "the signature of an epoch is not by its key",
    "epoch-out-of-order": "epochs are out of order",
    "anchor-differs": "this is another log than the one whose anchor was noted",
    "mirror-short": "the mirror is missing, or lacks epochs that the log has signed",
    "log-unreadable": "the log, its keys or its anchor cannot be read",
    "audit-state-damaged": "the log's keys are not as they were written",
    "mirror-differs": "the log is older than its mirror, or another one",
    "audit-rolled-back": "the database is older than its keys, or newer",
    "audit-state-missing": "the log's keys are gone",
}


@app.command
def verify(
    *, anchor: str | None = None, mirror: Path | None = None, home: Path | None = None, json: Flag = False
) -> Answer:
    """Walk the whole log; exit code 2 and the first bad row where it is not as it was written.

    Parameters
    ----------
    anchor
        The first public key, as `medserve audit anchor` printed it when it was noted elsewhere.
    mirror
        The file on another disk to which each epoch's end was told (MEDSERVE_AUDIT_MIRROR).
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    settings = Settings.from_environment(home)
    verdict = Ledger.unchecked(settings, mirror).verify(anchor)
    if not verdict.sound:
        raise BadData(
            "audit-unsound",
            f"The audit log is not as it was written: {WORDS.get(verdict.problem, verdict.problem)} "
            f"({verdict.problem}, row {verdict.seq}).",
            hint="Keep the whole of MEDSERVE_HOME as it is, and compare it with a backup.",
        )
    data = {"sound": True, "events": verdict.events, "signed_epochs": verdict.epochs}
    return Answer(data, f"Sound: {verdict.events} events, {verdict.epochs} signed epochs.")


@app.command(name="list")
def list_(*, last: int = 50, home: Path | None = None, json: Flag = False) -> Answer:
    """Show the last events.

    Parameters
    ----------
    last
        How many; 0 means all.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    ledger = _looked(home)
    after = 0 if last <= 0 else max(0, ledger.count() - last)
    rows = list(events_of(ledger.read(after=after)))
    columns = ("seq", "at", "principal", "role", "action", "resource", "outcome", "code")
    cells = [tuple(_cell(row, column) for column in columns) for row in rows]
    return Answer({"events": rows}, table("Audit log", *columns, rows=cells))


@app.command
def review(*, everything: Flag = False, home: Path | None = None, json: Flag = False) -> Answer:
    """Where the glass was broken and nobody has looked yet. A privacy officer acknowledges one over HTTP:
    POST /v1/break-glass/ID/review.

    Parameters
    ----------
    everything
        Also what was reviewed already.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    _looked(home)
    found = Glass(database(Settings.from_environment(home))).rows()
    rows = [row.as_dict() for row in found if everything or row.reviewed_at is None]
    columns = ("id", "at", "principal", "tenant", "reason", "models", "reviewed_by")
    cells = [tuple(_glass_cell(row, column) for column in columns) for row in rows]
    return Answer({"broken": rows}, table("Broken glass", *columns, rows=cells))


@app.command
def export(
    *, out: Path, site: str = "medserve", after: int = 0, home: Path | None = None, json: Flag = False
) -> Answer:
    """Write events as FHIR R4 AuditEvent (IHE BALP), one JSON a line, for the hospital's audit repository.

    Parameters
    ----------
    out
        The file to write (NDJSON).
    site
        How this service is named among the hospital's systems.
    after
        Only events after this row, to go on where the last export ended.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    ledger = _looked(home)
    lines = [json_text.dumps(audit_event(seq, event, site=site)).encode() for seq, event in ledger.read(after=after)]
    write_bytes(out, b"".join(line + b"\n" for line in lines), mode=0o600)
    last = after + len(lines)
    return Answer(
        {"file": str(out), "events": len(lines), "last": last}, f"{len(lines)} events, up to row {last}: {out}"
    )


def _looked(home: Path | None) -> Ledger:
    """The log; that it was looked at is an event too."""
    ledger = Ledger.open(Settings.from_environment(home))
    ledger.write([Event(action="audit.read", outcome="allow", principal="local", purpose="audit")])
    return ledger


@app.command
def anchor(*, home: Path | None = None, json: Flag = False) -> Answer:
    """Print the first public key of the log: noted elsewhere, it proves later that this is still the same log.

    Parameters
    ----------
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    found = Ledger.open(Settings.from_environment(home)).anchor
    return Answer({"anchor": found}, found)


def _glass_cell(row: dict[str, Any], column: str) -> str:
    if column == "models":
        return ", ".join(row["models"]) or "all"
    return _cell(row, column) if row[column] is not None else "nobody yet"


def _cell(row: dict[str, object], column: str) -> str:
    value = row.get(column, "")
    if column == "at":
        return datetime.fromtimestamp(float(str(value)), UTC).isoformat(timespec="seconds")
    return str(value)
