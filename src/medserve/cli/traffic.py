"""`medserve traffic`: which versions of a model answer on a running service, and how often."""

import os
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import RenderableType

from medserve.cli._answer import Answer, table
from medserve.errors import Usage
from medserve.serving.schema import TrafficPage

KEY = "MEDSERVE_KEY"


def traffic(
    name: str,
    /,
    *,
    url: str = "http://127.0.0.1:8000",
    versions: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=True, negative=())] = None,
    shadow: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    rollback: Annotated[bool, Parameter(negative=())] = False,
    withdraw: str | None = None,
    key_file: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Show or change which versions answer under a model's bare name. Changing asks for the duty approver.

        medserve traffic chest
        medserve traffic chest --set 1=90 2=10 --shadow 3
        medserve traffic chest --rollback

    Parameters
    ----------
    name
        A model of that service.
    url
        Where the service answers.
    versions
        VERSION=SHARE, per cent, 100 together.
    shadow
        With --set: versions that are asked too and never answer.
    rollback
        Bring back the split before this one.
    withdraw
        Serve this version no more; what is under way is finished.
    key_file
        A file with an API key; left out, the key in the variable MEDSERVE_KEY.
    json
        Print one JSON object.
    """
    from medserve.client import Client

    if sum((bool(versions), rollback, withdraw is not None)) > 1:
        raise Usage("traffic-twice", "More than one change was asked for.", hint="One at a time.")
    if shadow and not versions:
        raise Usage("traffic-invalid", "--shadow goes with --set.", hint="For instance --set 1=100 --shadow 2")
    with Client(url, read_key(key_file)) as client:
        if versions:
            page = client.split(name, _shares(versions), shadow=shadow or ())
        elif rollback:
            page = client.rollback(name)
        else:
            if withdraw is not None:
                client.withdraw(name, withdraw)
            page = client.traffic(name)
    return Answer(msgspec.to_builtins(page), _shown(page))


def read_key(file: Path | None) -> str:
    """Raises: Usage "key-file"."""
    if file is None:
        return os.environ.get(KEY, "")
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Usage("key-file", f"{file} holds no key.", hint="medserve keys create prints one.") from error


def _shares(given: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in given:
        version, equals, share = text.rpartition("=")
        if not equals or not (share.isascii() and share.isdigit()) or version in found:
            raise Usage("traffic-invalid", f"{text!r} is not VERSION=SHARE.", hint="For instance --set 1=90 2=10")
        found[version] = int(share)
    return found


def _shown(page: TrafficPage) -> RenderableType:
    rows = []
    for version in [*page.versions, *(v for v in page.answered if v not in page.versions)]:
        seen = page.shadows.get(version)
        compared = "-" if seen is None else f"{seen.agreed} of {seen.agreed + seen.differed}"
        apart = "-" if seen is None or seen.mean_difference is None else f"{seen.mean_difference:.4f}"
        share = f"{page.versions.get(version, 0)} %" if version not in page.shadow else "shadow"
        rows.append((version, share, str(page.answered.get(version, 0)), compared, apart))
    return table(page.name, "version", "share", "answered", "agreed", "mean difference", rows=rows)
