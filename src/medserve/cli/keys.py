"""`medserve keys create | list | revoke`: who may ask the service."""

import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from medserve.access.keys import KeyRing, KeyRow
from medserve.cli._answer import Answer, table
from medserve.settings import Settings

app = App(name="keys", help="Make, list and revoke the API keys of the service.", help_format="plaintext",
          result_action="return_value")  # fmt: skip

Flag = Annotated[bool, Parameter(negative=())]


@app.command
def create(*, name: str = "default", days: float = 90, home: Path | None = None, json: Flag = False) -> Answer:
    """Make a key and show it, once. Only a keyed hash of it is stored.

    Parameters
    ----------
    name
        What the key is for, for instance a ward or a program; it appears in lists and logs.
    days
        Days until it expires; 0 means never.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    new = _ring(home).create(name, days=None if days == 0 else days)
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
    columns = ("id", "name", "state", "created", "expires")
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


def _row(row: KeyRow) -> dict[str, str | None]:
    return {
        "id": row.id,
        "name": row.name,
        "state": row.state(time.time()),
        "created": _when(row.created_at),
        "expires": _when(row.expires_at),
    }


def _when(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(math.floor(seconds), UTC).isoformat()
