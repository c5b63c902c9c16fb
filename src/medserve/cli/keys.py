"""`medserve keys create | list | revoke`: who may ask the service."""

import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from medserve.access.keys import KeyRing, KeyRow
from medserve.access.policy import as_dict
from medserve.cli._answer import Answer, table
from medserve.settings import Settings

app = App(name="keys", help="Make, list and revoke the API keys of the service.", help_format="plaintext",
          result_action="return_value")  # fmt: skip

Flag = Annotated[bool, Parameter(negative=())]
Names = Annotated[list[str], Parameter(consume_multiple=True, negative=())]


@app.command
def create(
    *,
    name: str = "default",
    days: float = 90,
    role: str = "service",
    tenant: str = "default",
    duty: Names | None = None,
    model: Names | None = None,
    home: Path | None = None,
    json: Flag = False,
) -> Answer:
    """Make a key and show it, once. Only a keyed hash of it is stored. What its holder may do stands in the policy.

    Parameters
    ----------
    name
        What the key is for, for instance a ward or a program; it appears in lists and logs.
    days
        Days until it expires; 0 means never.
    role
        clinician, data-scientist, ml-engineer, auditor, administrator, service, or another role of the policy.
    tenant
        The organisation that the holder belongs to.
    duty
        Granted beside the role: approver, privacy-officer, re-identifier.
    model
        Limit the key to models of these names.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    new = _ring(home).create(
        name, days=None if days == 0 else days, role=role, tenant=tenant, duties=duty or [], models=model or []
    )
    data = {**_row(new.row), "key": new.key}
    return Answer(data, f"{new.key}\n\nThis is shown once. Id {new.row.id}, expires {data['expires'] or 'never'}.")


@app.command(name="list")
def list_(*, home: Path | None = None, json: Flag = False) -> Answer:
    """List all keys; the keys themselves are not stored.

    Parameters
    ----------
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    rows = [_row(row) for row in _ring(home).rows()]
    columns = ("id", "name", "tenant", "role", "state", "created", "expires")
    cells = [tuple(row[column] or "never" for column in columns) for row in rows]
    return Answer({"keys": rows}, table("API keys", *columns, rows=cells))


@app.command
def revoke(id: str, /, *, home: Path | None = None, json: Flag = False) -> Answer:
    """End a key now; a running service follows within a second.

    Parameters
    ----------
    id
        The key's id, from `medserve keys list`.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    row = _row(_ring(home).revoke(id))
    return Answer(row, f"{row['id']} ({row['name']}) is revoked.")


def _ring(home: Path | None) -> KeyRing:
    return KeyRing.open(Settings.from_environment(home))


def _row(row: KeyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        **as_dict(row.principal),
        "state": row.state(time.time()),
        "created": _when(row.created_at),
        "expires": _when(row.expires_at),
    }


def _when(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(math.floor(seconds), UTC).isoformat()
