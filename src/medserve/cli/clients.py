"""`medserve clients add | list | disable`: programs that sign in with a key of their own (SMART Backend Services)."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from medserve.access.accounts import Account, Accounts
from medserve.access.clients import Clients
from medserve.access.policy import as_dict
from medserve.access.sessions import Sessions
from medserve.cli._answer import Answer, table
from medserve.settings import Settings

app = App(name="clients", help="Programs that sign in with a key of their own (SMART Backend Services).",
          help_format="plaintext", result_action="return_value")  # fmt: skip

Flag = Annotated[bool, Parameter(negative=())]
Names = Annotated[list[str], Parameter(consume_multiple=True, negative=())]
COLUMNS = ("id", "name", "tenant", "role", "state", "created")


@app.command
def add(
    name: str,
    /,
    *,
    jwks: Path,
    role: str = "service",
    tenant: str = "default",
    duty: Names | None = None,
    model: Names | None = None,
    home: Path | None = None,
    json: Flag = False,
) -> Answer:
    """Register a program by its public keys. It then asks POST /oauth/token for tokens of 300 seconds.

    Parameters
    ----------
    name
        What the program is; it appears in lists and logs.
    jwks
        File of its public keys, a JWK Set; each with a kid. RSA of 2048 bits or more, or P-384.
    role
        service, or another role of the policy.
    tenant
        The organisation that it belongs to.
    duty
        Granted beside the role.
    model
        Limit it to models of these names.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    settings = Settings.from_environment(home)
    row = Clients(Accounts.open(settings), Sessions.open(settings)).add(
        name, jwks.read_bytes(), role=role, tenant=tenant, duties=duty or [], models=model or []
    )
    return Answer(as_row(row), f"Client id {row.id}: iss and sub of its assertions.")


@app.command(name="list")
def list_(*, home: Path | None = None, json: Flag = False) -> Answer:
    """List all clients.

    Parameters
    ----------
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    rows = [as_row(row) for row in Accounts.open(Settings.from_environment(home)).rows("client")]
    return Answer({"clients": rows}, table("Clients", *COLUMNS, rows=[tuple(r[c] for c in COLUMNS) for r in rows]))


@app.command
def disable(which: str, /, *, home: Path | None = None, json: Flag = False) -> Answer:
    """Disable a client now; a running service follows within a second, its tokens included.

    Parameters
    ----------
    which
        The client's id or name, from `medserve clients list`.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    row = Accounts.open(Settings.from_environment(home)).disable("client", which)
    return Answer(as_row(row), f"{row.id} ({row.name}) is disabled.")


def as_row(row: Account) -> dict[str, Any]:
    """For lists; without its secret."""
    created = datetime.fromtimestamp(int(row.created_at), UTC).isoformat()
    return {"id": row.id, "name": row.name, **as_dict(row.principal), "state": row.state, "created": created}
