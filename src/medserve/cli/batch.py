"""`medserve batch`: many inputs at a running service, one line of results for each.

What has come stands in the file of results; beside it, OUT.batch remembers the batch until all of it is there. The same
command again goes on from there, whether this machine, the network or the service stopped in between.
"""

import json as _json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from medserve.cli._answer import Answer
from medserve.cli.traffic import read_key
from medserve.errors import Busy, Fault, MedServeError, Usage
from medserve.progress import Progress

if TYPE_CHECKING:
    from medserve.client import Client
    from medserve.serving.schema import BatchInfo

LOOK_S = 0.5
PATIENCE_S = 60.0  # for a service that is away or full


@dataclass(frozen=True, slots=True)
class Begun:
    """What OUT.batch remembers."""

    url: str
    model: str
    source: str
    key: str
    version: str | None = None
    batch: str = ""


def batch(
    source: Path,
    /,
    *,
    model: str,
    out: Path,
    url: str = "http://127.0.0.1:8000",
    version: str | None = None,
    key_file: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Ask a running service about many inputs. Run again after a stop, it goes on where it was.

        medserve batch films/ --model chest --out results.ndjson
        medserve batch manifest.ndjson --model chest --out results.ndjson

    Exit code 1 says that the batch as a whole has failed; an item that was refused has its error in its line.

    Parameters
    ----------
    source
        A folder of files, each an item named by its path; or a manifest: NDJSON with id, and inputs or case.
    model
        A model of that service.
    out
        Gets one line of JSON for each item, in order.
    url
        Where the service answers.
    version
        Another version than the one that answers under the bare name.
    key_file
        A file with an API key; left out, the key in the variable MEDSERVE_KEY.
    json
        Print one JSON object.
    """
    from medserve.client import Client

    if not source.exists():
        raise Usage("input-missing", f"{source} is not there.", hint="Name a folder of files, or a manifest.")
    place = out.with_name(out.name + ".batch")
    begun = _begun(place, Begun(url, model, str(source.absolute()), secrets.token_hex(16), version), out)
    with Client(url, read_key(key_file)) as client, Progress(quiet=json) as progress:
        if not begun.batch:
            progress.say("Sending the manifest ...")
            manifest = _folder(client, source, model) if source.is_dir() else source
            try:
                stored = client.start_batch(manifest, model=model, version=version, key=begun.key)
            except MedServeError as error:
                if error.kind in ("usage", "refusal", "access"):  # nothing was begun that this could go on with
                    place.unlink()
                raise
            begun = _keep(place, Begun(**asdict(begun) | {"batch": stored.batch}))
        page = _fetch(client, begun.batch, out, progress)
    place.unlink()
    shown = f"{page.done} of {page.items} items, {page.failed} with an error: {out}"
    if page.error is not None:
        shown += f"\n{page.error['code']}: {page.error['message']}"
    return Answer(msgspec.to_builtins(page) | {"out": str(out)}, shown, exit_code=0 if page.state == "done" else 1)


def _begun(place: Path, new: Begun, out: Path) -> Begun:
    """What an earlier run has begun, else a new one. Raises: Usage "batch-other", "out-exists"."""
    if not place.exists():
        if out.exists():
            raise Usage("out-exists", f"{out} is there already.", hint="Name another file, or move it away.")
        return _keep(place, new)
    try:
        begun = Begun(**_json.loads(place.read_bytes()))
    except (ValueError, TypeError):
        begun = Begun("", "", "", "")
    if (begun.url, begun.model, begun.source, begun.version) != (new.url, new.model, new.source, new.version):
        raise Usage(
            "batch-other", f"{place} is of another batch.", hint="Go on with the command that began it, or delete it."
        )
    return begun


def _keep(place: Path, begun: Begun) -> Begun:
    part = place.with_name(place.name + ".part")
    part.write_text(_json.dumps(asdict(begun)))
    os.replace(part, place)
    return begun


def _folder(client: "Client", folder: Path, model: str) -> Iterator[bytes]:
    """A line for each file. Raises: Usage "batch-source"."""
    from medserve.runtime.inputs import value_of_file

    wanted = client.model(model).versions[-1].inputs
    if len(wanted) != 1:
        raise Usage(
            "batch-source", f"{model} takes {len(wanted)} inputs; a file is one.", hint="Write a manifest: NDJSON."
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise Usage("batch-source", f"There is no file in {folder}.", hint="Name a folder of files, or a manifest.")
    for path in files:
        id = path.relative_to(folder).as_posix()
        inputs = {wanted[0].name: value_of_file(wanted[0].kind, path.read_bytes())}
        yield msgspec.json.encode({"id": id, "inputs": inputs}) + b"\n"


def _fetch(client: "Client", batch: str, out: Path, progress: Progress) -> "BatchInfo":
    """Results as they come, until all are there."""
    have = _whole_lines(out)
    page = _patient(lambda: client.batch(batch))
    bar = progress.start("items", page.items)
    progress.step(bar, have)
    with open(out, "ab") as file:
        while True:
            if page.done > have:
                try:
                    for line in client.results(batch, start=have):
                        file.write(line + b"\n")
                        have += 1
                        progress.step(bar)
                except (Busy, Fault):  # looked for again below
                    time.sleep(LOOK_S)
                file.flush()
            elif page.state not in ("queued", "running"):
                return page
            else:
                time.sleep(LOOK_S)
            page = _patient(lambda: client.batch(batch))


def _patient(ask: Callable[[], "BatchInfo"]) -> "BatchInfo":
    """Again where the service is away for a moment."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except MedServeError as error:
            away = isinstance(error, Busy) or error.code == "unreachable"
            if not away or time.monotonic() > until:
                raise
            time.sleep(min(getattr(error, "retry_after_s", 1.0), 5.0))


def _whole_lines(out: Path) -> int:
    """How many are there; a torn last one is cut off."""
    if not out.exists():
        return 0
    count = end = 0
    with open(out, "rb+") as file:
        for line in file:
            if line.endswith(b"\n"):
                count, end = count + 1, end + len(line)
        file.truncate(end)
    return count
