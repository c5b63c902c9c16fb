"""`medserve admin create | list | disable | reset | end`: people with an account of this service."""

import getpass
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from medserve.access.accounts import Accounts
from medserve.access.people import NewPerson, People
from medserve.access.policy import as_dict
from medserve.access.sessions import Sessions
from medserve.cli._answer import Answer, table
from medserve.cli.clients import COLUMNS, as_row
from medserve.errors import Usage
from medserve.settings import Settings

app = App(name="admin", help="People with an account of this service: a password and a code, both always.",
          help_format="plaintext", result_action="return_value")  # fmt: skip

Flag = Annotated[bool, Parameter(negative=())]
Names = Annotated[list[str], Parameter(consume_multiple=True, negative=())]


@app.command
def create(
    name: str,
    /,
    *,
    role: str = "administrator",
    tenant: str = "default",
    duty: Names | None = None,
    model: Names | None = None,
    home: Path | None = None,
    json: Flag = False,
) -> Answer:
    """Make an account and show its secrets, once. In a terminal the password is asked for; else one is made.

    Parameters
    ----------
    name
        The name to sign in with.
    role
        administrator, or another role of the policy.
    tenant
        The organisation that the person belongs to.
    duty
        Granted beside the role: approver, privacy-officer, re-identifier.
    model
        Limit the person to models of these names.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    people = _people(home)
    word = None if json else _asked()
    new = people.add(name, password=word, role=role, tenant=tenant, duties=duty or [], models=model or [])
    return _shown(new, word is None)


@app.command
def reset(which: str, /, *, home: Path | None = None, json: Flag = False) -> Answer:
    """Give a person another password and another code; ends the sessions, enables the account again.

    Parameters
    ----------
    which
        The person's id or name.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    people = _people(home)
    word = None if json else _asked()
    return _shown(people.reset(which, password=word), word is None)


@app.command(name="list")
def list_(*, home: Path | None = None, json: Flag = False) -> Answer:
    """List all people with an account here.

    Parameters
    ----------
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    rows = [as_row(row) for row in _people(home).accounts.rows("person")]
    return Answer({"people": rows}, table("People", *COLUMNS, rows=[tuple(r[c] for c in COLUMNS) for r in rows]))


@app.command
def disable(which: str, /, *, home: Path | None = None, json: Flag = False) -> Answer:
    """Disable an account now; a running service follows within a second, its sessions included.

    Parameters
    ----------
    which
        The person's id or name.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    row = _people(home).accounts.disable("person", which)
    return Answer(as_row(row), f"{row.id} ({row.name}) is disabled.")


@app.command
def end(principal: str, /, *, home: Path | None = None, json: Flag = False) -> Answer:
    """End all sessions of a principal now, also of one who signed in at the hospital's provider.

    Parameters
    ----------
    principal
        The id in the audit log, for instance o-1f2e3d4c5b6a7988.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    settings = Settings.from_environment(home)
    count = Sessions.open(settings).end_all(principal, Accounts.open(settings).ledger)
    return Answer({"principal": principal, "ended": count}, f"{count} sessions ended.")


def _people(home: Path | None) -> People:
    return People.open(Settings.from_environment(home))


def _asked() -> str | None:
    """The password from the terminal; None without one, or where nothing was typed."""
    if not sys.stdin.isatty():
        return None
    word = getpass.getpass("Password (12 characters or more; empty: one is made): ")
    if word and getpass.getpass("Again: ") != word:
        raise Usage("password-differs", "The two are not the same.", hint="Run the same command again.")
    return word or None


def _shown(new: NewPerson, made: bool) -> Answer:
    row = new.account
    data = {"id": row.id, "name": row.name, **as_dict(row.principal), "totp_secret": new.secret, "otpauth": new.uri}
    lines = [f"Code:     {new.secret}", f"          {new.uri}"]
    if made:
        data["password"] = new.password
        lines.insert(0, f"Password: {new.password}")
    lines += ["", f"This is shown once. Id {row.id}; put the code into an authenticator app, now."]
    return Answer(data, "\n".join(lines))
